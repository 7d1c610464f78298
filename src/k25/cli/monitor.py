"""Task suites as training monitors: exercises answered by the network in training, in this process."""

import asyncio
import logging

from k25.engine import Engine, EngineConfig
from k25.errors import InputError
from k25.evaluation import Form, Policy, PolicyClients, attempt_all, exercises, named_tasks, task_results
from k25.media import MediaProcessor
from k25.model import K25Model
from k25.tasks import Sample
from k25.train.export import gathered
from k25.train.recipe import MonitorConfig
from k25.train.start import Start
from k25.train.trainer import Monitor

_log = logging.getLogger(__name__)

_DIFFICULTY = 1
_RUNNING = 128


def task_monitor(config: MonitorConfig, form: Form | None = "plain") -> Monitor:
    """Greedy accuracies by task on the same exercises every time, none of them from the training streams.

    `form` is how the model is asked: `plain` as pre-training writes exercises, None in the chat template. Raises
    InputError for an unknown task, and for a task with tools in plain form, which has no tool calls.
    """
    samples = exercises(named_tasks(config.tasks), samples=config.samples, difficulty=_DIFFICULTY)
    with_tools = [sample.task for sample in samples if sample.tools]
    if form == "plain" and with_tools:
        raise InputError(f"monitor.tasks: {with_tools[0]} has tools, which only conversations can call; leave it out")

    def monitor(model: K25Model, start: Start) -> dict[str, float]:
        whole = gathered(model)
        return {} if whole is None else asyncio.run(_accuracies(whole, start, samples, form))

    return monitor


async def _accuracies(model: K25Model, start: Start, samples: list[Sample], form: Form | None) -> dict[str, float]:
    processor = MediaProcessor(start.media, threads=1) if start.media else None
    async with Engine(model, EngineConfig(max_running=_RUNNING)) as engine:
        clients = PolicyClients(Policy(engine, start.tokenizer, processor), form)
        attempts = await attempt_all(samples, clients, concurrency=_RUNNING)
    failed = [attempt for attempt in attempts if attempt.error is not None]
    if failed:
        # A run of hours must not end because one exercise cannot be asked.
        _log.warning("%d exercises count as wrong: %s: %s", len(failed), failed[0].sample.task, failed[0].error)
    return {result.task: result.accuracy.mean for result in task_results(attempts)}
