"""The trainer of pre-training and fine-tuning: streams from data, steps, monitors.

Running the same command again continues where the last checkpoint was taken, with the same data and the same losses.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from k25.media import MediaProcessor
from k25.model import K25Model
from k25.train.batch import PackedBatch
from k25.train.data.streams import Streams, rank_streams
from k25.train.metrics import Sink
from k25.train.parallel.ranks import Ranks
from k25.train.recipe import Recipe
from k25.train.run import Interrupted, Timing, TrainingFailed, TrainingRun
from k25.train.start import Start
from k25.train.step import train_step

__all__ = ["Interrupted", "Monitor", "Trainer", "TrainingFailed"]

# A model and the number of steps behind it to accuracies by task.
Monitor = Callable[[K25Model, Start], dict[str, float]]


class Trainer(TrainingRun):
    """One stage of pre-training or fine-tuning in one run folder."""

    def __init__(
        self, recipe: Recipe, run: Path, ranks: Ranks, *, monitor: Monitor | None = None, watchers: Sequence[Sink] = ()
    ) -> None:
        """See `TrainingRun`. `monitor` measures accuracies as often as the recipe says."""
        self.recipe, self._monitor = recipe, monitor
        rank_streams(0, recipe.streams_per_step, ranks.data_rank, ranks.data_size)
        super().__init__(recipe, run, ranks, watchers=watchers)
        media = MediaProcessor(self.start.media, threads=1) if self.start.media else None
        self.streams = Streams(recipe.data, self.start.tokenizer, media)

    def _steps(self, stopping: threading.Event) -> None:
        recipe, state = self.recipe, self.state
        batches = self._batches()
        while state.step < recipe.steps and not self.ranks.any(stopping.is_set()):
            began = time.perf_counter()
            mine = next(batches)
            waited = time.perf_counter() - began
            metrics = train_step(state, mine)
            self._stepped(metrics, mine, Timing(time.perf_counter() - began, waited), {})
            if self._monitor and (state.step % recipe.monitor.every == 0 or state.step == recipe.steps):
                self._evaluate()

    def _batches(self) -> Iterator[list[PackedBatch]]:
        """This rank's streams of each step: a pure function of the step, whatever the number of ranks."""
        per_step, ranks = self.recipe.streams_per_step, self.ranks
        steps = range(self.state.step, self.recipe.steps)
        mine = [rank_streams(step, per_step, ranks.data_rank, ranks.data_size) for step in steps]
        with self.streams.in_order(chain.from_iterable(mine)) as streams:
            for indices in mine:
                yield [next(streams).to(ranks.device) for _ in indices]

    def _evaluate(self) -> None:
        assert self._monitor is not None
        model = self.state.learner.model
        model.eval()
        accuracies = self._monitor(model, self.start)
        model.train()
        self._write({"step": self.state.step, "accuracy": accuracies})
