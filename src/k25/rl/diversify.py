"""Prompt diversification and instruction following: changes of examples, the same for the same key every time.

Kimi K2.5 report, arXiv 2602.02276, appendix D, names both as parts of its environment. `Diversify` says the same in
other words around the question. `Instruct` adds demands that a rule can check; what follows them is the part
`instructions` of the reward, and the environment's own judge is shown the answer without its added form.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from k25.agent import Trajectory
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.environment import Environment, Example
from k25.rl.wrapped import WrappedEnvironment
from k25.tasks import Sample

FRAMES = (
    "{prompt}",
    "Question: {prompt}",
    "Please answer this:\n{prompt}",
    "{prompt}\nGive your answer when you are sure of it.",
    "I need help with the following.\n\n{prompt}",
    "Task\n----\n{prompt}",
)


@dataclass(frozen=True)
class Diversify:
    """Puts the last message of the user into one of several frames, chosen by the example's key.

    Attributes:
        frames: texts with `{prompt}` once.
        systems: system messages to choose from, for examples that begin without one; an empty text adds none.
        seed: another seed chooses otherwise.
    """

    frames: tuple[str, ...] = FRAMES
    systems: tuple[str, ...] = ("",)
    seed: int = 0

    def __post_init__(self) -> None:
        for frame in self.frames:
            if frame.count("{prompt}") != 1:
                raise InputError(f"frame {frame!r} must hold {{prompt}} exactly once")
        if not self.frames or not self.systems:
            raise InputError("diversification needs at least one frame and one system message (which may be empty)")

    def __call__(self, example: Example) -> Example:
        """The example in other words."""
        chance = Random(f"frame/{self.seed}/{example.key}")
        before, after = chance.choice(self.frames).split("{prompt}")
        changed = _around_prompt(example, before, after)
        system = chance.choice(self.systems)
        if not system or changed.messages[0].get("role") == "system":
            return changed
        return replace(changed, messages=({"role": "system", "content": system}, *changed.messages))


@dataclass(frozen=True)
class Instruction:
    """One demand that a rule can check.

    Attributes:
        kind: `form` encloses the answer, `style` is about what is inside; an example gets at most one of each.
        ask: the demand, as the user says it.
        follows: whether a reply meets it.
        answer: the reply without the added form, for the environment's judge.
        fits: whether the demand leaves the example solvable; may look at key and gold alone.
    """

    kind: Literal["form", "style"]
    ask: str
    follows: Callable[[str], bool]
    answer: Callable[[str], str] = lambda text: text
    fits: Callable[[Example], bool] = lambda _: True


def between_tags(tag: str = "answer") -> Instruction:
    """The answer, and nothing else, between tags."""
    pattern = re.compile(rf"\s*<{re.escape(tag)}>(.*)</{re.escape(tag)}>\s*", re.DOTALL)
    ask = f"Write your whole reply between <{tag}> and </{tag}>."
    return Instruction("form", ask, *_matching(lambda text: pattern.fullmatch(text)))


def beginning_with(words: str) -> Instruction:
    """The reply begins with given words."""
    pattern = re.compile(rf"\s*{re.escape(words)}(.+)", re.DOTALL)
    return Instruction("form", f'Begin your reply with "{words}".', *_matching(lambda text: pattern.fullmatch(text)))


def ending_with(words: str) -> Instruction:
    """The reply ends with given words."""
    pattern = re.compile(rf"(.+){re.escape(words)}\s*", re.DOTALL)
    return Instruction("form", f'End your reply with "{words}".', *_matching(lambda text: pattern.fullmatch(text)))


def as_json(name: str = "answer") -> Instruction:
    """The answer as the only field of a JSON object."""

    def inside(text: str) -> str | None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or found.keys() != {name}:
            return None
        value = found[name]
        return value if isinstance(value, str) else json.dumps(value)

    def answer(text: str) -> str:
        found = inside(text)
        return text if found is None else found

    ask = f'Reply with a JSON object that has the one field "{name}".'
    return Instruction("form", ask, lambda text: inside(text) is not None, answer)


def at_most_words(most: int) -> Instruction:
    """An upper bound on the words; for examples whose known answer keeps it."""

    def follows(text: str) -> bool:
        return 0 < len(text.split()) <= most

    return Instruction("style", f"Use at most {most} words.", follows, fits=lambda example: follows(_known(example)))


def in_capitals() -> Instruction:
    """No lower-case letters; for examples whose known answer has none, since checkers may mind the case."""

    def follows(text: str) -> bool:
        return bool(text.strip()) and text == text.upper()

    return Instruction("style", "Use capital letters only.", follows, fits=lambda example: follows(_known(example)))


_KNOWN: Mapping[str, Callable[[str], Instruction]] = {
    "tags": lambda value: between_tags(value or "answer"),
    "begin": beginning_with,
    "end": ending_with,
    "json": lambda value: as_json(value or "answer"),
    "words": lambda value: at_most_words(int(value)),
    "capitals": lambda _: in_capitals(),
}


def instruction(text: str) -> Instruction:
    """The instruction that recipes write as `tags:answer`, `begin:WORDS`, `end:WORDS`, `json:FIELD`, `words:20` or
    `capitals`. Raises InputError for any other text.
    """
    name, _, value = text.partition(":")
    needs_value = name in ("begin", "end", "words")
    if (
        name not in _KNOWN
        or (needs_value and not value)
        or (name == "words" and not re.fullmatch(r"[1-9]\d{0,5}", value))
    ):
        raise InputError(
            f"there is no instruction {text!r}; write tags:NAME, begin:WORDS, end:WORDS, json:FIELD, words:20, capitals"
        )
    return _KNOWN[name](value)


@dataclass(frozen=True)
class Instruct:
    """Adds instructions to the last message of the user, drawn by the example's key.

    Attributes:
        instructions: to draw from.
        share: of the examples that get any.
        seed: another seed draws otherwise.
    """

    instructions: tuple[Instruction, ...]
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.instructions or not 0 <= self.share <= 1:
            raise InputError("instruction enhancement needs at least one instruction, and a share from 0 to 1")

    def drawn(self, example: Example) -> list[Instruction]:
        """The instructions of an example: none, or at most one form and one style; the form first."""
        chance = Random(f"instruct/{self.seed}/{example.key}")
        if chance.random() >= self.share:
            return []
        chosen: dict[str, Instruction] = {}
        for one in chance.sample(self.instructions, len(self.instructions)):
            if one.fits(example):
                chosen.setdefault(one.kind, one)
        kept = chance.sample(sorted(chosen), chance.randint(1, len(chosen))) if chosen else []
        return [chosen[kind] for kind in ("form", "style") if kind in kept]

    def __call__(self, example: Example) -> Example:
        """The example with its instructions."""
        added = "".join(f"\n{one.ask}" for one in self.drawn(example))
        return _around_prompt(example, "", added) if added else example

    def read(self, example: Example, reply: str) -> tuple[str, float]:
        """The answer without its added form, and the share of the instructions that the reply follows; 1 for none."""
        drawn, followed = self.drawn(example), 0
        for one in drawn:
            followed += one.follows(reply)
            reply = one.answer(reply)
        return reply, followed / len(drawn) if drawn else 1.0


class Enhanced(WrappedEnvironment):
    """An environment with diversified prompts and added instructions.

    Raises InputError for environments that run their own rollouts: those call `Instruct` themselves.

    Args:
        environment: the environment, or its name.
        options: of the environment, where it is named.
        frames: of `Diversify`; none leaves the prompts as they are.
        instructions: as `instruction` reads them, or ready ones.
        share: of the examples that get instructions.
        seed: of both choices.
    """

    def __init__(
        self,
        environment: Environment | str,
        *,
        options: Mapping[str, Any] | None = None,
        frames: Sequence[str] = FRAMES,
        instructions: Sequence[str | Instruction] = (),
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(environment, options)
        inner = self.inner
        if type(inner).rollout is not Environment.rollout:
            raise InputError(
                f"environment {inner.name} runs its own rollouts; let its judge use k25.rl.diversify.Instruct"
            )
        self._instruct = None
        changes = list(inner.changes)
        if frames:
            changes.append(Diversify(tuple(frames), seed=seed))
        if instructions:
            ready = [instruction(one) if isinstance(one, str) else one for one in instructions]
            self._instruct = Instruct(tuple(ready), share, seed)
            changes.append(self._instruct)
        self.changes = changes

    async def score(self, example: Example, trajectory: Trajectory) -> Mapping[str, float]:
        """The environment's own parts, and `instructions`: the share of the instructions that are followed."""
        if self._instruct is None:
            return await self.inner.score(example, trajectory)
        answer, followed = self._instruct.read(example, trajectory.text)
        rewards = await self.inner.score(example, replace(trajectory, text=answer))
        return {**rewards, "instructions": followed if trajectory.reason == "answered" else 0.0}


