"""`k25 eval`: task suites on a checkpoint of this machine or on a server, and the comparison of two models.

Exit codes: 0 the exercises were attempted, 1 no attempt got an answer from the model, 2 wrong input, 130 interrupted.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated

# Waiting threads must sleep, not spin: on a busy machine spinning costs most of the speed. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from k25.agent import Endpoint, Patience
from k25.agent.tool import JsonObject
from k25.cli.chat_client import Endpoint as ModelList
from k25.cli.chat_client import ServerError, endpoint_base, key_from_environment
from k25.cli.device import chosen_device
from k25.cli.eval_tables import comparison_table, result_table
from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.errors import InputError
from k25.evaluation import (
    EVALUATION_SEED,
    Attempt,
    Form,
    Policy,
    PolicyClients,
    ServerClients,
    attempt_all,
    exercises,
    load_checkpoint,
    named_tasks,
    task_results,
    transcript,
)
from k25.evaluation.attempts import ClientFactory
from k25.tasks import Sample

# The published value of kimi-k2.5; it matters only above temperature 0.
_TOP_P = 0.95
# Enough to get over a busy server; empty answers are tried again too, and models in training give many.
_PATIENCE = Patience(attempts=4)


@Parameter(name="*")
@dataclass(frozen=True)
class ExerciseOptions:
    """What is asked."""

    difficulty: Annotated[int, Parameter(help="1 is the easiest; a task that ends below it is asked its hardest.")] = 1
    samples: Annotated[int, Parameter(help="Exercises of each task.")] = 32
    repeats: Annotated[int, Parameter(help="Attempts at each exercise.")] = 1
    seed: Annotated[int, Parameter(help="Which exercises; also seeds the sampling of checkpoints.")] = EVALUATION_SEED
    max_steps: Annotated[int, Parameter(help="Answers of the model in one attempt, tool calls included.")] = 12


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """How the model is asked."""

    temperature: Annotated[float, Parameter(help="0 takes the likeliest token.")] = 0.0
    max_tokens: Annotated[int, Parameter(help="Most tokens of one answer, thinking included.")] = 512
    thinking: Annotated[
        bool | None, Parameter(negative="--no-thinking", help="Think or not [as the exercise demonstrates].")
    ] = None
    plain: Annotated[bool, Parameter(help="Running text without chat markup, for base models.")] = False
    concurrency: Annotated[int, Parameter(help="Attempts at the same time.")] = 64
    device: Annotated[str | None, Parameter(help="For checkpoints [cuda where there is one].")] = None
    model: Annotated[str | None, Parameter(help="Name on the server [the only one it offers].")] = None
    api_key: Annotated[str | None, Parameter(show_default=False, help="Key for the server [from the environment].")] = (
        None
    )

    @property
    def form(self) -> Form | None:
        """What `PolicyClients` takes."""
        if self.plain:
            return "plain"
        return None if self.thinking is None else "thinking" if self.thinking else "instant"


def main(
    source: str,
    /,
    *,
    suite: tuple[str, ...] = ("text",),
    against: str | None = None,
    show_failures: int = 0,
    json_: Annotated[bool, Parameter(name="--json")] = False,
    exercise_options: ExerciseOptions | None = None,
    model_options: ModelOptions | None = None,
) -> None:
    """Measure a model on tasks with exact answers.

    Keys for servers that are not given come from MOONSHOT_API_KEY (api.moonshot.ai, api.moonshot.cn) or OPENAI_API_KEY.

    Args:
        source: A checkpoint folder, a run folder, or the URL of an OpenAI-compatible server.
        suite: text, image, video, tools, all, or the name of a task; repeatable.
        against: A second model, asked the same exercises: the table shows what it does better or worse.
        show_failures: Print the conversations of so many wrong attempts.
        json_: Print one JSON object with results and all answers in place of the tables.
    """
    asked, how = exercise_options or ExerciseOptions(), model_options or ModelOptions()
    _check(asked, how)
    if show_failures < 0:
        raise InputError(f"--show-failures {show_failures}: give at least 0")
    samples = exercises(named_tasks(suite), samples=asked.samples, difficulty=asked.difficulty, seed=asked.seed)
    samples = _askable(samples, suite, how)
    sources = [source] if against is None else [source, against]
    attempts = {each: asyncio.run(_attempts(each, samples, asked, how)) for each in sources}
    if json_:
        found = [_as_json(each, attempts[each]) for each in sources]
        settings = asdict(asked) | {key: value for key, value in asdict(how).items() if key != "api_key"}
        print(json.dumps({"settings": settings, "models": found}, ensure_ascii=False, indent=1))
    else:
        _show(attempts, against, show_failures)
    for each in sources:
        _note_errors(each, attempts[each])
    if any(all(attempt.error for attempt in of_model) for of_model in attempts.values()):
        sys.exit(1)


def _check(asked: ExerciseOptions, how: ModelOptions) -> None:
    least_one = {
        "difficulty": asked.difficulty,
        "samples": asked.samples,
        "repeats": asked.repeats,
        "max-steps": asked.max_steps,
        "max-tokens": how.max_tokens,
        "concurrency": how.concurrency,
    }
    for name, value in least_one.items():
        if value < 1:
            raise InputError(f"--{name} {value}: give at least 1")
    if not 0 <= how.temperature <= 100:
        raise InputError(f"--temperature {how.temperature}: give 0 to 100")
    if how.plain and how.thinking is not None:
        raise InputError("--plain and --thinking exclude each other: running text has no think block")
    if asked.repeats > 1 and how.temperature == 0:
        raise InputError("--repeats: attempts at temperature 0 are all alike; give a --temperature such as 1.0")


def _askable(samples: list[Sample], suite: Sequence[str], how: ModelOptions) -> list[Sample]:
    """Without the tasks that plain text cannot express, unless one of them was asked for by name."""
    if not how.plain:
        return samples
    kept = [sample for sample in samples if not sample.tools]
    for sample in samples:
        if sample.tools and (sample.task in suite or not kept):
            raise InputError(f"--plain: {sample.task} has tools, which only conversations can call; leave --plain out")
    return kept


async def _attempts(source: str, samples: list[Sample], asked: ExerciseOptions, how: ModelOptions) -> list[Attempt]:
    async with AsyncExitStack() as stack:
        clients = await (_server if "://" in source else _checkpoint)(source, asked, how, stack)
        with _progress(source, len(samples) * asked.repeats) as advance:
            return await attempt_all(
                samples,
                clients,
                repeats=asked.repeats,
                concurrency=how.concurrency,
                max_steps=asked.max_steps,
                on_attempt=advance,
            )


async def _checkpoint(source: str, asked: ExerciseOptions, how: ModelOptions, stack: AsyncExitStack) -> ClientFactory:
    loaded = load_checkpoint(source, device=chosen_device(how.device))
    engine = await stack.enter_async_context(Engine(loaded.model, EngineConfig(max_running=how.concurrency)))
    sampling = SamplingParameters(temperature=how.temperature, top_p=_TOP_P, max_tokens=how.max_tokens, seed=asked.seed)
    return PolicyClients(Policy(engine, loaded.tokenizer, loaded.processor, source), how.form, sampling)


async def _server(url: str, asked: ExerciseOptions, how: ModelOptions, stack: AsyncExitStack) -> ClientFactory:  # noqa: ARG001
    if how.plain:
        raise InputError("--plain is for checkpoints of this machine: chat servers speak the chat template")
    base = endpoint_base(url)
    key = how.api_key or key_from_environment(base)
    model = how.model or await _only_model(ModelList(base, key))
    options = {"temperature": how.temperature, "top_p": _TOP_P, "max_tokens": how.max_tokens}
    endpoint = Endpoint(base, model, key=key, options=options, patience=_PATIENCE)
    clients = ServerClients(endpoint, concurrency=how.concurrency, thinking=how.thinking)
    return await stack.enter_async_context(clients)


async def _only_model(server: ModelList) -> str:
    try:
        return await server.only_model()
    except ServerError as error:
        raise InputError(f"{server.base}: {error}") from None


@contextmanager
def _progress(source: str, total: int) -> Iterator[Callable[[Attempt], None]]:
    """A bar on standard error with the share solved so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(source), total=total)
        done, solved = 0, 0

        def advance(attempt: Attempt) -> None:
            nonlocal done, solved
            done, solved = done + 1, solved + attempt.solved
            bar.update(task, advance=1, description=f"{escape(source)}  {solved / done:.0%} right")

        yield advance


