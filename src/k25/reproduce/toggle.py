"""Toggle against no budget and against a rigid one (Kimi K2.5 report, arXiv 2602.02276, section 4.4.2, equation 2).

Lamps are looked at through clear air or fog (`k25.rl.experiments.lamp`): in fog every further look pays, in clear air
one is enough, and a look costs eight tokens. All arms start from the same imitation, which looks too often in clear air
and too seldom in fog. The rigid budget is the same gate in every update and at any accuracy.
"""

from functools import partial
from pathlib import Path

from k25.reproduce.claim import NANO, SMALL, Check, Claim, Curve, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.rl_runs import Evaluated, curve, evaluate, rl_recipe, train_policy
from k25.reproduce.stages import shortened, train_stage
from k25.rl.experiments import Lamp, write_demonstrations
from k25.train.recipe import load_recipe
from k25.train.start import EXPORT
from k25.train.tokenizer_recipe import TokenizerRecipe, train_from_recipe

NO_BUDGET, TOGGLE, RIGID = "no budget", "toggle", "rigid budget"
_ARMS = {
    NO_BUDGET: [],
    TOGGLE: ["toggle.period=2"],
    RIGID: ["toggle.period=2", "toggle.always=true", "toggle.accuracy=0.0"],
}
_VOCABULARY, _DEMONSTRATIONS = 1280, 10_000
_MAX_TOKENS = 150
# Of a quick trial: share of the imitation, updates, prompts in an update.
_QUICK_SHARE, _QUICK_CHANGES = 0.05, ("steps=2", "schedule.stable=2", "prompts_per_step=4", "group_size=4")


def run(trial: Trial) -> dict[str, Measurement]:
    """Imitation, then every arm from there."""
    start = lamp_start(trial)
    arms = {"start": trial.once("start", lambda: _measured(start, [], quick=trial.quick))}
    for arm in _ARMS:
        arms[arm] = trial.once(arm.replace(" ", "-"), partial(_train, trial, arm, start))
    return arms


def lamp_start(trial: Trial) -> Path:
    """The run of the imitation, with its tokenizer and demonstrations; what is there is kept."""
    home = trial.folder
    demonstrations, tokenizer = home / "demonstrations.jsonl", home / "tokenizer"
    if not tokenizer.is_dir():
        write_demonstrations(demonstrations, _DEMONSTRATIONS, trial.seed)
        train_from_recipe(TokenizerRecipe(vocabulary_size=_VOCABULARY, files=(demonstrations,))).save(tokenizer)
    paths = [f'tokenizer="{tokenizer}"', f'data.sources.demonstrations.path="{demonstrations}"']
    seeds = [f"data.seed={trial.seed}", f"model.seed={trial.seed}"]
    recipe = load_recipe(f"{trial.size}/rl-lamp-start", [*paths, *seeds])
    return train_stage(shortened(recipe, _QUICK_SHARE if trial.quick else 1), home / "start", trial.say)


def _train(trial: Trial, arm: str, start: Path) -> Measurement:
    changes = [*_ARMS[arm], *(_QUICK_CHANGES if trial.quick else ())]
    recipe = rl_recipe(f"{trial.size}/rl-lamp", seed=trial.seed, start_from=start, changes=changes)
    folder = trial.folder / f"run-{arm.replace(' ', '-')}"
    records = train_policy(recipe, folder, trial.say)
    return _measured(folder, records, quick=trial.quick)


def _measured(run: Path, records: list[dict[str, object]], *, quick: bool) -> Measurement:
    clear, fog = Lamp(fog=False), Lamp(fog=True)
    size = 2 if quick else 64
    found = evaluate(run / EXPORT, [clear, fog], prompts=8, group_size=size, max_tokens=_MAX_TOKENS)
    numbers = {
        "accuracy": _both(found, "reward"),
        "accuracy in clear air": found[clear.name].reward,
        "accuracy in fog": found[fog.name].reward,
        "tokens": _both(found, "tokens"),
        "tokens in clear air": found[clear.name].tokens,
        "tokens in fog": found[fog.name].tokens,
        "looks in clear air": found[clear.name].metrics.get(f"looks_{clear.name}", 0.0),
        "looks in fog": found[fog.name].metrics.get(f"looks_{fog.name}", 0.0),
    }
    curves = {
        "accuracy in fog": curve(records, fog.name, "reward_by_environment"),
        "looks in fog": curve(records, f"looks_{fog.name}", "environment_metrics"),
        "looks in clear air": curve(records, f"looks_{clear.name}", "environment_metrics"),
    }
    return Measurement(numbers, curves)


def _both(found: dict[str, Evaluated], name: str) -> float:
    return sum(float(getattr(each, name)) for each in found.values()) / len(found)


def judge(findings: Findings) -> Reading:
    """Tokens and accuracy against the run without a budget; accuracy in fog against the rigid one."""
    tokens = {arm: findings.mean(arm, "tokens") for arm in _ARMS}
    accuracy = {arm: findings.mean(arm, "accuracy") for arm in _ARMS}
    in_fog = {arm: findings.mean(arm, "accuracy in fog") for arm in _ARMS}
    saved = 1 - tokens[TOGGLE] / tokens[NO_BUDGET]
    lost = accuracy[NO_BUDGET] - accuracy[TOGGLE]
    rigid_lost = in_fog[NO_BUDGET] - in_fog[RIGID]
    each = zip(findings.every(NO_BUDGET, "accuracy in fog"), findings.every(RIGID, "accuracy in fog"), strict=True)
    ours = (
        f"{saved:.0%} fewer tokens than without a budget at {-lost * 100:+.1f} points of accuracy; in fog Toggle "
        f"{in_fog[TOGGLE]:.0%}, rigid budget {in_fog[RIGID]:.0%}, no budget {in_fog[NO_BUDGET]:.0%}"
    )
    return Reading(
        ours,
        (
            Check("at least 10 % fewer tokens than an equally long run without a budget", saved >= 0.1),
            Check("accuracy within 2 points of it", lost <= 0.02),
            Check(
                f"a rigid budget loses in fog ({rigid_lost * 100:.0f} points), with every seed",
                all(a > b for a, b in each),
            ),
            Check("Toggle loses at most 2 points in fog", in_fog[NO_BUDGET] - in_fog[TOGGLE] <= 0.02),
        ),
    )


CLAIM = Claim(
    name="toggle",
    says="Alternating between a token budget and none saves tokens at no cost in accuracy; a rigid budget costs the "
    "ability to think longer where it helps.",
    source="Kimi K2.5 report, arXiv 2602.02276, section 4.4.2",
    figure="25 to 30 % fewer tokens with a negligible loss (on K2 Thinking)",
    run=run,
    judge=judge,
    curves={
        "accuracy in fog": Curve("update", "share of right answers"),
        "looks in fog": Curve("update", "looks per lamp"),
        "looks in clear air": Curve("update", "looks per lamp"),
    },
    bars=("tokens in clear air", "tokens in fog"),
    minutes=8,
    sizes=(NANO, SMALL),
)
