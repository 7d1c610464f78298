"""Guided decoding: JSON by schema, any JSON object, and Kimi's native tool calls, with or without reasoning first.

Grammars are llguidance's (docs/engine.md says why). Control tokens are terminals of their own, so the spelt-out text of
a marker is never taken for the marker. The structure of a tool-call section is that of the released chat template:

    <|tool_calls_section_begin|>
    <|tool_call_begin|>functions.NAME:INDEX<|tool_call_argument_begin|>JSON<|tool_call_end|>   (one or more)
    <|tool_calls_section_end|>
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llguidance.torch
import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from k25.errors import InputError

# Between the parts of a JSON text: nothing, one space, or a new line with its indentation. Endless white space is the
# classic way for a model to get lost in a grammar.
_WHITESPACE = r"(\n[ \t]{0,24}| )?"

# What closes a JSON text soonest, in this order: ends, the emptiest values, and only then the beginning of more. Where
# an exclamation mark may stand, the text is inside a string, and a quotation mark (or any filling) is what closes it.
_CLOSING = b'}]":,0123456789ntf[{'
_CLOSING_STRING = b'"!'

_KEPT_GRAMMARS = 256


@dataclass(frozen=True)
class GuideVocabulary:
    """The tokenizer as plain data.

    Attributes:
        token_bytes: the bytes of every token; control tokens need distinct names.
        control_ids: tokens that are no text.
        stop_ids: control tokens that end a turn; a guide allows them where its structure is complete.
        encode: text to ids; with it, text that is forced is cut into tokens as the model knows it.
    """

    token_bytes: Sequence[bytes]
    control_ids: frozenset[int]
    stop_ids: tuple[int, ...]
    encode: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class MarkerIds:
    """Ids of the control tokens around reasoning and tool calls."""

    think_end: int
    calls_begin: int
    calls_end: int
    call_begin: int
    call_arguments: int
    call_end: int


@dataclass(frozen=True)
class GuidedTool:
    """A tool that may be called; without `parameters` (not strict) its arguments are any JSON object."""

    name: str
    parameters: Mapping[str, Any] | None = None


class GrammarGuide:
    """A `Guide` that follows a grammar.

    With `wind_down` above 0 it allows only what closes the structure soonest once so few tokens remain, so that the
    token limit does not cut a JSON text in the middle. Where the text may end anyway, the limit cuts as usual, but no
    new structure begins.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: "_Prepared", wind_down: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._wind_down = wind_down
        self._ended = False

    def fill_mask(self, mask: Tensor, remaining: int) -> None:
        """See `Guide`."""
        words = self._vocabulary.words
        llguidance.torch.fill_next_token_bitmask(self._matcher, mask[None, :words])
        self._raise_error()
        if remaining <= self._wind_down:
            bits = mask.numpy().view(np.uint8)
            if self._matcher.is_accepting():
                for token in self._vocabulary.structure_ids:
                    bits[token >> 3] &= ~np.uint8(1 << (token & 7))
            else:
                self._keep_only_closing(bits)

    def _keep_only_closing(self, bits: "np.typing.NDArray[np.uint8]") -> None:
        vocabulary = self._vocabulary
        thinking = _is_set(bits, vocabulary.think_end)
        in_string = not thinking and vocabulary.closing_string and _is_set(bits, vocabulary.closing_string[-1])
        for token in vocabulary.closing_string if in_string else vocabulary.closing:
            if _is_set(bits, token):
                bits[:] = 0
                bits[token >> 3] = 1 << (token & 7)
                return

    def accept(self, token_id: int) -> None:
        """See `Guide`."""
        self._matcher.consume_token(token_id)
        self._raise_error()
        self._ended = token_id in self._vocabulary.stop_ids

    @property
    def finished(self) -> bool:
        """See `Guide`. A complete structure is not the end yet: the mask then allows only the stop tokens."""
        return self._ended

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise InputError(f"guided decoding gave up: {_first_line(self._matcher.get_error())}")


