"""`k25 rl calibrate-judge`: a judge's scores mapped to worth, from a file of answers whose worth is known."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

# Waiting threads must sleep, not spin: on a busy machine spinning costs most of the speed. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from k25.agent import Endpoint, HttpModelClient, Patience
from k25.cli.chat_client import Endpoint as ModelList
from k25.cli.chat_client import ServerError, endpoint_base, key_from_environment
from k25.cli.device import chosen_device
from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.errors import InputError
from k25.evaluation import EngineClient, Policy, load_checkpoint
from k25.rl.judge import Judge
from k25.rl.judge_calibration import save_calibrations
from k25.rl.judge_labelled import CalibrationReport, Labelled, calibrate, read_labelled
from k25.rl.judge_question import Ask, asks
from k25.rl.judge_rubrics import GENERAL, rubric_sets
from k25.train.recipe import read_toml

_PATIENCE = Patience(attempts=4)


def calibrate_judge(
    labelled: Path,
    file: Path,
    /,
    *,
    judge: str,
    rubrics: Path | None = None,
    model: Annotated[str | None, Parameter(help="Name on the server [the only one it offers].")] = None,
    max_tokens: int = 1024,
    concurrency: int = 16,
) -> None:
    """Fit a judge to answers whose worth is known, and say how far it is off before and after.

    Each line of LABELLED is a JSON object: prompt (a text) or messages, answer, worth from 0 to 1, and where there is
    one a good answer under reference. Recipes name FILE under options.calibration of an environment with a judge.

    Args:
        labelled: The .jsonl file of graded answers.
        file: The calibrations to write, as JSON.
        judge: URL of an OpenAI-compatible server, or a checkpoint.
        rubrics: TOML file with a table for each set of rubrics, as in recipes [the general ones].
        max_tokens: Most tokens of a verdict, thinking included.
        concurrency: Answers graded at the same time.
    """
    for name, value in (("max-tokens", max_tokens), ("concurrency", concurrency)):
        if value < 1:
            raise InputError(f"--{name} {value}: give at least 1")
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file}: there is no folder {file.absolute().parent}")
    answers = read_labelled(labelled)
    sets = GENERAL if rubrics is None else rubric_sets(read_toml(rubrics))
    report = asyncio.run(_graded(judge, Judge(sets), answers, model, max_tokens, concurrency))
    save_calibrations(report.calibrations, file)
    _show(report, file)


async def _graded(
    source: str, judge: Judge, answers: list[Labelled], model: str | None, max_tokens: int, concurrency: int
) -> CalibrationReport:
    async with AsyncExitStack() as stack:
        if "://" in source:
            asks_for = await _server(source, model, max_tokens, stack)
        else:
            asks_for = await _checkpoint(source, max_tokens, concurrency, stack)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("graded", total=len(answers))
            return await calibrate(judge, answers, asks_for, concurrency=concurrency, graded=lambda: bar.advance(task))


async def _server(url: str, model: str | None, max_tokens: int, stack: AsyncExitStack) -> Callable[[str], Ask]:
    base = endpoint_base(url)
    key = key_from_environment(base)
    try:
        name = model or await ModelList(base, key).only_model()
    except ServerError as error:
        raise InputError(f"{base}: {error}") from None
    endpoint = Endpoint(base, name, key=key, options={"max_tokens": max_tokens}, patience=_PATIENCE)
    client = await stack.enter_async_context(HttpModelClient(endpoint))
    return lambda conversation: asks(client, conversation)


async def _checkpoint(source: str, max_tokens: int, concurrency: int, stack: AsyncExitStack) -> Callable[[str], Ask]:
    loaded = load_checkpoint(source, device=chosen_device(None))
    engine = await stack.enter_async_context(Engine(loaded.model, EngineConfig(max_running=concurrency)))
    policy = Policy(engine, loaded.tokenizer, loaded.processor, source)
    sampling = SamplingParameters(max_tokens=max_tokens, seed=0)
    return lambda conversation: asks(EngineClient(policy, sampling=sampling), conversation)


def _show(report: CalibrationReport, file: Path) -> None:
    console = Console(highlight=False)
    table = Table("rubrics", "answers", "mean error", "calibrated, on other prompts", "worth of its scores")
    for name, one in report.sets.items():
        calibrated = "one prompt only" if one.calibrated is None else f"{one.calibrated:.3f}"
        worth = f"{one.calibration.worth[0]:.2f} to {one.calibration.worth[-1]:.2f}"
        table.add_row(name, str(one.answers), f"{one.error:.3f}", calibrated, worth)
    console.print(table)
    for reason, count in report.failed.items():
        console.print(f"left out: {count:,}, {reason}", markup=False, soft_wrap=True)
    console.print(f"{report.tokens:,} tokens; calibrations: {file}", markup=False, soft_wrap=True)
