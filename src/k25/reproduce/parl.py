"""PARL: an orchestrator of frozen sub-agents learns when to split its work.

Three arms from one start: with auxiliary rewards, without them, and a single agent that has no sub-agents to call. All
see the same tables and the same budgets of critical steps, and are measured on sizes that none of them trained on too.
"""

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from k25.reproduce.claim import NANO, SMALL, Check, Claim, Curve, Measurement, Point, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.stages import Say, recipe_of, shortened, train_stage
from k25.rl.parl.demonstrations import Mixture, write_demonstrations
from k25.rl.parl.environment import REACHED
from k25.rl.parl.measure import Setting, measure
from k25.rl.parl.schedules import ParlSchedule
from k25.rl.recipe import RLRecipe, load_rl_recipe
from k25.rl.trainer import RLTrainer
from k25.train.metrics import Record
from k25.train.parallel.ranks import ranks
from k25.train.start import EXPORT
from k25.train.tokenizer_recipe import load_tokenizer_recipe, train_from_recipe
from k25.train.trainer import Interrupted

ARMS: Mapping[str, Mapping[str, Any]] = {
    "parl": {},
    "single agent": {"delegation": False},
    "no auxiliary rewards": {"schedule": {"lambda1": 0.0, "lambda2": 0.0}},
}
# Rows of the tables that are measured: some of those in training, and others.
TRAINED, HELD_OUT = (2, 3, 8, 16, 24), (4, 6, 12, 20)
FEW, MANY = 2, 16
BUDGET, LOOSE = 10, 40
_QUICK_SHARE = 0.1
# Curves by the metrics of the environment that they show.
_CURVES = {name: name for name in ("quality", "width", "empty_jobs", "critical_steps", "delegated")} | {
    f"width, {size} rows": f"width_{size}" for size in (FEW, MANY)
}


def run(trial: Trial) -> dict[str, Measurement]:
    """One seed with all arms; the start is shared by all seeds."""
    shared = trial.shared / ("parl" if trial.size == NANO else f"parl-{trial.size}")
    if trial.quick:
        home = shared.with_name(f"{shared.name}-quick")
        start = begin(home, trial.say, size=trial.size, demonstrations=400, share=0.03)
    else:
        start = begin(shared, trial.say, size=trial.size)
    return {arm: trial.once(arm.replace(" ", "-"), partial(learn, arm, trial, start)) for arm in ARMS}


def begin(folder: Path, say: Say, *, size: str = NANO, demonstrations: int = 12_000, share: float = 1) -> Path:
    """The start: demonstrations, a tokenizer, supervised fine-tuning for a share of its recipe's steps."""
    lines = folder / "demonstrations.jsonl"
    if not lines.is_file():
        say("demonstrations")
        write_demonstrations(lines, Mixture(), demonstrations)
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "tiktoken.model").is_file():
        recipe = load_tokenizer_recipe("nano/parl-tokenizer")
        recipe = recipe.model_copy(update={"files": (lines,) * len(recipe.files)})
        tokenizer.mkdir(parents=True, exist_ok=True)
        train_from_recipe(recipe).save(tokenizer)
    changes = [f'data.sources.demonstrations.path="{lines}"']
    stage = recipe_of(f"{size}/parl-start", seed=0, tokenizer=tokenizer, changes=changes)
    return train_stage(shortened(stage, share), folder / "start", say)


def learn(arm: str, trial: Trial, start: Path) -> Measurement:
    """Train one arm and measure it."""
    folder = trial.folder / f"run-{arm.replace(' ', '-')}"
    recipe = recipe_of_arm(arm, trial.seed, start, size=trial.size, share=_QUICK_SHARE if trial.quick else 1)
    if trial.quick:
        recipe = recipe.model_copy(update={"prompts_per_step": 2, "group_size": 2})
    if not (folder / EXPORT).is_dir():
        with ranks(recipe.parallel) as here:
            try:
                RLTrainer(recipe, folder, here, watchers=[_Progress(trial.say, arm, recipe.steps)]).fit()
            except Interrupted:
                raise KeyboardInterrupt from None
    delegation, episodes = arm != "single agent", 4 if trial.quick else 64
    sizes = (FEW, MANY, max(HELD_OUT)) if trial.quick else (*TRAINED, *HELD_OUT)
    tight = asyncio.run(measure(folder, start, Setting(BUDGET, delegation), sizes, episodes=episodes))
    loose = asyncio.run(measure(folder, start, Setting(LOOSE, delegation), sizes[-1:], episodes=episodes))
    numbers = {
        f"{name}, {size} rows": found[name]
        for size, found in tight.items()
        for name in ("quality", "width", "empty_jobs", "critical_steps")
    }
    numbers |= {f"{name} without a tight budget, {size} rows": found[name] for size, found in loose.items()
                for name in ("quality", "steps_to_reach")}  # fmt: skip
    return Measurement(numbers, _curves(folder))


