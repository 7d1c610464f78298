"""Demonstrations of mixed quality: most answers have the right words in the wrong order.

A policy that imitates them can do the exercise and mostly does not, as after fine-tuning on uneven data. Which answers
are right only the reward tells it.
"""

import json
from pathlib import Path

from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.tasks import Task, get_task
from k25.tasks.sample import generator


def mixed_demonstration(task: Task, difficulty: int, right: float, seed: int, index: int) -> JsonObject:
    """Exercise number `index` of a stream as a conversation; its answer stands as it is with the chance `right`."""
    numbers = generator("rl/mixed-demonstration", seed, index, difficulty)
    sample = task.sample(seed, index, difficulty)
    words = sample.answer.split(" ")
    if numbers.random() >= right:
        numbers.shuffle(words)
    return {"messages": [*sample.prompt, {"role": "assistant", "content": " ".join(words)}]}


def write_mixed_demonstrations(
    path: Path, task: str, count: int, *, difficulty: int, right: float, seed: int = 0
) -> None:
    """Write the first `count` conversations of a stream as JSON lines.

    Raises InputError for an unknown task, for a share outside 0 to 1, and where the file cannot be written.
    """
    if not 0 <= right <= 1:
        raise InputError(f"right is {right}: give a share from 0 to 1")
    made = get_task(task)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for index in range(count):
                file.write(json.dumps(mixed_demonstration(made, difficulty, right, seed, index)) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
