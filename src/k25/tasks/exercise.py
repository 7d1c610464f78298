"""The smallest way to write a task: a function from random numbers and a difficulty to a prompt and its answer."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from k25.errors import InputError
from k25.tasks.sample import Domain, JsonObject, Modality, Sample, generator
from k25.tasks.scoring import Check, exact
from k25.tasks.tool import Tool


@dataclass(frozen=True)
class Turn:
    """One turn of the assistant that calls tools, several of them at once if it has several calls.

    Attributes:
        calls: names of tools with their arguments.
        reasoning: why, for tasks that show it.
    """

    calls: tuple[tuple[str, dict[str, str]], ...]
    reasoning: str | None = None


@dataclass(frozen=True)
class Exercise:
    """One prompt with its answer.

    Attributes:
        prompt: the user's message.
        answer: the reference answer.
        gold: what answers are checked against; by default the answer.
        reasoning: the way to the answer, for tasks that show it.
        turns: what the assistant calls before it answers.
        state: what only the tools know: a table, a picture.
    """

    prompt: str
    answer: str
    gold: Any = None
    reasoning: str | None = None
    turns: tuple[Turn, ...] = ()
    state: Any = None


Maker = Callable[[random.Random, int], Exercise]


@dataclass
class TextTask:
    """A task made of one function: one user message, turns with tools if it has any, one answer.

    Attributes beyond those of `Task`:
        make: makes an exercise from random numbers and a difficulty.
        stream: the name that seeds the random numbers; tasks with one stream ask the same questions.
        check: scores an answer against the gold value.
        tools: what every exercise declares.
        thinking: whether the reference turns show their reasoning.
        shows_picture: whether the prompt shows the exercise's state, a picture.
    """

    name: str
    make: Maker
    stream: str
    domain: Domain = "reasoning"
    hardest: int = 8
    check: Check = exact
    twin: str | None = None
    tools: tuple[Tool, ...] = ()
    thinking: bool = False
    shows_picture: bool = False
    modality: Modality = "text"

    def sample(self, seed: int, index: int, difficulty: int = 1) -> Sample:
        """Exercise number `index`. Raises InputError for a difficulty outside 1..hardest."""
        check_difficulty(self.name, difficulty, self.hardest)
        exercise = self.make(generator(self.stream, seed, index, difficulty), difficulty)
        content: Any = exercise.prompt
        if self.shows_picture:
            picture = {"type": "image_url", "image_url": {"url": "media:0"}}
            content = [picture, {"type": "text", "text": exercise.prompt}]
        return Sample(
            task=self.name,
            seed=seed,
            index=index,
            difficulty=difficulty,
            messages=({"role": "user", "content": content}, *self._reference_turns(exercise)),
            prompt_messages=1,
            answer=exercise.answer,
            gold=exercise.answer if exercise.gold is None else exercise.gold,
            tools=tuple(tool.declaration() for tool in self.tools),
            media=(exercise.state,) if self.shows_picture else (),
        )

    def score(self, sample: Sample, answer: str) -> float:
        """How good a final answer is, from 0 to 1."""
        return self.check(sample.gold, answer)

    def call_tool(self, sample: Sample, name: str, arguments: JsonObject) -> str:
        """What the tool returns; a text that begins with `error:` for wrong names or arguments."""
        if all(tool.name != name for tool in self.tools):
            known = ", ".join(tool.name for tool in self.tools) or "none"
            return f"error: there is no tool {name!r}; tools: {known}"
        exercise = self.make(generator(self.stream, sample.seed, sample.index, sample.difficulty), sample.difficulty)
        return self._run(exercise, name, arguments)

    def _run(self, exercise: Exercise, name: str, arguments: JsonObject) -> str:
        return {tool.name: tool for tool in self.tools}[name](exercise.state, arguments)

    def _reference_turns(self, exercise: Exercise) -> list[JsonObject]:
        messages: list[JsonObject] = []
        count = 0
        for turn in exercise.turns:
            calls, results = [], []
            for name, arguments in turn.calls:
                identifier = f"functions.{name}:{count}"
                count += 1
                function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
                calls.append({"id": identifier, "type": "function", "function": function})
                result = self._run(exercise, name, arguments)
                results.append({"role": "tool", "tool_call_id": identifier, "content": result})
            messages += [self._assistant(None, turn.reasoning) | {"tool_calls": calls}, *results]
        return [*messages, self._assistant(exercise.answer, exercise.reasoning)]

    def _assistant(self, content: str | None, reasoning: str | None) -> JsonObject:
        message = {"role": "assistant", "content": content}
        return message | {"reasoning_content": reasoning or ""} if self.thinking else message


def text_task(
    name: str,
    *,
    domain: Domain = "reasoning",
    hardest: int = 8,
    check: Check = exact,
    twin: str | None = None,
    tools: tuple[Tool, ...] = (),
) -> Callable[[Maker], TextTask]:
    """Turns a function that makes an exercise into a task."""

    def decorate(make: Maker) -> TextTask:
        return TextTask(name, make, stream=name, domain=domain, hardest=hardest, check=check, twin=twin, tools=tools)

    return decorate


def with_thinking(task: TextTask) -> TextTask:
    """The task `NAME-thinking`: the same exercises, and the reference turns show their reasoning."""
    return replace(task, name=f"{task.name}-thinking", thinking=True, twin=None)


def with_and_without_picture(task: TextTask) -> list[TextTask]:
    """The task, and `NAME-seen`: the same exercises, but the prompt shows the picture that the tools work on."""
    seen = f"{task.name}-seen"
    return [replace(task, twin=seen), replace(task, name=seen, shows_picture=True, modality="image", twin=task.name)]


def check_difficulty(name: str, difficulty: int, hardest: int) -> None:
    """Raises InputError for a difficulty outside 1..hardest."""
    if not 1 <= difficulty <= hardest:
        raise InputError(f"task {name} has no difficulty {difficulty}: choose 1 to {hardest}")


def phrased(numbers: random.Random, difficulty: int, first: str, *others: str) -> str:
    """One of several phrasings; below difficulty 3 always the first, which is short."""
    return first if difficulty < 3 else numbers.choice((first, *others))
