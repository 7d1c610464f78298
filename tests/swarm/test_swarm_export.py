"""What a record gives to others: state for views, one JSON object, verifiers rollouts, OpenTelemetry spans."""

import json
import re

import pytest
from swarm_helpers import complete, double, doubling_orchestrator, state_of, swarm_of

from k25.agent import tool
from k25.swarm import RunFolder, RunState
from k25.swarm.export import as_json, verifiers_rows
from k25.swarm.scripted import calls, exchanges, says
from k25.swarm.scripted_tables import read_page
from k25.swarm.spans import otlp_json


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a failing tool."""
    folder = tmp_path_factory.mktemp("run")

    @tool
    async def crash() -> str:
        """Crash."""
        raise RuntimeError("broken")

    def worker(messages):
        done = exchanges(messages)
        return says("[1]") if len(done) == 2 else calls(messages, [("crash", {}), ("double", {"n": 4})])

    swarm = swarm_of(folder, doubling_orchestrator([[1], [2]]), worker, lambda: [double, crash])
    complete(swarm.run("export me"))
    return folder


def export(folder, form, **options):
    with RunFolder(folder).reader() as reader:
        return json.loads(json.dumps(form(RunState.read(reader), reader, **options)))


def otlp_spans(whole):
    (resource,) = whole["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    return scope["spans"]


def attributes(span):
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def test_a_state_folded_event_by_event_is_that_of_the_whole_record(run):
    with RunFolder(run).reader() as reader:
        state = RunState()
        for entry in reader.entries():
            state.apply(entry)
            assert all(agent.activity for agent in state.agents.values())
        assert as_json(state, reader) == as_json(RunState.read(reader), reader)


def test_a_page_finds_all_it_needs_in_the_state(run):
    state = state_of(run)
    main = state.main
    assert [state.agents[child].name for child in main.children] == ["Worker 0", "Worker 1"]
    assert all(span.ended >= span.began for agent in state.agents.values() for span in agent.spans)
    assert {span.child for span in main.spans if span.name == "assign_task"} == set(main.children)
    assert [fault.what for fault in state.faults] == ["tool call: crash"] * 2
    assert state.critical_path()[0] == "main"
    assert main.status == "answered"


def test_the_json_holds_conversations_timelines_and_usage(run):
    whole = export(run, as_json)
    assert whole["question"] == "export me"
    assert whole["result"]["text"] == "[1] [1]"
    assert whole["steps"] == sum(agent["steps"] for agent in whole["agents"]) == 7
    main = whole["agents"][0]
    assert [message["role"] for message in main["messages"][:3]] == ["system", "user", "assistant"]
    assert len(main["timeline"]) == 3 + 4
    assert whole["usage"]["prompt_tokens"] > 0


def test_verifiers_rows_split_prompt_and_completion(run):
    rows = export(run, verifiers_rows)
    assert [row["task"] for row in rows] == ["main", "Worker 0", "Worker 1"]
    for row in rows:
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["completion"][0]["role"] == row["completion"][-1]["role"] == "assistant"
        assert {"example_id", "answer", "reward", "info", "generation_ms"} <= row.keys()


def test_spans_form_one_tree_within_their_parents_times(run):
    spans = otlp_spans(export(run, otlp_json))
    by_id = {span["spanId"]: span for span in spans}
    assert len(by_id) == len(spans) == 3 + 7 + 8
    assert len({span["traceId"] for span in spans}) == 1
    roots = [span for span in spans if not span["parentSpanId"]]
    assert [span["name"] for span in roots] == ["invoke_agent main"]
    for span in spans:
        assert re.fullmatch("[0-9a-f]{16}", span["spanId"])
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"])
        if span["parentSpanId"]:
            parent = by_id[span["parentSpanId"]]
            assert int(parent["startTimeUnixNano"]) <= int(span["startTimeUnixNano"])
            assert int(span["endTimeUnixNano"]) <= int(parent["endTimeUnixNano"])


def test_spans_follow_the_conventions_for_generative_ai(run):
    spans = otlp_spans(export(run, otlp_json))
    operations = {attributes(span)["gen_ai.operation.name"]: span for span in spans}
    assert operations.keys() == {"invoke_agent", "chat", "execute_tool"}
    chat, used = operations["chat"], attributes(operations["chat"])
    assert (chat["kind"], chat["name"]) == (3, f"chat {used['gen_ai.request.model']}")
    assert int(used["gen_ai.usage.input_tokens"]) > 0
    tool_span = operations["execute_tool"]
    assert tool_span["name"] == f"execute_tool {attributes(tool_span)['gen_ai.tool.name']}"
    failed = [span for span in spans if span["status"]["code"] == 2]
    assert {attributes(span)["error.type"] for span in failed} == {"crash"}
    assert len(failed) == 2
    children = [span for span in spans if span["name"].startswith("invoke_agent Worker")]
    by_id = {span["spanId"]: span["name"] for span in spans}
    assert {by_id[span["parentSpanId"]] for span in children} == {"execute_tool assign_task"}


def test_content_is_in_spans_only_if_asked_for(run):
    assert "export me" not in json.dumps(export(run, otlp_json))
    spans = otlp_spans(export(run, otlp_json, content=True))
    said = attributes(spans[0])
    assert json.loads(said["gen_ai.input.messages"])[0]["parts"][0]["content"] == "export me"
    answers = [
        json.loads(attributes(span)["gen_ai.output.messages"]) for span in spans if span["name"].startswith("chat")
    ]
    assert all(answer[0]["role"] == "assistant" for answer in answers)
    assert any("tool_call" in str(answer) for answer in answers)


def test_the_text_of_a_page_is_read_into_facts_and_links():
    text = (
        "# Alpha (AAA)\n\nElevation | 1,234 ft\nCity | Ahaven [#2]\n- One [#1]\n- Two [#3]\n\nNext page [#4]"
        "\n\nLinks:\n[#1] http://h/1\n[#2] http://h/2\n[#3] http://h/3\n[#4] http://h/list/2"
    )
    page = read_page(text)
    assert page.heading == "Alpha (AAA)"
    assert page.facts == {"Elevation": "1,234 ft", "City": "Ahaven"}
    assert page.fact_links["City"] == ["http://h/2"]
    assert page.listed == ["http://h/1", "http://h/3"]
    assert page.following == "http://h/list/2"
