"""Reinforcement learning on pictures, and what it does to text (Kimi K2.5 report, arXiv 2602.02276, section 2.3).

The start is the nano network after fine-tuning on text alone. `visual` learns from exact answers about grids of
colours; the text twins of these tasks, which ask the same of grids in words, are never asked. Two controls make the
same updates: `random reward` from the same pictures with a coin for the reward, `text` from the twins themselves.
"""

from functools import partial
from pathlib import Path

from k25.reproduce.answers import accuracies, ask_checkpoint
from k25.reproduce.claim import Check, Claim, Curve, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.nano import TEXT_ONLY, fine_tuned
from k25.reproduce.rl_runs import curve, rl_recipe, train_policy

BEFORE, VISUAL, RANDOM, TEXT = "before", "visual", "random reward", "text"
# Visual tasks and their twins in text.
TWINS = {"colour-cell": "grid-cell", "colour-counts": "grid-counts", "colour-grid": "grid-colours"}
_TRAINED = ("colour-cell", "colour-counts")
_SAMPLES = {True: 4, False: 256}
_QUICK = ("steps=2", "schedule.stable=2", "prompts_per_step=2", "group_size=4")


def run(trial: Trial) -> dict[str, Measurement]:
    """Every stage of the nano network, then every arm from there."""
    start = fine_tuned(trial.shared, trial.seed, trial.say, quick=trial.quick, stage=TEXT_ONLY)
    arms = {BEFORE: trial.once(BEFORE, lambda: Measurement(_accuracies(start, quick=trial.quick)))}
    for arm in (VISUAL, RANDOM, TEXT):
        arms[arm] = trial.once(arm.replace(" ", "-"), partial(_train, trial, arm, start))
    return arms


def _train(trial: Trial, arm: str, start: Path) -> Measurement:
    changes = [f"environments={_environments(arm)}", *(_QUICK if trial.quick else ())]
    recipe = rl_recipe("nano/rl-visual", seed=trial.seed, start_from=start, changes=changes)
    folder = trial.folder / f"run-{arm.replace(' ', '-')}"
    records = train_policy(recipe, folder, trial.say)
    return Measurement(_accuracies(folder, quick=trial.quick), {"reward": curve(records, "reward")})


def _environments(arm: str) -> str:
    """The mixture of an arm, as TOML."""
    if arm == RANDOM:
        made = [f'{{name = "k25.rl.experiments:RandomReward", options = {{of = "task:{task}"}}}}' for task in _TRAINED]
    else:
        made = [f'{{name = "task:{task if arm == VISUAL else TWINS[task]}"}}' for task in _TRAINED]
    return f"[{', '.join(made)}]"


def _accuracies(run: Path, *, quick: bool) -> dict[str, float]:
    """Greedy answers to exercises that training does not ask: by task, and the means of pictures and of text."""
    names = [*TWINS, *TWINS.values()]
    found = accuracies(ask_checkpoint(run, names, samples=_SAMPLES[quick]))
    pictures, text = ([found[name] for name in group] for group in (TWINS, TWINS.values()))
    return {"pictures": sum(pictures) / len(pictures), "text twins": sum(text) / len(text), **found}


def judge(findings: Findings) -> Reading:
    """Pictures up, text not down, and both more than by the coin."""
    gain = {
        (arm, what): findings.mean(arm, what) - findings.mean(BEFORE, what)
        for arm in (VISUAL, RANDOM, TEXT)
        for what in ("pictures", "text twins")
    }
    ours = "; ".join(
        f"{arm}: pictures {gain[arm, 'pictures'] * 100:+.1f} points, text twins {gain[arm, 'text twins'] * 100:+.1f}"
        for arm in (VISUAL, RANDOM, TEXT)
    )
    each = zip(findings.every(VISUAL, "pictures"), findings.every(BEFORE, "pictures"), strict=True)
    return Reading(
        ours,
        (
            Check(
                "visual reinforcement learning raises accuracy on pictures, with every seed",
                all(a > b for a, b in each),
            ),
            Check("more than a random reward does", gain[VISUAL, "pictures"] > gain[RANDOM, "pictures"]),
            Check("the text twins do not suffer", gain[VISUAL, "text twins"] >= 0),
            Check("they gain more than by a random reward", gain[VISUAL, "text twins"] > gain[RANDOM, "text twins"]),
        ),
    )


CLAIM = Claim(
    name="visual-rl",
    says="Reinforcement learning on visual tasks lifts them from a start that was fine-tuned on text alone, and text "
    "gains too.",
    source="Kimi K2.5 report, arXiv 2602.02276, section 2.3",
    figure="text after visual RL: MMLU-Pro 84.7 to 86.4, GPQA-Diamond 84.3 to 86.4, LongBench v2 56.7 to 58.9",
    run=run,
    judge=judge,
    curves={"reward": Curve("update", "mean reward")},
    bars=("pictures", "text twins"),
    minutes=25,
)
