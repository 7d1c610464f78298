"""What stands between an agent and a tool: a person's approval, and what an interruption has cut off."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from k25.agent import Record, Tool, ToolContext, ToolLimits, ToolOutput, Toolset
from k25.agent.tool import JsonObject
from k25.swarm.events import ApprovalAnswered, ApprovalAsked
from k25.swarm.live import Seat

INTERRUPTED = (
    "The run was interrupted during this call of {tool}, so whether it took effect is unknown. It was not repeated: "
    "look at what it changed, and call it again if that is needed."
)
LOST = "[The run was interrupted and taken up again: what this tool held in memory is gone, files remain.]\n"


@dataclass(frozen=True)
class ApprovalRequest:
    """A call that waits for a yes or no."""

    agent_id: str
    call_id: str
    tool: str
    arguments: JsonObject


# Answers None for yes, or the reason for a no.
Approver = Callable[[ApprovalRequest], Awaitable[str | None]]


@dataclass(frozen=True)
class Interruption:
    """What an interrupted agent had begun: ids of calls without a result, names of tools that it had used."""

    calls: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()


class GuardedTool(Tool):
    """A tool that asks first, and does not repeat what may have happened already.

    It takes its tool's slot by itself, only once the call may be made: nobody waits for a person's answer but the one
    who asked.
    """

    tool_class = "agent"
    timeout = None

    def __init__(
        self,
        inner: Tool,
        record: Record,
        limits: ToolLimits,
        seat: Seat,
        *,
        approver: Approver | None,
        interruption: Interruption,
    ) -> None:
        self.name, self.description, self.parameters = inner.name, inner.description, inner.parameters
        self.idempotent, self.output_limit = inner.idempotent, inner.output_limit
        self._inner = inner
        self._alone = Toolset(inner.name, [inner])
        self._record = record
        self._limits = limits
        self._seat = seat
        self._approver = approver
        self._interruption = interruption
        self._lost = inner.tool_class in ("python", "browser") and not inner.idempotent

    def validate(self, arguments: JsonObject) -> JsonObject:
        """Checks the arguments, and leaves them as the model wrote them."""
        self._inner.validate(arguments)
        return arguments

    async def open(self, context: ToolContext) -> None:
        """Open the tool."""
        await self._inner.open(context)

    async def close(self) -> None:
        """Close the tool."""
        await self._inner.close()

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Make the call, if it may be made."""
        if context.call_id in self._interruption.calls and not self.idempotent:
            return ToolOutput.error(INTERRUPTED.format(tool=self.name), "cancelled")
        refusal = await self._refusal(arguments, context)
        if refusal is not None:
            return ToolOutput.error(f"The user refused this call of {self.name}: {refusal}", "refused")
        async with self._limits.slot(self._inner.tool_class):
            if not self.idempotent:
                # That the call began must be known before its consequences are.
                await self._record.flush()
            output = await self._alone.call(self.name, arguments, context)
        if self._lost and self.name in self._interruption.tools:
            self._lost = False
            return replace(output, text=LOST + output.text)
        return output

    async def _refusal(self, arguments: JsonObject, context: ToolContext) -> str | None:
        if self._approver is None:
            return None
        asked = ApprovalRequest(context.agent_id, context.call_id, self.name, arguments)
        self._record.append(
            ApprovalAsked(agent=asked.agent_id, call_id=asked.call_id, tool=self.name, arguments=arguments)
        )
        async with self._seat.waiting():
            try:
                refusal = await self._approver(asked)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                refusal = f"the approval could not be asked for ({type(error).__name__}: {error})"
        self._record.append(ApprovalAnswered(agent=asked.agent_id, call_id=asked.call_id, refusal=refusal))
        return refusal
