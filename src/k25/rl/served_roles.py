"""Roles that running `k25 serve` servers play: tokens over HTTP, weights through a folder that everyone sees.

Every server is started with `--weights-root` and this folder. The policy's weights are written there after each update;
a frozen role's checkpoint is copied there once, so that servers can move between roles as the load asks.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from k25.agent import ModelError
from k25.errors import InputError
from k25.evaluation import CheckpointReader, Policy, open_checkpoint
from k25.media import MediaProcessor
from k25.model import K25Model
from k25.rl.engines import HttpEngine
from k25.rl.fleet import BALANCE_SECONDS, Fleet, export_weights
from k25.rl.recipe import RLRecipe
from k25.rl.scope import POLICY, Role
from k25.train.export import gathered
from k25.train.run import TrainingFailed
from k25.train.start import Start

# Below the run's folder.
WEIGHTS = "weights"
# The key of servers that were started with one.
KEY_VARIABLE = "K25_ENGINE_KEY"
# A server begins with version 0, so that one which was started anew is told from one that has its role's weights.
_FROZEN_VERSION = 1


class ServedRoles:
    """The roles of a recipe that servers play.

    Attributes:
        fleet: the servers.
        roles: makers of model clients, by role.
    """

    def __init__(self, fleet: Fleet, roles: Mapping[str, Role], folder: Path) -> None:
        self.fleet, self.roles, self._folder = fleet, roles, folder
        self._began = False

    async def push(self, model: K25Model, version: int) -> None:
        """Give the policy's servers the weights as they are now; servers that were lost are tried again.

        Raises InputError where one refuses the first weights, TrainingFailed where later no server is left.
        """
        complete = gathered(model)
        assert complete is not None
        name = await export_weights(complete, self._folder, version)
        if not self._began:
            await begin_role(self.fleet, POLICY, name, version, self._folder)
            self._began = True
            return
        try:
            await self.fleet.push(POLICY, name, version)
        except ModelError as error:
            raise TrainingFailed(f"{error}; start the servers again, then continue the run") from None
        await self.fleet.revive()


@asynccontextmanager
async def served_roles(recipe: RLRecipe, start: Start, folder: Path) -> AsyncGenerator[ServedRoles, None]:
    """The roles of `recipe.engines`, with engines moving between them; none where the recipe names no server.

    folder: for weights, which go with the context. Raises InputError for servers that cannot be used.
    """
    async with AsyncExitStack() as stack:
        engines = {
            role: [await stack.enter_async_context(HttpEngine(url, key=os.environ.get(KEY_VARIABLE))) for url in urls]
            for role, urls in recipe.engines.items()
        }
        fleet, roles = Fleet(engines), {}
        if engines:
            _clear(folder)
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_clear, folder)
        for number, role in enumerate(engines):
            if role == POLICY:
                processor = MediaProcessor(start.media, threads=1) if start.media else None
                policy, sampling = Policy(fleet.role(role), start.tokenizer, processor, role), recipe.sampling
            else:
                config = recipe.roles[role]
                reader = await asyncio.to_thread(open_checkpoint, config.start_from)
                name = await asyncio.to_thread(_place, reader, folder / f"role-{number}")
                await begin_role(fleet, role, name, _FROZEN_VERSION, folder)
                policy, sampling = Policy(fleet.role(role), reader.tokenizer, reader.processor, role), config.sampling
            roles[role] = Role(policy, sampling.form, sampling.parameters())
        if len(engines) > 1:
            balancing = asyncio.create_task(fleet.keep_balanced(BALANCE_SECONDS))
            stack.push_async_callback(_end, balancing)
        yield ServedRoles(fleet, roles, folder)


async def begin_role(fleet: Fleet, role: str, name: str, version: int, folder: Path) -> None:
    """Give a role's servers their first weights. Raises InputError unless every one takes them."""
    try:
        await fleet.push(role, name, version)
        refusals = [member.lost for member in fleet.members if member.role == role and member.lost]
    except ModelError as error:
        refusals = [str(error)]
    if refusals:
        how = f"each must run `k25 serve` on a checkpoint of the same shape, with --weights-root {folder.resolve()}"
        raise InputError(f"engines.{role}: {refusals[0]}; {how}")


def _place(reader: CheckpointReader, folder: Path) -> str:
    """Put a checkpoint where the servers see it; the folder's name there. Raises InputError where it cannot."""
    try:
        shutil.copytree(reader.folder, folder, copy_function=_linked)
    except OSError as error:
        raise InputError(f"{reader.folder} cannot be copied to {folder} ({error}); its servers need it there") from None
    return folder.name


def _clear(folder: Path) -> None:
    """Remove what a run wrote for servers, and nothing else."""
    for written in (*folder.glob("version-*"), *folder.glob("role-*")):
        shutil.rmtree(written, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _linked(source: str, target: str) -> str:
    """A copy that takes no room where the file system can."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
    return target


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
