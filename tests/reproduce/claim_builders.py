"""A claim of two arms whose outcome is arithmetic."""

from k25.reproduce import Check, Claim, Curve, Findings, Measurement, Reading, Trial


def small_claim(ran: list[tuple[int, str]], *, fail_at: tuple[int, str] | None = None) -> Claim:
    """`ran` takes note of every (seed, arm) that is measured; at `fail_at` the user presses Ctrl-C."""

    def measure(trial: Trial, arm: str) -> Measurement:
        ran.append((trial.seed, arm))
        if (trial.seed, arm) == fail_at:
            raise KeyboardInterrupt
        height = trial.seed + (10 if arm == "after" else 0)
        return Measurement({"height": height, "width": 1.0}, {"growth": [(0, 0), (1, height)]})

    def run(trial: Trial) -> dict[str, Measurement]:
        return {arm: trial.once(arm, lambda arm=arm: measure(trial, arm)) for arm in ("before", "after")}

    def judge(findings: Findings) -> Reading:
        before, after = findings.mean("before", "height"), findings.mean("after", "height")
        return Reading(f"{before:g} to {after:g}", (Check("it <grows>", after > before), Check("it shrinks", False)))

    return Claim(
        name="small",
        says="It grows.",
        source="arithmetic",
        figure="by 9",
        run=run,
        judge=judge,
        curves={"growth": Curve("time", "height", level=5)},
    )
