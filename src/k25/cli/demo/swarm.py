"""The demonstration's swarm: the same questions for one agent and for a swarm, in an offline world of real data."""

import shutil

from k25.cli import swarm_bench_run
from k25.cli.demo.course import Measured, Place, StageFailed
from k25.errors import InputError
from k25.swarm.bench import build_world
from k25.swarm.bench.packages import chosen
from k25.swarm.bench.results import RESULTS, Results, summary

WORLD = "swarm-world"
BENCH = "swarm-bench"
# A package of 1.4 MB: 118 chemical elements, each with a page of its own.
_PACKAGES = "mendeleev"


def show(place: Place) -> Measured | None:
    """Build a small world, run the bench with scripted models, print the comparison, name the report."""
    console, world, bench = place.console, place.out / WORLD, place.out / BENCH
    console.print(f"k25 swarm bench build --world {world} --packages {_PACKAGES}", style="dim", soft_wrap=True)
    try:
        built = build_world(world, chosen(_PACKAGES))
    except InputError as error:
        console.print(f"Left out, since the world's data cannot be had here: {error}", markup=False, soft_wrap=True)
        return None
    console.print(f"{built.manifest['pages']} pages about chemical elements; the whole world has 47,699.")
    built.close()
    shutil.rmtree(bench, ignore_errors=True)
    options = swarm_bench_run.RunOptions(scripted=True, kinds="wide,wide-read", questions=1, model_latency=0.1)
    command = f"k25 swarm bench run --world {world} --out {bench} --scripted --kinds {options.kinds} --questions 1"
    console.print(f"{command} --model-latency {options.model_latency}", style="dim", soft_wrap=True)
    if swarm_bench_run.run(world, bench, options, console):
        raise StageFailed("a run of the bench ended without its model")
    means = {row["mode"]: row for row in summary(Results.load(bench).rows) if row["kind"] == "all"}
    example = min((bench / "runs").glob("*/swarm"))
    return {"means": means, "example": str(example.relative_to(place.out))}


LEAVES = (f"{WORLD}/world.sqlite", f"{BENCH}/{RESULTS}", f"{BENCH}/report.html")
