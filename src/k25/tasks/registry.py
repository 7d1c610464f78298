"""All tasks by name. Each module of tasks offers the list `TASKS`; it is imported when the registry is first asked."""

import difflib
from functools import cache
from importlib import import_module

from k25.errors import InputError
from k25.tasks.sample import Task

# Modules of this package, in reading order.
_MODULES: tuple[str, ...] = (
    "arithmetic",
    "sequences",
    "lookup",
    "needle",
    "strings",
    "word_problems",
    "tables",
    "logic",
    "dates",
    "programs",
    "knowledge",
    "grids",
    "tool_use",
    "image_tool",
    "visual_grids",
    "visual_scenes",
    "visual_text",
    "visual_puzzles",
    "charts",
    "clips",
)


@cache
def _tasks() -> dict[str, Task]:
    found = [task for module in _MODULES for task in import_module(f"k25.tasks.{module}").TASKS]
    tasks: dict[str, Task] = {task.name: task for task in found}
    assert len(tasks) == len(found), "two tasks share a name"
    return tasks


def task_names() -> list[str]:
    """Names of all tasks of this package, in reading order."""
    return list(_tasks())


def get_task(name: str) -> Task:
    """The task called `name`; `rg/...` is one of reasoning-gym. Raises InputError for an unknown one."""
    if name.startswith("rg/"):
        return import_module("k25.tasks.reasoning_gym_adapter").reasoning_gym_task(name)
    tasks = _tasks()
    if name not in tasks:
        near = difflib.get_close_matches(name, tasks, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(tasks)}"
        raise InputError(f"there is no task {name!r}; {hint}")
    return tasks[name]
