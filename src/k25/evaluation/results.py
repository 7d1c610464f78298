"""Attempts to numbers: per task, and the difference between two models on the same exercises."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from k25.agent.tool import JsonObject
from k25.evaluation.attempts import Attempt
from k25.evaluation.statistics import Estimate, mean_difference, mean_score, pass_at


@dataclass(frozen=True)
class TaskResult:
    """How a model did on one task.

    Attributes:
        task: the task's name.
        difficulty: of its exercises.
        exercises: how many.
        repeats: attempts at each.
        accuracy: share of attempts with score 1 (pass@1).
        score: mean score, with partial credit.
        pass_at_repeats: share of exercises that at least one attempt solved (pass@k for k = `repeats`).
        tokens: mean tokens that an attempt generated.
        calls: tool calls written.
        valid_calls: those that name a declared tool and fit its schema.
        failed: attempts without an answer because the model could not be asked.
        unfinished: attempts that ran out of steps.
    """

    task: str
    difficulty: int
    exercises: int
    repeats: int
    accuracy: Estimate
    score: Estimate
    pass_at_repeats: float
    tokens: float
    calls: int
    valid_calls: int
    failed: int
    unfinished: int

    def to_json(self) -> JsonObject:
        """All fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Accuracy of the second model less that of the first, on the same exercises of one task."""

    task: str
    accuracy: Estimate


def task_results(attempts: Sequence[Attempt]) -> list[TaskResult]:
    """One result per task and difficulty, in order of the attempts."""
    return [_result(list(of_task)) for _, of_task in groupby(attempts, key=_task)]


def differences(first: Sequence[Attempt], second: Sequence[Attempt]) -> list[Difference]:
    """Compare two models' attempts at the same exercises. Raises ValueError if the exercises differ."""
    found = []
    pairs = zip(groupby(first, key=_exercise), groupby(second, key=_exercise), strict=True)
    shares = [(one, _share_solved(list(a)), other, _share_solved(list(b))) for (one, a), (other, b) in pairs]
    if any(one != other for one, _, other, _ in shares):
        raise ValueError("the attempts are at different exercises")
    for (task, _), of_task in groupby(shares, key=lambda share: (share[0][0], share[0][1])):
        found.append(Difference(task, mean_difference([after - before for _, before, _, after in of_task])))
    return found


def _result(attempts: list[Attempt]) -> TaskResult:
    by_exercise = [list(group) for _, group in groupby(attempts, key=_exercise)]
    repeats = len(by_exercise[0])
    solved = [sum(attempt.solved for attempt in group) for group in by_exercise]
    return TaskResult(
        task=attempts[0].sample.task,
        difficulty=attempts[0].sample.difficulty,
        exercises=len(by_exercise),
        repeats=repeats,
        accuracy=mean_score([count / repeats for count in solved]),
        score=mean_score([sum(attempt.score for attempt in group) / repeats for group in by_exercise]),
        pass_at_repeats=sum(pass_at(repeats, repeats, count) for count in solved) / len(solved),
        tokens=sum(attempt.trajectory.usage.completion_tokens for attempt in attempts) / len(attempts),
        calls=sum(attempt.calls for attempt in attempts),
        valid_calls=sum(attempt.valid_calls for attempt in attempts),
        failed=sum(attempt.error is not None for attempt in attempts),
        unfinished=sum(attempt.trajectory.reason == "budget" for attempt in attempts),
    )


def _task(attempt: Attempt) -> tuple[str, int]:
    return attempt.sample.task, attempt.sample.difficulty


def _exercise(attempt: Attempt) -> tuple[str, int, int]:
    return attempt.sample.task, attempt.sample.difficulty, attempt.sample.index


def _share_solved(attempts: list[Attempt]) -> float:
    return sum(attempt.solved for attempt in attempts) / len(attempts)
