"""What holds for every task with pictures or clips."""

import json
from importlib import import_module

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k25.errors import InputError
from k25.tasks import Clip, get_task, task_names

MODULES = ["visual_grids", "visual_scenes", "visual_text", "visual_puzzles", "charts", "clips"]
TASKS = [task for module in MODULES for task in import_module(f"k25.tasks.{module}").TASKS]
EVERY = [(task, difficulty) for task in TASKS for difficulty in range(1, task.hardest + 1)]
every_level = pytest.mark.parametrize(
    ("task", "difficulty"), EVERY, ids=[f"{task.name}-{level}" for task, level in EVERY]
)
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def frames_of(sample):
    [medium] = sample.media
    return medium.frames if isinstance(medium, Clip) else (medium,)


@every_task
def test_the_registry_offers_the_task(task):
    assert get_task(task.name) is task


@every_level
def test_the_reference_answer_scores_one_and_an_empty_one_less(task, difficulty):
    for index in range(15):
        sample = task.sample(0, index, difficulty)
        assert task.score(sample, sample.answer) == 1
        assert task.score(sample, f"I looked closely.\nAnswer: {sample.answer}") == 1
        assert task.score(sample, "") < 1


@every_level
def test_a_sample_depends_on_nothing_but_its_coordinates(task, difficulty):
    once = task.sample(1, 2, difficulty)
    task.sample(9, 9)
    again = task.sample(1, 2, difficulty)
    assert once == again
    assert [frame.tobytes() for frame in frames_of(once)] == [frame.tobytes() for frame in frames_of(again)]


@every_level
def test_other_indices_and_seeds_give_other_exercises(task, difficulty):
    samples = [task.sample(seed, index, difficulty) for seed in range(2) for index in range(10)]
    assert len({(sample.answer, tuple(frame.tobytes() for frame in frames_of(sample))) for sample in samples}) > 10


@every_level
def test_the_conversation_is_plain_json_with_one_medium(task, difficulty):
    sample = task.sample(0, 0, difficulty)
    [question] = sample.prompt
    kind = "video_url" if task.modality == "video" else "image_url"
    assert question["content"][0] == {"type": kind, kind: {"url": "media:0"}}
    assert sample.messages[-1] == {"role": "assistant", "content": sample.answer}
    gold = json.loads(json.dumps(sample.gold))
    assert task.check(gold, sample.answer) == 1


@every_level
def test_pictures_stay_small(task, difficulty):
    for index in range(10):
        frames = frames_of(task.sample(0, index, difficulty))
        limit = 112 if difficulty == 1 else 300
        assert all(frame.mode == "RGB" and max(frame.size) <= limit for frame in frames)
        assert len({frame.size for frame in frames}) == 1
        assert len(frames) <= (4 if difficulty == 1 else 8)
        if difficulty == 1:
            assert all(side % 28 == 0 for side in frames[0].size)


@every_task
@pytest.mark.parametrize("beyond", [0, -1, 6])
def test_a_difficulty_outside_the_range_is_refused(task, beyond):
    with pytest.raises(InputError, match="choose 1 to 5"):
        task.sample(0, 0, beyond)


@every_task
def test_a_call_of_a_tool_that_is_not_declared_answers_in_words(task):
    assert "no tool" in task.call_tool(task.sample(0, 0), "zoom", {})


@every_task
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.text() | st.text(st.sampled_from("0123456789.,[](){}<> redblueupdown\n")))
def test_any_answer_gets_a_score_between_zero_and_one(task, answer):
    assert 0 <= task.score(task.sample(0, 0), answer) <= 1
    assert 0 <= task.score(task.sample(0, 0, task.hardest), answer) <= 1


@every_task
def test_a_twin_is_a_task_of_another_modality(task):
    if task.twin is not None:
        assert task.twin in task_names()
        assert get_task(task.twin).modality != task.modality
