"""The policy objective with its mask, with PPO's, and without one (Kimi K2.5 report, arXiv 2602.02276, section 4.4.2).

The start has imitated demonstrations of sorting of which most are wrong (`k25.rl.experiments.mixed_demonstrations`), so
that it can sort and mostly does not. Every arm makes ten updates. In `on-policy` each has rollouts of its own, every
ratio is 1, and all masks are the same; the others make two updates from each set of rollouts: in the second, tokens are
off-policy, which is where masks differ.
"""

from functools import partial
from pathlib import Path

from k25.reproduce.claim import Check, Claim, Curve, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.rl_runs import curve, evaluate, rl_recipe, train_policy
from k25.reproduce.stages import nano_tokenizer, recipe_of, shortened, train_stage
from k25.rl.experiments import write_mixed_demonstrations
from k25.rl.task_environment import TaskEnvironment
from k25.train.start import EXPORT

ON_POLICY, OURS, PPO, NO_MASK = "on-policy", "mask", "PPO", "no mask"
_ARMS = {
    ON_POLICY: [],
    OURS: ["push_every=2"],
    PPO: ["push_every=2", 'objective.mask="ppo"'],
    NO_MASK: ["push_every=2", 'objective.mask="none"'],
}
_TASK, _DIFFICULTY, _MAX_TOKENS = "sort", 3, 64
_DEMONSTRATIONS, _RIGHT = 12_000, 0.1
_WANTED = 0.55
_QUICK_SHARE, _QUICK_CHANGES = 0.1, ("steps=2", "schedule.stable=2", "prompts_per_step=8", "group_size=4")


def run(trial: Trial) -> dict[str, Measurement]:
    """Imitation, then every arm from there."""
    start = sort_start(trial)
    arms = {"start": trial.once("start", lambda: Measurement({"accuracy": _accuracy(start, quick=trial.quick)}))}
    for arm in _ARMS:
        arms[arm] = trial.once(arm.replace(" ", "-"), partial(_train, trial, arm, start))
    return arms


def sort_start(trial: Trial) -> Path:
    """The run of the imitation; what is there is kept."""
    demonstrations = trial.folder / "demonstrations.jsonl"
    if not demonstrations.is_file():
        write_mixed_demonstrations(
            demonstrations, _TASK, _DEMONSTRATIONS, difficulty=_DIFFICULTY, right=_RIGHT, seed=trial.seed
        )
    tokenizer = nano_tokenizer(trial.shared / "tokenizer")
    changes = [f'data.sources.demonstrations.path="{demonstrations}"']
    recipe = recipe_of("nano/rl-sort-start", seed=trial.seed, tokenizer=tokenizer, changes=changes)
    return train_stage(shortened(recipe, _QUICK_SHARE if trial.quick else 1), trial.folder / "start", trial.say)


def _train(trial: Trial, arm: str, start: Path) -> Measurement:
    changes = [*_ARMS[arm], *(_QUICK_CHANGES if trial.quick else ())]
    recipe = rl_recipe("nano/rl-sort", seed=trial.seed, start_from=start, changes=changes)
    folder = trial.folder / f"run-{arm.replace(' ', '-')}"
    records = train_policy(recipe, folder, trial.say)
    numbers = {
        "accuracy": _accuracy(folder, quick=trial.quick),
        "masked share": _mean(curve(records, "masked_share")),
        "largest mismatch at zero updates": max(y for _, y in curve(records, "mismatch_max")),
    }
    return Measurement(numbers, {"reward": curve(records, "reward"), "masked share": curve(records, "masked_share")})


def _accuracy(run: Path, *, quick: bool) -> float:
    """On exercises that training does not ask, sampled as in training."""
    prompts = 16 if quick else 512
    sort = TaskEnvironment(_TASK, _DIFFICULTY)
    return evaluate(run / EXPORT, [sort], prompts=prompts, group_size=2, max_tokens=_MAX_TOKENS)[_TASK].reward


def _mean(points: list[tuple[float, float]]) -> float:
    return sum(y for _, y in points) / len(points)


def judge(findings: Findings) -> Reading:
    """The start's and the arms' accuracy; the threshold is for updates on-policy, with every seed."""
    start = findings.mean("start", "accuracy")
    mean = {arm: findings.mean(arm, "accuracy") for arm in _ARMS}
    worst = min(findings.every(ON_POLICY, "accuracy"))
    ours = f"from {start:.0%} to " + ", ".join(f"{mean[arm]:.0%} ({arm})" for arm in _ARMS)
    return Reading(
        ours,
        (
            Check(f"ten updates lift accuracy to at least {_WANTED:.0%}, with every seed", worst >= _WANTED),
            Check("off-policy, the mask does at least as well as PPO's clip", mean[OURS] >= mean[PPO]),
            Check("and as no mask", mean[OURS] >= mean[NO_MASK]),
        ),
    )


CLAIM = Claim(
    name="policy-optimisation",
    says="Policy gradients on the group's rewards, with tokens masked whose ratio left an interval, lift a task.",
    source="Kimi K2.5 report, arXiv 2602.02276, section 4.4.2",
    figure="no comparison of masks is published",
    run=run,
    judge=judge,
    curves={
        "reward": Curve("update", "share of right answers", level=_WANTED),
        "masked share": Curve("update", "share of tokens"),
    },
    bars=("accuracy",),
    minutes=2.5,
)
