"""The demonstration's training: nano from nothing to answers, and three questions to the server that serves it."""

import asyncio
from pathlib import Path
from typing import Any

from rich.console import Console

from k25.agent import Endpoint
from k25.cli.chat_client import Endpoint as ModelList
from k25.cli.chat_local import local_server
from k25.cli.train_run import train
from k25.evaluation import Attempt, ServerClients, attempt_all, exercises, named_tasks, transcript
from k25.train.recipe import load_recipe, parse_recipe
from k25.train.start import EXPORT
from k25.train.tokenizer_recipe import load_tokenizer_recipe, train_from_recipe

# Stages in order, and the share of each recipe's steps that the shortened demonstration runs.
STAGES = {"vision": 0.8, "joint": 0.25, "long-context": 0.25, "sft": 0.4}
_TASKS = {"text": "copy", "picture": "colour-cell", "tool": "tool-calculator"}
_QUESTIONS = 8


def show(console: Console, out: Path, *, full: bool) -> None:
    """Train all stages (finished ones are kept), then ask the result about a text, a picture and with a tool."""
    home = out / ("nano" if full else "nano-short")
    shares = ", ".join(f"{share:.0%} of {stage}" for stage, share in STAGES.items())
    schedule = "the whole recipes" if full else f"shortened to {shares}; FULL=1 runs the whole"
    console.print(f"recipes/nano: {schedule}. Interrupt and run again at will: it goes on where it was.")
    if not (home / "tokenizer" / "tiktoken.model").is_file():
        train_from_recipe(load_tokenizer_recipe("nano/tokenizer")).save(home / "tokenizer")
    before: Path | None = None
    for stage in STAGES:
        if (home / stage / EXPORT).is_dir():
            console.print(f"{stage}: finished before, kept in {home / stage}")
        else:
            train(parse_recipe(_table(stage, home, before, full), (), f"nano/{stage}"), home / stage, console)
        before = home / stage
    _ask(console, home / "sft" / EXPORT)


def _table(stage: str, home: Path, before: Path | None, full: bool) -> dict[str, Any]:
    """The recipe with this demonstration's folders, and shortened unless `full`."""
    start = [f'model.start_from="{before}"'] if before else []
    recipe = load_recipe(f"nano/{stage}", [f'tokenizer="{home / "tokenizer"}"', *start])
    table = recipe.model_dump(mode="json", exclude_none=True)
    if not full:
        table["steps"] = round(recipe.steps * STAGES[stage])
        for part in ("stable", "decay"):
            table["schedule"][part] = round(table["schedule"][part] * STAGES[stage])
    return table


def _ask(console: Console, checkpoint: Path) -> None:
    console.print(f"k25 serve {checkpoint}", style="dim")
    with local_server(str(checkpoint)) as url:
        for kind, task in _TASKS.items():
            attempts = asyncio.run(_attempts(f"{url}/v1", task))
            right = [attempt for attempt in attempts if attempt.score == 1]
            console.print(f"[bold]{kind}[/]: {task}, {len(right)} of {len(attempts)} new questions answered correctly")
            console.print(transcript((right or attempts)[0]), style="dim", markup=False)
            # A network this young may answer with nothing, which is only a wrong answer; a broken server answers none.
            if all(attempt.error for attempt in attempts):
                raise RuntimeError(f"no {kind} question got an answer: {attempts[0].error}")


async def _attempts(url: str, task: str) -> list[Attempt]:
    """Exercises that no training stream holds, through the agent loop that any user's agent would run."""
    samples = exercises(named_tasks([task]), samples=_QUESTIONS, difficulty=1)
    (model,) = await ModelList(url).models()
    endpoint = Endpoint(url, model, options={"temperature": 0.0, "max_tokens": 256})
    async with ServerClients(endpoint, concurrency=_QUESTIONS) as clients:
        return await attempt_all(samples, clients, max_steps=4)