class Guides:
    """Makes guides for one vocabulary. Compiled grammars are kept; making a guide from a kept one is a copy.

    Every method raises InputError for a schema that cannot be followed, naming the reason. `reasoning` puts free text
    and the end-of-thinking marker first, as a prompt that ends in the opening marker asks for. For `wind_down` see
    `GrammarGuide`.
    """

    def __init__(self, vocabulary: GuideVocabulary, markers: MarkerIds) -> None:
        self._prepared = _Prepared(vocabulary, markers)
        self._markers = markers
        self._compiled = lru_cache(_KEPT_GRAMMARS)(self._prepared.compile)

    def json_schema(self, schema: Mapping[str, Any], *, reasoning: bool = False, wind_down: int = 0) -> GrammarGuide:
        """The answer is JSON that the schema admits."""
        return self._guide(f"answer: %json {_schema(schema)}", "answer", reasoning, wind_down)

    def json_object(self, *, reasoning: bool = False, wind_down: int = 0) -> GrammarGuide:
        """The answer is any JSON object."""
        return self.json_schema({"type": "object"}, reasoning=reasoning, wind_down=wind_down)

    def tool_calls(
        self, tools: Sequence[GuidedTool], choice: str, *, reasoning: bool = False, wind_down: int = 0
    ) -> GrammarGuide:
        """Native tool calls.

        Args:
            tools: the declared tools.
            choice: "auto" (text, then perhaps calls), "required" (calls only), or the name of the tool to call once.
            reasoning: see the class.
            wind_down: see the class.
        """
        named = choice not in ("auto", "required")
        callable_tools = [tool for tool in tools if tool.name == choice] if named else list(tools)
        if not callable_tools:
            raise InputError(f"tool_choice {choice!r} needs a tool; declared are {[tool.name for tool in tools]}")
        rules = self._section(callable_tools, once=named)
        if choice != "auto":
            return self._guide(rules, "section", reasoning, wind_down)
        if not reasoning:
            return self._guide(f"{rules}\nanswer: TEXT section?", "answer", False, wind_down)
        # Thinking may take up the whole answer, and a model may call a tool without having closed its thoughts.
        after = f"answer: TEXT (<[{self._markers.think_end}]> TEXT)? section?"
        return self._guide(f"{rules}\n{after}", "answer", False, wind_down)

    def _section(self, tools: Sequence[GuidedTool], *, once: bool) -> str:
        m = self._markers
        any_call = " | ".join(f"call_{number}" for number in range(len(tools)))
        rules = [
            f"section: <[{m.calls_begin}]> call{'' if once else '+'} <[{m.calls_end}]>",
            f"call: <[{m.call_begin}]> ({any_call}) <[{m.call_end}]>",
            "INDEX: /0|[1-9][0-9]{0,3}/",
        ]
        for number, tool in enumerate(tools):
            head = json.dumps(f"functions.{tool.name}:")
            rules.append(f"call_{number}: {head} INDEX <[{m.call_arguments}]> arguments_{number}")
            rules.append(f"arguments_{number}: %json {_schema(tool.parameters or {'type': 'object'})}")
        return "\n".join(rules)

    def _guide(self, rules: str, answer: str, reasoning: bool, wind_down: int) -> GrammarGuide:
        thoughts = f"TEXT <[{self._markers.think_end}]> " if reasoning else ""
        grammar = f"start: {thoughts}{answer}\nTEXT: /(.|\\n)*/\n{rules}\n"
        return GrammarGuide(self._compiled(grammar).deep_copy(), self._prepared, wind_down)


class _Prepared:
    """The vocabulary as llguidance wants it, and the tokens that matter for winding down."""

    def __init__(self, vocabulary: GuideVocabulary, markers: MarkerIds) -> None:
        adapter = _Adapter(vocabulary)
        self.tokenizer = LLTokenizer(TokenizerWrapper(adapter), eos_token=list(vocabulary.stop_ids))
        self.stop_ids = frozenset(vocabulary.stop_ids)
        self.words = -(-len(vocabulary.token_bytes) // 32)
        text = (
            (token, data) for token, data in enumerate(vocabulary.token_bytes) if token not in vocabulary.control_ids
        )
        single_bytes = {data: token for token, data in text if len(data) == 1}
        closing, self.closing_string = (
            [single_bytes[bytes([value])] for value in values if bytes([value]) in single_bytes]
            for values in (_CLOSING, _CLOSING_STRING)
        )
        self.think_end = markers.think_end
        self.closing = [*vocabulary.stop_ids, markers.calls_end, markers.call_end, markers.think_end, *closing]
        self.structure_ids = [markers.calls_begin, markers.call_begin, markers.think_end]

    def compile(self, grammar: str) -> LLMatcher:
        """The grammar's matcher at its start. Raises InputError."""
        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise InputError(f"this schema cannot be followed: {_first_line(matcher.get_error())}")
        return matcher


class _Adapter:
    """What llguidance asks of a tokenizer."""

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        self.eos_token_id = vocabulary.stop_ids[0]
        self.bos_token_id = None
        self.tokens = list(vocabulary.token_bytes)
        self.special_token_ids = sorted(vocabulary.control_ids)
        self._encode = vocabulary.encode
        text = (token for token in range(len(self.tokens)) if token not in vocabulary.control_ids)
        self._ids = {self.tokens[token]: token for token in text}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: str) -> list[int]:
        return self._encode(text) if self._encode is not None else self._greedy(text.encode())

    def _greedy(self, data: bytes) -> list[int]:
        ids = []
        while data:
            length = next(n for n in range(min(self._longest, len(data)), 0, -1) if data[:n] in self._ids)
            ids.append(self._ids[data[:length]])
            data = data[length:]
        return ids


def _schema(schema: Mapping[str, Any]) -> str:
    # References are local, so the schema's own address only confuses their resolution.
    local = {key: value for key, value in schema.items() if key != "$id"}
    try:
        return json.dumps({**local, "x-guidance": {"whitespace_pattern": _WHITESPACE}})
    except (TypeError, ValueError) as error:
        raise InputError(f"the schema is not JSON: {error}") from None


def _is_set(bits: "np.typing.NDArray[np.uint8]", token: int) -> bool:
    return bool(bits[token >> 3] & (1 << (token & 7)))


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
