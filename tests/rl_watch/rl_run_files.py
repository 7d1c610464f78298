"""Folders of runs as the trainer writes them."""

import json
from collections import Counter
from dataclasses import dataclass, field

from k25.rl.metrics import ROLLOUTS, readable, rollout_record
from k25.rl.rollouts import Rollout
from k25.train.metrics import FILE_NAME


@dataclass
class Learnt:
    dropped: Counter = field(default_factory=Counter)
    dropped_tokens: Counter = field(default_factory=Counter)


def rollout(step, number, messages=None, failed="", **changes):
    given = {
        "environment": "swarm",
        "domain": "agentic",
        "key": f"table/{step}",
        "number": number,
        "samples": (),
        "rewards": {"perf": step / 10, "parallel": 0.5},
        "reward": step / 10 + 0.5 * number,
        "metrics": {"width": 2.0 + number, "critical_steps": 20.0 - step},
        "messages": messages or [{"role": "user", "content": f"Question of step {step}"}],
        "output_tokens": 100 - step,
        "reason": "answered",
        "failed": failed,
    }
    return Rollout(**{**given, **changes})


def record_of(step, group, **changes):
    record = rollout_record([group], Learnt(Counter({"model error": step})), step)
    course = {"masked_share": 0.01 * step, "entropy": 1.0, "mismatch_mean": 1e-6, "mismatch_max": 2e-6}
    schedules = {"toggle_phase": "scaling" if step % 2 else "budget-limited", "lambda1": 1 - step / 10, "lambda2": 0.5}
    times = {"rollout_seconds": 3.0, "train_seconds": 1.0}
    return {"step": step, **record, **course, **schedules, **times, **changes}


def append(folder, step, group=None, **changes):
    """One step of a run, by the trainer's own functions."""
    group = group or tuple(rollout(step, number) for number in range(2))
    with (folder / FILE_NAME).open("a") as file:
        file.write(json.dumps(record_of(step, group, **changes)) + "\n")
    with (folder / ROLLOUTS).open("a") as file:
        for each in group:
            file.write(json.dumps(readable(each, step)) + "\n")


def begin(folder, steps=10, stage="rl"):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.toml").write_text(f'stage = "{stage}"\nsteps = {steps}\n')
    return folder


def run_of(folder, done, steps=10):
    begin(folder, steps)
    for step in range(1, done + 1):
        append(folder, step)
    return folder
