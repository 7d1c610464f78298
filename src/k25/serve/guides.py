"""Which guide a chat request needs: tool calls as declared, JSON as asked for, or none."""

from functools import cached_property

from k25.chat import Tokenizer, ToolDefinition
from k25.chat import special_tokens as special
from k25.engine import Guide
from k25.engine.guided import GuidedTool, Guides, GuideVocabulary, MarkerIds
from k25.serve.errors import invalid
from k25.serve.schemas import ChatRequest, NamedTool

# So many tokens before the limit, a guided answer is brought to its end.
_WIND_DOWN = 256


class GuideMaker:
    """Makes guides for one tokenizer; grammars are compiled when first asked for, and kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _guides(self) -> Guides:
        tokenizer, ids = self._tokenizer, self._tokenizer.control_tokens
        vocabulary = GuideVocabulary(
            token_bytes=[tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary_size)],
            control_ids=frozenset(ids.values()),
            stop_ids=(ids[special.TURN_END], ids[special.END_OF_SEQUENCE]),
            encode=tokenizer.encode,
        )
        markers = MarkerIds(
            think_end=ids[special.THINK_END],
            calls_begin=ids[special.TOOL_CALLS_BEGIN],
            calls_end=ids[special.TOOL_CALLS_END],
            call_begin=ids[special.TOOL_CALL_BEGIN],
            call_arguments=ids[special.TOOL_CALL_ARGUMENTS],
            call_end=ids[special.TOOL_CALL_END],
        )
        return Guides(vocabulary, markers)

    def make(
        self, request: ChatRequest, tools: list[ToolDefinition], *, open_reasoning: bool, max_tokens: int, count: int
    ) -> list[Guide | None]:
        """`count` guides of the same kind, or as many None.

        Raises:
            InputError, ApiError: for a schema that cannot be followed, and for tools together with a JSON answer.
        """
        wanted = request.response_format
        structured = wanted is not None and wanted.type != "text"
        calling = bool(tools) and request.tool_choice != "none"
        if structured and calling:
            raise invalid("response_format and tools cannot be enforced together: set tool_choice to none or drop one")
        return [self._one(request, tools if calling else [], open_reasoning, max_tokens) for _ in range(count)]

    def _one(
        self, request: ChatRequest, tools: list[ToolDefinition], open_reasoning: bool, max_tokens: int
    ) -> Guide | None:
        wind_down = min(_WIND_DOWN, max_tokens // 2)
        if tools:
            guided = [_guided(tool) for tool in tools]
            choice = request.tool_choice
            name = choice.function.name if isinstance(choice, NamedTool) else choice or "auto"
            return self._guides.tool_calls(guided, name, reasoning=open_reasoning, wind_down=wind_down)
        wanted = request.response_format
        if wanted is None or wanted.type == "text":
            return None
        given = wanted.json_schema if wanted.type == "json_schema" else None
        if given is None or given.strict is False or given.json_schema is True:
            return self._guides.json_object(reasoning=open_reasoning, wind_down=wind_down)
        if given.json_schema is False:
            raise invalid("response_format.json_schema.schema: nothing fits the schema false")
        return self._guides.json_schema(given.json_schema, reasoning=open_reasoning, wind_down=wind_down)


def _guided(tool: ToolDefinition) -> GuidedTool:
    function = tool.function
    assert function is not None
    # The published default of `strict` is true.
    strict = (function.model_extra or {}).get("strict") is not False
    return GuidedTool(function.name, function.parameters if strict else None)
