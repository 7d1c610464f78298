"""Several engines that play roles: the policy, and frozen models such as sub-agents.

Requests go to the least busy engine of their role. When an engine is lost in the middle of an answer, another engine of
the role goes on after the tokens that have come; when none is left, the rollout is dropped with that reason. Engines
move from one role to another as the load asks, by loading that role's weights (Kimi K2.5 report, arXiv 2602.02276,
section 3: the ratio of inference instances between orchestrator and sub-agents is adjusted while training runs).
"""

import asyncio
import logging
import math
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
from k25.rl.engines import AnswerCutError, EngineLostError, WeightedEngine
from k25.rl.partial import continued, opened

_log = logging.getLogger(__name__)

# A role takes an engine from another when its load per engine is this many times the other's.
IMBALANCE = 2.0
# Loads are means over so many seconds, of so many looks.
BALANCE_SECONDS, _LOOKS = 5.0, 25
KEPT_VERSIONS = 2
_MOVING = "moving to another role"


@dataclass
class Member:
    """One engine of a fleet.

    Attributes:
        role: whose weights it has, as `version`.
        running: answers that it works on.
        lost: why it is not used, if it is not.
        stays: it cannot take the weights of another role, so it never moves.
    """

    engine: WeightedEngine
    role: str
    version: int = 0
    running: int = 0
    lost: str = ""
    stays: bool = False


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
        """Answers under way per engine of a role; endless for a role that has lost all."""
        members = self.alive(role)
        return sum(member.running for member in members) / len(members) if members else math.inf

    def counts(self) -> dict[str, int]:
        """Engines in use by role."""
        return {role: len(self.alive(role)) for role in self._roles()}

    async def push(self, role: str, folder: str, version: int) -> None:
        """Let every engine of a role load new weights; lost ones are tried too, and are used again if they can.

        Raises ModelError if no engine has them.
        """
        async with self._moving:
            self._weights[role] = folder, version
            members = [member for member in self.members if member.role == role]
            await asyncio.gather(*(self._load(member, role) for member in members))
            if not self.alive(role):
                raise ModelError(f"no engine of the role {role} took the weights: {members[0].lost}")

    async def revive(self) -> None:
        """Try lost engines again, with the weights of their role where it has any."""
        async with self._moving:
            lost = [member for member in self.members if member.lost and member.role in self._weights]
            await asyncio.gather(*(self._load(member, member.role) for member in lost))

    async def keep_balanced(self, seconds: float) -> None:
        """Move engines as the mean load of every so many seconds asks, until cancelled."""
        while True:
            loads = dict.fromkeys(self._roles(), 0.0)
            for _ in range(_LOOKS):
                await asyncio.sleep(seconds / _LOOKS)
                for role in loads:
                    loads[role] += self.load(role) / _LOOKS
            await self.rebalance(loads)

    async def rebalance(self, loads: Mapping[str, float] | None = None) -> Member | None:
        """Move one engine from the least to the most loaded role, if the loads differ much; which one moved.

        loads: by role; those of this moment by default. The engine first ends what it works on. A role keeps its last
        engine; roles without pushed weights take none.
        """
        async with self._moving:
            loads = loads or {role: self.load(role) for role in self._roles()}
            heavy = max(loads, key=loads.__getitem__)
            givers = [role for role in loads if role != heavy and len(self.alive(role)) > 1]
            light = min(givers, key=loads.__getitem__, default=None)
            if light is None or heavy not in self._weights or loads[heavy] < IMBALANCE * max(loads[light], 1.0):
                return None
            free = [member for member in self.alive(light) if not member.stays]
            return await self._move(min(free, key=lambda member: member.running), heavy) if free else None

    async def _move(self, member: Member, role: str) -> Member | None:
        member.lost = _MOVING
        try:
            while member.running:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            member.lost = ""
            raise
        refusal = await self._load(member, role)
        if refusal is not None and not isinstance(refusal, EngineLostError):
            # Another network: it still has its own role's weights.
            member.lost, member.stays = "", True
            return None
        member.role = role
        return member

    def _roles(self) -> list[str]:
        return sorted({member.role for member in self.members} | self._weights.keys())

    async def _load(self, member: Member, role: str) -> ModelError | None:
        folder, version = self._weights[role]
        try:
            await member.engine.load(folder, version)
        except ModelError as error:
            member.lost = str(error)
            _log.warning("an engine took no weights and is left out: %s", error)
            return error
        member.lost, member.version = "", version
        return None


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
            version, begun = member.version, len(made)
            member.running += 1
            try:
                async with aclosing(await opened(member.engine, continued(request, made))) as events:
                    async for event in events:
                        if event.token_id is None:
                            raise EngineLostError(f"{member.engine.name}: {event.error or event.finish_reason}")
                        if event.policy_version < version:
                            raise EngineLostError(f"{member.engine.name}: it has lost the weights, and was left out")
                        shown = replace(event, prompt_tokens=None, cached_tokens=None) if made else event
                        made.append(event.token_id)
                        yield shown
                        if event.finish_reason is not None:
                            return
            except EngineLostError as lost:
                if isinstance(lost, AnswerCutError) and len(made) > begun:
                    continue
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
    others = [int(folder.name.removeprefix("version-")) for folder in root.glob("version-*")]
    # A run that was taken up again at an earlier step finds later ones.
    kept = {version, *sorted(number for number in others if number < version)[-KEPT_VERSIONS + 1 :]}
    for old in (root / f"version-{number}" for number in others if number not in kept):
        await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)
    return name