def _show(attempts: Mapping[str, Sequence[Attempt]], against: str | None, failures: int) -> None:
    console = Console(highlight=False)
    for each, made in attempts.items():
        _print_failures(console, made, failures)
        console.print(result_table(each, task_results(made)))
    if against is not None:
        source = next(iter(attempts))
        console.print(comparison_table(source, attempts[source], against, attempts[against]))


def _print_failures(console: Console, attempts: Sequence[Attempt], count: int) -> None:
    for attempt in [each for each in attempts if not each.solved][:count]:
        console.print(transcript(attempt), markup=False)
        console.print()


def _note_errors(source: str, attempts: Sequence[Attempt]) -> None:
    errors = [attempt.error for attempt in attempts if attempt.error]
    if errors:
        notes = Console(stderr=True, highlight=False, soft_wrap=True)
        notes.print(f"{source}: {len(errors)} of {len(attempts)} attempts got no answer and count as wrong; ", end="")
        notes.print(f"the first: {errors[0]}", markup=False)


def _as_json(source: str, attempts: Sequence[Attempt]) -> JsonObject:
    return {
        "source": source,
        "results": [result.to_json() for result in task_results(attempts)],
        "attempts": [
            {
                "task": attempt.sample.task,
                "index": attempt.sample.index,
                "difficulty": attempt.sample.difficulty,
                "repeat": attempt.repeat,
                "score": attempt.score,
                "answer": attempt.trajectory.text,
                "reference": attempt.sample.answer,
                "ended": attempt.trajectory.reason,
                "detail": attempt.trajectory.detail,
                "completion_tokens": attempt.trajectory.usage.completion_tokens,
                "steps": len(attempt.trajectory.turns),
            }
            for attempt in attempts
        ],
    }
