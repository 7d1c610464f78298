"""`k25 demo`: everything that is built so far, shown in a few minutes on a laptop.

Each stage is a function in a module of this folder; it prints what it does and leaves its files in the demo's folder.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Waiting threads must sleep, not spin: on a busy machine spinning costs most of the speed. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.console import Console

from k25.cli.demo import checkpoint, learning, network, prompt, reinforcement, serving, swarm

Stage = Callable[[Console, Path], None]

_STAGES: dict[str, Stage] = {
    "A nano network, written in the released INT4 layout and read back": checkpoint.show,
    "A conversation with a picture and a video becomes a prompt": prompt.show,
    "The same stream through both forms of attention": network.show,
    "The network behind an OpenAI-compatible API: a streamed turn and a forced tool call": serving.show,
    "The released model, counted without allocating it": checkpoint.inspect_release,
}
_LEARNING = "Nano learns: tokenizer, captions, text with pictures, long texts, text-only fine-tuning; then it answers"
_REINFORCEMENT = "Nano learns by reward; an orchestrator of sub-agents makes its first updates (PARL)"
_SWARM = "A swarm beside a single agent, both scripted, in an offline world of real data"


def main(*, out: Path = Path("runs/demo"), full: bool = False) -> None:
    """Run the demonstration of everything that is built so far.

    It can be interrupted and run again: finished training is kept, the rest is made anew.

    Args:
        out: Folder for the files that the demonstration makes.
        full: Train nano by its whole recipe instead of a shortened one.
    """
    stages: dict[str, Stage] = {
        **_STAGES,
        _LEARNING: partial(learning.show, full=full),
        _REINFORCEMENT: partial(reinforcement.show, full=full),
        _SWARM: swarm.show,
    }
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for number, (title, stage) in enumerate(stages.items(), start=1):
        console.rule(f"[bold]{number}/{len(stages)}  {title}", align="left")
        stage(console, out)
        console.print()
    console.print(f"Finished in {time.perf_counter() - start:.0f} s; files are in {out}/.")
    home = out / ("nano" if full else "nano-short") / "sft"
    console.print(f"Next: k25 chat {home / 'model'}, k25 eval {home}, k25 swarm --help", soft_wrap=True)
