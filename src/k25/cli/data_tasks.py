"""`k25 data tasks`: which tasks there are, with an example of each, or the samples of one task."""

import json
from typing import Annotated

from cyclopts import Parameter

from k25.errors import InputError
from k25.tasks import Sample, get_task, plain_text, task_names


def main(
    name: Annotated[str | None, Parameter(help="Show samples of this task [all tasks, one example each].")] = None,
    /,
    *,
    difficulty: Annotated[int, Parameter(help="1 is the easiest.")] = 1,
    seed: Annotated[int, Parameter(help="Which stream of exercises.")] = 0,
    count: Annotated[int, Parameter(help="How many samples of the named task.")] = 3,
    json_lines: Annotated[bool, Parameter(name="--json", help="One JSON object per sample.")] = False,
    table: Annotated[bool, Parameter(help="A Markdown table of all tasks.")] = False,
) -> None:
    """Show the procedural tasks."""
    if name is None:
        if difficulty != 1 or json_lines:
            raise InputError("--difficulty and --json need the name of a task, such as `k25 data tasks add`")
        print(markdown_table(seed) if table else "\n".join(_line(task, seed) for task in task_names()))
        return
    if table:
        raise InputError("--table is of all tasks; leave out the name")
    if count < 1:
        raise InputError(f"--count {count}: give at least 1")
    task = get_task(name)
    for index in range(count):
        sample = task.sample(seed, index, difficulty)
        print(json.dumps(_as_json(sample), ensure_ascii=False) if json_lines else _as_text(sample))


def markdown_table(seed: int = 0) -> str:
    """All tasks with their domain, medium, hardest difficulty, twin, and one example of difficulty 1."""
    lines = ["| task | domain | medium | difficulties | twin | prompt | answer |", "|---|---|---|---|---|---|---|"]
    for name in task_names():
        task = get_task(name)
        sample = task.sample(seed, 0)
        cells = (name, task.domain, task.modality, f"1-{task.hardest}", task.twin or "", _code(_prompt(sample)))
        lines.append(f"| {' | '.join(cells)} | {_code(sample.answer)} |")
    return "\n".join(lines)


def _line(name: str, seed: int) -> str:
    sample = get_task(name).sample(seed, 0)
    return f"{name:24} {_shortened(_prompt(sample))} -> {_shortened(sample.answer)}"


def _prompt(sample: Sample) -> str:
    context = plain_text(sample).parts[:-1]
    return "".join(part if isinstance(part, str) else f"[media {part}] " for part in context).strip()


def _as_text(sample: Sample) -> str:
    return f"{_prompt(sample)}\n-> {plain_text(sample).parts[-1]}\n"


def _as_json(sample: Sample) -> dict[str, object]:
    fields = ("task", "seed", "index", "difficulty", "messages", "prompt_messages", "answer", "gold", "tools")
    return {field: getattr(sample, field) for field in fields}


def _shortened(text: str) -> str:
    line = " / ".join(text.splitlines())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _code(text: str) -> str:
    """Text as inline code of a table's cell."""
    shown = " ⏎ ".join(text.splitlines()).replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"
