"""Runs what is missing of a claim and keeps it: an interrupted run goes on, finished seeds are never run again.

    OUT/CLAIM/seed-N/       what the trial keeps: one JSON file per arm, and its runs
    OUT/CLAIM/seed-N.json   the finished trial
    OUT/CLAIM/findings.json, CLAIM.png, report.html

Quick trials have a folder of their own, OUT/CLAIM-quick, and so have those of other sizes than nano, OUT/CLAIM-SIZE.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k25.errors import InputError
from k25.reproduce.claim import NANO, Claim, Measurement, Trial, write_json
from k25.reproduce.findings import Findings
from k25.reproduce.page import draw, write_page


@dataclass(frozen=True)
class Reproduced:
    """A claim's findings and the files that show them."""

    findings: Findings
    plot: Path
    page: Path
    json_file: Path


def run_claim(
    claim: Claim,
    out: Path,
    *,
    seeds: int,
    first_seed: int = 0,
    quick: bool = False,
    size: str = NANO,
    say: Callable[[str], None] = lambda _: None,
) -> Reproduced:
    """Run so many seeds from `first_seed` on, those that are not finished, then draw all of them.

    Raises InputError for less than one seed, a negative one, a size without recipes, and where files of earlier starts
    are damaged.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give at least 1")
    if first_seed < 0:
        raise InputError(f"--first-seed {first_seed}: give 0 or more")
    if size not in claim.sizes:
        raise InputError(f"--size {size}: {claim.name} has recipes for {' and '.join(claim.sizes)} only")
    name = "-".join([claim.name, *([size] if size != NANO else []), *(["quick"] if quick else [])])
    folder = out / name
    trials = {}
    for seed in range(first_seed, first_seed + seeds):
        trials[seed] = _measured(claim, Trial(seed, quick, folder / f"seed-{seed}", out, size, _of_seed(say, seed)))
    findings = Findings(trials)
    json_file = folder / "findings.json"
    write_json(json_file, findings.to_json(claim) | {"quick": quick})
    plot = draw(claim, findings, folder / f"{name}.png")
    return Reproduced(findings, plot, write_page(claim, findings, plot, folder / "report.html", quick=quick), json_file)


def _of_seed(say: Callable[[str], None], seed: int) -> Callable[[str], None]:
    return lambda line: say(f"seed {seed}: {line}")


def _measured(claim: Claim, trial: Trial) -> dict[str, Measurement]:
    path = trial.folder.with_suffix(".json")
    if path.is_file():
        return _read(path)
    trial.folder.mkdir(parents=True, exist_ok=True)
    arms = claim.run(trial)
    write_json(path, {arm: measured.to_json() for arm, measured in arms.items()})
    return arms


def _read(path: Path) -> dict[str, Measurement]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {arm: Measurement.from_json(measured) for arm, measured in kept.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is not a trial of ours; remove it, and the seed is run again") from None