def _matching(match: Callable[[str], re.Match[str] | None]) -> tuple[Callable[[str], bool], Callable[[str], str]]:
    def answer(text: str) -> str:
        found = match(text)
        return found[1].strip() if found else text

    return lambda text: match(text) is not None, answer


def _known(example: Example) -> str:
    """The known answer, where there is one in words."""
    gold = example.gold.answer if isinstance(example.gold, Sample) else example.gold
    return gold if isinstance(gold, str) else ""


def _around_prompt(example: Example, before: str, after: str) -> Example:
    messages = list(example.messages)
    asked = [place for place, message in enumerate(messages) if message.get("role") == "user"]
    if not asked:
        return example
    messages[asked[-1]] = {**messages[asked[-1]], "content": _around(messages[asked[-1]]["content"], before, after)}
    return replace(example, messages=tuple(messages))


def _around(content: str | list[JsonObject], before: str, after: str) -> str | list[JsonObject]:
    """Text around a message; pictures keep their places, text goes around the first and last text part."""
    if isinstance(content, str):
        return f"{before}{content}{after}"
    texts = [place for place, part in enumerate(content) if part["type"] == "text"]
    if not texts:
        return [*content, {"type": "text", "text": f"{before}{after}".strip()}]
    parts = [dict(part) for part in content]
    parts[texts[0]]["text"] = before + parts[texts[0]]["text"]
    parts[texts[-1]]["text"] += after
    return parts
