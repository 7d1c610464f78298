"""`k25 doctor`: what this machine can do with K25, and how to get the rest. Exit code 0: it only reports."""

import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from k25 import __version__
from k25.agent.sandbox.sandbox import bubblewrap_problem
from k25.agent.tools.browser_pool import find_chromium

State = Literal["yes", "partly", "no"]

# What each extra of the distribution is for.
EXTRAS = {
    "media": "pictures and videos",
    "model": "the network, its checkpoints, plans",
    "tokenizer": "training tokenizers",
    "serve": "the engine's server and its page",
    "train": "pre-training, fine-tuning, reinforcement learning",
    "agent": "browser, Python, PDF and MCP tools of agents",
    "hub": "checkpoints from the Hugging Face hub",
    "parquet": "training data in parquet files",
    "reasoning-gym": "its exercises as tasks",
    "verifiers": "its environments for reinforcement learning",
}

# A line of the distribution's metadata that belongs to an extra: `k25[media,model]>=1; extra == "train"`.
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<inner>[\w,-]+)\])?.*;.*extra == ['\"](?P<extra>[\w-]+)['\"]")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` says how to get what is missing; empty where nothing is."""

    topic: str
    state: State
    found: str
    remedy: str = ""


def main(*, json_: Annotated[bool, Parameter(name="--json", help="Print one object for machines.")] = False) -> None:
    """Say what this machine can do (extras, torch, GPU, kernels, sandbox, browser, memory) and how to get the rest."""
    findings = list(findings_here())
    if json_:
        print(json.dumps({"k25": __version__, "findings": [asdict(each) for each in findings]}, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    colours = {"yes": "green", "partly": "yellow", "no": "red"}
    for each in findings:
        remedy = f"\n-> {each.remedy}" if each.remedy else ""
        table.add_row(f"[{colours[each.state]}]{each.state}[/]", escape(each.topic), escape(each.found + remedy))
    console = Console(highlight=False)
    console.print(f"K25 {__version__} on this machine\n", style="bold")
    console.print(table)


def findings_here() -> Iterator[Finding]:
    """Everything in the order in which a newcomer needs it."""
    yield _machine()
    yield from _extras()
    if importlib.util.find_spec("torch"):
        yield _torch()
        yield _kernels()
    problem = bubblewrap_problem()
    yield (
        Finding("sandbox for programs", "no", problem, "see docs/security.md")
        if problem
        else Finding("sandbox for programs", "yes", "bubblewrap")
    )
    browser = find_chromium()
    yield (
        Finding("browser for agents", "yes", browser)
        if browser
        else Finding(
            "browser for agents", "no", "no Chromium; pages are fetched without one", "install the package chromium"
        )
    )
    for name, package in (("vLLM", "vllm"), ("SGLang", "sglang")):
        here = shutil.which(package) is not None or importlib.util.find_spec(package) is not None
        yield Finding(
            f"{name} as an engine",
            "yes" if here else "no",
            "installed" if here else f"`k25 serve --engine {package}` prints the command for another machine",
            "" if here else f"pip install {package}, on a machine with GPUs",
        )


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"Python {platform.python_version()}, {cores} cores, {memory:.0f} GB memory, {disk:.0f} GB free here"
    enough = memory >= 4 and disk >= 4
    return Finding("machine", "yes" if enough else "partly", found, "" if enough else "4 GB of each for the demo")


def _extras() -> Iterator[Finding]:
    for extra, purpose in EXTRAS.items():
        missing = missing_packages(extra)
        yield Finding(
            f"k25[{extra}]",
            "no" if missing else "yes",
            purpose if not missing else f"{purpose}; missing: {', '.join(missing)}",
            f"pip install 'k25[{extra}]'" if missing else "",
        )


def missing_packages(extra: str) -> list[str]:
    """The distributions that an extra asks for, those of the extras that it includes too, and that are not there."""
    missing: list[str] = []
    for line in requires("k25") or ():
        wanted = _REQUIREMENT.match(line)
        if wanted is None or wanted["extra"] != extra:
            continue
        if wanted["name"] == "k25":
            found = [name for inner in wanted["inner"].split(",") for name in missing_packages(inner)]
        else:
            found = [] if _is_installed(wanted["name"]) else [wanted["name"]]
        missing += [name for name in found if name not in missing]
    return missing


def _is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _torch() -> Finding:
    import torch

    from k25.model.precision import multiplies_bfloat16

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("torch", "yes", f"{torch.__version__} with {', '.join(names)}")
    remedy = "" if sys.platform == "darwin" else "a CUDA build of torch, on a machine with a GPU"
    bfloat16 = "fast" if multiplies_bfloat16(torch.device("cpu")) else "slow: train in float32"
    found = f"{torch.__version__}, no GPU; threads: {torch.get_num_threads()}; bfloat16 products: {bfloat16}"
    return Finding("torch", "partly", found, remedy)


def _kernels() -> Finding:
    from k25.kernels import available

    here = available()
    if here.variant == "torch":
        return Finding("compiled CPU kernels", "no", f"torch's operators run instead: {here.reason}", "install g++")
    return Finding("compiled CPU kernels", "yes", f"{here.variant} of {', '.join(here.variants)}")
