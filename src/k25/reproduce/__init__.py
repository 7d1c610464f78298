"""The report's claims, each in miniature: one module per claim, one command to run it.

    k25 reproduce                      # what can be run
    k25 reproduce muon-vs-adamw        # run it: the report's figure, ours, a table, a plot

| file | what |
|---|---|
| `claim` | what a claim is, and what its trials measure |
| `registry` | the table of claims |
| `runner` | runs the seeds that are missing, keeps each as a file |
| `findings` | all seeds together: means and spread |
| `page` | the plot and the page |
| `stages`, `exercises` | stages of training and task suites, as claims use them |
| everything else | the claims |

**To add a claim**, write a module `my_claim.py` here that ends in a `CLAIM`, and put its name into `registry.CLAIMS`:

    def run(trial: Trial) -> dict[str, Measurement]:
        arms = {}
        for arm in ("with", "without"):
            # `once` keeps what it was given, so that an interrupted trial goes on with the next arm.
            arms[arm] = trial.once(arm, partial(measure, arm, trial.seed, steps=20 if trial.quick else 400))
        return arms

    def measure(arm: str, seed: int, steps: int) -> Measurement:
        ...
        return Measurement({"accuracy": 0.9}, {"reward": [(step, reward), ...]})

    def judge(findings: Findings) -> Reading:
        with_, without = findings.mean("with", "accuracy"), findings.mean("without", "accuracy")
        return Reading(f"{with_:.0%} with, {without:.0%} without", (Check("it helps", with_ > without),))

    CLAIM = Claim(
        name="my-claim",
        says="It helps.",
        source="Kimi K2.5 report, arXiv 2602.02276, section 4.2",
        figure="+3 points",
        run=run,
        judge=judge,
        curves={"reward": Curve("step", "mean reward")},
        minutes=5,
    )

A trial is one seed with every arm that is compared: a pure function of (seed, quick) as far as the machine allows.
`trial.folder` is its own, `trial.shared` is common to all claims of one output folder. Heavy imports are fine.
"""

from k25.reproduce.claim import Check, Claim, Curve, Measurement, Reading, Trial
from k25.reproduce.findings import Findings
from k25.reproduce.registry import CLAIMS, find_claim
from k25.reproduce.runner import run_claim

__all__ = [
    "CLAIMS",
    "Check",
    "Claim",
    "Curve",
    "Findings",
    "Measurement",
    "Reading",
    "Trial",
    "find_claim",
    "run_claim",
]
