"""Budgets: steps, tool calls, tokens, money and wall time, shared down the tree of agents.

A child draws from its own allowance and from those of all its ancestors. Steps and tool calls are taken before they
happen; tokens and money are known only afterwards, so calls already under way may overdraw them.
"""

import time
from dataclasses import dataclass
from typing import Literal

Taken = Literal["steps", "tool_calls"]


@dataclass(frozen=True)
class Allowance:
    """The most that may be used; None is no limit. A step is one model call; money is in the unit of the prices."""

    steps: int | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    seconds: float | None = None


class Budget:
    """What one agent (`whose`) and its descendants have used of an allowance. Wall time runs from construction."""

    def __init__(self, allowance: Allowance | None = None, *, whose: str = "the run", parent: "Budget | None" = None):
        self.allowance = allowance or Allowance()
        self.whose = whose
        self.parent = parent
        self._levels: tuple[Budget, ...] = (self, *(parent._levels if parent is not None else ()))
        self.steps = 0
        self.tool_calls = 0
        self.tokens = 0
        self.money = 0.0
        self.began = time.monotonic()

    def child(self, allowance: Allowance | None = None, *, whose: str) -> "Budget":
        """A budget within this one."""
        return Budget(allowance, whose=whose, parent=self)

    def take(self, what: Taken) -> str | None:
        """Take one step or tool call from every level, or from none and say which allowance is used up."""
        for level in self._levels:
            limit = getattr(level.allowance, what)
            if limit is not None and getattr(level, what) >= limit:
                return level._says(what, limit)
        for level in self._levels:
            setattr(level, what, getattr(level, what) + 1)
        return None

    def spend(self, tokens: int, money: float) -> None:
        """Count what a finished model call used, on every level."""
        for level in self._levels:
            level.tokens += tokens
            level.money += money

    def exhausted(self) -> str | None:
        """Why nothing more may be done, in words; None while something may."""
        for level in self._levels:
            used = (
                ("steps", level.steps, level.allowance.steps),
                ("tool_calls", level.tool_calls, level.allowance.tool_calls),
                ("tokens", level.tokens, level.allowance.tokens),
                ("money", level.money, level.allowance.money),
                ("seconds", time.monotonic() - level.began, level.allowance.seconds),
            )
            for what, amount, limit in used:
                if limit is not None and amount >= limit:
                    return level._says(what, limit)
        return None

    def deadline(self) -> float | None:
        """The earliest end of wall time over all levels, in seconds of `time.monotonic()`."""
        return min(
            (level.began + level.allowance.seconds for level in self._levels if level.allowance.seconds is not None),
            default=None,
        )

    def _says(self, what: str, limit: float) -> str:
        return f"{self.whose}'s budget of {limit:,g} {what.replace('_', ' ')} is used up".replace(" money", " in money")
