"""What a chat request asks for: its mode, its sampling, and what the published rules of kimi-k2.5 forbid.

Modes and fixed parameters: the K2.5 model card and API reference. In thinking mode the published service takes
temperature 1.0; Moonshot's current vendor verifier also expects 0.0 and 0.6 to be taken, so the strict policy does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from k25.chat import Message, TextPart, ToolDefinition
from k25.serve.errors import invalid
from k25.serve.schemas import ChatRequest, EstimateRequest, NamedTool

TOP_P = 0.95
_TEMPERATURES = {True: (1.0, 0.0, 0.6), False: (0.6,)}
_FIXED = {"top_p": TOP_P, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_PUBLISHED_TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{2,63}")


@dataclass(frozen=True)
class ChatMode:
    """Thinking or instant, and whether reasoning of earlier turns stays in the prompt."""

    thinking: bool
    preserve_thinking: bool = False

    @property
    def temperature(self) -> float:
        """The recommended temperature."""
        return _TEMPERATURES[self.thinking][0]


def chat_mode(request: ChatRequest | EstimateRequest) -> ChatMode:
    """The mode in any of its spellings; thinking where none is given.

    Raises:
        ApiError: if two spellings contradict each other.
    """
    effort = getattr(request, "reasoning_effort", None)
    if request.thinking is not None and effort is not None:
        raise invalid("cannot specify both 'thinking' and 'reasoning_effort'")
    arguments = request.chat_template_kwargs
    said = {
        None if request.thinking is None else request.thinking.type == "enabled",
        None if effort is None else effort != "none",
        None if arguments is None else arguments.thinking,
        None if arguments is None else arguments.enable_thinking,
    } - {None}
    if len(said) > 1:
        raise invalid("thinking is switched on and off in the same request")
    preserve = arguments is not None and bool(arguments.preserve_thinking)
    return ChatMode(thinking=False not in said, preserve_thinking=preserve)


def check_tools(tools: Sequence[ToolDefinition], request: ChatRequest, *, strict: bool) -> None:
    """Raise ApiError for tools that cannot be served, and for a choice of a tool that is not there."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function is None or tool.type != "function":
            raise invalid(f"tools[{index}].type: {tool.type} is not served here, only function")
        name = tool.function.name
        if not (_PUBLISHED_TOOL_NAME if strict else _TOOL_NAME).fullmatch(name):
            raise invalid(f"tools[{index}].function.name: {name!r} is not a valid function name")
        if name in names:
            raise invalid(f"tools[{index}].function.name: function name {name} is duplicated")
        names.add(name)
    choice = request.tool_choice
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise invalid(f"tool_choice: there is no tool named {choice.function.name}")
    if choice == "required" and not names:
        raise invalid("tool_choice 'required' needs tools")


def check_strictly(request: ChatRequest, mode: ChatMode, messages: Sequence[Message]) -> None:
    """The published parameter policy and message rules. Raises ApiError."""
    _check_parameters(request, mode)
    if mode.thinking and request.tool_choice not in (None, "auto", "none"):
        kind = "required" if request.tool_choice == "required" else "specified"
        raise invalid(f"tool_choice '{kind}' is incompatible with thinking enabled")
    for message in messages:
        parts = message.content if isinstance(message.content, list) else []
        if any(isinstance(part, TextPart) and not part.text for part in parts):
            raise invalid("text content is empty")
    if mode.thinking:
        _check_reasoning(messages)
    _check_answers(messages)


def _check_parameters(request: ChatRequest, mode: ChatMode) -> None:
    allowed = _TEMPERATURES[mode.thinking]
    if request.temperature is not None and request.temperature not in allowed:
        raise invalid(f"invalid temperature: only {allowed[0]:g} is allowed for this model")
    for name, value in _FIXED.items():
        if getattr(request, name) not in (None, value):
            raise invalid(f"invalid {name}: only {value:g} is allowed for this model")


def _check_reasoning(messages: Sequence[Message]) -> None:
    """Calls of the running tool loop: those after the last assistant message without any."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role != "assistant" or message.partial:
            continue
        if not message.tool_calls:
            return
        if message.reasoning_content is None:
            raise invalid(
                f"thinking is enabled but reasoning_content is missing in assistant tool call message at index {index}"
            )


def _check_answers(messages: Sequence[Message]) -> None:
    """Every call is answered before the next message that is not a tool's."""
    waiting: set[str] = set()
    for message in messages:
        if message.role == "tool":
            waiting.discard(message.tool_call_id or "")
        elif waiting:
            break
        waiting |= {call.id for call in message.tool_calls or ()}
    if waiting:
        raise invalid(f"tool_call_id {min(waiting)} not found: every tool call needs a tool message with its id")
