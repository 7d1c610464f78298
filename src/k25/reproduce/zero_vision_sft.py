"""Fine-tuning on text alone, and on text with pictures, from one network (Kimi K2.5 report, section 2.2).

The text arm is `nano/sft-text-only`. In the other arm a part of the plain answers makes room for
conversations that show a picture. Both are asked the same: questions about a picture that is shown, and questions that
name a picture's file, which a program in the tool `python` can answer.
"""

from pathlib import Path

from k25.reproduce.answers import accuracies, ask_checkpoint, valid_share
from k25.reproduce.claim import Check, Claim, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.nano import STAGES, TEXT_ONLY, fine_tuned, pretrained
from k25.reproduce.stages import recipe_of, shortened, train_stage
from k25.train.recipe import Recipe

SHOWN = ("colour-cell", "colour-grid", "colour-counts")
THROUGH_TOOL = ("image-tool-cell", "image-tool-cells", "image-tool-count")
TEXT = ("add", "modular-add", "copy", "sort", "tool-calculator")
# What guessing reaches: a cell has one of four colours, and four cells of four colours are all different in 9 % of
# pictures. An accuracy is above it if it is so by more than what 128 answers can vary.
CHANCE = {"colour-cell": 0.25, "colour-counts": 0.094}
_MARGIN = 0.08

_SAMPLES = {True: 4, False: 128}
_PICTURES = 0.2


def run(trial: Trial) -> dict[str, Measurement]:
    """Two fine-tunings of one network."""

    def text() -> Measurement:
        return _measure(trial, fine_tuned(trial.shared, trial.seed, trial.say, quick=trial.quick, stage=TEXT_ONLY))

    def text_and_vision() -> Measurement:
        base = pretrained(trial.shared, trial.seed, trial.say, quick=trial.quick)
        recipe = shortened(_with_pictures(trial, base), STAGES["sft"] if trial.quick else 1)
        return _measure(trial, train_stage(recipe, trial.folder / "text-and-vision", trial.say))

    return {"text only": trial.once("text-only", text), "text and vision": trial.once("text-vision", text_and_vision)}


def _with_pictures(trial: Trial, base: Path) -> Recipe:
    recipe = recipe_of(f"nano/{TEXT_ONLY}", seed=trial.seed, tokenizer=trial.shared / "tokenizer", start_from=base)
    table = recipe.table()
    sources = table["data"]["sources"]
    sources["answers"]["weight"] -= _PICTURES
    sources["pictures"] = {
        "kind": "tasks",
        "tasks": list(SHOWN),
        "weight": _PICTURES,
        "form": "chat",
        "loss": "answers",
        "difficulty": 1,
    }
    return Recipe.model_validate(table)


def _measure(trial: Trial, run: Path) -> Measurement:
    results = ask_checkpoint(run, [*SHOWN, *THROUGH_TOOL, *TEXT], samples=_SAMPLES[trial.quick])
    return Measurement(accuracies(results) | {"valid calls": valid_share(results)})


def judge(findings: Findings) -> Reading:
    """Seeing without a visual sample."""
    text, both = "text only", "text and vision"
    seen = [
        Check(
            f"after text alone, {task} is answered above chance ({chance:.0%})",
            min(findings.every(text, task)) > chance + _MARGIN,
        )
        for task, chance in CHANCE.items()
    ]
    tool = findings.mean(text, "image-tool-cell")
    means = {arm: {task: findings.mean(arm, task) for task in CHANCE} for arm in (text, both)}
    shown = ", ".join(f"{task} {means[text][task]:.0%} ({means[both][task]:.0%} with pictures)" for task in CHANCE)
    return Reading(
        f"after text alone: {shown}, image-tool-cell {tool:.0%}",
        (
            *seen,
            Check("programs answer questions about picture files", min(findings.every(text, "image-tool-cell")) > 0.9),
            Check(
                "text alone is at least as good as text with pictures",
                all(means[text][task] >= means[both][task] for task in CHANCE),
            ),
        ),
    )


CLAIM = Claim(
    name="zero-vision-sft",
    says="Fine-tuning on text alone, programs that work on pictures included, is enough to answer about pictures; "
    "visual examples made by hand do not help.",
    source="Kimi K2.5 report, arXiv 2602.02276, section 2.2",
    figure="no figure given; text-only fine-tuning is said to generalise better than text and vision",
    run=run,
    judge=judge,
    minutes=21,
)
