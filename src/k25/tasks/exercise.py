"""The smallest way to write a task: a function from random numbers and a difficulty to a prompt and its answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from k25.errors import InputError
from k25.tasks.sample import Domain, JsonObject, Modality, Sample, generator
from k25.tasks.scoring import Check, exact


@dataclass(frozen=True)
class Exercise:
    """One prompt with its answer.

    Attributes:
        prompt: the user's message.
        answer: the reference answer.
        gold: what answers are checked against; by default the answer.
        reasoning: the way to the answer, for tasks that show it.
    """

    prompt: str
    answer: str
    gold: Any = None
    reasoning: str | None = None


Maker = Callable[[random.Random, int], Exercise]


@dataclass
class TextTask:
    """A task made of one function: one user message, one answer, no tools. See `Task` for the attributes.

    Attributes:
        make: makes an exercise from random numbers and a difficulty.
        check: scores an answer against the gold value.
        stream: the name that seeds the random numbers; tasks with one stream ask the same questions.
        thinking: whether the reference turn shows the reasoning.
    """

    name: str
    make: Maker
    stream: str
    domain: Domain = "reasoning"
    hardest: int = 8
    check: Check = exact
    twin: str | None = None
    thinking: bool = False
    modality: Modality = "text"

    def sample(self, seed: int, index: int, difficulty: int = 1) -> Sample:
        """Exercise number `index`. Raises InputError for a difficulty outside 1..hardest."""
        check_difficulty(self.name, difficulty, self.hardest)
        exercise = self.make(generator(self.stream, seed, index, difficulty), difficulty)
        turn: JsonObject = {"role": "assistant", "content": exercise.answer}
        if self.thinking:
            turn["reasoning_content"] = exercise.reasoning
        return Sample(
            task=self.name,
            seed=seed,
            index=index,
            difficulty=difficulty,
            messages=({"role": "user", "content": exercise.prompt}, turn),
            prompt_messages=1,
            answer=exercise.answer,
            gold=exercise.answer if exercise.gold is None else exercise.gold,
        )

    def score(self, sample: Sample, answer: str) -> float:
        """How good a final answer is, from 0 to 1."""
        return self.check(sample.gold, answer)

    def call_tool(self, sample: Sample, name: str, arguments: JsonObject) -> str:  # noqa: ARG002 - no tool exists
        """An error text: these exercises declare no tools."""
        return f"error: there is no tool {name!r}"


def text_task(
    name: str,
    *,
    domain: Domain = "reasoning",
    hardest: int = 8,
    check: Check = exact,
    twin: str | None = None,
) -> Callable[[Maker], TextTask]:
    """Turns a function that makes an exercise into a task."""

    def decorate(make: Maker) -> TextTask:
        return TextTask(name, make, stream=name, domain=domain, hardest=hardest, check=check, twin=twin)

    return decorate


def with_thinking(task: TextTask) -> TextTask:
    """The task `NAME-thinking`: the same exercises, and the reference turn shows its reasoning."""
    return replace(task, name=f"{task.name}-thinking", thinking=True, twin=None)


def check_difficulty(name: str, difficulty: int, hardest: int) -> None:
    """Raises InputError for a difficulty outside 1..hardest."""
    if not 1 <= difficulty <= hardest:
        raise InputError(f"task {name} has no difficulty {difficulty}: choose 1 to {hardest}")


def phrased(numbers: random.Random, difficulty: int, first: str, *others: str) -> str:
    """One of several phrasings; below difficulty 3 always the first, which is short."""
    return first if difficulty < 3 else numbers.choice((first, *others))
