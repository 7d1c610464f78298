"""Demonstrations for the orchestrator's start: scripted agents in the real environment, written as conversations.

Supervised fine-tuning on them (`kind = "conversations"` in a recipe) teaches to say how much there is to do, to read
one item after the other, to be a sub-agent, and to delegate, which most of them show incomplete. How often the start
delegates is set apart from how: `Mixture.decided`. Most conversations do without the declaration of the tools, which is
three quarters of a short one and the same in all. Each line also has its running text under `text`, from which a
tokenizer can be trained.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from k25.agent import ModelClient, ModelRequest, ModelTurn
from k25.agent.tool import JsonObject
from k25.chat import parse_messages, parse_tools, render
from k25.chat.rendering import PieceKind
from k25.errors import InputError
from k25.rl.parl.environment import SwarmEnvironment
from k25.rl.parl.episode import SUB_AGENT
from k25.rl.parl.schedules import ParlSchedule
from k25.rl.parl.tasks import Workload
from k25.rl.pool import InstancePool
from k25.rl.scope import POLICY, Scope
from k25.swarm.scripted import ScriptedModel, Wanted, calls, exchanges, says, task_of
from k25.swarm.subagents import ASSIGN, CREATE
from k25.tasks.sample import generator

NAME, SYSTEM_PROMPT, ANSWER = "reader", "Read them.", "done"
_LOOSE = ParlSchedule(first_budget=200, last_budget=200)


@dataclass(frozen=True)
class Mixture:
    """What is demonstrated.

    Attributes:
        tasks: kinds of tasks, equally often.
        sizes: the smallest and the largest exercise.
        even: share of the exercises of which every size is equally likely; of the others, smaller ones are likelier.
        delegating: share of the orchestrator's conversations in which it delegates.
        decided: how often the start is to delegate, the smallest and the largest exercise, and evenly between. First
            turns that delegate are learnt in this share, the others in the rest; how to go on is always learnt.
        alone: share of the exercises that are shown without sub-agents to call.
        sub_agents: share of the exercises from which a sub-agent's conversation is shown instead of the orchestrator's.
        bare: share of the conversations that do without the declaration of the tools, which makes them several times
            shorter; never of `alone`, whose only mark is that declaration.
        jobs: the fewest and the most items of a job.
        most_jobs: of one turn.
        incomplete: share of the delegating conversations that leave out the last jobs, one of them or more.

    Raises InputError for shares outside 0 to 1.
    """

    tasks: tuple[str, ...] = ("wide-search",)
    sizes: tuple[int, int] = (1, 24)
    even: float = 0.4
    delegating: float = 0.5
    decided: tuple[float, float] = (0.02, 0.7)
    alone: float = 0.25
    sub_agents: float = 0.35
    bare: float = 0.6
    jobs: tuple[int, int] = (1, 4)
    most_jobs: int = 8
    incomplete: float = 0.6

    def __post_init__(self) -> None:
        names = ("even", "delegating", "alone", "sub_agents", "bare", "incomplete")
        shares = [(name, getattr(self, name)) for name in names]
        for name, share in [*shares, *(("decided", each) for each in self.decided)]:
            if not 0 <= share <= 1:
                raise InputError(f"{name}: must be a share from 0 to 1, not {share}")

    def decided_at(self, size: int) -> float:
        """`decided` for an exercise of this size."""
        (least, most), (smallest, largest) = self.decided, self.sizes
        return least + (most - least) * (size - smallest) / max(1, largest - smallest)


def demonstration(mixture: Mixture, seed: int, index: int) -> JsonObject:
    """Conversation number `index` of a stream: `messages`, `tools`, `text`."""
    numbers = generator("parl/demonstration", seed, index, 0)
    task, size = numbers.choice(mixture.tasks), _size(mixture, numbers)
    shows_sub_agent, alone = numbers.random() < mixture.sub_agents, numbers.random() < mixture.alone
    delegates = shows_sub_agent or (not alone and numbers.random() < mixture.delegating)
    environment = SwarmEnvironment(
        task,
        sizes=(size,),
        delegation=shows_sub_agent or not alone,
        agents=size,
        sub_steps=1000,
        tool_calls=1000,
        schedule=_LOOSE,
    )
    conversations = asyncio.run(_played(environment, seed, index, _plan(mixture, numbers, size) if delegates else []))
    main, *others = conversations
    messages, tools = numbers.choice(others) if shows_sub_agent else main
    if not (shows_sub_agent or alone):
        chosen = mixture.decided_at(size) if delegates else 1 - mixture.decided_at(size)
        _first_turn(messages)["weight"] = int(numbers.random() < chosen)
    if (shows_sub_agent or not alone) and numbers.random() < mixture.bare:
        tools = []
    rendering = render(parse_messages(messages), parse_tools(tools), thinking=False, add_generation_prompt=False)
    text = "\n".join(piece.text for piece in rendering.pieces if piece.kind is PieceKind.TEXT)
    return {"messages": messages, "tools": tools, "text": text}


def demonstrations(mixture: Mixture, count: int, seed: int = 0) -> Iterator[JsonObject]:
    """The first `count` conversations of a stream."""
    return (demonstration(mixture, seed, index) for index in range(count))


def write_demonstrations(path: Path, mixture: Mixture, count: int, seed: int = 0) -> None:
    """Write them as JSON lines, whole or not at all. Raises InputError where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            for each in demonstrations(mixture, count, seed):
                file.write(json.dumps(each) + "\n")
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _first_turn(messages: Sequence[JsonObject]) -> JsonObject:
    return next(message for message in messages if message["role"] == "assistant")


