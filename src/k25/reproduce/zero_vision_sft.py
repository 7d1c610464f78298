"""Fine-tuning on text alone, and on text with pictures, from one network (Kimi K2.5 report, section 2.2).

The text arm is the nano recipe's own fine-tuning. In the other arm a part of the plain answers makes room for
conversations that show a picture. Both are asked the same: questions about a picture that is shown, and questions that
name a picture's file, which a program in the tool `python` can answer.
"""

from pathlib import Path

from k25.reproduce.answers import accuracies, ask_checkpoint, valid_share
from k25.reproduce.claim import Check, Claim, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.nano import STAGES, fine_tuned, pretrained
from k25.reproduce.stages import recipe_of, shortened, train_stage
from k25.train.recipe import Recipe

SHOWN = ("colour-cell", "colour-grid", "colour-counts")
THROUGH_TOOL = ("image-tool-cell", "image-tool-cells", "image-tool-count")
TEXT = ("add", "modular-add", "copy", "sort", "tool-calculator")
# A cell has one of four colours.
CHANCE = 0.25

_SAMPLES = {True: 4, False: 128}
_PICTURES = 0.2


def run(trial: Trial) -> dict[str, Measurement]:
    """Two fine-tunings of one network."""

    def text() -> Measurement:
        return _measure(trial, fine_tuned(trial.shared, trial.seed, trial.say, quick=trial.quick))

    def text_and_vision() -> Measurement:
        base = pretrained(trial.shared, trial.seed, trial.say, quick=trial.quick)
        recipe = shortened(_with_pictures(trial, base), STAGES["sft"] if trial.quick else 1)
        return _measure(trial, train_stage(recipe, trial.folder / "text-and-vision", trial.say))

    return {"text only": trial.once("text-only", text), "text and vision": trial.once("text-vision", text_and_vision)}


def _with_pictures(trial: Trial, base: Path) -> Recipe:
    recipe = recipe_of("nano/sft", seed=trial.seed, tokenizer=trial.shared / "tokenizer", start_from=base)
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
    cell = findings.every("text only", "colour-cell")
    tool = findings.every("text only", "image-tool-cell")
    with_vision = findings.mean("text and vision", "colour-cell")
    return Reading(
        f"colour-cell {sum(cell) / len(cell):.0%} after text alone, {with_vision:.0%} with pictures, "
        f"chance {CHANCE:.0%}; image-tool-cell {sum(tool) / len(tool):.0%} after text alone",
        (
            Check("after text alone, questions about shown pictures are answered above chance", min(cell) > CHANCE),
            Check("and programs answer questions about picture files", min(tool) > 0.9),
            Check("text alone is at least as good as text with pictures", sum(cell) / len(cell) >= with_vision),
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
