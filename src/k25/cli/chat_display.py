"""An answer on a terminal while it arrives: thinking on one dim line that folds, then the text, then calls and counts.

What a model or a server wrote never reaches the terminal raw: control characters could move the cursor, change the
window's title or paste into the shell.
"""

import json
import re
import shutil
import sys
import time
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from k25.cli.chat_client import Reply, ToolCall

_DIM, _BOLD, _RED, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
_CLEAR_LINE = "\r\x1b[K"
_REDRAW_SECONDS = 0.05
_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def printable(text: str) -> str:
    """`text` without control characters other than line feeds and tabs, and without halves of characters."""
    return _UNPRINTABLE.sub("", text)


class Display:
    """Shows one answer; call `update` whenever it grew and `finish` at its end.

    With `answer_only` nothing but the text of the answer is written to `output`, exactly as it came unless `output`
    is a terminal; calls and counts then go to `notes`.
    """

    def __init__(self, output: TextIO | None = None, notes: TextIO | None = None, answer_only: bool = False) -> None:
        self.output = output or sys.stdout
        self.notes = notes or (sys.stderr if answer_only else self.output)
        self._folds = not answer_only and self.output.isatty()
        self._raw = not self.output.isatty()
        self._shown = 0
        self._drawn = 0.0
        self._folded = False

    def update(self, reply: Reply) -> None:
        """Show what is new in `reply`."""
        if self._folds and reply.reasoning and not reply.answer_began:
            self._draw_thinking(reply)
        elif len(reply.content) > self._shown:
            self._fold(reply)
            new, self._shown = reply.content[self._shown :], len(reply.content)
            self.output.write(new if self._raw else printable(new))
            self.output.flush()

    def finish(self, reply: Reply) -> None:
        """End the answer's line and show calls and counts; say so where the answer is empty."""
        if reply.finished and not (reply.content or reply.tool_calls):
            self._fold(reply)
            self.note(_why_empty(reply))
        if reply.first_token is None:
            return
        self._fold(reply)
        if reply.content and not reply.content.endswith("\n"):
            self.output.write("\n")
        self.output.flush()
        for index in sorted(reply.tool_calls):
            self.note(_described(reply.tool_calls[index]), style="")
        if self._folds or (self.notes is not self.output and self.notes.isatty()):
            self.note(summary(reply))

    def note(self, text: str, style: str = _DIM) -> None:
        """A line of ours, not of the model."""
        text = printable(text)
        self.notes.write(f"{style}{text}{_PLAIN}\n" if style and self.notes.isatty() else f"{text}\n")
        self.notes.flush()

    def error(self, text: str) -> None:
        """A line about what went wrong."""
        text = printable(text)
        self.notes.write(f"{_BOLD}{_RED}error:{_PLAIN} {text}\n" if self.notes.isatty() else f"error: {text}\n")
        self.notes.flush()

    def waiting(self, seconds: float) -> None:
        """The server is busy and asked for patience."""
        self.note(f"the server is busy; trying again in {seconds:.0f} s (Ctrl-C stops)")

    def _draw_thinking(self, reply: Reply) -> None:
        now = time.monotonic()
        if now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        width = max(20, shutil.get_terminal_size().columns - 1)
        tail = " ".join(printable(reply.reasoning[-4 * width :]).split())
        while cell_len(tail) > width - 10:
            tail = tail[max(1, (cell_len(tail) - width + 10) // 2) :]
        self.output.write(f"{_CLEAR_LINE}{_DIM}{set_cell_size('thinking  ' + tail, width)}{_PLAIN}")
        self.output.flush()

    def _fold(self, reply: Reply) -> None:
        """Thinking becomes one line, once, when something else follows."""
        if self._folded or not self._folds or not reply.reasoning:
            return
        self._folded = True
        if self._drawn:
            self.output.write(_CLEAR_LINE)
        end = reply.answer_began or reply.last_token or time.monotonic()
        seconds = end - (reply.first_token or end)
        self.note(f"thought for {seconds:.1f} s, {len(reply.reasoning):,} characters (/think shows it)")


def _why_empty(reply: Reply) -> str:
    if reply.finish_reason == "length":
        return "no answer came within the token limit (--max-tokens)"
    if reply.reasoning:
        thought = f"{len(reply.reasoning):,} characters of thinking"
        return f"no answer came after {thought}; --mode instant, or /mode instant in a chat, asks without it"
    return "the answer is empty"


def summary(reply: Reply) -> str:
    """Counts and speed of an answer, as far as the server told them."""
    parts = []
    rate = reply.tokens_per_second()
    if isinstance(tokens := reply.usage.get("completion_tokens"), int):
        parts.append(f"{tokens:,} tokens" + (f" at {rate:.1f} tokens/s" if rate else ""))
    if isinstance(prompt := reply.usage.get("prompt_tokens"), int):
        details = reply.usage.get("prompt_tokens_details") or {}
        cached = reply.usage.get("cached_tokens") or (details.get("cached_tokens") if isinstance(details, dict) else 0)
        parts.append(f"prompt {prompt:,}" + (f" ({cached:,} cached)" if isinstance(cached, int) and cached else ""))
    if reply.first_token is not None:
        parts.append(f"first token after {reply.first_token - reply.started:.2f} s")
    if reply.finish_reason == "length":
        parts.append("cut at the token limit")
    return "[" + ", ".join(parts or ["no counts from the server"]) + "]"


def _described(call: ToolCall) -> str:
    """A call as its function would be called."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return f"tool call {call.id}: {call.name}({call.arguments})"
    shown = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"tool call {call.id}: {call.name}({shown})"
