"""Rule-based outcome rewards of verifiable tasks, and budget control; all from 0 to 1.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2: verifiable tasks are rewarded by rules for their outcome, and a
budget-control reward aims at token efficiency. The report gives no form for either.
"""

from collections.abc import Sequence

from k25.errors import InputError
from k25.tasks import Sample, get_task
from k25.tasks.scoring import same_list, same_number, same_words


def exercise(prediction: str, sample: Sample) -> float:
    """The score that the sample's own task gives to a final answer."""
    return get_task(sample.task).score(sample, prediction)


def outcome(prediction: str, truth: str | float | Sequence[str]) -> float:
    """1 for the true answer, 0 for any other; of long replies what follows `Answer:` or stands in a box is read.

    Texts are compared without case, as numbers where both are numbers, and lists item by item in order.
    """
    if isinstance(truth, str):
        return max(same_words(truth, prediction), same_number(truth, prediction))
    if isinstance(truth, int | float):
        return same_number(str(truth), prediction)
    return same_list(list(truth), prediction)


def budget_control(tokens: int, budget: int, slack: float = 0.0) -> float:
    """1 up to `budget` generated tokens, 0 from (1 + slack) times as many on, and a straight line between.

    To be weighted below the task's own reward, or multiplied with it, so that silence never pays.
    """
    if budget < 1 or slack < 0:
        raise InputError(
            f"a budget of {budget} tokens with slack {slack}: give at least 1 token and a slack of at least 0"
        )
    if tokens <= budget:
        return 1.0
    return max(0.0, 1 - (tokens - budget) / (slack * budget)) if slack else 0.0
