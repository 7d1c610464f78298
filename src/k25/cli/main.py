"""`k25`: the table of commands and the one place where errors become messages and exit codes.

Exit codes: 0 success, 1 the work itself failed, 2 wrong input (arguments, files, configuration), 130 interrupted.
"""

import os
import sys

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.markup import escape

from k25 import __version__
from k25.errors import InputError

app = App(
    name="k25",
    help="The whole Kimi K2.5 system: model, checkpoints, chat, serving, training and Agent Swarm.",
    version=__version__,
    # Switches are off unless given; a second spelling for "off" would only lengthen the help.
    default_parameter=Parameter(negative=()),
)

# A command with sub-commands of its own is a table named `app`; the others are functions named `main`.
GROUPS = {"data", "rl", "swarm", "tokenizer"}

for name, summary in {
    "demo": "See everything at work: checkpoints, serving, nano trained from nothing, a swarm.",
    "doctor": "Say what this machine can do, and how to get the rest.",
    "inspect": "Show what a checkpoint or a preset consists of: parts, shapes, parameters, bytes.",
    "convert": "Convert a checkpoint: bf16 to INT4 and back, transformers-native to released layout.",
    "plan": "Say whether a model fits on given devices, for serving and for training.",
    "render": "Print the exact prompt that a conversation becomes.",
    "tokens": "Count the tokens of texts, images and videos.",
    "serve": "Serve a checkpoint or a preset behind an OpenAI-compatible API.",
    "data": "Look at training data and exercises.",
    "tokenizer": "Train a tokenizer in the released format.",
    "pretrain": "Train a pre-training stage (vision, joint or long-context) from a recipe.",
    "sft": "Fine-tune on conversations from a recipe.",
    "rl": "Train a policy by reinforcement learning, and watch it.",
    "eval": "Measure a checkpoint or a server on tasks with exact answers.",
    "reproduce": "Try a claim of the report in miniature: table, plot, spread over seeds.",
    "swarm": "Split a task among sub-agents of any OpenAI-compatible model; resume and inspect runs.",
    "mcp": "Serve the swarm to any client of the Model Context Protocol.",
    "chat": "Chat in the terminal with a server or a local checkpoint.",
}.items():
    target = "app" if name in GROUPS else "main"
    app.command(f"k25.cli.{name}:{target}", name=name, help=summary)

app.register_install_completion_command()

# What a command needs all in all, so that nobody installs one missing library after the other.
EXTRA_FOR = dict.fromkeys(("pretrain", "sft", "rl", "reproduce"), "train") | {"serve": "serve", "demo": "serve,train"}

# For the other commands: libraries that come with an extra of the distribution.
EXTRA_OF = {
    "av": "media",
    "numpy": "media",
    "PIL": "media",
    "torch": "model",
    "tokenizers": "tokenizer",
    "tensorboard": "train",
    "tomli_w": "train",
    "matplotlib": "train",
} | dict.fromkeys(("fastapi", "llguidance", "multipart", "prometheus_client", "uvicorn"), "serve")


def run() -> None:
    """Entry point of the `k25` program."""
    try:
        app(print_error=False, exit_on_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        command = " ".join(("k25", *(error.command_chain or ())))
        _print_error(f"{str(error).rstrip('.')}; `{command} --help` says what there is")
        sys.exit(2)
    except InputError as error:
        _print_error(str(error))
        sys.exit(2)
    except ImportError as error:
        # The command line's library wraps what went wrong while it imported a command.
        origin = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        missing = origin.name or ""
        extra = EXTRA_OF.get(missing.partition(".")[0])
        if extra is None:
            raise
        extra = EXTRA_FOR.get(sys.argv[1] if len(sys.argv) > 1 else "", extra)
        _print_error(f"this command needs {missing}, which is not installed: pip install 'k25[{extra}]'")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe has enough; the interpreter must not try to flush into it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # "file: reason" in place of "[Errno 2] reason: 'file'".
        _print_error(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_error(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")
