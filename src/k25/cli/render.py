"""`k25 render`: the exact prompt that a conversation becomes, control tokens in colour, tokens counted per message."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from k25.chat import Message, Mode, Rendering, Tokenizer, ToolDefinition, parse_messages, parse_tools, render_mode
from k25.chat.jinja_template import JinjaTemplate
from k25.chat.rendering import Piece, PieceKind
from k25.errors import InputError

_STYLES = {PieceKind.TEXT: "", PieceKind.CONTROL: "bold cyan", PieceKind.VIDEO: "bold magenta"}


def main(
    conversation: Path,
    /,
    *,
    tools: Path | None = None,
    mode: Mode = "thinking",
    preserve_thinking: bool = False,
    tokenizer: Path | None = None,
    template: Path | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> None:
    """Print the exact prompt that a conversation becomes.

    Args:
        conversation: JSON file: a list of messages in OpenAI shapes, or an object with `messages` and maybe `tools`.
        tools: JSON file with a list of tool definitions; replaces those of the conversation file.
        mode: thinking, instant, or partial (the model continues the last assistant message).
        preserve_thinking: Keep the reasoning of earlier answers.
        tokenizer: Folder of a checkpoint, or its tiktoken.model; needed for token counts.
        template: Render with this Jinja file, or that of this checkpoint folder, instead of the built-in template.
        as_json: Print one JSON object: the prompt, and with a tokenizer its ids and counts.
    """
    messages, definitions = _read_conversation(conversation, tools)
    if template is None:
        rendering = render_mode(messages, definitions, mode=mode, preserve_thinking=preserve_thinking)
    else:
        rendering = _render_with_template(template, messages, definitions, mode, preserve_thinking)
    counts = None if tokenizer is None else _count(rendering, Tokenizer.from_file(tokenizer))
    if as_json:
        _print_json(rendering, counts)
    else:
        _print_prompt(rendering, counts)


def _read_conversation(conversation: Path, tools: Path | None) -> tuple[list[Message], list[ToolDefinition]]:
    data = _read_json(conversation)
    try:
        messages = parse_messages(data)
    except InputError as error:
        raise InputError(f"{conversation}: {error}") from None
    given = data.get("tools") if isinstance(data, dict) else None
    source = conversation
    if tools is not None:
        given, source = _read_json(tools), tools
    try:
        return messages, parse_tools(given if given is not None else [])
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def _render_with_template(
    path: Path, messages: list[Message], tools: list[ToolDefinition], mode: Mode, preserve_thinking: bool
) -> Rendering:
    if mode == "partial":
        raise InputError("mode partial works with the built-in template only: leave out --template")
    return JinjaTemplate.from_file(path).render(
        messages, tools, thinking=mode == "thinking", preserve_thinking=preserve_thinking
    )


def _count(rendering: Rendering, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of every turn; a picture counts as its one placeholder, a video as the text of its placeholder."""
    shown = [
        piece._replace(kind=PieceKind.TEXT) if piece.kind is PieceKind.VIDEO else piece for piece in rendering.pieces
    ]
    return [turn.token_ids(tokenizer) for turn in Rendering(shown).turns()]


def _print_json(rendering: Rendering, counts: list[list[int]] | None) -> None:
    report: dict[str, object] = {"prompt": rendering.text}
    if counts is not None:
        report["token_ids"] = [token_id for turn in counts for token_id in turn]
        report["tokens_per_turn"] = [len(turn) for turn in counts]
    sys.stdout.write(json.dumps(report) + "\n")


def _print_prompt(rendering: Rendering, counts: list[list[int]] | None) -> None:
    output = Console(soft_wrap=True)
    if output.is_terminal:
        output.print(Text.assemble(*[(piece.text, _STYLES[piece.kind]) for piece in rendering.pieces]))
    else:  # byte for byte: rich would expand tabs and drop control characters
        sys.stdout.write(rendering.text.encode("utf-8", "replace").decode() + "\n")
    notes = Console(stderr=True, highlight=False)
    if counts is None:
        notes.print(
            "No token counts: name a tokenizer with --tokenizer (a checkpoint folder or a tiktoken.model file)."
        )
        return
    table = Table("turn", "tokens", title="Token counts")
    table.columns[1].justify = "right"
    for turn, token_ids in zip(rendering.turns(), counts, strict=True):
        table.add_row(Text(_heading(turn.pieces)), str(len(token_ids)))
    table.add_section()
    table.add_row("all", str(sum(map(len, counts))))
    notes.print(table)
    if rendering.image_count or rendering.video_count:
        notes.print("Pictures and videos count as their placeholders here; `k25 tokens FILE` counts what they become.")


def _heading(pieces: Any) -> str:
    """The name in a turn's header, such as user or tool_declare."""
    names: list[Piece] = [piece for piece in pieces[:2] if piece.kind is PieceKind.TEXT]
    return names[0].text if names else pieces[0].text
