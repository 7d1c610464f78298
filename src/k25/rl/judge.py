"""The judge of answers that no rule can check: a generative reward model with several alternative rubrics.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2. A judge is whoever answers `Ask`: a model (`asks`), or an agent
with tools (`k25.rl.judge_environment`). Its grades become a score from 0 to 1: the weighted mean of a set of rubrics,
mapped by the set's calibration where there is one, then the mean (or the least) of the sets drawn. All answers of one
group are graded by the same sets, or their advantages would compare judges; another seed draws again.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.judge_calibration import Calibration
from k25.rl.judge_question import Ask, Question, decide, question
from k25.rl.judge_rubrics import GENERAL, RubricSet

HIGHEST = 5
_GRADES = tuple(range(1, HIGHEST + 1))
_PICTURES = ("image_url", "video_url")


@dataclass(frozen=True)
class Submission:
    """What is to be judged.

    Attributes:
        key: names the prompt.
        prompt: its messages; of pictures and clips the judge is told that they are there.
        answer: the policy's final answer.
        reference: an answer known to be good, where there is one.
        pictures: content parts of the prompt that the judge may see.
    """

    key: str
    prompt: Sequence[JsonObject]
    answer: str
    reference: str | None = None
    pictures: tuple[JsonObject, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """A score from 0 to 1, the calibrated score of each rubric set, all grades (`set/rubric`), and the tokens used."""

    score: float
    by_set: Mapping[str, float]
    grades: Mapping[str, int]
    tokens: int


@dataclass(frozen=True)
class Judge:
    """Grades submissions.

    Attributes:
        sets: alternative rubric sets.
        draws: how many of them grade an answer.
        combine: `mean` of the drawn sets, or the `least`, which is harder to please by a trick.
        attempts: how often a question is put before the judge has failed.
        longest: characters of an answer that are shown; what is beyond is left out, and the judge is told so.
        calibrations: by rubric set.
        key: makes fences and codes unpredictable; a fixed one makes questions reproducible.
    """

    sets: tuple[RubricSet, ...] = GENERAL
    draws: int = 1
    combine: Literal["mean", "least"] = "mean"
    attempts: int = 2
    longest: int = 40_000
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def __post_init__(self) -> None:
        names = [one.name for one in self.sets]
        if not names or len(set(names)) < len(names):
            raise InputError(f"the judge needs rubric sets with different names, not {names}")
        if not 1 <= self.draws <= len(names):
            raise InputError(
                f"the judge cannot draw {self.draws} of {len(names)} rubric sets; choose 1 to {len(names)}"
            )
        if self.attempts < 1 or self.longest < 1:
            raise InputError("the judge needs at least 1 attempt, and at least 1 character of the answer")
        if unknown := self.calibrations.keys() - set(names):
            raise InputError(f"there is no rubric set {min(unknown)!r} to calibrate; the sets are {', '.join(names)}")

    def drawn(self, key: str, seed: int) -> list[RubricSet]:
        """The sets that grade the answers to a prompt; the same for every answer of a group."""
        return Random(f"{seed}/{key}").sample(self.sets, self.draws)

    async def grade(self, submission: Submission, ask: Ask, seed: int = 0) -> Judgement:
        """One judgement. Raises JudgeError where a verdict is missing: the rollout is then to be dropped."""
        scores: dict[str, float] = {}
        grades: dict[str, int] = {}
        tokens = 0
        for one in self.drawn(submission.key, seed):
            given, used = await decide(self.question(submission, one), ask, self.attempts)
            raw = raw_score(given, one)
            scores[one.name] = self.calibrations[one.name](raw) if one.name in self.calibrations else raw
            grades |= {f"{one.name}/{name}": grade for name, grade in given.items()}
            tokens += used
        score = min(scores.values()) if self.combine == "least" else sum(scores.values()) / len(scores)
        return Judgement(score, scores, grades, tokens)

    def question(self, submission: Submission, rubrics: RubricSet) -> Question:
        """What the judge is asked about a submission."""
        material: JsonObject = {"request": [_shown(message) for message in submission.prompt]}
        if submission.reference is not None:
            material["reference"] = submission.reference
        material["answer"] = submission.answer[: self.longest]
        if (left_out := len(submission.answer) - self.longest) > 0:
            material["characters left out at the end of the answer"] = left_out
        looked_at = "\n".join(f"- {name}: {rubric.ask}" for name, rubric in rubrics.rubrics.items())
        task = f"Grade what stands under `answer`, each point from 1 (bad) to {HIGHEST} (excellent):\n{looked_at}"
        return question(material, task, dict.fromkeys(rubrics.rubrics, _GRADES), self.key, submission.pictures)


def raw_score(grades: Mapping[str, int], rubrics: RubricSet) -> float:
    """The weighted mean of grades, from 0 (all 1) to 1 (all 5)."""
    weight = sum(rubric.weight for rubric in rubrics.rubrics.values())
    mean = sum(rubrics.rubrics[name].weight * (grade - 1) for name, grade in grades.items()) / weight
    return min(1.0, mean / (HIGHEST - 1))


def pictures_of(prompt: Sequence[JsonObject]) -> tuple[JsonObject, ...]:
    """The content parts of pictures and clips, in order."""
    contents = [message.get("content") for message in prompt]
    return tuple(
        part for content in contents if isinstance(content, list) for part in content if part["type"] in _PICTURES
    )


def _shown(value: Any) -> Any:
    """A message without the bytes of its pictures."""
    if isinstance(value, dict):
        if value.get("type") in _PICTURES:
            return {"type": value["type"], "shown": "to the model that answered"}
        return {name: _shown(item) for name, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list) else value
