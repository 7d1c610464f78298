"""The recipe of PARL, whole and shortened."""

from pathlib import Path

import pytest

from k25.reproduce.parl import ARMS, CLAIM, HELD_OUT, TRAINED, recipe_of_arm
from k25.rl.parl.schedules import Course, ParlSchedule


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("share", [1, 0.5, 0.3, 0.1])
@pytest.mark.parametrize("size", CLAIM.sizes)
def test_auxiliary_rewards_can_fade_to_zero_however_much_a_run_is_shortened(arm: str, share: float, size: str) -> None:
    recipe = recipe_of_arm(arm, 0, Path("start"), size=size, share=share)
    schedule = ParlSchedule(**recipe.environments[0].options["schedule"])
    course = Course(schedule, recipe.steps)
    for update in range(recipe.steps):
        course.observe(update, width=0.0)
    assert course.faded(recipe.steps - 1) == 1


@pytest.mark.parametrize("size", CLAIM.sizes)
def test_sizes_that_are_held_out_are_in_no_training_run(size: str) -> None:
    sizes = recipe_of_arm("parl", 0, Path("start"), size=size).environments[0].options["sizes"]
    assert {*TRAINED} <= {*sizes}
    assert not {*HELD_OUT} & {*sizes}
