"""Checkpoints of a run: every step folder is complete or absent, written in the background, read back exactly.

`torch.distributed.checkpoint` writes each rank's shards to `step-N.partial`; when all are on disk the folder is renamed
to `step-N`. Reading may happen on another number of ranks. Tensors are named after parameters, so nothing depends on
the order of optimiser groups.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from k25.errors import InputError

# That a lone process saves alone is meant; the save's own thread says so too, so it cannot be silenced around the call.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

PROGRESS = "progress.json"
_STEP = re.compile(r"step-(\d+)")
_PARTIAL = ".partial"


class Checkpoints:
    """The step folders of one run. All ranks call every method together."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._pending: tuple[Path, Future[Any]] | None = None
        # Writing goes on beside training: both would mix up their messages in one group.
        self._group = dist.new_group(backend="gloo")
        folder.mkdir(parents=True, exist_ok=True)
        if dist.get_rank() == 0:
            for left_over in folder.glob(f"*{_PARTIAL}"):
                shutil.rmtree(left_over)
        dist.barrier(self._group)

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return newest_checkpoint(self._folder)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: dict[str, Any],
        beside: Callable[[Path], None] = lambda _: None,
    ) -> str | None:
        """Copy the state aside and begin to write it; `beside` may put more files into the folder.

        Returns what went wrong, if anything: with the save before, or with the beginning of this one, which is then
        given up.
        """
        problem = self.finish()
        partial = self._folder / f"step-{progress['step']}{_PARTIAL}"
        obstacle = _begin(partial, progress, beside) if dist.get_rank() == 0 else None
        if self._any(obstacle is not None):
            return problem or obstacle
        tensors, alone = _tensors(model, optimizer), _alone()
        response = dcp.async_save(tensors, checkpoint_id=partial, process_group=self._group, no_dist=alone)
        future = response.upload_completion if isinstance(response, AsyncSaveResponse) else response
        self._pending = partial, future
        return problem

    def finish(self) -> str | None:
        """Wait for the save that is under way; returns what went wrong with it, if anything."""
        if self._pending is None:
            return None
        partial, future = self._pending
        self._pending = None
        try:
            future.result()
            if dist.get_rank() == 0:
                self._publish(partial)
        except (Exception, CheckpointException) as error:  # whatever the writer met: the run goes on, and says so
            return _given_up(partial, error)
        return None

    def _publish(self, partial: Path) -> None:
        final = partial.with_suffix("")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _complete(self._folder)[: -self._keep]:
            # First out of sight: deleting takes time, and a folder half deleted must not pass for a checkpoint.
            shutil.rmtree(old.rename(old.with_suffix(_PARTIAL)))

    def _any(self, here: bool) -> bool:
        flag = torch.tensor([int(here)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)


def _begin(partial: Path, progress: dict[str, Any], beside: Callable[[Path], None]) -> str | None:
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / PROGRESS).open("w", encoding="utf-8") as file:
            json.dump(progress, file)
            file.flush()
            os.fsync(file.fileno())
        beside(partial)
    except OSError as error:
        return _given_up(partial, error)
    return None


def _given_up(partial: Path, error: BaseException) -> str:
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(partial.parent).free / 1e9
    return f"{partial.with_suffix('')}: could not be saved: {_innermost(error)} ({free:.1f} GB of its disk are free)"


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill model and optimiser in place from a complete checkpoint; returns its progress.

    Raises InputError where the folder is damaged or was made by a different network.
    """
    try:
        progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        _make_room(model, optimizer, set(stored))
        dcp.load(_tensors(model, optimizer), checkpoint_id=folder, no_dist=_alone())
    except (Exception, CheckpointException) as error:
        raise InputError(
            f"{folder}: cannot be resumed from ({_innermost(error)}); delete it to use an older one"
        ) from error
    return progress


def _alone() -> bool:
    # Messages to oneself would leave a second set of OpenMP threads behind, in the thread of gloo that packs them. From
    # then on OpenMP counts more threads than processors and lets none of them spin: nano then trains 30 % slower.
    return dist.get_world_size() == 1


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run's `checkpoints` folder."""
    found = _complete(folder)
    return found[-1] if found else None


def _complete(folder: Path) -> list[Path]:
    steps = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(steps)]


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything under a flat name: `model/NAME`, `optimizer/NAME/KEY`."""
    tensors = {f"model/{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def _make_room(model: nn.Module, optimizer: torch.optim.Optimizer, stored: set[str]) -> None:
    """Optimiser state that is stored but does not exist yet, with the right shapes."""
    make: dict[str, Callable[[nn.Parameter], Tensor]] = {"step": lambda p: torch.zeros((), device=p.device)}
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        keys = [key.removeprefix(prefix) for key in stored if key.startswith(prefix)]
        optimizer.state[parameter] = {key: make.get(key, torch.zeros_like)(parameter) for key in sorted(keys)}


def _innermost(error: BaseException) -> str:
    """One line about what began it: the failure of a rank, under all exceptions that came of it."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return f"{type(error).__name__}: {error}".splitlines()[0]
