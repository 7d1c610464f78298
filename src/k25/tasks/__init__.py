"""Procedural exercises with exact answers, in text, pictures, clips and tools. Needs no torch.

task = get_task("add")
sample = task.sample(seed=0, index=7, difficulty=2)
task.score(sample, "57")

`plain_text(sample)` is the sample without chat markup. `text_task` turns a function into a task.
"""

from k25.tasks.exercise import Exercise, text_task
from k25.tasks.plain_text import PlainText, plain_text
from k25.tasks.registry import get_task, task_names
from k25.tasks.sample import Clip, Sample, Task

__all__ = ["Clip", "Exercise", "PlainText", "Sample", "Task", "get_task", "plain_text", "task_names", "text_task"]
