"""Which exercises are asked: names of suites and tasks to samples."""

import difflib
from collections.abc import Sequence

from k25.errors import InputError
from k25.tasks import Sample, Task, get_task, task_names

SUITES = ("text", "image", "video", "tools", "all")
# Training draws from small seeds; exercises of this stream are its own, though easy ones can be equal by chance.
EVALUATION_SEED = 2_026_000_000


def named_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of suites and single tasks, each once, in the order of their mention.

    `text`, `image` and `video` are the tasks without tools of a modality, `tools` those that declare tools. Raises
    InputError for an unknown name.
    """
    found: dict[str, Task] = {}
    for name in names:
        if name in SUITES:
            found |= {task.name: task for task in map(get_task, task_names()) if name in ("all", _suite(task))}
        else:
            found.setdefault(name, _task(name))
    return list(found.values())


def exercises(tasks: Sequence[Task], *, samples: int, difficulty: int, seed: int = EVALUATION_SEED) -> list[Sample]:
    """The first `samples` exercises of every task; tasks that end below the difficulty are asked their hardest."""
    return [task.sample(seed, index, min(difficulty, task.hardest)) for task in tasks for index in range(samples)]


def shows_reasoning(sample: Sample) -> bool:
    """Whether the exercise demonstrates thinking before the answer."""
    return bool(sample.messages[sample.prompt_messages].get("reasoning_content"))


def _suite(task: Task) -> str:
    return "tools" if task.sample(EVALUATION_SEED, 0).tools else task.modality


def _task(name: str) -> Task:
    try:
        return get_task(name)
    except InputError:
        near = difflib.get_close_matches(name, [*SUITES, *task_names()], 1)
        hint = (
            f"did you mean {near[0]}?" if near else f"suites are {', '.join(SUITES)}; `k25 data tasks` lists the tasks"
        )
        raise InputError(f"there is no suite or task {name!r}; {hint}") from None
