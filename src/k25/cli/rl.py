"""`k25 rl`: reinforcement learning from a recipe, and watching it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

# Waiting threads must sleep, not spin: on a busy machine spinning costs most of the speed. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from k25.rl.recipe import RLRecipe

app = App(name="rl", help="Reinforcement learning: train a policy in environments, and watch it learn.")
app.command("k25.cli.rl_watch:watch", name="watch", help="Show a run in the terminal or in the browser.")
app.command("k25.cli.rl_export:export_rft", name="export-rft", help="Write good rollouts as fine-tuning data.")
app.command("k25.cli.rl_judge:calibrate_judge", name="calibrate-judge", help="Fit a judge to answers of known worth.")


@app.default
def train(
    recipe: str,
    /,
    *,
    out: Path | None = None,
    start_from: Annotated[str | None, Parameter(name=["--from"])] = None,
    set_: Annotated[list[str] | None, Parameter(name=["--set"])] = None,
) -> None:
    """Train a policy by reinforcement learning from a recipe.

    Run it again to continue where it stopped. Under torchrun all processes train together:
    torchrun --nproc-per-node 8 -m k25 rl RECIPE

    Args:
        recipe: A recipe file, or the name of one that comes with K25, such as nano/rl.
        out: Folder of the run [runs/RECIPE].
        start_from: A run or a checkpoint whose weights it starts from; takes the place of the recipe's own.
        set_: Change a value of the recipe: --set optimizer.muon_lr=1e-3; can be repeated.
    """
    from k25.rl.recipe import load_rl_recipe
    from k25.train.run import Interrupted, TrainingFailed

    chosen = [*(set_ or []), *([f'model.start_from="{start_from}"'] if start_from else [])]
    loaded = load_rl_recipe(recipe, chosen)
    folder = out or Path("runs") / Path(recipe).with_suffix("")
    console = Console(highlight=False)
    try:
        train_in(loaded, folder, console)
    except Interrupted as stopped:
        console.print(str(stopped), soft_wrap=True)
        sys.exit(130)
    except TrainingFailed as failure:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(failure))}", soft_wrap=True)
        sys.exit(1)


def train_in(recipe: "RLRecipe", folder: Path, console: Console) -> None:
    """Train one recipe to its end in `folder`. Raises as `k25.rl.trainer.RLTrainer.fit` does."""
    from k25.cli.rl_display import RLDisplay
    from k25.rl.metrics import ROLLOUTS
    from k25.rl.trainer import RLTrainer
    from k25.train.parallel.ranks import ranks
    from k25.train.report import FILE_NAME as REPORT
    from k25.train.start import EXPORT

    title = folder.name if folder.name == recipe.stage else f"{folder.name} ({recipe.stage})"
    with ranks(recipe.parallel) as here:
        console.quiet = not here.first
        with RLDisplay(console, title, recipe.steps) as display:
            trainer = RLTrainer(recipe, folder, here, watchers=[display])
            if trainer.state.step:
                console.print(f"continuing after step {trainer.state.step} of {recipe.steps}")
            trainer.fit()
    places = f"Weights: {folder / EXPORT}   curves: {folder / REPORT}   conversations: {folder / ROLLOUTS}"
    console.print(places, soft_wrap=True)
