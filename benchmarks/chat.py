"""Chat throughput: tokenising against `tiktoken` itself, rendering against the same template in Jinja.

Parsers and media add their cases as further functions in `CASES`. The tokenizer is trained on the spot from this
project's sources, so that the benchmark needs nothing beside it; `--only` picks cases by name.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import tiktoken

from harness import Case, main
from k25.chat import Tokenizer, parse_messages, parse_tools, render
from k25.chat.tokenizer import SPLIT_PATTERN
from k25.chat.tokenizer_training import train_tokenizer
from k25.chat.tool_declaration import sort_keys, typescript_declaration

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/chat"))

MULTILINGUAL = "混合专家模型 mixture of experts 한국어 текст naïve café 🙂 1234567890\n"


@cache
def source_text() -> str:
    """The project's own Python files: prose and code in one."""
    return "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "src").rglob("*.py")))


@cache
def tokenizer() -> Tokenizer:
    """A vocabulary of 4,096 tokens."""
    return train_tokenizer([source_text(), MULTILINGUAL * 50], 4096)


@cache
def plain_tiktoken() -> tiktoken.Encoding:
    """The peer: the same vocabulary and pattern in `tiktoken`."""
    ours = tokenizer()
    ranks = {ours.token_bytes(rank): rank for rank in range(ours.base_tokens)}
    return tiktoken.Encoding("peer", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=ours.control_tokens)


def tokenising(quick: bool) -> Iterator[Case]:
    """Plain encoding, without and with recognition of control tokens."""
    ours, peer = tokenizer(), plain_tiktoken()
    size = 100_000 if quick else 1_000_000
    prose = (source_text() * 20)[:size]
    mixed = (MULTILINGUAL * (size // len(MULTILINGUAL) + 1))[:size]
    short = "What is the weather in Paris today?"

    # A string keeps its UTF-8 form once tiktoken has asked for it; in practice a text is new, so take a new string.
    def new(text: str) -> str:
        return text[1:]

    for name, text in (("one question", short), ("source text", prose), ("multilingual", mixed)):
        yield Case(
            f"tokenise {name}, {len(text):,} characters",
            lambda text=text: ours.encode(new(text)),  # type: ignore[misc]
            lambda text=text: peer.encode(new(text), disallowed_special=()),  # type: ignore[misc]
            "tiktoken",
            "Mchar/s",
            work=len(text) / 1e6,
        )
    yield Case(
        f"tokenise source text with control tokens, {size:,} characters",
        lambda: ours.encode(new(prose), control_tokens=True),
        lambda: peer.encode(new(prose), allowed_special="all"),
        "tiktoken",
        "Mchar/s",
        work=size / 1e6,
    )


def long_agent_run() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """A tool loop of 100 messages with 50 tools, as JSON data."""
    words = source_text().split()
    tools: list[dict[str, object]] = []
    for index in range(50):
        properties = {
            f"field_{at}": {"type": "string", "description": " ".join(words[index + at : index + at + 8])}
            for at in range(6)
        }
        parameters = {"type": "object", "properties": properties, "required": ["field_0"]}
        function = {"name": f"tool_{index}", "description": "Does one thing.", "parameters": parameters}
        tools.append({"type": "function", "function": function})
    messages: list[dict[str, object]] = [{"role": "user", "content": "Find out."}]
    for index in range(49):
        call_id = f"functions.tool_{index}:{index}"
        passage = " ".join(words[index * 40 : index * 40 + 150])
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": f"tool_{index}", "arguments": '{"field_0": "x"}'},
        }
        messages.append({"role": "assistant", "content": "", "reasoning_content": passage[:200], "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": passage})
    return [*messages, {"role": "user", "content": "And now?"}], tools


def rendering(quick: bool) -> Iterator[Case]:  # noqa: ARG001 - one size, quick enough
    """The whole way from typed messages to token ids, and from JSON data."""
    from reference_template import compile_reference  # type: ignore[import-not-found]

    data, tool_data = long_agent_run()
    messages, tools = parse_messages(data), parse_tools(tool_data)
    template, ours, peer = compile_reference(), tokenizer(), plain_tiktoken()

    def jinja_text() -> str:
        ordered = [sort_keys(tool) for tool in tool_data]
        declared = typescript_declaration(ordered)
        options = {"thinking": True, "add_generation_prompt": True}
        return template.render(messages=data, tools=ordered, tools_ts_str=declared, **options)

    if render(messages, tools).text != jinja_text():
        raise AssertionError("the two renderings differ")
    conversation = json.dumps({"messages": data, "tools": tool_data})
    yield Case(
        "render 100 messages and 50 tools",
        lambda: render(messages, tools).text,
        jinja_text,
        "Jinja",
        "prompts/s",
        work=1,
    )
    yield Case(
        "render and tokenise them",
        lambda: render(messages, tools).token_ids(ours),
        lambda: peer.encode(jinja_text(), allowed_special="all"),
        "Jinja + tiktoken",
        "prompts/s",
        work=1,
    )

    def from_json() -> list[int]:
        parsed = json.loads(conversation)
        return render(parse_messages(parsed), parse_tools(parsed["tools"])).token_ids(ours)

    yield Case("read, check, render and tokenise them", from_json, unit="prompts/s", work=1)


CASES = [tokenising, rendering]

if __name__ == "__main__":
    main("chat", CASES)
