"""A run built to explode its logits, with QK-Clip and without it (Kimi K2 report, arXiv 2507.20534, section 2.1).

The nano network learns sums at a rate of Muon far too large for it and without weight decay, which is what lets logits
grow. Both arms start from the same weights and see the same streams.
"""

from functools import partial
from statistics import fmean, median

from k25.reproduce.claim import Check, Claim, Curve, Measurement, Point, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.stages import changed, nano_tokenizer, recipe_of, train_stage
from k25.train.metrics import read_metrics
from k25.train.recipe import Recipe

TAU = 100.0
_LOGIT = "largest attention logit"
# Measured, but never reached.
_NO_LIMIT = 1e30
# The clip follows the step, so a forward pass shows one step's growth on top of tau, and at this rate steps are huge.
TYPICAL_GROWTH, WORST_GROWTH = 1.25, 2.0

_STEPS = {True: 60, False: 160}
_RATE = 0.05


def run(trial: Trial) -> dict[str, Measurement]:
    """The same run twice."""
    arms = {"with QK-Clip": TAU, "without": _NO_LIMIT}
    return {arm: trial.once(arm.replace(" ", "-"), partial(_measure, trial, tau)) for arm, tau in arms.items()}


def _measure(trial: Trial, tau: float) -> Measurement:
    folder = trial.folder / ("without" if tau == _NO_LIMIT else "with")
    train_stage(_recipe(trial, tau), folder, trial.say)
    records = [record for record in read_metrics(folder) if "loss" in record]
    logits = [(record["step"], max(record["max_logit_by_layer"])) for record in records]
    last = records[-len(records) // 4 :]
    return Measurement(
        {
            "largest logit": max(logit for _, logit in logits),
            "largest logit of the last quarter": max(logit for _, logit in logits[-len(records) // 4 :]),
            "loss of the last quarter": fmean(record["loss"] for record in last),
            "heads clipped": sum(record["clipped_heads"] for record in records),
            "steps without an update": sum(bool(record["skipped"]) for record in records),
        },
        {_LOGIT: logits, "loss": [(record["step"], record["loss"]) for record in records]},
    )


def _recipe(trial: Trial, tau: float) -> Recipe:
    recipe = recipe_of("nano/joint", seed=trial.seed, tokenizer=nano_tokenizer(trial.shared / "tokenizer"))
    table = recipe.table()
    table["model"].pop("start_from", None)
    text = {"kind": "tasks", "tasks": ["add", "modular-add"], "difficulty": [1, 2], "loss": "answers"}
    table["data"] = {"sources": {"text": text}, "sequence_tokens": 512, "seed": trial.seed}
    steps = _STEPS[trial.quick]
    return changed(
        Recipe.model_validate(table),
        {
            "steps": steps,
            "schedule": {"warmup": 5, "stable": steps, "decay": 0},
            "step": {"spike_factor": "off"},
            "optimizer": {"muon_lr": _RATE, "weight_decay": 0.0, "qk_clip_tau": tau},
        },
    )


def judge(findings: Findings) -> Reading:
    """Explodes without, held with."""
    held = findings.every("with QK-Clip", "largest logit")
    free = findings.every("without", "largest logit")
    typical = max(_second_half(points) for points in findings.curves("with QK-Clip", _LOGIT))
    ours = (
        f"with QK-Clip at most {max(held):,.0f}, median of the second half {typical:,.0f}; "
        f"without it {min(free):,.0f} to {max(free):,.0f}; tau is {TAU:.0f}"
    )
    return Reading(
        ours,
        (
            Check(f"without QK-Clip logits exceed {5 * TAU:.0f} with every seed", min(free) > 5 * TAU),
            Check(f"with it their median stays under {TYPICAL_GROWTH * TAU:.0f}", typical < TYPICAL_GROWTH * TAU),
            Check(f"and no step sees {WORST_GROWTH * TAU:.0f}", max(held) < WORST_GROWTH * TAU),
        ),
    )


def _second_half(points: list[Point]) -> float:
    return median(logit for _, logit in points[len(points) // 2 :])


CLAIM = Claim(
    name="qk-clip",
    says="QK-Clip keeps attention logits at tau where they would explode.",
    source="Kimi K2 report, arXiv 2507.20534, section 2.1",
    figure="logits of a mid-scale run pass 1,000 without it; with it K2's never exceed tau = 100",
    run=run,
    judge=judge,
    curves={
        _LOGIT: Curve("step", "logit", level=TAU, logarithmic=True),
        "loss": Curve("step", "nats per target token"),
    },
    bars=(),
    minutes=1.5,
)
