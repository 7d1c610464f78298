"""Episodes with scripted agents: critical steps, budgets, context sharding, usefulness."""

import pytest
from parl_actors import CREATE, assign, play, turns

from k25.swarm.scripted import calls, says, task_of


def one_by_one(rows):
    return turns(*[[("lookup", {"row": row})] for row in rows])


def four_jobs(rows):
    return turns([CREATE], [assign(*rows[start : start + 2]) for start in range(0, 8, 2)])


def test_a_single_agent_takes_a_critical_step_for_every_row_and_one_to_answer(tmp_path):
    outcome = play(one_by_one, tmp_path)
    assert outcome.metrics["critical_steps"] == 9
    assert outcome.metrics["width"] == outcome.metrics["delegated"] == 0
    assert outcome.rewards == {"perf": 1.0, "parallel": 0.0, "finish": 1.0}


def test_jobs_of_one_turn_cost_as_many_critical_steps_as_the_longest(tmp_path):
    outcome = play(four_jobs, tmp_path)
    # create, assign with 2 readings and an answer below it, the last answer
    assert outcome.metrics["critical_steps"] == 1 + (1 + 3) + 1
    assert outcome.metrics["quality"] == 1
    assert outcome.metrics["width"] == outcome.metrics["useful_jobs"] == 4
    assert outcome.metrics["empty_jobs"] == 0
    assert outcome.rewards == {"perf": 1.0, "parallel": 0.5, "finish": 1.0}


def test_a_job_that_repeats_another_is_empty_whichever_ends_first(tmp_path):
    outcome = play(lambda rows: turns([CREATE], [assign(*rows), assign(*rows[:1]), assign(*rows)]), tmp_path)
    assert outcome.metrics["useful_jobs"] == 1
    assert outcome.metrics["empty_jobs"] == 2
    assert outcome.rewards["finish"] == pytest.approx(1 / 3)


def test_everything_stops_where_the_critical_steps_are_used_up(tmp_path):
    outcome = play(one_by_one, tmp_path, budget=5)
    assert outcome.trajectory.reason == "budget"
    assert outcome.metrics["critical_steps"] == 5
    assert outcome.rewards["perf"] == pytest.approx(2 * 5 / 13)
    below = play(lambda rows: turns([CREATE], [assign(*rows), assign("900")]), tmp_path, budget=6)
    assert below.metrics["critical_steps"] == 6
    assert below.rewards["perf"] == pytest.approx(2 * 4 / 12)


def test_the_orchestrator_gets_the_last_message_of_a_sub_agent_alone(tmp_path):
    outcome = play(four_jobs, tmp_path)
    results = [message["content"] for message in outcome.trajectory.messages if message["role"] == "tool"]
    assert results[1:] == ["done"] * 4


def test_a_sub_agent_knows_only_its_system_prompt_and_its_job(tmp_path):
    heard = []

    def listens(messages):
        heard.append([message["role"] for message in messages])
        assert messages[0]["content"] == "Read them."
        return says(task_of(messages))

    outcome = play(lambda rows: turns([CREATE], [assign(rows[0])]), tmp_path, sub_agent=listens)
    assert heard == [["system", "user"]]
    assert outcome.metrics["useful_jobs"] == 0


def test_one_item_is_read_in_a_turn(tmp_path):
    outcome = play(lambda rows: turns([("lookup", {"row": row}) for row in rows]), tmp_path)
    assert outcome.rewards["perf"] == pytest.approx(2 / 9)
    refused = [message for message in outcome.trajectory.messages if message["role"] == "tool"][1:]
    assert all("one in each turn" in message["content"] for message in refused)


def test_jobs_beyond_the_cap_are_refused_and_count_as_empty(tmp_path):
    outcome = play(lambda rows: turns([CREATE], [assign(row) for row in rows]), tmp_path, agents=3)
    assert outcome.metrics["useful_jobs"] == 3
    assert outcome.metrics["empty_jobs"] == 5


def test_saved_steps_count_items_that_were_asked_for_and_every_critical_step(tmp_path):
    outcome = play(four_jobs, tmp_path, rewards={"parallel": "saved-steps"})
    assert outcome.rewards["parallel"] == pytest.approx(1 - 6 / 8)
    alone = play(lambda rows: one_by_one([*rows, "900"]), tmp_path, rewards={"parallel": "saved-steps"})
    assert alone.rewards["parallel"] == 0


def test_a_sub_agent_that_fails_is_a_result_like_any_other(tmp_path):
    def wanders(messages):
        return calls(messages, [("lookup", {"row": "999"})])

    outcome = play(lambda rows: turns([CREATE], [assign(rows[0])]), tmp_path, sub_agent=wanders, sub_steps=3)
    assert outcome.trajectory.reason == "answered"
    assert outcome.metrics["critical_steps"] == 1 + (1 + 3) + 1
    assert "No answer" in outcome.trajectory.messages[-2]["content"]


def test_the_single_agent_has_no_tools_to_delegate_with(tmp_path):
    outcome = play(lambda rows: turns([CREATE], [("lookup", {"row": rows[0]})]), tmp_path, delegation=False)
    assert "There is no tool 'create_subagent'" in outcome.trajectory.messages[2]["content"]
    assert outcome.metrics["width"] == 0


def test_an_orchestrator_that_calls_what_does_not_exist_is_stopped_after_its_tool_calls(tmp_path):
    rambling = turns([("lookup", {"row": "1"})], *[[("nothing", {})] * 6] * 10)
    outcome = play(lambda _: rambling, tmp_path, tool_calls=20)
    assert outcome.trajectory.reason == "budget"
    assert sum(len(turn.tool_calls) for turn in outcome.trajectory.turns) < 30
    assert outcome.metrics["quality"] > 0
