"""The `shell` tool: bash in the sandbox, in the same workspace as the `python` and `files` tools."""

import math
from dataclasses import replace

from k25.agent.function_tool import FunctionTool
from k25.agent.sandbox import Sandbox
from k25.agent.tool import ToolContext, ToolOutput

_MOST_SECONDS = 600.0


def shell_tool(sandbox: Sandbox) -> FunctionTool:
    """The tool; it keeps nothing between calls, so agents may share it."""

    async def shell(command: str, context: ToolContext, seconds: float = 60.0) -> ToolOutput:
        """Run a command with bash. The current folder is your workspace; nothing but files lasts between calls.

        Args:
            command: The command or script.
            seconds: Kill it after this time, at most 600.
        """
        left = context.remaining()
        allowed = min(max(seconds, 0.1), _MOST_SECONDS, math.inf if left is None else max(left - 1, 0.1))
        limits = replace(sandbox.settings.limits, wall_seconds=allowed)
        # One stream keeps output and errors in the order in which they came.
        argv = ["sh", "-c", 'exec "$@" 2>&1', "sh", "bash", "-c", command]
        done = await sandbox.run(argv, context.workspace, limits=limits)
        text = done.stdout.decode(errors="replace").rstrip("\n") + done.stderr.decode(errors="replace")
        if done.stopped is not None:
            return ToolOutput.error(f"{text}\n[The command was killed: {done.stopped}.]".lstrip("\n"))
        if done.status != 0:
            return ToolOutput.error(f"{text}\n[exit status {done.status}]".lstrip("\n"))
        return ToolOutput(text or "(no output)")

    return FunctionTool(shell, tool_class="python", timeout=_MOST_SECONDS + 60)
