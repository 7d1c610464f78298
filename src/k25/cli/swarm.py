"""`k25 swarm`: run a swarm on a question; take up, replay, look at, export and prune earlier runs.

Exit codes: 0 answered, 1 the run or the comparison failed, 2 wrong input, 130 stopped by the user.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from k25.cli.swarm_run import Options, resume_run, start_run
from k25.errors import InputError

app = App(name="swarm", help="Split a task among sub-agents of any OpenAI-compatible model; resume and inspect runs.")
app.command("k25.cli.swarm_bench:app", name="bench", help="Questions of known answers about an offline world.")
app.command("k25.cli.swarm_page:main", name="page", help="Show a run in the browser.")

_Run = Annotated[Path, Parameter(name="RUN", show_default=False)]


@app.default
def main(
    question: str,
    /,
    *,
    page: int | None = None,
    options: Annotated[Options | None, Parameter(name="*")] = None,
) -> None:
    """Run a swarm on a question. The answer goes to standard output, everything else to standard error.

    The key comes from the environment: MOONSHOT_API_KEY or KIMI_API_KEY for Moonshot's hosts, OPENAI_API_KEY for other
    servers over https or on this machine. Ctrl-C stops the run; it can be taken up with `k25 swarm resume`.

    Args:
        question: The task. "-" reads it from standard input.
        page: Port of 127.0.0.1 to serve the run's page at while it goes on; 0 takes a free one.
        options: See below.
    """
    sys.exit(start_run(sys.stdin.read() if question == "-" else question, options or Options(), page=page))


@app.command
def resume(run: _Run, /, *, page: int | None = None, plain: bool = False) -> None:
    """Take up an interrupted run: finished calls are not made again.

    Args:
        run: Folder of the run.
        page: Port of 127.0.0.1 to serve the run's page at while it goes on; 0 takes a free one.
        plain: Print lines instead of the live view.
    """
    sys.exit(resume_run(run, page=page, plain=plain))


@app.command
def replay(run: _Run, /) -> None:
    """Run a finished run again from its record alone, without model, tools or network, and compare every byte.

    Args:
        run: Folder of the run.
    """
    from k25.swarm.replay import replay as run_again

    report = asyncio.run(run_again(run))
    print(report.text)
    said = f"{report.agents} agents, {report.messages} messages"
    for name in report.skipped:
        print(f"not run again (cut off from outside): {name}", file=sys.stderr)
    for difference in report.differences:
        print(f"difference: {difference}", file=sys.stderr)
    print(f"{said}: {'different' if report.differences else 'equal byte for byte'}", file=sys.stderr)
    sys.exit(1 if report.differences else 0)


@app.command
def show(run: _Run, /, *, agent: str | None = None, follow: bool = False) -> None:
    """Show a run: its agents as a tree, what it used, its critical path, what went wrong; or one conversation.

    Args:
        run: Folder of the run.
        agent: Id of an agent, whose conversation is shown.
        follow: Keep showing a run that is under way, until it ends.
    """
    from k25.cli.swarm_show import follow_run, show_conversation, show_run

    if agent is not None:
        show_conversation(run, agent)
    elif follow:
        follow_run(run)
    else:
        show_run(run)


@app.command
def export(
    run: _Run,
    /,
    *,
    to: Literal["json", "verifiers", "otlp"] = "json",
    out: Path | None = None,
    content: bool = False,
) -> None:
    """Write a run as one JSON object, as rollouts of the library verifiers (JSON lines), or as OpenTelemetry spans.

    Args:
        run: Folder of the run.
        to: The form; otlp is the JSON form of OTLP with the semantic conventions for generative AI.
        out: File to write [standard output].
        content: In otlp, include what was said, and arguments and results of tools.
    """
    from k25.swarm import RunFolder, RunState
    from k25.swarm.export import as_json, verifiers_rows
    from k25.swarm.spans import otlp_json

    with RunFolder(run).reader() as reader:
        state = RunState.read(reader)
        if to == "verifiers":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in verifiers_rows(state, reader))
        else:
            whole = as_json(state, reader) if to == "json" else otlp_json(state, reader, content=content)
            text = json.dumps(whole, ensure_ascii=False) + "\n"
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); name another file") from None


@app.command
def cancel(run: _Run, agent: str, /, *, reason: str = "the user cancelled it") -> None:
    """Cancel one agent of a run that is under way, and everything that it started; whoever started it is told.

    Args:
        run: Folder of the run.
        agent: Id of the agent, as `k25 swarm show` prints it.
        reason: What the one who started it is told.
    """
    from k25.swarm import RunFolder
    from k25.swarm.control import ask_to_cancel

    ask_to_cancel(RunFolder(run), agent, reason)
    print(f"asked the run to cancel {agent}")
