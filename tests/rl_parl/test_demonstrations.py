"""Demonstrations: scripted agents in the real environment, in the shares that were asked for."""

import json

import pytest

from k25.chat import parse_messages, parse_tools
from k25.errors import InputError
from k25.rl.parl.demonstrations import Mixture, demonstrations, write_demonstrations
from k25.rl.parl.tasks import KINDS
from k25.train.data.records import Records


def called(line):
    calls = [call for message in line["messages"] for call in message.get("tool_calls") or ()]
    return [call["function"]["name"] for call in calls]


@pytest.mark.parametrize("task", KINDS)
def test_a_lone_agent_reads_every_item_in_turn(task):
    mixture = Mixture(tasks=(task,), sizes=(5, 5), alone=1, sub_agents=0)
    for line in demonstrations(mixture, 5):
        assert called(line) == [KINDS[task].tool] * 5
        assert len(line["tools"]) == 1


def test_the_share_that_delegates_is_the_one_asked_for():
    lines = [*demonstrations(Mixture(alone=0, sub_agents=0, delegating=0.1), 400)]
    share = sum("assign_task" in called(line) for line in lines) / len(lines)
    assert 0.06 < share < 0.14


def test_jobs_together_cover_the_table():
    for line in demonstrations(Mixture(sizes=(12, 12), alone=0, sub_agents=0, delegating=1), 20):
        jobs = [
            json.loads(call["function"]["arguments"])["prompt"]
            for message in line["messages"]
            for call in message.get("tool_calls") or ()
            if call["function"]["name"] == "assign_task"
        ]
        assert len(jobs) <= 8
        bounds = [tuple(map(int, job.split(" to "))) for job in jobs]
        assert [row for first, last in bounds for row in range(first, last + 1)] == [*range(1, 13)]


def test_a_sub_agents_conversation_has_its_job_and_the_reading_tool_alone():
    for line in demonstrations(Mixture(sub_agents=1), 10):
        assert [message["role"] for message in line["messages"][:2]] == ["system", "user"]
        assert {*called(line)} == {"lookup"}
        assert len(line["tools"]) == 1


def test_lines_are_what_fine_tuning_and_tokenizers_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    write_demonstrations(path, Mixture(), 20)
    records = Records(path, texts=False)
    assert len(records) == 20
    for index in range(20):
        record = records.read(index)
        assert parse_messages(record)
        parse_tools(record["tools"])
        assert "<|" not in record["text"]


def test_shares_outside_0_to_1_are_refused():
    with pytest.raises(InputError, match="delegating"):
        Mixture(delegating=1.5)


def test_the_decision_to_delegate_is_learnt_in_the_share_asked_for_and_the_rest_always():
    lines = [*demonstrations(Mixture(alone=0, sub_agents=0, delegating=1, decided=0.2), 300)]
    turns = [[message for message in line["messages"] if message["role"] == "assistant"] for line in lines]
    learnt = [first.get("weight", 1) for first, *_ in turns]
    assert 0.12 < sum(learnt) / len(learnt) < 0.28
    assert all(message.get("weight", 1) for _, *others in turns for message in others)


def test_an_interrupted_writing_leaves_no_file_that_looks_whole(tmp_path, monkeypatch):
    def interrupted(*_):
        yield {"messages": []}
        raise KeyboardInterrupt

    monkeypatch.setattr("k25.rl.parl.demonstrations.demonstrations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demonstrations(tmp_path / "lines.jsonl", Mixture(), 3)
    assert not (tmp_path / "lines.jsonl").exists()
