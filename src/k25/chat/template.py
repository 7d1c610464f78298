"""The chat template of K2.5 as code: a conversation to a prompt, equal to the released Jinja template.

A turn is MARKER name <|im_middle|> body <|im_end|>, with nothing between turns and no default system prompt. Tools come
first, in TypeScript style. Reasoning is shown as long as the tool loop that it belongs to runs: every
assistant message up to the last one without tool calls is history, and history is rendered with an empty think block.
`preserve_thinking`, of the later K2.6, treats no message as history.

Modes: with thinking the generation prompt ends inside an open think block, in instant mode after an empty one. A last
assistant message with `partial` is left open for the model to continue; it counts as the turn that is being generated,
so the reasoning of a running tool loop before it is shown and its own reasoning too (the released template leaves this
to the server).
"""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from k25.chat import special_tokens as special
from k25.chat.messages import ImagePart, Message, TextPart, ToolCall, ToolDefinition, check_partial
from k25.chat.rendering import VIDEO_PIECE, Piece, Rendering, control_piece, media_block, text_piece
from k25.chat.tool_declaration import declaration_text
from k25.errors import InputError

Mode = Literal["thinking", "instant", "partial"]

_ROLE_MARKERS = {"user": special.USER, "assistant": special.ASSISTANT}
_TURN_MIDDLE = control_piece(special.TURN_MIDDLE)
_TURN_END = control_piece(special.TURN_END)
_THINK_BEGIN = control_piece(special.THINK_BEGIN)
_THINK_END = control_piece(special.THINK_END)


def render(
    messages: Sequence[Message],
    tools: Sequence[ToolDefinition] = (),
    *,
    thinking: bool = True,
    preserve_thinking: bool = False,
    add_generation_prompt: bool = True,
) -> Rendering:
    """Render a conversation.

    Args:
        messages: the conversation; a last message that is `partial` is left open instead of opening a turn.
        tools: the tools that the model may call.
        thinking: false for instant mode.
        preserve_thinking: keep the reasoning of all turns.
        add_generation_prompt: open the assistant's next turn at the end.

    Raises:
        InputError: if a message other than the last is partial, or a tool schema is nested too deeply.
    """
    check_partial(messages)
    pieces = list(_tool_block(tools)) if tools else []
    open_turn = bool(messages) and messages[-1].partial
    finished = messages[:-1] if open_turn else messages
    history_end = 0 if preserve_thinking else _history_end(finished)
    for index, message in enumerate(finished):
        pieces += render_turn(message, keep_reasoning=thinking and index >= history_end)
    if open_turn:
        pieces += render_turn(messages[-1], keep_reasoning=thinking)[:-1]
    elif add_generation_prompt:
        pieces += generation_prompt(thinking=thinking)
    return Rendering(pieces)


def render_mode(
    messages: Sequence[Message],
    tools: Sequence[ToolDefinition] = (),
    *,
    mode: Mode = "thinking",
    preserve_thinking: bool = False,
) -> Rendering:
    """Render a prompt by the name of its mode; `partial` lets the model continue a last assistant message, thinking on.

    Raises:
        InputError: as `render`, and if mode `partial` meets a conversation that does not end in an assistant message.
    """
    if mode == "partial":
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant" or last.tool_calls:
            raise InputError("mode partial: the last message must be an assistant message without tool_calls")
        messages = [*messages[:-1], last.model_copy(update={"partial": True})]
    return render(messages, tools, thinking=mode != "instant", preserve_thinking=preserve_thinking)


def generation_prompt(*, thinking: bool) -> list[Piece]:
    """What opens the assistant's turn: the model's output begins inside the think block, or after an empty one."""
    opened = [control_piece(special.ASSISTANT), text_piece("assistant"), _TURN_MIDDLE, _THINK_BEGIN]
    return opened if thinking else [*opened, _THINK_END]


def render_turn(message: Message, *, keep_reasoning: bool) -> list[Piece]:
    """One message from its marker to `<|im_end|>`."""
    marker = _ROLE_MARKERS.get(message.role, special.SYSTEM)
    pieces = [control_piece(marker), text_piece(message.name or message.role), _TURN_MIDDLE]
    if message.role == "assistant":
        pieces.append(_THINK_BEGIN)
        if keep_reasoning:
            pieces.append(text_piece(_reasoning(message)))
        pieces.append(_THINK_END)
    elif message.role == "tool":
        pieces.append(text_piece(f"## Return of {message.tool_call_id}\n"))
    pieces += _content(message)
    if message.tool_calls:
        pieces += _tool_calls(message.tool_calls)
    pieces.append(_TURN_END)
    return pieces


def _tool_block(tools: Sequence[ToolDefinition]) -> Iterator[Piece]:
    yield control_piece(special.SYSTEM)
    yield text_piece("tool_declare")
    yield _TURN_MIDDLE
    yield text_piece(declaration_text([tool.to_dict() for tool in tools]))
    yield _TURN_END


def _history_end(messages: Sequence[Message]) -> int:
    """The index after the last assistant message without tool calls; 0 if there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "assistant" and not messages[index].tool_calls:
            return index + 1
    return 0


def _reasoning(message: Message) -> str:
    # The released template prints a null as Python does; a missing field prints nothing.
    return str(message.reasoning_content) if "reasoning_content" in message.model_fields_set else ""


def _content(message: Message) -> Iterator[Piece]:
    if isinstance(message.content, str):
        yield text_piece(message.content)
        return
    for part in message.content or ():
        if isinstance(part, TextPart):
            yield text_piece(part.text)
        else:
            yield from media_block("image") if isinstance(part, ImagePart) else [VIDEO_PIECE]
            yield text_piece("\n")


def _tool_calls(calls: Sequence[ToolCall]) -> Iterator[Piece]:
    yield control_piece(special.TOOL_CALLS_BEGIN)
    for call in calls:
        arguments = call.function.arguments
        yield control_piece(special.TOOL_CALL_BEGIN)
        yield text_piece(call.id)
        yield control_piece(special.TOOL_CALL_ARGUMENTS)
        yield text_piece(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
        yield control_piece(special.TOOL_CALL_END)
    yield control_piece(special.TOOL_CALLS_END)
