"""What a task hands out: a demonstrated conversation with its media, and what is needed to check another answer.

Every sample is a pure function of (task, seed, index, difficulty); so is every picture in it.
"""

import random
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Protocol

from PIL import Image

JsonObject = dict[str, Any]
Domain = Literal["knowledge", "reasoning", "coding", "agentic"]
Modality = Literal["text", "image", "video"]


@dataclass(frozen=True)
class Clip:
    """A short video: frames of one size, and how many of them make a second."""

    frames: tuple[Image.Image, ...]
    fps: float


Media = Image.Image | Clip


@dataclass(frozen=True)
class Sample:
    """One exercise with one worked answer.

    Attributes:
        task: the task's name.
        seed: which stream of exercises.
        index: which one of the stream.
        difficulty: 1 is the easiest.
        messages: the whole demonstration in the shapes of the OpenAI chat API: the prompt, then the reference turns of
            the assistant (and of tools). A media part names its entry of `media` as its URL: `media:0`, `media:1`, ...
        prompt_messages: how many of the messages are the prompt.
        answer: a reference answer; the task gives it the score 1.
        gold: JSON data from which the task checks other answers.
        tools: declared tools, as in the chat API.
        media: pictures and clips in the order of their parts.
    """

    task: str
    seed: int
    index: int
    difficulty: int
    messages: tuple[JsonObject, ...]
    prompt_messages: int
    answer: str
    gold: Any = None
    tools: tuple[JsonObject, ...] = ()
    media: tuple[Media, ...] = field(default=(), compare=False)

    @property
    def prompt(self) -> tuple[JsonObject, ...]:
        """The messages before the first reference turn."""
        return self.messages[: self.prompt_messages]


class Task(Protocol):
    """A family of exercises with exact answers.

    Attributes:
        name: unique, in lower case with hyphens, such as `add` or `count-shapes`.
        domain: which ability it trains.
        modality: the richest medium in its prompts.
        hardest: difficulties run from 1 to this.
        twin: the task that asks the same in the other medium, if there is one.
    """

    name: str
    domain: Domain
    modality: Modality
    hardest: int
    twin: str | None

    def sample(self, seed: int, index: int, difficulty: int = 1) -> Sample:
        """Exercise number `index` of a stream. Raises InputError for a difficulty outside 1..hardest."""
        ...

    def score(self, sample: Sample, answer: str) -> float:
        """How good a final answer is, from 0 to 1; never raises, whatever the text."""
        ...

    def call_tool(self, sample: Sample, name: str, arguments: JsonObject) -> str:
        """What a declared tool returns; a readable error text for wrong names or arguments."""
        ...


def generator(task: str, seed: int, index: int, difficulty: int) -> random.Random:
    """The random numbers of one sample: equal on every machine and Python version from 3.11 on."""
    name = f"{task}/{seed}/{index}/{difficulty}".encode()
    return random.Random(int.from_bytes(blake2b(name, digest_size=8).digest()))
