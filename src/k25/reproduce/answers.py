"""What a network answers: task suites on a network in training or on a checkpoint."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from k25.chat import Tokenizer
from k25.engine import Engine, EngineConfig
from k25.evaluation import (
    Form,
    Policy,
    PolicyClients,
    TaskResult,
    attempt_all,
    exercises,
    load_checkpoint,
    named_tasks,
    task_results,
)
from k25.media import MediaProcessor
from k25.model import K25Model

_RUNNING = 128


def ask(
    model: K25Model,
    tokenizer: Tokenizer,
    processor: MediaProcessor | None,
    tasks: Sequence[str],
    *,
    samples: int,
    difficulty: int = 1,
    form: Form | None = None,
) -> dict[str, TaskResult]:
    """Greedy answers to the first exercises of every task, by task; none of them is in a training stream by its seed.

    `form` is `plain` for networks that have only been pre-trained, and None for conversations.
    """
    asked = exercises(named_tasks(tasks), samples=samples, difficulty=difficulty)

    async def attempts() -> list[TaskResult]:
        async with Engine(model, EngineConfig(max_running=_RUNNING)) as engine:
            clients = PolicyClients(Policy(engine, tokenizer, processor), form)
            return task_results(await attempt_all(asked, clients, concurrency=_RUNNING))

    was_training = model.training
    model.eval()
    results = asyncio.run(attempts())
    model.train(was_training)
    return {result.task: result for result in results}


def ask_checkpoint(
    folder: Path, tasks: Sequence[str], *, samples: int, difficulty: int = 1, form: Form | None = None
) -> dict[str, TaskResult]:
    """`ask` of a run's last weights."""
    loaded = load_checkpoint(str(folder))
    return ask(
        loaded.model, loaded.tokenizer, loaded.processor, tasks, samples=samples, difficulty=difficulty, form=form
    )


def accuracies(results: dict[str, TaskResult]) -> dict[str, float]:
    """Share of right answers by task."""
    return {task: result.accuracy.mean for task, result in results.items()}


def valid_share(results: dict[str, TaskResult]) -> float:
    """Share of the tool calls that name a declared tool and fit its schema; 0 without a call."""
    calls = sum(result.calls for result in results.values())
    return sum(result.valid_calls for result in results.values()) / calls if calls else 0.0
