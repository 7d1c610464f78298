"""New questions to a checkpoint behind a server of its own, attempted by the agent loop that any user's agent runs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from k25.agent import Endpoint, Patience
from k25.cli.chat_client import Endpoint as ModelList
from k25.cli.chat_local import local_server
from k25.cli.demo.course import StageFailed
from k25.evaluation import Attempt, ServerClients, attempt_all, exercises, named_tasks, transcript

# What is asked, by what it asks for. Reinforcement learning rewards all but `copy`.
TASKS = {
    "text": ("copy", "add", "sort"),
    "picture": ("colour-cell", "count-shapes"),
    "tool": ("tool-calculator", "image-tool-cell", "image-tool-cell-seen"),
}
QUESTIONS = 32


def answers(console: Console, checkpoint: Path, *, examples: bool) -> dict[str, list[float]]:
    """Scores of new questions, the same for every checkpoint, by task; prints shares, and `examples` of each kind."""
    scores = {}
    console.print(f"k25 serve {checkpoint}", style="dim")
    with local_server(str(checkpoint)) as url:
        for kind, tasks in TASKS.items():
            for task in tasks:
                attempts = asyncio.run(_attempts(f"{url}/v1", task))
                # A young network may answer with nothing, which is only a wrong answer; a broken server answers none.
                if all(attempt.error for attempt in attempts):
                    raise StageFailed(f"no question of {task} got an answer: {attempts[0].error}")
                scores[task] = [float(attempt.solved) for attempt in attempts]
                right = sum(attempt.solved for attempt in attempts)
                console.print(f"[bold]{kind}[/]: {task}, {right} of {len(attempts)} new questions answered correctly")
                if examples and task == tasks[0]:
                    console.print(transcript(_best(attempts)), style="dim", markup=False)
    return scores


def _best(attempts: Sequence[Attempt]) -> Attempt:
    return max(attempts, key=lambda attempt: attempt.score)


async def _attempts(url: str, task: str) -> list[Attempt]:
    """Exercises that no training stream holds."""
    samples = exercises(named_tasks([task]), samples=QUESTIONS, difficulty=1)
    model = await ModelList(url).only_model()
    # At temperature 0 an empty answer stays empty, however often it is asked for.
    options = {"temperature": 0.0, "max_tokens": 128}
    endpoint = Endpoint(url, model, options=options, patience=Patience(attempts=1))
    async with ServerClients(endpoint, concurrency=QUESTIONS) as clients:
        return await attempt_all(samples, clients, max_steps=4)
