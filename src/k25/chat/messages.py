"""Conversations as typed data, in the shapes of the OpenAI chat API.

Beyond those shapes: `reasoning_content` on assistant messages (`reasoning` is read as the same field), `partial` on a
last assistant message that the model is to continue, `image_url` and `video_url` as a string or as an object. Whether a
field was given at all stays known (`message.model_fields_set`): the released template renders a null
`reasoning_content` differently from a missing one. Unknown fields are ignored, because clients send back whole
response messages.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from k25.errors import InputError

JsonObject = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class TextPart(_Shape):
    """Text inside a content list; any part whose type is neither image nor video is read as text."""

    type: str = "text"
    text: str


class MediaSource(_Shape):
    """Where a picture or video lies: an http(s) URL, a `data:` URL or a file path."""

    url: str = Field(min_length=1)


def _source_from_string(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class ImagePart(_Shape):
    """A picture inside a content list; also reads `{"type": "image", "image": source}`."""

    type: Literal["image_url"] = "image_url"
    image_url: MediaSource

    _string = field_validator("image_url", mode="before")(_source_from_string)

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, data: object) -> object:
        return _canonical_media(data, "image")


class VideoPart(_Shape):
    """A video inside a content list; also reads `{"type": "video", "video": source}`."""

    type: Literal["video_url"] = "video_url"
    video_url: MediaSource

    _string = field_validator("video_url", mode="before")(_source_from_string)

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, data: object) -> object:
        return _canonical_media(data, "video")


def _canonical_media(data: object, kind: str) -> object:
    if isinstance(data, dict) and data.get("type") == kind:
        return {"type": f"{kind}_url", f"{kind}_url": data.get(f"{kind}_url", data.get(kind))}
    return data


def _part_kind(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    kinds = {"image": "<image>", "image_url": "<image>", "video": "<video>", "video_url": "<video>"}
    return kinds.get(str(kind), "<text>")


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image>")] | Annotated[VideoPart, Tag("<video>")],
    Discriminator(_part_kind),
]


class FunctionCall(_Shape):
    """The called function; `arguments` is JSON text as the model wrote it, or an object."""

    name: str
    arguments: str | JsonObject


class ToolCall(_Shape):
    """One call of an assistant message. The prompt shows only the id, which therefore carries the function's name."""

    id: str
    type: str = "function"
    function: FunctionCall


class Message(_Shape):
    """One message. Roles other than user and assistant are rendered as system turns under their own name.

    `weight` 0 marks a message of the assistant that training shows and does not teach, as in OpenAI's training files.
    """

    role: str = Field(min_length=1)
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    partial: bool = False
    weight: Literal[0, 1] = 1

    @model_validator(mode="before")
    @classmethod
    def _read_reasoning(cls, data: object) -> object:
        if not isinstance(data, dict) or "reasoning" not in data:
            return data
        data = dict(data)
        alias = data.pop("reasoning")
        if data.get("reasoning_content") is None:
            data["reasoning_content"] = alias
        return data

    @model_validator(mode="after")
    def _check(self) -> "Message":
        if self.role == "assistant":
            if not {"content", "tool_calls", "reasoning_content"} & self.model_fields_set:
                raise ValueError("an assistant message needs content or tool_calls")
        elif "content" not in self.model_fields_set:
            raise ValueError(f"a {self.role} message needs content")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool message needs tool_call_id, the id of the call that it answers")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only assistant messages have tool_calls")
        if self.partial and (self.role != "assistant" or self.tool_calls):
            raise ValueError("partial is for an assistant message without tool_calls")
        return self

    def to_dict(self) -> JsonObject:
        """The message as JSON data, with exactly the fields that were given."""
        return self.model_dump(include=self.model_fields_set)


class FunctionDefinition(BaseModel):
    """A function that the model may call; `parameters` is a JSON schema of its arguments."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: JsonObject | None = None


class ToolDefinition(BaseModel):
    """One entry of `tools`. Only the type `function` can be declared in TypeScript style."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: str = "function"
    function: FunctionDefinition | None = None

    @model_validator(mode="before")
    @classmethod
    def _explicit_type(cls, data: object) -> object:
        return {"type": "function", **data} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> "ToolDefinition":
        if self.type == "function" and self.function is None:
            raise ValueError("a tool of type function needs the field function")
        return self

    def to_dict(self) -> JsonObject:
        """The tool as JSON data, with exactly the fields that were given."""
        return self.model_dump(exclude_unset=True)


def parse_messages(data: object) -> list[Message]:
    """Check a conversation given as JSON data: a list of messages, or an object with the field `messages`.

    Raises:
        InputError: with the place (`messages[2].tool_calls[0].id`) and what is wrong there.
    """
    if isinstance(data, dict) and "messages" in data:
        data = data["messages"]
    if not isinstance(data, list) or not data:
        raise InputError('messages: expected a non-empty list of messages, or an object {"messages": [...]}')
    messages = [_validated(Message, item, f"messages[{index}]") for index, item in enumerate(data)]
    check_partial(messages)
    return messages


def parse_tools(data: object) -> list[ToolDefinition]:
    """Check tool definitions given as JSON data: a list of `{"type": "function", "function": {...}}`.

    Raises:
        InputError: with the place and what is wrong there.
    """
    if not isinstance(data, list):
        raise InputError('tools: expected a list of {"type": "function", "function": {...}} objects')
    return [_validated(ToolDefinition, item, f"tools[{index}]") for index, item in enumerate(data)]


def check_partial(messages: Sequence[Message]) -> None:
    """Raise `InputError` if a message other than the last is partial."""
    for index, message in enumerate(messages[:-1]):
        if message.partial:
            raise InputError(f"messages[{index}].partial: only the last message can be partial")


def _validated(model: type[Model], item: object, place: str) -> Model:
    try:
        return model.model_validate(item)
    except ValidationError as error:
        # A union reports one error per branch that it tried: the deepest place is the one that the user meant.
        found = [(_field_path(entry["loc"]), entry["msg"].removeprefix("Value error, ")) for entry in error.errors()]
        path = max((path for path, _ in found), key=len)
        reasons = " or ".join(reason[0].lower() + reason[1:] for other, reason in found if other == path)
        raise InputError(f"{place}{''.join(path)}: {reasons}") from None
    except RecursionError:
        raise InputError(f"{place}: nested too deeply") from None


def _field_path(location: tuple[int | str, ...]) -> list[str]:
    # Pydantic also names the branches of unions (`str`, `list[...]`, the tags); those are no fields of the user's.
    fields = [step for step in location if isinstance(step, int) or (step.isidentifier() and step != "str")]
    return [f"[{step}]" if isinstance(step, int) else f".{step}" for step in fields]
