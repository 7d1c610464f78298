"""Checkpoints of a run: every step folder is complete or absent, written in the background, read back exactly.

`torch.distributed.checkpoint` writes each rank's shards to `step-N.partial`; when all are on disk the folder is renamed
to `step-N`. Reading may happen on another number of ranks. Tensors are named after parameters, so nothing depends on
the order of optimiser groups.
"""

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from k25.errors import InputError

PROGRESS = "progress.json"
_STEP = re.compile(r"step-(\d+)")


class Checkpoints:
    """The step folders of one run. All ranks call every method together."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._pending: tuple[Path, Future[Any]] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if dist.get_rank() == 0:
            for left_over in folder.glob("*.partial"):
                shutil.rmtree(left_over)
        dist.barrier()

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return newest_checkpoint(self._folder)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> str | None:
        """Copy the state aside and begin to write it; returns what went wrong with the save before, if anything."""
        problem = self.finish()
        partial = self._folder / f"step-{progress['step']}.partial"
        if dist.get_rank() == 0:
            partial.mkdir(parents=True, exist_ok=True)
            (partial / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
        dist.barrier()
        response = dcp.async_save(_tensors(model, optimizer), checkpoint_id=partial, no_dist=False)
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
        except Exception as error:  # whatever the writer met: the run goes on, and says so
            if dist.get_rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)
            return f"{partial.with_suffix('')}: could not be saved: {_innermost(error)}"
        if dist.get_rank() == 0:
            final = partial.with_suffix("")
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in _complete(self._folder)[: -self._keep]:
                shutil.rmtree(old)
        dist.barrier()
        return None


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill model and optimiser in place from a complete checkpoint; returns its progress.

    Raises InputError where the folder is damaged or was made by a different network.
    """
    try:
        progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        _make_room(model, optimizer, set(stored))
        dcp.load(_tensors(model, optimizer), checkpoint_id=folder)
    except Exception as error:
        raise InputError(
            f"{folder}: cannot be resumed from ({_innermost(error)}); delete it to use an older one"
        ) from error
    return progress


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
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]
