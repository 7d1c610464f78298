"""The `files` tool: read, write, edit, find in the workspace; share files with other agents by reference."""

import asyncio
from typing import Literal

from k25.agent.function_tool import FunctionTool
from k25.agent.sandbox import Workspace
from k25.agent.tool import ArgumentError, ToolContext, ToolOutput

_READ_BYTES = 16 << 20
_SHARE_BYTES = 256 << 20
_LINES = 1000
_PNG = b"\x89PNG\r\n\x1a\n"

Action = Literal["list", "read", "write", "append", "edit", "share", "receive"]


async def _files(
    action: Action,
    context: ToolContext,
    path: str = ".",
    text: str = "",
    old: str = "",
    first_line: int = 1,
    reference: str = "",
) -> ToolOutput:
    """Work with the files of your workspace. Actions: list the files in the folder `path`; read the file `path` (1000
    lines from `first_line`; a PNG image is shown); write or append `text`; edit, which puts `text` in the place of
    `old`, a passage that occurs once; share the file `path`, which gives a reference that other agents can receive;
    receive the artifact `reference`, which becomes the file `path`.

    Args:
        action: What to do.
        path: A path relative to the workspace.
        text: What to write.
        old: The passage that an edit replaces.
        first_line: Where to begin reading.
        reference: An artifact, as artifact:DIGEST/NAME.
    """
    # Whole files are moved; other agents shall not wait for the disk.
    return await asyncio.to_thread(_act, action, context, path, text, old, first_line, reference)


def files_tool() -> FunctionTool:
    """The tool; it keeps nothing between calls, so agents may share it."""
    return FunctionTool(_files, name="files")


def _act(
    action: Action, context: ToolContext, path: str, text: str, old: str, first_line: int, reference: str
) -> ToolOutput:
    workspace = Workspace(context.workspace)
    if action == "list":
        return _listing(workspace, path)
    if action == "read":
        return _reading(workspace, path, first_line)
    if action == "edit":
        return _edit(workspace, path, old, text)
    if action == "share":
        artifact = context.artifacts.put(path.rsplit("/", 1)[-1], workspace.read(path, _SHARE_BYTES))
        return ToolOutput(f"Shared {path} ({artifact.size} bytes).", artifacts=(artifact,))
    if action == "receive":
        content = context.artifacts.get(reference)
        target = reference.rsplit("/", 1)[-1] if path in (".", "") else path
        workspace.write(target, content)
        return ToolOutput(f"Wrote {target} ({len(content)} bytes).")
    content = text.encode("utf-8", "replace")
    workspace.write(path, content, append=action == "append")
    return ToolOutput(f"Wrote {len(content)} bytes to {path}.")


def _listing(workspace: Workspace, path: str) -> ToolOutput:
    found = workspace.list(path)
    lines = [f"{name}/" if size is None else f"{name} ({size} bytes)" for name, size in found]
    return ToolOutput("\n".join(lines) or "(no files)")


def _reading(workspace: Workspace, path: str, first_line: int) -> ToolOutput:
    content = workspace.read(path, _READ_BYTES)
    if content.startswith(_PNG):
        return ToolOutput(f"{path}, {len(content)} bytes:", images=(content,))
    if b"\0" in content[:4096]:
        raise ArgumentError(f"{path} is a binary file of {len(content)} bytes; read it with the python tool")
    lines = content.decode("utf-8", "replace").splitlines()
    first = max(first_line, 1)
    shown = lines[first - 1 : first - 1 + _LINES]
    last = first - 1 + len(shown)
    more = "" if last >= len(lines) else f"\n[lines {first} to {last} of {len(lines)}; continue with first_line]"
    return ToolOutput("\n".join(shown) + more)


def _edit(workspace: Workspace, path: str, old: str, new: str) -> ToolOutput:
    content = workspace.read(path, _READ_BYTES)
    count = content.count(old.encode("utf-8", "replace")) if old else 0
    if count != 1:
        raise ArgumentError(f"`old` occurs {count} times in {path}; give a passage that occurs exactly once")
    workspace.write(path, content.replace(old.encode("utf-8", "replace"), new.encode("utf-8", "replace")))
    return ToolOutput(f"Edited {path}.")
