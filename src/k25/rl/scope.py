"""What one rollout may use: models by role, the agent loop, other environments, a folder, instances.

Every turn of the role `policy` is kept as it came from the engine; these turns become the rollout's samples.
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from k25.agent import (
    Allowance,
    ArtifactStore,
    Budget,
    ModelClient,
    ModelRequest,
    ModelTurn,
    ToolContext,
    Toolset,
    Trajectory,
    run,
)
from k25.agent.tool import JsonObject
from k25.engine import MediaItem, SamplingParameters
from k25.errors import InputError
from k25.evaluation import EngineClient, Form, Policy
from k25.rl.environment import Environment, Example, Outcome
from k25.rl.partial import CutEngine, TokenAllowance
from k25.rl.pool import InstancePool
from k25.rl.samples import Sample, samples_of
from k25.tasks.sample import Media

POLICY = "policy"

# Makes a client for one rollout; the clients of the role `policy` must be token-level.
MakeClient = Callable[["Scope", Sequence[Media]], ModelClient]
Clients = Mapping[str, MakeClient]


@dataclass(frozen=True)
class Role:
    """A role played by an engine in this process: `{"policy": Role(policy)}` are the clients of a plain environment."""

    policy: Policy
    form: Form = "instant"
    sampling: SamplingParameters = field(default_factory=SamplingParameters)

    def __call__(self, scope: "Scope", media: Sequence[Media]) -> ModelClient:
        """The client; every conversation's random numbers follow from the rollout's seed and its name."""
        sampling = replace(self.sampling, seed=scope.seed)
        policy = self.policy
        if scope.allowance is not None:
            policy = replace(policy, engine=CutEngine(policy.engine, scope.allowance))
        return EngineClient(policy, form=self.form, sampling=sampling, media=media)


@dataclass
class Turns:
    """The policy's turns of one rollout by conversation, each with the media of its prompt."""

    by_conversation: dict[str, list[tuple[ModelTurn, tuple[MediaItem, ...]]]] = field(default_factory=dict)

    def samples(self) -> tuple[Sample, ...]:
        """The samples of all conversations, in the order in which these began."""
        found: list[Sample] = []
        for turns in self.by_conversation.values():
            found += samples_of([turn for turn, _ in turns], [media for _, media in turns])
        return tuple(found)


@dataclass(frozen=True)
class _Recorded:
    """A client whose turns are kept."""

    client: ModelClient
    turns: Turns

    @property
    def model(self) -> str:
        return self.client.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        kept = self.turns.by_conversation.setdefault(request.conversation, [])
        turn = await self.client.complete(request)
        media = self.client.media_items(request.conversation) if isinstance(self.client, EngineClient) else ()
        kept.append((turn, media))
        return turn


class Scope:
    """What one rollout may use.

    Attributes:
        name: of the rollout; begins the names of its agents and conversations.
        seed: of its random numbers.
        turns: the policy's turns so far.
        allowance: tokens that it may have in this iteration, where these are limited.
    """

    def __init__(
        self,
        clients: Clients,
        *,
        name: str,
        seed: int,
        folder: Path,
        pools: Callable[[Environment], InstancePool],
        environment: Environment,
        allowance: TokenAllowance | None = None,
    ) -> None:
        self.name, self.seed, self.turns, self.allowance = name, seed, Turns(), allowance
        self._clients, self._folder, self._pools, self._environment = clients, folder, pools, environment
        self._names: dict[str, int] = {}

    @property
    def folder(self) -> Path:
        """A folder of its own, which goes with the rollout."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    async def close(self) -> None:
        """Remove the folder, if there is one."""
        if self._folder.exists():
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def instances(self) -> InstancePool:
        """The instances of the rollout's environment."""
        return self._pools(self._environment)

    def client(self, role: str = POLICY, media: Sequence[Media] = ()) -> ModelClient:
        """A model in a role; `policy` is trained, all others are frozen. Raises InputError for an unknown role."""
        if role not in self._clients:
            raise InputError(f"there is no model for the role {role!r}; the roles are {', '.join(self._clients)}")
        client = self._clients[role](self, media)
        return _Recorded(client, self.turns) if role == POLICY else client

    def context(self, name: str = "agent") -> ToolContext:
        """What the tools of an agent of this rollout may know; a name that is taken gets a number."""
        self._names[name] = count = self._names.get(name, 0) + 1
        agent = f"{self.name}/{name}" + (f"-{count}" if count > 1 else "")
        return ToolContext(agent, self._folder, self._folder, ArtifactStore(self._folder / "artifacts"))

    async def run(
        self,
        messages: Sequence[JsonObject],
        toolset: Toolset | None = None,
        *,
        max_steps: int = 8,
        role: str = POLICY,
        name: str = "agent",
        media: Sequence[Media] = (),
        answer_at_end: bool = False,
    ) -> Trajectory:
        """Run one agent to its end with the one agent loop.

        max_steps: its turns; `answer_at_end` gives it one more without tools.
        """
        toolset = toolset or Toolset(name, [])
        if len(toolset):
            self._folder.mkdir(parents=True, exist_ok=True)
        budget = Budget(Allowance(steps=max_steps), whose="the rollout")
        client = self.client(role, media)
        return await run(client, toolset, messages, budget, self.context(name), answer_at_end=answer_at_end)

    async def sub_rollout(self, environment: Environment, example: Example) -> Outcome:
        """A rollout inside this one; what the policy says in it belongs to this rollout's samples."""
        self._names[environment.name] = count = self._names.get(environment.name, 0) + 1
        inner = Scope(
            self._clients,
            name=f"{self.name}/{environment.name}-{count}",
            seed=self.seed,
            folder=self._folder / f"{environment.name}-{count}".replace("/", "_"),
            pools=self._pools,
            environment=environment,
            allowance=self.allowance,
        )
        inner.turns = self.turns
        return await environment.rollout(example, inner)
