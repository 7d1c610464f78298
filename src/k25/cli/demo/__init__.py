"""`k25 demo`: everything at work, in a few minutes on a laptop.

course      stages one after the other: what is left, what is kept
checkpoint, prompt, network, serving        the random nano network and the release
learning, questions, reinforcement          nano learns, and is asked what it has learnt
swarm                                       a swarm beside a single agent
summary, page                               the final table, report.html
"""

import os
import sys
from functools import partial
from pathlib import Path

from k25.cli.openmp import waiting_threads

os.environ.update(waiting_threads())  # read when torch is loaded

from rich.console import Console
from rich.markup import escape

from k25.cli.demo import checkpoint, learning, network, page, prompt, reinforcement, serving, summary, swarm
from k25.cli.demo.course import Place, Stage, StageFailed, run_stages
from k25.train.run import Interrupted, TrainingFailed

STAGES = (
    Stage("checkpoint", "A nano network in the released INT4 layout, written and read back", (2, 2), checkpoint.show,
          leaves=(f"{checkpoint.FOLDER}/config.json", f"{checkpoint.FOLDER}-again/config.json")),
    Stage("prompt", "A conversation with a picture and a video becomes a prompt", (3, 3), prompt.show,
          leaves=(f"{checkpoint.FOLDER}/tiktoken.model", prompt.CONVERSATION, prompt.PICTURE, prompt.VIDEO)),
    Stage("network", "The same stream through both forms of attention", (1, 1), network.show),
    Stage("serving", "An OpenAI-compatible API: a streamed turn, a forced tool call", (40, 40), serving.show),
    Stage("release", "The released model, counted without allocating it", (1, 1), checkpoint.inspect_release),
    Stage("vision", "Nano learns: a tokenizer, then captions", (30, 50), partial(learning.learn, "vision"),
          run="vision"),
    Stage("joint", "Nano learns: text with pictures", (125, 480), partial(learning.learn, "joint"), run="joint"),
    Stage("long-context", "Nano learns: long texts", (10, 35), partial(learning.learn, "long-context"),
          run="long-context"),
    Stage("sft", "Nano learns: conversations", (70, 200), partial(learning.learn, "sft"), run="sft"),
    Stage("answers", "Nano answers: texts, pictures, tools", (12, 12), learning.ask),
    Stage("rl", "Nano learns by reward", (30, 130), reinforcement.by_ability, run="rl"),
    Stage("parl-start", "An orchestrator and its sub-agents learn by imitation", (105, 330), reinforcement.imitate,
          run="parl/start"),
    Stage("parl", "The orchestrator's first updates of PARL", (105, 310), reinforcement.orchestrate, run="parl/run"),
    Stage("swarm", "A swarm beside a single agent, both scripted", (15, 15), swarm.show, leaves=swarm.LEAVES),
)  # fmt: skip


def main(*, out: Path = Path("runs/demo"), full: bool = False) -> None:
    """See everything at work: checkpoints, serving, nano trained from nothing, a swarm.

    It can be interrupted and run again: finished stages are kept, training goes on where it was.

    Args:
        out: Folder for the files that the demonstration makes.
        full: Train nano by its whole recipe instead of a shortened one.
    """
    place = Place(Console(highlight=False), out, full)
    out.mkdir(parents=True, exist_ok=True)
    try:
        measured = run_stages(STAGES, place)
    except (Interrupted, KeyboardInterrupt):
        print(f"\nstopped; the same command goes on where it was ({out})", file=sys.stderr)
        sys.exit(130)
    except (StageFailed, TrainingFailed) as failure:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(failure))}", soft_wrap=True)
        sys.exit(1)
    place.console.rule("[bold]What was measured", align="left")
    place.console.print(summary.schedule_text(place), soft_wrap=True)
    place.console.print()
    place.console.print(summary.table(summary.parts(measured)))
    place.console.print(f"\nWith curves and all files: {page.write_page(place, measured)}", soft_wrap=True)
    place.console.print("\nNext:")
    for command, purpose in summary.next_commands(place, measured):
        place.console.print(f"  {command}  [dim]# {purpose}[/]", soft_wrap=True)