def _plan(mixture: Mixture, numbers: Random, size: int) -> list[int]:
    """Sizes of the jobs of one turn."""
    each = max(numbers.randint(*mixture.jobs), -(-size // mixture.most_jobs))
    plan = [min(each, size - start) for start in range(0, size, each)]
    leaves_out = len(plan) > 1 and numbers.random() < mixture.incomplete
    return plan[: numbers.randint(1, len(plan) - 1)] if leaves_out else plan


@dataclass
class _Overheard:
    """A client that keeps each conversation with its tools as it stands after the last turn."""

    client: ModelClient
    conversations: dict[str, tuple[list[JsonObject], list[JsonObject]]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return self.client.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        turn = await self.client.complete(request)
        # The conversation is rewritten as a turn with content first shows it, so that the shown one is the trained one.
        self.conversations[request.conversation] = ([*request.messages, turn.message()], list(request.tools))
        return turn


async def _played(
    environment: SwarmEnvironment, seed: int, index: int, plan: Sequence[int]
) -> list[tuple[list[JsonObject], list[JsonObject]]]:
    example = environment.example(seed, index)
    drawn: Workload = example.gold
    main = _Overheard(ScriptedModel(lambda messages: _orchestrate(drawn, plan, messages)))
    sub = _Overheard(ScriptedModel(lambda messages: _read(drawn, _items(messages), messages)))
    with tempfile.TemporaryDirectory(prefix="k25-parl-") as folder:
        scope = Scope(
            {POLICY: lambda _, __: main, SUB_AGENT: lambda _, __: sub},
            name="demonstration",
            seed=seed,
            folder=Path(folder),
            pools=lambda each: InstancePool(each.make_instance, 1),
            environment=environment,
        )
        await environment.rollout(example, scope)
    return [*main.conversations.values(), *sub.conversations.values()]


def _orchestrate(drawn: Workload, plan: Sequence[int], messages: Sequence[JsonObject]) -> ModelTurn:
    """Its first turn begins by saying how much there is to do, where that can be known: what is planned follows it."""
    turn = _go_on(drawn, plan, messages)
    if drawn.kind.chained or len(messages) > 1:
        return turn
    return replace(turn, content=f"{drawn.size} {drawn.kind.parameter}s.")


def _go_on(drawn: Workload, plan: Sequence[int], messages: Sequence[JsonObject]) -> ModelTurn:
    items = list(drawn.items[:1] if drawn.kind.chained else drawn.items)
    if not plan:
        return _read(drawn, items, messages)
    done = exchanges(messages)
    if not done:
        return calls(messages, [(CREATE, {"name": NAME, "system_prompt": SYSTEM_PROMPT})])
    if any(each.tool == ASSIGN for each in done):
        return says(ANSWER)
    jobs: list[Wanted] = []
    for size in [len(items)] if drawn.kind.chained else plan:
        share, items = items[:size], items[size:]
        prompt = share[0] if drawn.kind.chained else f"{share[0]} to {share[-1]}"
        jobs.append((ASSIGN, {"agent": NAME, "prompt": prompt}))
    return calls(messages, jobs)


def _read(drawn: Workload, items: Sequence[str], messages: Sequence[JsonObject]) -> ModelTurn:
    """The next item: of those named, or the one that the last reading named."""
    done = exchanges(messages)
    if drawn.kind.chained and done:
        items = [*(each.arguments[drawn.kind.parameter] for each in done), *done[-1].result.split()[2:]]
    if len(done) == len(items):
        return says(ANSWER)
    return calls(messages, [(drawn.kind.tool, {drawn.kind.parameter: items[len(done)]})])


def _items(messages: Sequence[JsonObject]) -> list[str]:
    """The items of a job: a first and a last number, or the beginning of a chain."""
    first, *last = task_of(messages).split(" to ")
    return [str(number) for number in range(int(first), int(last[0]) + 1)] if last else [first]


def _size(mixture: Mixture, numbers: Random) -> int:
    """Some large ones, to be seen to the end, and more small ones: where an exercise ends is what is hard to learn."""
    smallest, largest = mixture.sizes
    if numbers.random() >= mixture.even:
        largest = numbers.randint(smallest, largest)
    return numbers.randint(smallest, largest)
