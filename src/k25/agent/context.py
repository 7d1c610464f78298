"""Context management: what to do when a conversation becomes too long.

The strategies that the Kimi K2.5 report compares the swarm with (arXiv 2602.02276, sections 5.2 and E): hide tool
results but those of the latest round, discard all history but the task, or replace it by a summary. Each is a pure
function over messages; `ContextStrategy` says when which applies.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from k25.agent.tool import JsonObject
from k25.errors import InputError

Ask = Callable[[list[JsonObject]], Awaitable[str]]

HIDDEN = "[This tool result is hidden to save context. Call the tool again if you need it.]"
DISCARDED = "[The earlier steps were discarded to save context. Work on the task from here.]"
SUMMARY_REQUEST = (
    "The conversation is about to be replaced by your summary of it. Write down everything that is needed to finish "
    "the task without it: what was asked, what is established (with sources and exact values), what was tried without "
    "success, and what is to be done next. Do not call tools."
)
_BYTES_PER_TOKEN = 4
_TOKENS_PER_IMAGE = 1_000


def estimate_tokens(messages: Sequence[JsonObject]) -> int:
    """About how many tokens the messages are, from their size alone; images count as a thousand each."""
    tokens = 0
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list) else [message.get("content")]:
            if isinstance(part, dict) and "text" not in part:
                tokens += _TOKENS_PER_IMAGE
            elif part:
                text = part["text"] if isinstance(part, dict) else part
                tokens += _text_tokens(text)
        tokens += _text_tokens(message.get("reasoning_content") or "")
        for call in message.get("tool_calls") or ():
            tokens += _text_tokens(json.dumps(call))
        tokens += 4
    return tokens


def hide_tool_results(messages: Sequence[JsonObject], keep_rounds: int = 1) -> list[JsonObject]:
    """Replace the content of all tool messages but those of the latest rounds; calls and reasoning stay."""
    asking = [index for index, message in enumerate(messages) if message.get("tool_calls")]
    first_kept = asking[-keep_rounds] if len(asking) >= keep_rounds > 0 else 0 if keep_rounds else len(messages)
    return [
        {**message, "content": HIDDEN} if message["role"] == "tool" and index < first_kept else message
        for index, message in enumerate(messages)
    ]


def discard_history(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Keep the messages before the first answer: the instructions and the task."""
    return [*_task(messages), {"role": "user", "content": DISCARDED}]


def replace_by_summary(messages: Sequence[JsonObject], summary: str) -> list[JsonObject]:
    """Keep the instructions and the task, followed by the summary of everything since."""
    text = f"Summary of the work so far, which replaces the earlier conversation:\n\n{summary}\n\nContinue from here."
    return [*_task(messages), {"role": "user", "content": text}]


@dataclass(frozen=True)
class ContextStrategy:
    """Apply `kind` once the conversation exceeds `threshold` tokens. Raises InputError for a threshold below 1."""

    kind: Literal["none", "hide-tool-results", "discard-all", "summary"] = "none"
    threshold: int = 128_000
    keep_rounds: int = 1

    def __post_init__(self) -> None:
        if self.threshold < 1:
            raise InputError(f"context tokens: must be at least 1, not {self.threshold}")

    async def rewritten(self, messages: Sequence[JsonObject], tokens: int, ask: Ask) -> list[JsonObject] | None:
        """The shorter conversation, or None if it stays. `ask` gets a summary from the model."""
        if self.kind == "none" or tokens <= self.threshold:
            return None
        match self.kind:
            case "hide-tool-results":
                shorter = hide_tool_results(messages, self.keep_rounds)
            case "discard-all":
                shorter = discard_history(messages)
            case "summary":
                summary = await ask([*messages, {"role": "user", "content": SUMMARY_REQUEST}])
                shorter = replace_by_summary(messages, summary)
        return None if shorter == list(messages) else shorter


def _task(messages: Sequence[JsonObject]) -> list[JsonObject]:
    first_answer = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    return list(messages[:first_answer])


def _text_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