def recipe_of_arm(arm: str, seed: int, start: Path, *, size: str = NANO, share: float = 1) -> RLRecipe:
    """The recipe `parl` of a size as an arm changes it, with a share of its updates; the fading is shortened alike."""
    recipe = load_rl_recipe(
        f"{size}/parl", [f'model.start_from="{start}"', f'roles.sub-agent.start_from="{start}"', f"seed={seed}"]
    )
    (environment,) = recipe.environments
    planned = ParlSchedule(**environment.options["schedule"])
    fading = {"fade": max(1, round(planned.fade * share)), "finish_lag": round(planned.finish_lag * share)}
    decay = round(recipe.schedule.decay * share)
    updates = max(1, round(recipe.steps * share))
    options = _merged(_merged(environment.options, {"schedule": fading}), ARMS[arm])
    return recipe.model_copy(
        update={
            "steps": updates,
            "schedule": recipe.schedule.model_copy(update={"stable": updates - decay, "decay": decay}),
            "environments": (environment.model_copy(update={"options": options}),),
        }
    )


def _merged(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(options)
    for name, value in changes.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, Mapping) else value
    return merged


def _curves(run: Path) -> dict[str, list[Point]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(record["step"], record["environment_metrics"]) for record in records if "environment_metrics" in record]
    # A size of which an update had no table has no point there.
    return {
        name: [(step, means[metric]) for step, means in found if metric in means] for name, metric in _CURVES.items()
    }


class _Progress:
    def __init__(self, say: Say, arm: str, steps: int) -> None:
        self._say, self._arm, self._steps = say, arm, steps

    def write(self, record: Record) -> None:
        if "reward" in record and record["step"] % 10 == 0:
            self._say(f"{self._arm}: update {record['step']} of {self._steps}, reward {record['reward']:.3f}")

    def close(self) -> None:
        pass


def judge(findings: Findings) -> Reading:
    """The claim's sentences, from the means over seeds."""

    def mean(arm: str, name: str, size: int) -> float:
        return findings.mean(arm, f"{name}, {size} rows")

    largest = max(HELD_OUT)
    steps = mean("parl", "steps_to_reach without a tight budget", largest)
    alone = mean("single agent", "steps_to_reach without a tight budget", largest)
    faster = alone / steps if steps else 0.0
    better = mean("parl", "quality", largest) - mean("single agent", "quality", largest)
    full = mean("parl", "quality without a tight budget", largest)
    return Reading(
        f"{faster:.1f}x fewer critical steps to item-F1 {REACHED} than the trained single agent on {largest} rows, "
        f"item-F1 {better:+.2f} within {BUDGET} critical steps",
        (
            Check("without auxiliary rewards delegation dies", mean("no auxiliary rewards", "width", MANY) < 0.5),
            Check("with them large tables are split", mean("parl", "width", MANY) >= 3),
            Check("small tables are left to one agent", mean("parl", "width", FEW) < 0.5),
            Check("empty jobs vanish", mean("parl", "empty_jobs", MANY) < 0.5),
            Check("better than the single agent within the budget, on a size that was held out", better > 0),
            Check("at least 3x fewer critical steps, with as full a table", faster >= 3 and full >= 0.95),
        ),
    )


CLAIM = Claim(
    name="parl",
    says="Auxiliary rewards that fade teach an orchestrator to split work where that pays, and only there.",
    source="Kimi K2.5 report, arXiv 2602.02276, section 3",
    figure="3x to 4.5x less time at equal Item-F1 on WideSearch",
    run=run,
    judge=judge,
    curves={
        f"width, {FEW} rows": Curve("update", "jobs at once"),
        f"width, {MANY} rows": Curve("update", "jobs at once"),
        "quality": Curve("update", "item-F1"),
        "empty_jobs": Curve("update", "empty jobs"),
        "critical_steps": Curve("update", "critical steps"),
    },
    bars=(f"quality, {max(HELD_OUT)} rows",),
    minutes=21,
    sizes=(NANO, SMALL),
)
