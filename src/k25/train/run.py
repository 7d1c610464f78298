"""A run of any stage in its folder: resolved recipe, steps, checkpoints, metrics, report. It knows no algorithm.

    run/config.toml        the resolved recipe
    run/metrics.jsonl      one line per step and per evaluation
    run/tensorboard/       the same as curves
    run/checkpoints/       step-N, always complete
    run/model/             the last weights in the released layout, once finished
    run/report.html        curves and settings

A stage is a subclass that says where its steps' batches come from.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

import tomli_w
import torch
import torch.distributed as dist

from k25.errors import InputError
from k25.model import K25Model
from k25.sole_writer import sole_writer
from k25.train.batch import PackedBatch
from k25.train.checkpoints import Checkpoints, load_checkpoint, newest_checkpoint
from k25.train.export import export
from k25.train.flops import StepArithmetic, measured_peak
from k25.train.learner import Learner
from k25.train.metrics import FILE_NAME as METRICS
from k25.train.metrics import JsonLines, Record, Sink, TensorBoard
from k25.train.muonclip import MuonClip
from k25.train.parallel.apply import parallelise
from k25.train.parallel.ranks import Ranks
from k25.train.qk_clip import QKClip
from k25.train.recipe import StageRecipe, read_toml
from k25.train.report import Curve, write_report
from k25.train.start import EXPORT, build_start, trained_parts
from k25.train.step import StepMetrics, TrainState

CONFIG = "config.toml"
_SAME_WISH_SECONDS = 1.0


class Interrupted(Exception):  # noqa: N818 - it says what happened, not what failed
    """The user stopped the run; it is saved and can be continued. `step` steps are done."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; run the same command again to continue")
        self.step = step


class TrainingFailed(Exception):  # noqa: N818
    """The run cannot go on; the last checkpoint is untouched."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, and those of them in which training waited for its data."""

    seconds: float
    waited: float


