"""Conversations in which a lamp is looked at: what a policy learns by imitation before it learns by reward.

Whoever demonstrates looks three times in clear air and five in fog on average, and answers with the most frequent
reading (of equally frequent ones the first). In other conversations the user says how often to look, up to the most
there is: from these the policy learns to count. So the start knows how to look and how to weigh readings, and little
about when looking pays: in clear air it looks too often, in fog too seldom.
"""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from random import Random

from k25.agent.tool import JsonObject
from k25.chat import parse_messages, parse_tools, render
from k25.chat.rendering import PieceKind
from k25.errors import InputError
from k25.rl.experiments.lamp import COLOURS, NAMES, Look, question, reading
from k25.tasks.sample import generator

# A demonstration goes on looking with this chance: somewhat more often in fog.
_GOES_ON = {False: 0.7, True: 0.85}
# Share of the conversations in which the user says how often to look.
_ASKED = 0.6


def demonstration(seed: int, index: int, right: float = 0.4, most: int = 12) -> JsonObject:
    """Conversation number `index` of a stream: `messages`, `tools`, and their running text under `text`."""
    numbers = generator("rl/lamp/demonstration", seed, index, 0)
    asked = numbers.random() < _ASKED
    fog, colour = asked or numbers.random() < 0.5, numbers.choice(COLOURS)
    count = numbers.randint(1, most) if asked else _count(numbers, _GOES_ON[fog], most)
    readings = [reading(colour, right if fog else 1.0, numbers) for _ in range(count)]
    identifiers = [f"functions.{Look.name}:{number}" for number in range(count)]
    calls = [
        {"id": each, "type": "function", "function": {"name": Look.name, "arguments": "{}"}} for each in identifiers
    ]
    results = [
        {"role": "tool", "tool_call_id": each, "content": shown}
        for each, shown in zip(identifiers, readings, strict=True)
    ]
    messages = [
        *question(numbers.choice(NAMES), fog=fog, looks=count if asked else None),
        {"role": "assistant", "content": None, "tool_calls": calls},
        *results,
        {"role": "assistant", "content": statistics.mode(readings)},
    ]
    tools = [Look(colour, right, most, Random()).definition()]
    rendering = render(parse_messages(messages), parse_tools(tools), thinking=False, add_generation_prompt=False)
    text = "\n".join(piece.text for piece in rendering.pieces if piece.kind is PieceKind.TEXT)
    return {"messages": messages, "tools": tools, "text": text}


def _count(numbers: Random, goes_on: float, most: int) -> int:
    count = 1
    while count < most and numbers.random() < goes_on:
        count += 1
    return count


def demonstrations(count: int, seed: int = 0) -> Iterator[JsonObject]:
    """The first `count` conversations of a stream."""
    return (demonstration(seed, index) for index in range(count))


def write_demonstrations(path: Path, count: int, seed: int = 0) -> None:
    """Write them as JSON lines. Raises InputError where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for each in demonstrations(count, seed):
                file.write(json.dumps(each) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
