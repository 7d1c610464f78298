"""Several engines that play roles: the policy, and frozen models such as sub-agents.

Requests go to the least busy engine of their role. When an engine is lost in the middle of an answer, another engine of
the role goes on after the tokens that have come; when none is left, the rollout is dropped with that reason. Engines
move from one role to another as the load asks, by loading that role's weights (Kimi K2.5 report, arXiv 2602.02276,
section 3: the ratio of inference instances between orchestrator and sub-agents is adjusted while training runs).
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from k25.agent import ModelError
from k25.checkpoint import save_model
from k25.engine import GenerationRequest, TokenEvent
from k25.errors import InputError
from k25.model import K25Model
from k25.rl.engines import EngineLostError, WeightedEngine
from k25.rl.partial import continued, opened

_log = logging.getLogger(__name__)

# A role takes an engine from another when its load per engine is this many times the other's.
IMBALANCE = 2.0
KEPT_VERSIONS = 2


@dataclass
class Member:
    """One engine of a fleet: its role, the answers it works on, and why it is not used, if it is not."""

    engine: WeightedEngine
    role: str
    running: int = 0
    lost: str = ""


class Fleet:
    """Engines by role. `Policy(fleet.role("policy"), tokenizer, processor)` is what rollouts use.

    engines: those that begin in each role, with that role's weights.
    """

    def __init__(self, engines: Mapping[str, Sequence[WeightedEngine]]) -> None:
        for role, members in engines.items():
            if not members:
                raise InputError(f"the role {role!r} has no engine; give it at least one")
        self.members = [Member(engine, role) for role, given in engines.items() for engine in given]
        self._weights: dict[str, tuple[str, int]] = {}
        self._moving = asyncio.Lock()

    def role(self, name: str) -> "RoleEngine":
        """What stands for the engines of a role. Raises InputError for a role that the fleet does not have."""
        roles = sorted({member.role for member in self.members})
        if name not in roles:
            raise InputError(f"the fleet has no role {name!r}; its roles are {', '.join(roles)}")
        return RoleEngine(self, name)

    def alive(self, role: str) -> list[Member]:
        """The engines of a role that are in use."""
        return [member for member in self.members if member.role == role and not member.lost]

    def load(self, role: str) -> float:
        """Answers under way per engine of a role."""
        members = self.alive(role)
        return sum(member.running for member in members) / len(members) if members else 0.0

    async def push(self, role: str, folder: str, version: int) -> None:
        """Let every engine of a role load new weights; lost ones are tried too, and are used again if they can.

        Raises ModelError if no engine has them.
        """
        async with self._moving:
            self._weights[role] = folder, version
            members = [member for member in self.members if member.role == role]
            await asyncio.gather(*(self._load(member, folder, version) for member in members))
            if not self.alive(role):
                raise ModelError(f"no engine of the role {role} took the weights: {members[0].lost}")

    async def rebalance(self) -> Member | None:
        """Move one engine from the least to the most loaded role, if the loads differ much; which one moved.

        The engine first ends what it works on. A role keeps its last engine; roles without pushed weights take none.
        """
        async with self._moving:
            roles = sorted({member.role for member in self.members if not member.lost}, key=self.load)
            if len(roles) < 2 or roles[-1] not in self._weights:
                return None
            light, heavy = roles[0], roles[-1]
            givers = self.alive(light)
            if len(givers) < 2 or self.load(heavy) < IMBALANCE * max(self.load(light), 1.0):
                return None
            moved = min(givers, key=lambda member: member.running)
            moved.lost = "moving to another role"
            while moved.running:
                await asyncio.sleep(0.01)
            moved.role = heavy
            await self._load(moved, *self._weights[heavy])
            return moved

    async def _load(self, member: Member, folder: str, version: int) -> None:
        try:
            await member.engine.load(folder, version)
            member.lost = ""
        except ModelError as error:
            member.lost = str(error)
            _log.warning("an engine took no weights and is left out: %s", error)


class RoleEngine:
    """Stands for all engines of one role."""

    def __init__(self, fleet: Fleet, role: str) -> None:
        self._fleet, self._role = fleet, role

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """The events of one request, from one engine after another where engines are lost.

        Raises ModelError when none is left.
        """
        made: list[int] = []
        while True:
            member = self._chosen()
            member.running += 1
            try:
                async with aclosing(await opened(member.engine, continued(request, made))) as events:
                    async for event in events:
                        if event.token_id is None:
                            raise EngineLostError(f"{member.engine.name}: {event.error or event.finish_reason}")
                        shown = replace(event, prompt_tokens=None, cached_tokens=None) if made else event
                        made.append(event.token_id)
                        yield shown
                        if event.finish_reason is not None:
                            return
            except EngineLostError as lost:
                member.lost = str(lost)
                _log.warning("an engine is lost: %s", lost)
            finally:
                member.running -= 1

    def _chosen(self) -> Member:
        members = self._fleet.alive(self._role)
        if not members:
            raise ModelError(f"no engine is left for the role {self._role}")
        return min(members, key=lambda member: member.running)


async def export_weights(model: K25Model, root: Path, version: int) -> str:
    """Write the weights to `version-N` below a folder that the servers see; its name. Keeps the last two versions."""
    name = f"version-{version}"
    await asyncio.to_thread(save_model, model, root / name, overwrite=True)
    kept = sorted(root.glob("version-*"), key=lambda folder: int(folder.name.removeprefix("version-")))
    for old in kept[:-KEPT_VERSIONS]:
        await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)
    return name