class TrainingRun:
    """One stage of training in one run folder.

    Attributes:
        curves: plots of the report beside those of every stage.
    """

    curves: Sequence[Curve] = ()

    def __init__(self, recipe: StageRecipe, run: Path, ranks: Ranks, *, watchers: Sequence[Sink] = ()) -> None:
        """Build everything and go back to the newest checkpoint, if the folder has one.

        Raises InputError where the folder belongs to another recipe or another process trains in it, and where anything
        in the recipe cannot be had.
        """
        self.run, self.ranks, self._last_step = run, ranks, recipe.steps
        self._lock = _sole_trainer(run) if ranks.first else None
        try:
            self._build(recipe, watchers)
        except BaseException:
            self._give_back()
            raise

    def _build(self, recipe: StageRecipe, watchers: Sequence[Sink]) -> None:
        run, ranks = self.run, self.ranks
        _claim(run, recipe, first=ranks.first)
        self.start = build_start(recipe)
        self.arithmetic = StepArithmetic(self.start.model.config)
        self.state = self._new_state(recipe)
        self.checkpoints = Checkpoints(run / "checkpoints", recipe.checkpoint.keep)
        self._every, self._give_up_after = recipe.checkpoint.every, recipe.step.give_up_after
        newest = self.checkpoints.newest()
        if newest is not None:
            self.state.restore_progress(load_checkpoint(newest, self.state.learner.model, self.state.optimizer))
            self._take_up(newest)
        self._saved = self.state.step
        self.sinks: list[Sink] = []
        if ranks.first:
            self.sinks = [JsonLines(run, self.state.step), TensorBoard(run, self.state.step), *watchers]
        dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        self._peak = measured_peak(ranks.device, dtype) * ranks.size

    def fit(self) -> None:
        """Train to the recipe's last step, save, export, report.

        Raises Interrupted after Ctrl-C (the state is saved first), and TrainingFailed where updates keep failing.
        """
        try:
            self._fit()
        finally:
            self._give_back()

    def _fit(self) -> None:
        with _stop_signal() as stopping:
            try:
                self._steps(stopping)
                if self._saved < self.state.step:
                    self._save()
            finally:
                problem = self.checkpoints.finish()
                for sink in self.sinks:
                    sink.close()
            if problem:
                raise TrainingFailed(problem)
            if self.state.step < self._last_step:
                raise Interrupted(self.state.step)
            export(self.state.learner.model, self.start, self.run / EXPORT)
            if self.ranks.first:
                write_report(self.run, self.curves)

    def _give_back(self) -> None:
        """Let another process train in the folder."""
        if self._lock is not None:
            self._lock.close()

    def _steps(self, stopping: threading.Event) -> None:
        """Take the steps that are left, `_stepped` after each, until the event is set."""
        raise NotImplementedError

    def _learner(self, model: K25Model, *, measure_logits: bool) -> Learner:
        """The network with the stage's objective."""
        return Learner(model, measure_logits=measure_logits)

    def _keep(self, folder: Path) -> None:
        """Write what the stage keeps in a checkpoint's folder, beside tensors and progress."""

    def _take_up(self, folder: Path) -> None:
        """Read what `_keep` wrote."""

    def _stepped(self, metrics: StepMetrics, batches: Sequence[PackedBatch], timing: Timing, extra: Record) -> None:
        """Write a step's record, stop a run that goes nowhere, save when it is time."""
        step = asdict(metrics)
        measures = step.pop("measures")
        self._write({**step, **measures, **self._rates(batches, timing), **extra})
        if self.state.skipped_in_a_row >= self._give_up_after:
            raise TrainingFailed(
                f"step {self.state.step}: {self.state.skipped_in_a_row} steps in a row were skipped "
                f"({metrics.skipped}); lower the learning rates or look at the data, then resume from the last "
                "checkpoint"
            )
        if self.state.step % self._every == 0 and self.state.step < self._last_step:
            self._save()

    def _rates(self, batches: Sequence[PackedBatch], timing: Timing) -> Record:
        operations = sum(self.arithmetic.operations(batch) for batch in batches) * self.ranks.data_size
        tokens = sum(len(batch.tokens_T) for batch in batches) * self.ranks.data_size
        return {
            "seconds": timing.seconds,
            "tokens_per_second": tokens / timing.seconds,
            "model_flops_utilisation": operations / timing.seconds / self._peak,
            "data_seconds": timing.waited,
        }

    def _save(self) -> None:
        state = self.state
        problem = self.checkpoints.save(state.learner.model, state.optimizer, state.progress(), self._keep)
        self._saved = state.step
        if problem:
            self._write({"step": state.step, "problem": problem})

    def _write(self, record: Record) -> None:
        for sink in self.sinks:
            sink.write(record)

    def _new_state(self, recipe: StageRecipe) -> TrainState:
        model = self.start.model
        trained_parts(model, recipe.model.trained)
        tau = recipe.optimizer.qk_clip_tau if "decoder" in recipe.model.trained else None
        learner = parallelise(self._learner(model, measure_logits=tau is not None), recipe, self.ranks)
        return TrainState(
            learner=learner,
            optimizer=MuonClip(learner.model, recipe.optimizer),
            config=recipe.step,
            schedule=recipe.schedule,
            clip=None if tau is None else QKClip(learner.model, tau),
            balance_size=recipe.optimizer.balance_step if "decoder" in recipe.model.trained else 0.0,
            group=self.ranks.group,
        )


def _sole_trainer(run: Path) -> IO[bytes]:
    run.mkdir(parents=True, exist_ok=True)
    return sole_writer(
        run / ".lock", f"{run}: another process is training in this folder; wait for it, stop it, or give another --out"
    )


def _claim(run: Path, recipe: StageRecipe, *, first: bool) -> None:
    """Write the resolved recipe, or compare it with the one that the folder was begun with.

    How the work is divided among ranks and servers may change from one start to the next. A folder without a step is
    not begun: a recipe that failed before, for want of a tokenizer for example, may be mended and started again.
    """
    table = recipe.table()
    path = run / CONFIG
    begun = read_toml(path) if path.is_file() and _has_steps(run) else None
    if dist.is_initialized():
        # Everyone has looked before it is written.
        dist.barrier()
    if begun is not None:
        keys = (begun.keys() | table.keys()) - {"parallel", "engines"}
        changed = sorted(key for key in keys if begun.get(key) != table.get(key))
        if changed:
            raise InputError(f"{run} was begun with a different recipe ({', '.join(changed)}); give another --out")
    elif first:
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
    if dist.is_initialized():
        dist.barrier()


def _has_steps(run: Path) -> bool:
    metrics = run / METRICS
    return (metrics.is_file() and metrics.stat().st_size > 0) or newest_checkpoint(run / "checkpoints") is not None


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; one that follows later interrupts at once.

    What comes within a second is the same wish: torchrun passes Ctrl-C on to processes that have heard it themselves.
    """
    stopping = threading.Event()
    heard: list[float] = []

    def stop(_: int, __: FrameType | None) -> None:
        heard.append(time.monotonic())
        if heard[-1] - heard[0] > _SAME_WISH_SECONDS:
            raise KeyboardInterrupt
        stopping.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
