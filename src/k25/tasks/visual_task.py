"""The smallest way to write a task about a picture or a clip: a function that draws one and asks one question."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from k25.tasks.exercise import check_difficulty
from k25.tasks.sample import Clip, Domain, JsonObject, Media, Modality, Sample, generator
from k25.tasks.scoring import Check, final_answer


@dataclass(frozen=True)
class VisualExercise:
    """One question about one picture or clip.

    Attributes:
        medium: what the question is about; it stands before the question.
        prompt: the question.
        answer: the reference answer.
        gold: JSON data that answers are checked against.
    """

    medium: Media
    prompt: str
    answer: str
    gold: Any


Maker = Callable[[Random, int], VisualExercise]


@dataclass
class VisualTask:
    """A task made of one function: one medium, one question, one answer, no tools. See `Task` for the attributes.

    Attributes:
        make: draws an exercise from random numbers and a difficulty.
        check: scores the answer of a reply against the gold value.
    """

    name: str
    make: Maker
    check: Check
    hardest: int
    domain: Domain = "knowledge"
    modality: Modality = "image"
    twin: str | None = None

    def sample(self, seed: int, index: int, difficulty: int = 1) -> Sample:
        """Exercise number `index`. Raises InputError for a difficulty outside 1..hardest."""
        check_difficulty(self.name, difficulty, self.hardest)
        exercise = self.make(generator(self.name, seed, index, difficulty), difficulty)
        kind = "video_url" if isinstance(exercise.medium, Clip) else "image_url"
        content = [{"type": kind, kind: {"url": "media:0"}}, {"type": "text", "text": exercise.prompt}]
        return Sample(
            task=self.name,
            seed=seed,
            index=index,
            difficulty=difficulty,
            messages=({"role": "user", "content": content}, {"role": "assistant", "content": exercise.answer}),
            prompt_messages=1,
            answer=exercise.answer,
            gold=exercise.gold,
            media=(exercise.medium,),
        )

    def score(self, sample: Sample, answer: str) -> float:
        """How good a final answer is, from 0 to 1."""
        return self.check(sample.gold, final_answer(answer))

    def call_tool(self, sample: Sample, name: str, arguments: JsonObject) -> str:  # noqa: ARG002 - no tool exists
        """An error text: these exercises declare no tools."""
        return f"error: there is no tool {name!r}"


def visual_task(
    name: str,
    *,
    check: Check,
    hardest: int,
    domain: Domain = "knowledge",
    modality: Modality = "image",
    twin: str | None = None,
) -> Callable[[Maker], VisualTask]:
    """Turns a function that makes an exercise into a task."""

    def decorate(make: Maker) -> VisualTask:
        return VisualTask(name, make, check, hardest, domain, modality, twin)

    return decorate
