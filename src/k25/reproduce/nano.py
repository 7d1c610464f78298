"""The nano recipes from tokenizer to fine-tuning, and what the result answers.

The report has no such figure; what it says is that one network comes out of these stages which reasons, calls tools
and sees although no conversation of its fine-tuning showed a picture (Kimi K2.5 report, arXiv 2602.02276, sections 2.2
and 4.3). `PRETRAINED_THRESHOLDS` and `THRESHOLDS` are what the recipes promise of it.
"""

from pathlib import Path

from k25.reproduce.answers import accuracies, ask_checkpoint, valid_share
from k25.reproduce.claim import Check, Claim, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.stages import Say, nano_tokenizer, recipe_of, shortened, train_stage

# Stages in order, and the share of each that a quick trial runs.
STAGES = {"vision": 0.05, "joint": 0.01, "long-context": 0.05, "sft": 0.02}
# Fine-tuning that shows no picture at all, for claims about that.
TEXT_ONLY = "sft-text-only"

# Task (at difficulty 1) to the least share of right answers after the last stage, over every seed.
THRESHOLDS = {
    "add": 0.9,
    "modular-add": 0.9,
    "compare": 0.75,
    "copy": 0.95,
    "reverse": 0.85,
    "sort": 0.9,
    "tool-calculator": 0.9,
    "tool-lookup": 0.9,
    "image-tool-cell": 0.9,
    "colour-cell": 0.4,
}
# The same before fine-tuning, of pictures that are shown: in plain text, the form in which they are learnt.
PRETRAINED_THRESHOLDS = {"colour-cell": 0.9, "colour-counts": 0.9, "colour-grid": 0.9}
VALID_CALLS = 0.95

PRETRAINED, FINE_TUNED = "pre-trained", "fine-tuned"
_SAMPLES = {True: 4, False: 128}


def pretrained(shared: Path, seed: int, say: Say, *, quick: bool) -> Path:
    """The run of the long-context stage, with all before it; stages that are finished in `shared` are kept."""
    home = nano_home(shared, seed, quick=quick)
    tokenizer = nano_tokenizer(shared / "tokenizer")
    before: Path | None = None
    for stage in ("vision", "joint", "long-context"):
        recipe = recipe_of(f"nano/{stage}", seed=seed, tokenizer=tokenizer, start_from=before)
        before = train_stage(shortened(recipe, STAGES[stage] if quick else 1), home / stage, say)
    assert before is not None
    return before


def fine_tuned(shared: Path, seed: int, say: Say, *, quick: bool, stage: str = "sft") -> Path:
    """The run of a fine-tuning stage, `sft` or `sft-text-only`, with all before it."""
    base = pretrained(shared, seed, say, quick=quick)
    recipe = recipe_of(f"nano/{stage}", seed=seed, tokenizer=shared / "tokenizer", start_from=base)
    home = nano_home(shared, seed, quick=quick) / stage
    return train_stage(shortened(recipe, STAGES["sft"] if quick else 1), home, say)


def nano_home(shared: Path, seed: int, *, quick: bool) -> Path:
    """Where the stages of a seed lie, one folder each."""
    return shared / ("nano-stages-quick" if quick else "nano-stages") / f"seed-{seed}"


def run(trial: Trial) -> dict[str, Measurement]:
    """All stages, then the thresholds' tasks: in conversations at the end, in plain text before fine-tuning."""
    samples = _SAMPLES[trial.quick]

    def before() -> Measurement:
        run = pretrained(trial.shared, trial.seed, trial.say, quick=trial.quick)
        return Measurement(accuracies(ask_checkpoint(run, list(PRETRAINED_THRESHOLDS), samples=samples, form="plain")))

    def after() -> Measurement:
        run = fine_tuned(trial.shared, trial.seed, trial.say, quick=trial.quick)
        results = ask_checkpoint(run, list(THRESHOLDS), samples=samples)
        return Measurement(accuracies(results) | {"valid calls": valid_share(results)})

    return {PRETRAINED: trial.once(PRETRAINED, before), FINE_TUNED: trial.once(FINE_TUNED, after)}


def judge(findings: Findings) -> Reading:
    """Every threshold, for the worst seed."""
    wanted = {PRETRAINED: PRETRAINED_THRESHOLDS, FINE_TUNED: THRESHOLDS | {"valid calls": VALID_CALLS}}
    checks = tuple(
        _check(stage, name, least, min(findings.every(stage, name)))
        for stage, thresholds in wanted.items()
        for name, least in thresholds.items()
    )
    met = sum(check.holds for check in checks)
    return Reading(f"{met} of {len(checks)} thresholds met", checks)


def _check(stage: str, name: str, least: float, worst: float) -> Check:
    return Check(f"{stage}: {name} at least {least:.0%} with every seed (least: {worst:.0%})", worst >= least)


CLAIM = Claim(
    name="nano",
    says="One recipe ends in a network that reasons, calls tools and sees, although its conversations show no picture.",
    source="Kimi K2.5 report, arXiv 2602.02276, sections 2.2 and 4.3",
    figure="none at this size; the thresholds are the recipe's own",
    run=run,
    judge=judge,
    minutes=18,
)
