"""Settings of a run: caps, budgets and prompts; kept in the record, so that a resumed run has the same ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from k25.agent import Allowance, ContextStrategy, ToolLimits
from k25.agent.tool import JsonObject, ToolClass
from k25.errors import InputError

MAIN_PROMPT = (
    "You solve the user's task with the tools that you have. Check what matters in the sources themselves, and name "
    "them. Where the task consists of parts that do not depend on each other, you may create sub-agents and assign the "
    "parts to them, several at once; each sees nothing but its system prompt and the task that you write. Your last "
    "message is the answer that the user reads: make it complete."
)
SINGLE_PROMPT = (
    "You solve the user's task with the tools that you have. Check what matters in the sources themselves, and name "
    "them. Your last message is the answer that the user reads: make it complete."
)


@dataclass(frozen=True)
class SwarmSettings:
    """How large a run may become.

    The defaults are the caps of the product and the step limits that the Kimi K2.5 report used for WideSearch
    (arXiv 2602.02276, section 5.2 and appendix E).

    max_agents: tasks that may be assigned in the whole run. max_live_agents: agents at work at the same time; those
        that wait for others do not count.
    depth: how deep agents may be nested; 1 lets the main agent alone start others, 0 makes it a single agent.
    critical_steps: the most steps along any chain of agents (see `k25.swarm.critical`).
    run: allowance of all agents together; main, sub: of the main agent and of each task, by themselves.
    tool_limits: the most calls at once for a class of tools.
    approve: names of tools whose every call a person must approve.

    Raises InputError for values that cannot be meant.
    """

    max_agents: int = 100
    max_live_agents: int = 100
    depth: int = 1
    critical_steps: int | None = None
    run: Allowance = field(default_factory=lambda: Allowance(tool_calls=1_500))
    main: Allowance = field(default_factory=lambda: Allowance(steps=100))
    sub: Allowance = field(default_factory=lambda: Allowance(steps=100))
    context: ContextStrategy = field(default_factory=ContextStrategy)
    tool_limits: Mapping[ToolClass, int] = field(default_factory=dict)
    approve: tuple[str, ...] = ()
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        ToolLimits(self.tool_limits)
        for name, least in (("max_agents", 1), ("max_live_agents", 1), ("depth", 0), ("critical_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name.replace('_', ' ')}: must be at least {least}, not {value}")
        for whose, allowance in (("the run", self.run), ("the main agent", self.main), ("a sub-agent", self.sub)):
            for what, amount in asdict(allowance).items():
                if amount is not None and not amount > 0:
                    raise InputError(f"budget of {whose}: {what.replace('_', ' ')} must be above 0, not {amount}")

    @property
    def prompt(self) -> str:
        """The main agent's system prompt."""
        return self.system_prompt or (MAIN_PROMPT if self.depth else SINGLE_PROMPT)

    def to_json(self) -> JsonObject:
        """For the record; `from_json` gives the same settings back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SwarmSettings":
        """The settings that `to_json` wrote."""
        allowances = {name: Allowance(**data[name]) for name in ("run", "main", "sub")}
        context = ContextStrategy(**data["context"])
        return cls(**{**data, **allowances, "context": context, "approve": tuple(data["approve"])})
