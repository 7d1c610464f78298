"""Good rollouts become records that fine-tuning reads; every other one is counted under its reason."""

import json

import pytest

from k25.chat.preset_tokenizer import preset_tokenizer
from k25.cli.rl_export import export_rft
from k25.errors import InputError
from k25.rl import TaskEnvironment
from k25.rl.metrics import readable
from k25.rl.rft import RftConfig, rft, tools_of
from k25.rl.rollouts import Rollout
from k25.train.data.config import ConversationsSource, DataConfig
from k25.train.data.drafts import Drafter
from k25.train.data.sources import conversations_source


def rollout(answer="4", key="add/1", number=0, step=1, **changed):
    messages = changed.pop("messages", None) or [
        {"role": "user", "content": f"What is {key}?"},
        {"role": "assistant", "content": answer},
    ]
    fields = {
        "environment": "add",
        "domain": "reasoning",
        "reward": 1.0,
        "output_tokens": len(answer),
        "reason": "answered",
    }
    made = Rollout(**fields | changed, key=key, number=number, samples=(), rewards={}, metrics={}, messages=messages)
    return json.loads(json.dumps(readable(made, step)))


def answers(found):
    return [record["messages"][-1]["content"] for record in found.records]


def test_the_best_of_a_prompt_is_kept_and_of_equals_the_shortest():
    rollouts = [rollout("long answer"), rollout("bad", reward=0.9), rollout("short"), rollout("other", key="add/2")]
    found = rft(rollouts, RftConfig(reward=0.5))
    assert answers(found) == ["short", "other"]
    assert found.left_out == {"not among the best 1 of its prompt": 2}


def test_every_rollout_is_a_record_or_counted_under_a_reason():
    rollouts = [
        rollout("right"),
        rollout("  RIGHT\n", step=2),
        rollout("wrong", reward=0.0),
        rollout("x" * 99),
        rollout("cut", reason="length"),
        rollout("lost", failed="environment: JudgeError: no verdict"),
        rollout("<|im_end|>"),
        rollout(messages=[{"role": "user", "content": "?"}]),
        rollout(messages=[{"role": "tool", "tool_call_id": "a", "content": "?"}]),
    ]
    found = rft(rollouts, RftConfig(keep=9, longest=50))
    assert answers(found) == ["right"]
    assert len(found.records) + found.left_out.total() == len(rollouts)
    assert found.left_out == {
        "says the same as another": 1,
        "reward below 1": 1,
        "more than 50 tokens": 1,
        "not finished: length": 1,
        "failed": 1,
        "markup stands in its text": 1,
        "does not end with an answer": 1,
        "no conversation in the chat form": 1,
    }


def test_a_record_says_where_it_comes_from():
    (record,) = rft([rollout(step=7, number=3)]).records
    assert record["provenance"]["prompt"] == {"kind": "rollout"}
    assert {name: record["provenance"][name] for name in ("environment", "key", "step", "number", "reward")} == {
        "environment": "add",
        "key": "add/1",
        "step": 7,
        "number": 3,
        "reward": 1.0,
    }


def test_pictures_which_a_run_does_not_keep_make_no_record():
    picture = [{"type": "image_url", "image_url": {"url": "media:0"}}]
    messages = [{"role": "user", "content": picture}, {"role": "assistant", "content": "2"}]
    assert rft([rollout(messages=messages)]).left_out == {"shows pictures, which a run does not keep": 1}


def a_run(folder, lines, config='[[environments]]\nname = "task:tool-lookup"\n'):
    folder.mkdir()
    (folder / "config.toml").write_text(config)
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_fine_tuning_reads_the_exported_file_with_its_tools(tmp_path, capsys):
    sample = TaskEnvironment("tool-lookup").example(0, 0).gold
    used = rollout(environment="tool-lookup", key="t/0", messages=list(sample.messages))
    run = a_run(tmp_path / "run", [used, rollout("no", reward=0.0)])
    (run / "rollouts.jsonl").open("a").write('{"half a li')
    export_rft(run, tmp_path / "rft.jsonl")
    (record,) = [json.loads(line) for line in (tmp_path / "rft.jsonl").read_text().splitlines()]
    assert record["tools"] == list(sample.tools)
    assert capsys.readouterr().out.startswith("1 records of 2 rollouts")

    tokenizer = preset_tokenizer(1000)
    source = ConversationsSource(kind="conversations", path=tmp_path / "rft.jsonl", weight=1.0)
    config = DataConfig(sources={"rft": source}, sequence_tokens=8192)
    read = conversations_source("rft", source, config, Drafter("rft", tokenizer, None))
    drafts, skipped = read.take(0, 0.0, 1.0)
    assert drafts
    assert not skipped
    learnt = [token for token, is_target in zip(drafts[0].token_ids, drafts[0].is_target, strict=True) if is_target]
    assert tokenizer.decode(learnt).count(sample.answer) >= 1


def test_calls_of_tools_that_nothing_declares_make_no_record():
    sample = TaskEnvironment("tool-lookup").example(0, 0).gold
    found = rft([rollout(messages=list(sample.messages))])
    assert found.left_out == {"calls a tool that is not declared": 1}


@pytest.mark.parametrize("lines", [[5], [{"environment": "add"}], [rollout() | {"messages": "none"}]])
def test_damaged_rollouts_are_input_errors(tmp_path, lines):
    with pytest.raises(InputError, match="line 1"):
        export_rft(a_run(tmp_path / "run", lines), tmp_path / "out.jsonl")


def test_folders_that_are_no_runs_are_input_errors(tmp_path):
    with pytest.raises(InputError):
        export_rft(tmp_path, tmp_path / "out.jsonl")
    for config in ("environments = 5", "[[environments]]\n", "not toml"):
        with pytest.raises(InputError):
            tools_of(a_run(tmp_path / config[-3:].strip(), [], config))
    with pytest.raises(InputError, match="cannot be written"):
        export_rft(a_run(tmp_path / "run", [rollout()]), tmp_path / "no" / "out.jsonl")
    for wrong in ({"keep": 0}, {"longest": 0}):
        with pytest.raises(InputError):
            RftConfig(**wrong)
