"""Early, mid and late fusion at equal token budgets (Kimi K2.5 report, arXiv 2602.02276, section 2.1, table 1).

Three schedules of the mixture spend the same tokens of text and of vision: vision from the first token at 10 %, from
half of the run at 20 %, or from four fifths of it at 50 %. All three start from one vision stage, which taught the
tower, as the report's tower was trained before; here the decoder saw those captions too and nothing else. Text and
vision losses are measured on held-out streams, so that what the mixture holds at that moment does not disturb them.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from k25.media import MediaProcessor
from k25.model import K25Model
from k25.reproduce.answers import accuracies, ask_checkpoint
from k25.reproduce.claim import Check, Claim, Curve, Measurement, Point, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.stages import changed, nano_tokenizer, recipe_of, shortened, train_stage
from k25.train.batch import PackedBatch
from k25.train.data.config import DataConfig
from k25.train.data.schedule import FUSION_STARTS, fusion
from k25.train.data.streams import Streams
from k25.train.learner import Learner
from k25.train.metrics import read_metrics
from k25.train.recipe import Recipe
from k25.train.start import Start
from k25.train.trainer import Monitor

VISION_SHARE = 0.1
TEXT_TASKS = {
    "add": 3,
    "modular-add": 2,
    "compare": 1,
    "copy": 1,
    "reverse": 1,
    "sort": 1,
    "grid-cell": 1,
    "grid-counts": 1,
}
VISION_TASKS = ("colour-grid", "colour-cell", "colour-counts")

_STEPS = {True: 20, False: 320}
_MEASURED_EVERY = {True: 5, False: 10}
_VISION_STAGE = {True: 0.05, False: 0.5}
_SAMPLES = {True: 4, False: 128}
_HELD_OUT_SEED = 1_000_003
_HELD_OUT = {"text": 2, "vision": 1}


def run(trial: Trial) -> dict[str, Measurement]:
    """One vision stage, then the three schedules from there."""
    tokenizer = nano_tokenizer(trial.shared / "tokenizer")
    vision = shortened(recipe_of("nano/vision", seed=trial.seed, tokenizer=tokenizer), _VISION_STAGE[trial.quick])
    start = train_stage(vision, trial.folder / "vision", trial.say)
    return {
        arm: trial.once(arm, partial(_measure, trial, arm, _recipe(trial, arm, tokenizer, start)))
        for arm in FUSION_STARTS
    }


def _recipe(trial: Trial, arm: str, tokenizer: Path, start: Path) -> Recipe:
    recipe = recipe_of("nano/joint", seed=trial.seed, tokenizer=tokenizer, start_from=start)
    steps = _STEPS[trial.quick]
    tokens = steps * recipe.streams_per_step * recipe.data.sequence_tokens
    text, vision = fusion(arm, tokens, VISION_SHARE)
    table = recipe.table()
    table["data"]["sources"] = {
        "text": _source(TEXT_TASKS, text, [1, 2]),
        "vision": _source(dict.fromkeys(VISION_TASKS, 1.0), vision, 1),
    }
    table["data"]["block_streams"] = 4  # weights change between blocks
    table["monitor"] = {"every": _MEASURED_EVERY[trial.quick]}
    warmup, decay = min(20, steps // 4), steps // 8
    schedule = {"warmup": warmup, "stable": steps - warmup - decay, "decay": decay}
    return changed(Recipe.model_validate(table), {"steps": steps, "schedule": schedule})


def _source(tasks: Mapping[str, float], weight: Any, difficulty: Any) -> dict[str, Any]:
    return {"kind": "tasks", "tasks": dict(tasks), "weight": weight, "difficulty": difficulty, "loss": "answers"}


def _measure(trial: Trial, arm: str, recipe: Recipe) -> Measurement:
    folder = train_stage(recipe, trial.folder / arm, trial.say, _held_out_monitor(recipe.data))
    tokens = recipe.streams_per_step * recipe.data.sequence_tokens
    evaluations = [record for record in read_metrics(folder) if "accuracy" in record]
    curves = {
        f"{source} loss": [(record["step"] * tokens, record["accuracy"][source]) for record in evaluations]
        for source in _HELD_OUT
    }
    samples = _SAMPLES[trial.quick]
    text = accuracies(ask_checkpoint(folder, list(TEXT_TASKS), samples=samples, form="plain"))
    vision = accuracies(ask_checkpoint(folder, list(VISION_TASKS), samples=samples, form="plain"))
    numbers = {
        "text accuracy": sum(text.values()) / len(text),
        "vision accuracy": sum(vision.values()) / len(vision),
        "final text loss": curves["text loss"][-1][1],
        "final vision loss": curves["vision loss"][-1][1],
        "dip of text": dip(curves["text loss"], FUSION_STARTS[arm] * recipe.steps * tokens),
    }
    return Measurement(numbers | vision, curves)


def dip(points: list[Point], arrival: float) -> float:
    """How far the loss rises above its level before `arrival`, in nats: the most of the tenth of the run that follows,
    less the least of the tenth before. 0 where nothing comes before."""
    width = points[-1][0] / 10
    before = [loss for tokens, loss in points if arrival - width <= tokens <= arrival]
    after = [loss for tokens, loss in points if arrival < tokens <= arrival + width]
    return max(0.0, max(after) - min(before)) if arrival > 0 and before and after else 0.0


def _held_out_monitor(data: DataConfig) -> Monitor:
    batches: dict[str, list[PackedBatch]] = {}

    def monitor(model: K25Model, start: Start) -> dict[str, float]:
        if not batches:
            batches.update(_held_out(data, start))
        learner = Learner(model, measure_logits=False)
        return {source: _loss(learner, streams) for source, streams in batches.items()}

    return monitor


def _held_out(data: DataConfig, start: Start) -> dict[str, list[PackedBatch]]:
    media = MediaProcessor(start.media, threads=1) if start.media else None
    found = {}
    for source, count in _HELD_OUT.items():
        alone = {source: data.sources[source].model_copy(update={"weight": 1.0})}
        config = data.model_copy(update={"sources": alone, "seed": _HELD_OUT_SEED})
        streams = Streams(config, start.tokenizer, media)
        found[source] = [streams.batch(index) for index in range(count)]
    return found


@torch.no_grad()
def _loss(learner: Learner, batches: list[PackedBatch]) -> float:
    """Nats per target token."""
    total = sum(float(learner(batch).loss) for batch in batches)
    return total / sum(batch.target_tokens for batch in batches)


def judge(findings: Findings) -> Reading:
    """Table 1's order, and the dip."""
    vision = {arm: findings.mean(arm, "vision accuracy") for arm in findings.arms}
    text = {arm: findings.mean(arm, "text accuracy") for arm in findings.arms}
    dips = {arm: findings.mean(arm, "dip of text") for arm in findings.arms}
    shown = "; ".join(
        f"{arm}: vision {vision[arm]:.0%}, text {text[arm]:.0%}, dip {dips[arm]:.3f} nats" for arm in vision
    )
    return Reading(
        shown,
        (
            Check("early fusion sees best", vision["early"] >= max(vision["mid"], vision["late"])),
            Check("late fusion sees worst", vision["late"] <= min(vision["early"], vision["mid"])),
            Check("early fusion keeps text at least as good", text["early"] >= max(text["mid"], text["late"]) - 0.01),
            Check("text dips when vision comes at half", dips["mid"] > 0),
            Check("text dips when vision comes late", dips["late"] > 0),
        ),
    )


CLAIM = Claim(
    name="fusion",
    says="With the same tokens, vision from the start at a small share beats vision later at a large one; "
    "text dips and recovers when vision arrives.",
    source="Kimi K2.5 report, arXiv 2602.02276, table 1 and section 2.1",
    figure="early, mid, late: vision reasoning 43.8, 40.7, 39.0; OCR 65.7, 64.1, 61.5; text reasoning 58.5, 58.6, 57.8",
    run=run,
    judge=judge,
    curves={
        "text loss": Curve("tokens", "nats per target token, held out", logarithmic=True),
        "vision loss": Curve("tokens", "nats per target token, held out", logarithmic=True),
    },
    bars=("text accuracy", "vision accuracy", *VISION_TASKS),
    minutes=7,
)
