"""Exercises through the one agent loop: every attempt is an agent whose tools are the exercise's own."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k25.agent import (
    Allowance,
    ArgumentError,
    ArtifactStore,
    Budget,
    ModelClient,
    Tool,
    ToolContext,
    ToolOutput,
    Toolset,
    Trajectory,
    run,
)
from k25.agent.tool import JsonObject, parse_arguments
from k25.tasks import Sample, Task, get_task

# A client for one attempt: the exercise, and which of its attempts this is (from 0).
ClientFactory = Callable[[Sample, int], ModelClient]


@dataclass(frozen=True)
class Attempt:
    """One attempt at one exercise.

    Attributes:
        sample: the exercise.
        repeat: which of its attempts, from 0.
        score: from 0 to 1; 0 if the model gave no answer.
        trajectory: what the agent did; its `reason` and `detail` say why there is no answer.
        calls: tool calls that the model wrote.
        valid_calls: those that name a declared tool and fit its schema.
    """

    sample: Sample
    repeat: int
    score: float
    trajectory: Trajectory = field(repr=False)
    calls: int = 0
    valid_calls: int = 0

    @property
    def solved(self) -> bool:
        """Whether the answer is wholly right."""
        return self.score == 1

    @property
    def error(self) -> str | None:
        """Why the model could not be asked, if that is what happened."""
        return self.trajectory.detail if self.trajectory.reason in ("model error", "failed") else None


class TaskTool(Tool):
    """A tool that an exercise declares, carried out by its task."""

    def __init__(self, task: Task, sample: Sample, declaration: JsonObject) -> None:
        function = declaration["function"]
        self.name, self.description = function["name"], function["description"]
        self.parameters = function["parameters"]
        self._task, self._sample, self._declaration = task, sample, declaration

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:  # noqa: ARG002 - needs no files
        """One call; what the task says of a failure is for the model."""
        return ToolOutput(await asyncio.to_thread(self._task.call_tool, self._sample, self.name, arguments))

    def definition(self) -> JsonObject:
        """The declaration, as the exercise has it."""
        return self._declaration


def task_toolset(task: Task, sample: Sample) -> Toolset:
    """The tools of an exercise."""
    return Toolset(task.name, [TaskTool(task, sample, declaration) for declaration in sample.tools])


async def attempt_all(
    samples: Sequence[Sample],
    client_for: ClientFactory,
    *,
    repeats: int = 1,
    concurrency: int = 64,
    max_steps: int = 12,
    on_attempt: Callable[[Attempt], None] = lambda _: None,
) -> list[Attempt]:
    """Attempt every exercise `repeats` times, `concurrency` at a time; the attempts in order of exercise and repeat.

    max_steps: answers of the model in one attempt, tool calls included; without a final answer by then the score is 0.
    """
    waiting = iter([(sample, repeat) for sample in samples for repeat in range(repeats)])
    done: dict[tuple[int, int], Attempt] = {}
    places = {id(sample): place for place, sample in enumerate(samples)}
    with tempfile.TemporaryDirectory(prefix="k25-eval-") as folder:

        async def work(queue: Iterator[tuple[Sample, int]]) -> None:
            for sample, repeat in queue:
                attempt = await _attempt(sample, repeat, client_for(sample, repeat), max_steps, Path(folder))
                done[places[id(sample)], repeat] = attempt
                on_attempt(attempt)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(samples) * repeats)):
                group.create_task(work(waiting))
    return [done[key] for key in sorted(done)]


async def _attempt(sample: Sample, repeat: int, client: ModelClient, max_steps: int, folder: Path) -> Attempt:
    task = get_task(sample.task)
    toolset = task_toolset(task, sample)
    name = f"{sample.task}/{sample.seed}/{sample.index}/{sample.difficulty}/{repeat}"
    context = ToolContext(name, folder, folder, ArtifactStore(folder / "artifacts"))
    budget = Budget(Allowance(steps=max_steps), whose="the exercise")
    trajectory = await run(client, toolset, sample.prompt, budget, context, answer_at_end=False)
    answered = trajectory.reason == "answered"
    calls = [call for turn in trajectory.turns for call in turn.tool_calls]
    return Attempt(
        sample,
        repeat,
        task.score(sample, trajectory.text) if answered else 0.0,
        trajectory,
        len(calls),
        sum(_is_valid(toolset, call.name, call.arguments) for call in calls),
    )


def _is_valid(toolset: Toolset, name: str, arguments: str) -> bool:
    tool = toolset.get(name)
    if tool is None:
        return False
    try:
        tool.validate(parse_arguments(arguments))
    except ArgumentError:
        return False
    return True
