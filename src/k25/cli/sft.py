"""`k25 sft`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from k25.cli.dry_run import DryRunOptions
from k25.cli.train_run import run_stage


def main(
    recipe: str,
    /,
    *,
    out: Path | None = None,
    start_from: Annotated[str | None, Parameter(name=["--from"])] = None,
    set_: Annotated[list[str] | None, Parameter(name=["--set"])] = None,
    trial: DryRunOptions | None = None,
) -> None:
    """Fine-tune on conversations from a recipe.

    Run it again to continue where it stopped. Under torchrun all processes train together:
    torchrun --nproc-per-node 8 -m k25 sft RECIPE

    Args:
        recipe: A recipe file, or the name of one that comes with K25, such as nano/joint.
        out: Folder of the run [runs/RECIPE].
        start_from: A run or a checkpoint whose weights it starts from; takes the place of the recipe's own.
        set_: Change a value of the recipe: --set optimizer.muon_lr=1e-3; can be repeated.
    """
    run_stage(recipe, ("sft",), run=out, start_from=start_from, overrides=set_ or [], trial=trial)
