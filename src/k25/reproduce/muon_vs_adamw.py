"""Muon against AdamW at equal processor time (Kimi K2 report, arXiv 2507.20534, section 2.1; Moonlight, 2502.16982).

Both arms are the nano network from the same random weights on the same text. They live in one process and take turns:
whichever has used less processor time makes the next step, so that both see the same machine, however busy. Time counts
everything: data, forward, backward, optimiser. Learning rates follow the share of the budget that is used up.
"""

import time
from collections.abc import Iterator

from k25.reproduce.answers import accuracies, ask
from k25.reproduce.claim import Check, Claim, Curve, Measurement, Point, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.stages import changed, nano_tokenizer, recipe_of
from k25.train.batch import PackedBatch
from k25.train.data.streams import Streams
from k25.train.learner import Learner
from k25.train.muonclip import MuonClip
from k25.train.recipe import Recipe
from k25.train.schedules import ScheduleConfig
from k25.train.start import build_start
from k25.train.step import TrainState, train_step

# Task to its weight in the mixture.
TASKS = {"add": 3, "modular-add": 3, "compare": 1, "copy": 1, "reverse": 1, "sort": 1}
# Each algorithm with the rate at which it did best of those tried (docs/reproduce.md).
RATES = {"muon": 4e-3, "adamw": 3e-3}

_ACCURACY = "mean accuracy"
_BUDGET_SECONDS = {True: 10.0, False: 100.0}
_MEASURED = {True: 2, False: 6}
_SAMPLES = {True: 8, False: 128}
_SCHEDULE = ScheduleConfig(warmup=20, stable=680, decay=300)


class Arm:
    """A network in training that knows how much processor time it has used."""

    def __init__(self, recipe: Recipe, budget: float) -> None:
        self.start = build_start(recipe)
        learner = Learner(self.start.model, measure_logits=False)
        optimiser = MuonClip(learner.model, recipe.optimizer)
        size = recipe.optimizer.balance_step
        self.state = TrainState(learner, optimiser, recipe.step, _SCHEDULE, clip=None, balance_size=size)
        self.seconds = 0.0
        self.budget = budget
        self.losses: list[Point] = []
        self.accuracies: list[Point] = []
        self._streams = _endless(Streams(recipe.data, self.start.tokenizer))

    def step(self) -> None:
        """One optimiser step, at the rate that the used share of the budget asks for."""
        began = time.process_time()
        factor = _SCHEDULE.factor(_SCHEDULE.total * min(1.0, self.seconds / self.budget) + 1)
        # A schedule that stands at its floor: the trainer's own count of steps says nothing here.
        self.state.schedule = ScheduleConfig(decay=1, floor=factor)
        metrics = train_step(self.state, [next(self._streams)])
        self.seconds += time.process_time() - began
        self.losses.append((self.seconds, metrics.loss))

    def measure(self, samples: int) -> dict[str, float]:
        """Accuracy by task, outside the budget; the mean becomes a point of the curve."""
        results = ask(self.start.model, self.start.tokenizer, None, list(TASKS), samples=samples, form="plain")
        by_task = accuracies(results)
        self.accuracies.append((self.seconds, sum(by_task.values()) / len(by_task)))
        return by_task


def run(trial: Trial) -> dict[str, Measurement]:
    """Both arms, turn by turn."""
    tokenizer = nano_tokenizer(trial.shared / "tokenizer")
    budget = _BUDGET_SECONDS[trial.quick]
    arms = {name: Arm(_recipe(trial, str(tokenizer), name), budget) for name in RATES}
    by_task: dict[str, dict[str, float]] = {}
    points = _MEASURED[trial.quick]
    for point in range(1, points + 1):
        until = budget * point / points
        while behind := [arm for arm in arms.values() if arm.seconds < until]:
            min(behind, key=lambda arm: arm.seconds).step()
        by_task = {name: arm.measure(_SAMPLES[trial.quick]) for name, arm in arms.items()}
        trial.say(f"{until:.0f} of {budget:.0f} processor seconds each")
    return {name: _measurement(arm, by_task[name]) for name, arm in arms.items()}


def _recipe(trial: Trial, tokenizer: str, algorithm: str) -> Recipe:
    recipe = recipe_of("nano/joint", seed=trial.seed, tokenizer=trial.shared / "tokenizer")
    table = recipe.table()
    table["model"].pop("start_from", None)
    table["tokenizer"] = tokenizer
    text = {"kind": "tasks", "tasks": TASKS, "difficulty": [1, 2], "loss": "answers"}
    table["data"] = {"sources": {"text": text}, "sequence_tokens": 2048, "seed": trial.seed}
    rates = {"muon_lr": RATES["muon"], "adamw_lr": 3e-3 if algorithm == "muon" else RATES["adamw"]}
    return changed(Recipe.model_validate(table), {"optimizer": {"matrices": algorithm, **rates}})


def _measurement(arm: Arm, by_task: dict[str, float]) -> Measurement:
    numbers = by_task | {"mean accuracy": sum(by_task.values()) / len(by_task), "steps": arm.state.step}
    curves = {"training loss": _smooth(arm.losses), _ACCURACY: arm.accuracies}
    return Measurement(numbers, curves, arm.seconds)


def _smooth(points: list[Point], width: int = 20) -> list[Point]:
    """Means of consecutive points."""
    pieces = [points[at : at + width] for at in range(0, len(points) - width + 1, width)]
    return [(piece[-1][0], sum(y for _, y in piece) / width) for piece in pieces]


def _endless(streams: Streams) -> Iterator[PackedBatch]:
    index = 0
    while True:
        yield streams.batch(index)
        index += 1


def judge(findings: Findings) -> Reading:
    """Muon ahead in the mean, and with every seed."""
    muon, adamw = (findings.every(arm, "mean accuracy") for arm in ("muon", "adamw"))
    ahead = findings.mean("muon", "mean accuracy") - findings.mean("adamw", "mean accuracy")
    sooner = [sooner_by(*curves) for curves in zip(*(findings.curves(arm, _ACCURACY) for arm in RATES), strict=True)]
    ours = (
        f"mean accuracy {sum(muon) / len(muon):.0%} against {sum(adamw) / len(adamw):.0%} at equal processor time; "
        f"Muon was where AdamW ended {sum(sooner) / len(sooner):.1f} times as soon"
    )
    return Reading(
        ours,
        (
            Check(f"Muon's mean accuracy is higher ({ahead * 100:+.1f} points)", ahead > 0),
            Check("with every seed", all(one > other for one, other in zip(muon, adamw, strict=True))),
        ),
    )


def sooner_by(one: list[Point], other: list[Point]) -> float:
    """How many times as soon `one` was first measured at what `other` ended with; 0 where it never was."""
    seconds, accuracy = other[-1]
    return next((seconds / place for place, height in one if height >= accuracy), 0.0)


CLAIM = Claim(
    name="muon-vs-adamw",
    says="Muon learns more than AdamW from the same compute.",
    source="Kimi K2 report, arXiv 2507.20534, section 2.1, after Moonlight, arXiv 2502.16982",
    figure="about twice AdamW's compute efficiency (Moonlight, compute-optimal training)",
    run=run,
    judge=judge,
    curves={
        "training loss": Curve("processor seconds", "nats per target token", logarithmic=True),
        _ACCURACY: Curve("processor seconds", "share of right answers"),
    },
    bars=tuple(TASKS),
    minutes=4,
)
