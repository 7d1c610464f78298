"""Toggle: reinforcement learning that alternates between a token budget and none.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2, equation 2. In the budget-limited phase an answer to a prompt that
the policy already solves well enough keeps its reward only within the prompt's budget; in the other phase rewards are
as they are, so that the policy goes on learning to use more tokens where these help. It is a gate, no added term:

    phase(t) = floor(t / m) mod 2
    phase 0:   r~(x, y) = r(x, y)  if  mean_i r(x, y_i) < lambda  or  |y| <= budget(x),  else 0
    phase 1:   r~(x, y) = r(x, y)
    budget(x) = rho-th percentile of the lengths of the correct answers to x, estimated once, then fixed

What the report leaves open: a prompt that comes first later in training gets its budget then, whatever the phase; a
prompt whose first group has no correct answer has no budget, for good; percentiles are linear between lengths.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from k25.errors import InputError

Phase = Literal["budget-limited", "scaling"]


@dataclass(frozen=True)
class ToggleConfig:
    """How Toggle runs.

    Attributes:
        period: m, the updates that a phase lasts.
        accuracy: lambda, the mean reward of a group from which its budget applies.
        percentile: rho, in percent.
        correct: the least reward of a correct answer, for the estimate of budgets.
        always: the budget applies in every update, as a comparison; the report finds that such rigid budgets make the
            policy unable to use more tokens on harder tasks.
    """

    period: int
    accuracy: float = 7 / 8
    percentile: float = 90.0
    correct: float = 1.0
    always: bool = False

    def __post_init__(self) -> None:
        if self.period < 1:
            raise InputError(f"toggle.period is {self.period}; a phase lasts at least 1 update")
        if not 0 <= self.percentile <= 100:
            raise InputError(f"toggle.percentile is {self.percentile}; give 0 to 100")
        if not 0 <= self.accuracy <= 1:
            raise InputError(f"toggle.accuracy is {self.accuracy}; give a mean reward from 0 to 1")
        if not 0 < self.correct <= 1:
            raise InputError(f"toggle.correct is {self.correct}; give a reward above 0 and up to 1")


def phase(step: int, config: ToggleConfig) -> Phase:
    """The phase of an update, counted from 0."""
    return "budget-limited" if config.always or step // config.period % 2 == 0 else "scaling"


def gate(
    rewards_K: Sequence[float], lengths_K: Sequence[int], budget: float | None, step: int, config: ToggleConfig
) -> list[float]:
    """The rewards that the update sees.

    Args:
        rewards_K: of the K answers to one prompt, at least 0.
        lengths_K: their generated tokens.
        budget: the prompt's, in tokens; None for a prompt without one.
        step: the update, counted from 0.
        config: how Toggle runs.

    Raises:
        InputError: for negative rewards, which a gate to 0 would turn into a reward for length.
    """
    if min(rewards_K, default=0.0) < 0:
        raise InputError(f"Toggle gates rewards of at least 0, not {min(rewards_K)}; shift the environment's rewards")
    if phase(step, config) == "scaling" or budget is None or not rewards_K:
        return list(rewards_K)
    if math.fsum(rewards_K) / len(rewards_K) < config.accuracy:
        return list(rewards_K)
    return [reward if length <= budget else 0.0 for reward, length in zip(rewards_K, lengths_K, strict=True)]


def estimate_budget(rewards_K: Sequence[float], lengths_K: Sequence[int], config: ToggleConfig) -> float | None:
    """The percentile of the lengths of correct answers; None where none is correct."""
    correct = [length for reward, length in zip(rewards_K, lengths_K, strict=True) if reward >= config.correct - 1e-9]
    return float(np.percentile(correct, config.percentile)) if correct else None


class Toggle:
    """The gate with the budgets that it has estimated.

    Attributes:
        budgets: tokens by prompt; None for a prompt that has none.
    """

    def __init__(self, config: ToggleConfig) -> None:
        self.config = config
        self.budgets: dict[str, float | None] = {}

    def __call__(self, key: str, rewards_K: Sequence[float], lengths_K: Sequence[int], step: int) -> list[float]:
        """Gate one group; `key` names its prompt among those of all environments. A new prompt gets its budget."""
        if rewards_K and key not in self.budgets:
            self.budgets[key] = estimate_budget(rewards_K, lengths_K, self.config)
        return gate(rewards_K, lengths_K, self.budgets.get(key), step, self.config)

    def save(self, path: Path) -> None:
        """Write the budgets as JSON, beside a checkpoint; the file is whole or as it was."""
        aside = path.with_name(f".{path.name}.new")
        aside.write_text(json.dumps({"config": asdict(self.config), "budgets": self.budgets}, indent=1) + "\n", "utf-8")
        aside.replace(path)

    def load(self, path: Path) -> None:
        """Take up the budgets of a file that `save` wrote.

        Raises:
            InputError: for a file that cannot be read, and for budgets of another percentile or threshold.
        """
        stored, budgets = _read(path)
        for name in ("percentile", "correct"):
            if stored.get(name) != getattr(self.config, name):
                raise InputError(
                    f"{path}: its budgets were estimated with toggle.{name} = {stored.get(name)}, not "
                    f"{getattr(self.config, name)}; budgets stay fixed: keep the value, or begin a new run"
                )
        self.budgets = budgets


def _read(path: Path) -> tuple[dict[str, Any], dict[str, float | None]]:
    try:
        data = json.loads(path.read_text("utf-8"))
        config, budgets = dict(data["config"]), dict(data["budgets"])
        if not all(budget is None or (type(budget) in (int, float) and budget >= 0) for budget in budgets.values()):
            raise ValueError("a budget is neither null nor a number of tokens")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the file beside the checkpoint") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: holds no budgets of Toggle ({error}); take it from another checkpoint") from None
    return config, budgets
