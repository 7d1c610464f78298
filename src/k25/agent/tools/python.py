"""The `python` tool: cells in an interpreter that keeps its variables, in the sandbox, with the workspace as cwd."""

import asyncio

from k25.agent.sandbox import Sandbox
from k25.agent.tool import JsonObject, Tool, ToolClass, ToolContext, ToolOutput
from k25.agent.tools.kernel import CellResult, Kernel, KernelPool

_MOST_SECONDS = 600.0
# The toolset stops a call at its time limit; an interrupt must come before that to keep the variables.
_MARGIN = 3.0

_PARAMETERS: JsonObject = {
    "type": "object",
    "properties": {
        "code": {"type": "string", "description": "The code of one cell; !command runs a shell command."},
        "seconds": {
            "type": "number",
            "description": "Interrupt the cell after this time. Default 120, at most 600.",
        },
    },
    "required": ["code"],
    "additionalProperties": False,
}


class PythonTool(Tool):
    """One agent's interpreter, taken from `pool` where one waits, else started with the first call."""

    name = "python"
    description = (
        "Run Python code in a persistent IPython session: variables stay between calls, files are in the current "
        "folder (your workspace). The value of the last expression, printed text, tracebacks and plots come back."
    )
    parameters = _PARAMETERS
    tool_class: ToolClass = "python"
    timeout = _MOST_SECONDS + 60

    def __init__(self, sandbox: Sandbox, pool: KernelPool | None = None) -> None:
        self._sandbox, self._pool = sandbox, pool
        self._kernel: Kernel | None = None
        self._starting = asyncio.Lock()

    async def open(self, context: ToolContext) -> None:
        """Take a waiting interpreter, if there is one; the workspace is still unused now."""
        self._kernel = self._pool.take(context.workspace) if self._pool else None

    async def close(self) -> None:
        """End the interpreter and everything that it started."""
        if self._kernel is not None:
            await self._kernel.close()
            self._kernel = None

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Run one cell; a dead interpreter is replaced, and the model told that its variables are gone."""
        seconds = min(max(float(arguments.get("seconds", 120)), 0.1), _MOST_SECONDS)
        left = context.remaining()
        if left is not None:
            seconds = max(min(seconds, left - _MARGIN), 0.1)
        kernel, notice = await self._ready(context)
        result = await kernel.execute(arguments["code"], seconds)
        return _output(result, notice)

    async def _ready(self, context: ToolContext) -> tuple[Kernel, str]:
        async with self._starting:
            if self._kernel is not None and self._kernel.alive:
                return self._kernel, ""
            lost = self._kernel is not None
            self._kernel = await Kernel.start(self._sandbox, context.workspace)
            notice = "[The interpreter had ended and was started anew: all variables are gone, files remain.]\n"
            return self._kernel, notice if lost else ""


def _output(result: CellResult, notice: str) -> ToolOutput:
    if result.died is not None:
        text = f"The interpreter was ended: {result.died}. The next call starts a new one; all variables are gone."
        return ToolOutput.error(notice + text)
    text = notice + (result.text.rstrip("\n") or ("" if result.images else "(no output)"))
    return ToolOutput(text, images=result.images, is_error=result.is_error)
