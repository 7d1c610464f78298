"""A checkpoint's own chat template, rendered without trusting it.

The template runs in Jinja's immutable sandbox, with the functions and the JSON filter that Hugging Face gives chat
templates; it cannot reach Python, multiply without bounds or write without end, though it can still waste time.

The result is the same `Rendering` as that of `k25.chat.template`: control tokens that the template writes are control
tokens, those spelt out in messages stay text. To tell them apart, names of control tokens inside messages and tools are
replaced by unguessable marks while the template runs.
"""

import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from k25.chat.messages import Message, ToolDefinition
from k25.chat.rendering import VIDEO_PIECE, VIDEO_PLACEHOLDER, Piece, Rendering, control_piece, text_piece
from k25.chat.special_tokens import OFFSETS
from k25.chat.tool_declaration import sort_keys, typescript_declaration
from k25.errors import InputError

LONGEST_OUTPUT = 100_000_000
_LONGEST_REPEAT = 1_000_000
_NAMES = re.compile("|".join(re.escape(name) for name in sorted([*OFFSETS, VIDEO_PLACEHOLDER], key=len, reverse=True)))
# What a template may do wrong beyond Jinja's own errors: operate on values of the wrong type, or recurse.
_TEMPLATE_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)


class JinjaTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        name: what to call it in error messages, such as its path.

    Raises:
        InputError: if it is no valid Jinja.
    """

    def __init__(self, source: str, name: str = "chat template"):
        self.name = name
        try:
            self._template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise InputError(f"{name}: {_first_line(error)}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> "JinjaTemplate":
        """Read a `.jinja` file, or the template of a checkpoint folder (`chat_template.jinja` or its tokenizer config).

        Raises:
            InputError: if there is no template, or it is no valid Jinja.
        """
        path = Path(path)
        try:
            if not path.is_dir():
                return cls(path.read_text(encoding="utf-8"), str(path))
            file = path / "chat_template.jinja"
            if file.is_file():
                return cls(file.read_text(encoding="utf-8"), str(file))
            config = path / "tokenizer_config.json"
            source = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no readable chat template ({_first_line(error)})") from None
        if not isinstance(source, str):
            raise InputError(f"{path}: no chat_template.jinja, and no chat_template in tokenizer_config.json")
        return cls(source, str(config))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolDefinition] = (),
        *,
        thinking: bool = True,
        preserve_thinking: bool = False,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> Rendering:
        """Render a conversation with this template.

        Args:
            messages: the conversation; `partial` is left to the template.
            tools: the tools, handed over as JSON with sorted keys (`tools`) and as TypeScript text (`tools_ts_str`).
            thinking: handed over under this name, as are the next two.
            preserve_thinking: see there.
            add_generation_prompt: see there.
            variables: further variables of the template.

        Raises:
            InputError: if the template fails or raises an error of its own.
        """
        marks = _Marks()
        ordered = [sort_keys(tool.to_dict()) for tool in tools]
        try:
            text = self._render(
                messages=marks.hide([message.to_dict() for message in messages]),
                tools=marks.hide(ordered) or None,
                tools_ts_str=marks.hide(typescript_declaration(ordered)),
                thinking=thinking,
                preserve_thinking=preserve_thinking,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except _TEMPLATE_FAULTS as error:
            raise InputError(f"{self.name}: {_first_line(error)}") from None
        return Rendering(marks.pieces(text))

    def _render(self, **variables: Any) -> str:
        parts: list[str] = []
        length = 0
        for part in self._template.generate(**variables):
            length += len(part)
            if length > LONGEST_OUTPUT:
                raise TemplateError(f"the prompt would exceed {LONGEST_OUTPUT} characters")
            parts.append(part)
        return "".join(parts)


class _Marks:
    """Stands unguessable marks in for control-token names in what others wrote, and reads them back as text."""

    def __init__(self) -> None:
        # Private-use characters around a random number: no template treats them specially, no message can foresee them.
        self._nonce = secrets.token_hex(8)
        self._names: list[str] = []
        self._found = re.compile(rf"\ue000{self._nonce}:(\d+)\ue001|{_NAMES.pattern}")

    def hide(self, value: Any) -> Any:
        """The same JSON value with every control-token name replaced by a mark."""
        if isinstance(value, str):
            return _NAMES.sub(self._mark, value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        return value

    def _mark(self, name: re.Match[str]) -> str:
        self._names.append(name.group())
        return f"\ue000{self._nonce}:{len(self._names) - 1}\ue001"

    def pieces(self, text: str) -> list[Piece]:
        """The typed pieces of a rendered text."""
        pieces = []
        end = 0
        for found in self._found.finditer(text):
            pieces.append(text_piece(text[end : found.start()]))
            end = found.end()
            if found.group(1) is not None:
                pieces.append(text_piece(self._names[int(found.group(1))]))
            else:
                pieces.append(VIDEO_PIECE if found.group() == VIDEO_PLACEHOLDER else control_piece(found.group()))
        pieces.append(text_piece(text[end:]))
        return [piece for piece in pieces if piece.text]


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for value in (left, right):
            if isinstance(value, int) and abs(value) > _LONGEST_REPEAT:
                raise TemplateError(f"a template may not multiply by {_LONGEST_REPEAT} or more")
        return super().call_binop(context, operator, left, right)


def _environment() -> Environment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: no HTML escaping, non-ASCII kept, separators selectable."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _first_line(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"line {line}: {reason}" if line else reason
