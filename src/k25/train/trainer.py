"""The trainer: steps, checkpoints, metrics, monitors. It knows no algorithm; `train_step` does.

    run/config.toml        the resolved recipe
    run/metrics.jsonl      one line per step and per evaluation
    run/tensorboard/       the same as curves
    run/checkpoints/       step-N, always complete
    run/model/             the last weights in the released layout, once finished
    run/report.html        curves and settings

Running the same command again continues where the last checkpoint was taken, with the same data and the same losses.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w
import torch
import torch.distributed as dist

from k25.errors import InputError
from k25.media import MediaProcessor
from k25.model import K25Model
from k25.train.batch import PackedBatch
from k25.train.checkpoints import Checkpoints, load_checkpoint
from k25.train.data.streams import Streams, rank_streams
from k25.train.export import export
from k25.train.flops import StepArithmetic, measured_peak
from k25.train.learner import Learner
from k25.train.metrics import JsonLines, Record, Sink, TensorBoard
from k25.train.muonclip import MuonClip
from k25.train.parallel.apply import parallelise
from k25.train.parallel.ranks import Ranks
from k25.train.qk_clip import QKClip
from k25.train.recipe import Recipe, read_toml
from k25.train.report import write_report
from k25.train.start import EXPORT, Start, build_start, trained_parts
from k25.train.step import TrainState, train_step

CONFIG = "config.toml"
_SAME_WISH_SECONDS = 1.0

# A model and the number of steps behind it to accuracies by task.
Monitor = Callable[[K25Model, Start], dict[str, float]]


class Interrupted(Exception):  # noqa: N818 - it says what happened, not what failed
    """The user stopped the run; it is saved and can be continued. `step` steps are done."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; run the same command again to continue")
        self.step = step


class TrainingFailed(Exception):  # noqa: N818
    """The run cannot go on; the last checkpoint is untouched."""


