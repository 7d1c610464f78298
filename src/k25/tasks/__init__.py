"""Procedural exercises with exact answers, in text, pictures, clips and tools. Needs no torch.

task = get_task("add")
sample = task.sample(seed=0, index=7, difficulty=2)
task.score(sample, "57")
"""

from k25.tasks.registry import get_task, task_names
from k25.tasks.sample import Clip, Sample, Task

__all__ = ["Clip", "Sample", "Task", "get_task", "task_names"]
