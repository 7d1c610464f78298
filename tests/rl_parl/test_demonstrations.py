"""Demonstrations: scripted agents in the real environment, in the shares that were asked for."""

import json
from dataclasses import replace

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
    lines = [*demonstrations(Mixture(alone=0, sub_agents=0, delegating=0.1), 200)]
    share = sum("assign_task" in called(line) for line in lines) / len(lines)
    assert 0.05 < share < 0.16


def assigned_rows(line):
    """Rows of each job, in order."""
    jobs = [
        json.loads(call["function"]["arguments"])["prompt"]
        for message in line["messages"]
        for call in message.get("tool_calls") or ()
        if call["function"]["name"] == "assign_task"
    ]
    bounds = [tuple(map(int, job.split(" to "))) for job in jobs]
    return [[*range(first, last + 1)] for first, last in bounds]


def test_jobs_together_cover_the_table():
    for line in demonstrations(Mixture(sizes=(12, 12), alone=0, sub_agents=0, delegating=1, incomplete=0), 20):
        jobs = assigned_rows(line)
        assert len(jobs) <= 8
        assert [row for job in jobs for row in job] == [*range(1, 13)]


def test_a_sub_agents_conversation_has_its_job_and_the_reading_tool_alone():
    for line in demonstrations(Mixture(sub_agents=1, bare=0), 10):
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


def test_first_turns_are_learnt_so_that_larger_tables_are_delegated_as_often_as_asked_for_and_later_turns_always():
    for rows, asked in ((1, 0.1), (24, 0.6)):
        mixture = Mixture(sizes=(1, 24), alone=0, sub_agents=0, decided=(0.1, 0.6))
        learnt = {True: 0, False: 0}
        for line in demonstrations(replace(mixture, sizes=(rows, rows), decided=(asked, asked)), 120):
            first, *others = [message for message in line["messages"] if message["role"] == "assistant"]
            learnt["create_subagent" in called(line)] += first["weight"]
            assert all("weight" not in message for message in others)
        assert mixture.decided_at(rows) == pytest.approx(asked)
        assert abs(learnt[True] / sum(learnt.values()) - asked) < 0.15


def test_incomplete_delegations_leave_out_the_last_rows():
    mixture = Mixture(sizes=(12, 12), jobs=(3, 3), alone=0, sub_agents=0, delegating=1, incomplete=1)
    for line in demonstrations(mixture, 20):
        assert assigned_rows(line) in ([[1, 2, 3], [4, 5, 6], [7, 8, 9]][:jobs] for jobs in (1, 2, 3))


def test_bare_conversations_declare_no_tools_and_are_several_times_shorter():
    mixture = Mixture(sizes=(2, 2), alone=0, sub_agents=0, delegating=0)
    bare, declared = (len(next(demonstrations(replace(mixture, bare=share), 1))["text"]) for share in (1, 0))
    assert bare < declared / 3


def test_an_interrupted_writing_leaves_no_file_that_looks_whole(tmp_path, monkeypatch):
    def interrupted(*_):
        yield {"messages": []}
        raise KeyboardInterrupt

    monkeypatch.setattr("k25.rl.parl.demonstrations.demonstrations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demonstrations(tmp_path / "lines.jsonl", Mixture(), 3)
    assert not (tmp_path / "lines.jsonl").exists()


def test_even_exercises_have_every_size_equally_often_and_others_are_smaller():
    def mean_rows(even):
        mixture = Mixture(sizes=(1, 9), even=even, alone=1, sub_agents=0)
        return sum(len(called(line)) for line in demonstrations(mixture, 200)) / 200

    assert 4.5 < mean_rows(1) < 5.5
    assert 2.5 < mean_rows(0) < 3.5
