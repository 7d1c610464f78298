"""What a synthesis writes is what training reads, from the command line to the loss mask."""

import json

from scripted_endpoint import ScriptedEndpoint, calls, lines

from k25.chat.preset_tokenizer import preset_tokenizer
from k25.media import MediaConfig, MediaProcessor
from k25.tasks import get_task
from k25.train.data import Streams, parse_data_config

TASKS = ("add", "tool-lookup", "count-shapes")
SAMPLES = [get_task(name).sample(0, index) for name in TASKS for index in range(4)]


def solver(body, times):
    """Right for every exercise; looks up what the table knows."""
    text = question(body["messages"][0])
    sample = next(one for one in SAMPLES if question(one.prompt[0]) == text)
    if sample.tools and len(body["messages"]) == 1:
        call = sample.messages[1]["tool_calls"][0]["function"]
        return calls((call["name"], call["arguments"]))
    return {"content": sample.answer, "reasoning_content": "Let me think about it."}


def question(message):
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def test_records_are_read_by_the_conversations_source_and_answers_are_learnt(tmp_path, k25_here):
    with ScriptedEndpoint(solver).running() as endpoint:
        plan = tmp_path / "plan.toml"
        plan.write_text(
            f'[endpoints.teacher]\nurl = "{endpoint.url}"\nmodel = "teacher"\ncandidates = 1\n'
            f'[prompts.all]\nkind = "tasks"\ntasks = {json.dumps(TASKS)}\ncount = 4\ndifficulty = 1\n'
        )
        done = k25_here("data", "synthesize", plan, "--out", tmp_path / "out")
        assert done.returncode == 0
    records = lines(tmp_path / "out/records.jsonl")
    assert f"{len(records)} records of 12 candidates" in done.stdout
    assert {record["provenance"]["prompt"]["task"] for record in records} == set(TASKS)

    source = {"kind": "conversations", "path": str(tmp_path / "out/records.jsonl")}
    config = parse_data_config({"sequence_tokens": 2048, "block_streams": 2, "sources": {"made": source}})
    tokenizer = preset_tokenizer(512)
    streams = Streams(config, tokenizer, MediaProcessor(MediaConfig(in_patch_limit=256), threads=1))
    batch = streams.batch(0)
    assert set(batch.skipped) <= {"no room in its block"}
    text = tokenizer.decode(batch.tokens_T.tolist())
    assert "Let me think about it." in text
    assert "functions.table_lookup:0" in text
    learnt = tokenizer.decode(batch.tokens_T[batch.loss_weights_T > 0].tolist())
    assert "Let me think about it." in learnt
    assert question(SAMPLES[4].prompt[0]) not in learnt