class Trainer:
    """One stage of training in one run folder."""

    def __init__(
        self, recipe: Recipe, run: Path, ranks: Ranks, *, monitor: Monitor | None = None, watchers: Sequence[Sink] = ()
    ) -> None:
        """Build everything and go back to the newest checkpoint, if the folder has one.

        Raises InputError where the folder belongs to another recipe, or anything in the recipe cannot be had.
        """
        self.recipe, self.run, self.ranks, self._monitor = recipe, run, ranks, monitor
        rank_streams(0, recipe.streams_per_step, ranks.data_rank, ranks.data_size)
        _claim(run, recipe, first=ranks.first)
        self.start = build_start(recipe)
        self.arithmetic = StepArithmetic(self.start.model.config)
        self.state = _state(recipe, self.start, ranks)
        media = MediaProcessor(self.start.media, threads=1) if self.start.media else None
        self.streams = Streams(recipe.data, self.start.tokenizer, media)
        self.checkpoints = Checkpoints(run / "checkpoints", recipe.checkpoint.keep)
        newest = self.checkpoints.newest()
        if newest is not None:
            self.state.restore_progress(load_checkpoint(newest, self.state.learner.model, self.state.optimizer))
        self.sinks: list[Sink] = []
        if ranks.first:
            self.sinks = [JsonLines(run, self.state.step), TensorBoard(run, self.state.step), *watchers]
        dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        self._peak = measured_peak(ranks.device, dtype) * ranks.size

    def fit(self) -> None:
        """Train to the recipe's last step, save, export, report.

        Raises Interrupted after Ctrl-C (the state is saved first), and TrainingFailed where updates keep failing.
        """
        with _stop_signal() as stopping:
            try:
                self._steps(stopping)
            finally:
                problem = self.checkpoints.finish()
                for sink in self.sinks:
                    sink.close()
            if problem:
                raise TrainingFailed(problem)
            if self.state.step < self.recipe.steps:
                raise Interrupted(self.state.step)
            export(self.state.learner.model, self.start, self.run / EXPORT)
            if self.ranks.first:
                write_report(self.run)

    def _steps(self, stopping: threading.Event) -> None:
        recipe, state = self.recipe, self.state
        batches = self._batches()
        saved = state.step
        while state.step < recipe.steps and not self.ranks.any(stopping.is_set()):
            began = time.perf_counter()
            mine = next(batches)
            waited = time.perf_counter() - began
            metrics = train_step(state, mine)
            seconds = time.perf_counter() - began
            self._write(_record(asdict(metrics), self._rates(mine, seconds), waited))
            if state.skipped_in_a_row >= recipe.step.give_up_after:
                raise TrainingFailed(
                    f"step {state.step}: {state.skipped_in_a_row} steps in a row were skipped ({metrics.skipped}); "
                    "lower the learning rates or look at the data, then resume from the last checkpoint"
                )
            if state.step % recipe.checkpoint.every == 0 and state.step < recipe.steps:
                self._save()
                saved = state.step
            if self._monitor and (state.step % recipe.monitor.every == 0 or state.step == recipe.steps):
                self._evaluate()
        if saved < state.step:
            self._save()

    def _batches(self) -> Iterator[list[PackedBatch]]:
        """This rank's streams of each step: a pure function of the step, whatever the number of ranks."""
        per_step, ranks = self.recipe.streams_per_step, self.ranks
        steps = range(self.state.step, self.recipe.steps)
        mine = [rank_streams(step, per_step, ranks.data_rank, ranks.data_size) for step in steps]
        with self.streams.in_order(chain.from_iterable(mine)) as streams:
            for indices in mine:
                yield [next(streams).to(ranks.device) for _ in indices]

    def _rates(self, batches: Sequence[PackedBatch], seconds: float) -> Record:
        operations = sum(self.arithmetic.operations(batch) for batch in batches) * self.ranks.data_size
        tokens = sum(len(batch.tokens_T) for batch in batches) * self.ranks.data_size
        return {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "model_flops_utilisation": operations / seconds / self._peak,
        }

    def _save(self) -> None:
        problem = self.checkpoints.save(self.state.learner.model, self.state.optimizer, self.state.progress())
        if problem:
            self._write({"step": self.state.step, "problem": problem})

    def _evaluate(self) -> None:
        assert self._monitor is not None
        model = self.state.learner.model
        model.eval()
        accuracies = self._monitor(model, self.start)
        model.train()
        self._write({"step": self.state.step, "accuracy": accuracies})

    def _write(self, record: Record) -> None:
        for sink in self.sinks:
            sink.write(record)


def _record(metrics: dict[str, Any], rates: Record, waited: float) -> Record:
    return {**metrics, **rates, "data_seconds": waited}


def _state(recipe: Recipe, start: Start, ranks: Ranks) -> TrainState:
    model = start.model
    trained_parts(model, recipe.model.trained)
    tau = recipe.optimizer.qk_clip_tau if "decoder" in recipe.model.trained else None
    learner = parallelise(Learner(model, measure_logits=tau is not None), recipe, ranks)
    return TrainState(
        learner=learner,
        optimizer=MuonClip(learner.model, recipe.optimizer),
        config=recipe.step,
        schedule=recipe.schedule,
        clip=None if tau is None else QKClip(learner.model, tau),
        balance_size=recipe.optimizer.balance_step if "decoder" in recipe.model.trained else 0.0,
        group=ranks.group,
    )


def _claim(run: Path, recipe: Recipe, *, first: bool) -> None:
    """Write the resolved recipe, or compare it with the one that the folder was begun with.

    How the work is divided among ranks may change from one start to the next.
    """
    table = recipe.table()
    path = run / CONFIG
    begun = read_toml(path) if path.is_file() else None
    if dist.is_initialized():
        # Everyone has looked before it is written.
        dist.barrier()
    if begun is not None:
        keys = (begun.keys() | table.keys()) - {"parallel"}
        changed = sorted(key for key in keys if begun.get(key) != table.get(key))
        if changed:
            raise InputError(f"{run} was begun with a different recipe ({', '.join(changed)}); give another --out")
    elif first:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
    if dist.is_initialized():
        dist.barrier()


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
