"""The bodies that clients send. Unknown fields are ignored, as the published API does.

Messages and tools are checked by `k25.chat`; here they are any JSON objects.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

JsonObject = dict[str, Any]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]

MAX_TOOLS = 128
MAX_STOPS = 5
MAX_STOP_BYTES = 32
MAX_CHOICES = 16
MAX_PROMPTS = 128


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class StreamOptions(_Body):
    """`include_usage`: send one more event, with the usage of all choices."""

    include_usage: bool = False


class SamplingFields(_Body):
    """What all generating endpoints share. Null means the default."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for key in value or ():
            if not (key.isascii() and key.isdecimal() and len(key) < 10):
                raise ValueError("keys must be token ids")
        return value


class TextFields(SamplingFields):
    """What the endpoints that answer in text share beyond that."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _short(cls, value: str | list[str] | None) -> str | list[str] | None:
        for stop in [value] if isinstance(value, str) else value or ():
            if len(stop.encode("utf-8", "replace")) > MAX_STOP_BYTES:
                raise ValueError(f"a stop string has at most {MAX_STOP_BYTES} bytes")
        return value

    @property
    def stops(self) -> list[str]:
        """The stop strings, as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends in an event with the usage of all choices."""
        return self.stream_options is not None and self.stream_options.include_usage


class JsonSchemaFormat(_Body):
    """`strict` false asks for any JSON object."""

    name: str = ""
    strict: bool | None = None
    json_schema: JsonObject | bool = Field(default_factory=dict, alias="schema")


class ResponseFormat(_Body):
    """What the answer must be: text, any JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs the field json_schema")
        return self


class NamedFunction(_Body):
    """The function that a named tool choice asks for."""

    name: str


class NamedTool(_Body):
    """A tool choice that names a function."""

    type: Literal["function"] = "function"
    function: NamedFunction


class Thinking(BaseModel):
    """The published switch between thinking and instant mode; it has no other keys for this model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["enabled", "disabled"]


class TemplateArguments(_Body):
    """The self-hosted spellings of the same switch. `preserve_thinking` keeps the reasoning of earlier turns."""

    thinking: bool | None = None
    enable_thinking: bool | None = None
    preserve_thinking: bool | None = None


class ChatRequest(TextFields):
    """Body of /v1/chat/completions."""

    messages: list[JsonObject]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    tools: Annotated[list[JsonObject], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    thinking: Thinking | None = None
    chat_template_kwargs: TemplateArguments | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _lift_extra_body(cls, data: Any) -> Any:
        # Some clients send the Python client's argument `extra_body` as a field of its own.
        if isinstance(data, dict) and isinstance(extra := data.get("extra_body"), dict):
            return {**extra, **data}
        return data


class CompletionRequest(TextFields):
    """Body of /v1/completions: a raw prompt, in which control tokens are recognised."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token for token in self.prompt if isinstance(token, int)]
        return [ids] if ids else [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class EstimateRequest(_Body):
    """Body of /v1/tokenizers/estimate-token-count."""

    model: str
    messages: list[JsonObject]
    tools: Annotated[list[JsonObject], Field(max_length=MAX_TOOLS)] | None = None
    thinking: Thinking | None = None
    chat_template_kwargs: TemplateArguments | None = None


class PatchesField(_Body):
    """An image or video chunk as its patches: the grid (frames, rows, columns), and base64 of little-endian float32
    values (patches, 3, side, side), patches in frame, row, column order.
    """

    grid: tuple[Annotated[int, Field(ge=1, lt=2**16)], ...]
    data: str

    @field_validator("grid", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError("must be [frames, rows, columns]")
        return tuple(value)


class TokenRequest(SamplingFields):
    """Body of /v1/k25/generate.

    `token_ids` hold one media placeholder per vision feature; `media` are content parts of type image_url or video_url,
    in the order of their placeholders. `patches` are what they come to, for clients that have that already.
    """

    token_ids: list[TokenId]
    media: list[JsonObject] | None = None
    patches: list[PatchesField] | None = None
    stop_token_ids: list[TokenId] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class WeightsRequest(_Body):
    """Body of /v1/k25/weights: a checkpoint folder under the server's weights root, and the version it will have."""

    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    version: Annotated[int, Field(ge=0, lt=2**63)] | None = None
