"""What a recipe says about its data: the sources, how much of each and when, and the shape of the streams.

[data]
sequence_tokens = 1024

[data.sources.sums]
kind = "tasks"
tasks = ["add", "subtract"]

[data.sources.manuals]
kind = "text"
path = "corpus.jsonl.gz"
weight = [[0, 1.0], [5_000_000, 0.2]]
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from k25.errors import InputError
from k25.train.data.schedule import Schedule

Loss = Literal["all", "answers"]


def _checked_points(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(tuple(point) if isinstance(point, list) else point for point in value)
    return value


def _check_weight(weight: Schedule) -> Schedule:
    if isinstance(weight, tuple):
        starts = [tokens for tokens, _ in weight]
        if not weight or starts != sorted(starts):
            raise ValueError("a schedule is a list of [tokens, weight] in growing order of tokens")
    if min([weight] if isinstance(weight, float) else [height for _, height in weight]) < 0:
        raise ValueError("weights must not be negative")
    return weight


Weight = Annotated[Schedule, BeforeValidator(_checked_points), AfterValidator(_check_weight)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Source(_Table):
    """What all sources have.

    Attributes:
        weight: share of the tokens, relative to the other sources: a number, or points [tokens seen, weight] with
            straight lines between them; two points at the same place are a step.
        loss_weight: weight of each of its targets in the loss.
    """

    weight: Weight = 1.0
    loss_weight: float = Field(default=1.0, ge=0)


class TasksSource(_Source):
    """Samples of `k25.tasks`, without end.

    Attributes:
        tasks: one name, several, or a table of names and their weights; weights count samples.
        difficulty: one, a range [least, most], or a table of difficulties and their weights; by default all that a task
            has, equally often. Difficulties beyond a task's hardest are left out for that task.
        form: `plain` for pre-training text, `chat` for conversations in the chat template.
        loss: learn every token, or the answers alone.
    """

    kind: Literal["tasks"]
    tasks: str | list[str] | dict[str, Annotated[float, Field(ge=0)]]
    difficulty: int | tuple[int, int] | dict[int, Annotated[float, Field(ge=0)]] | None = None
    form: Literal["plain", "chat"] = "plain"
    loss: Loss = "all"


class TextSource(_Source):
    """Running text in files.

    Attributes:
        path: a file or a folder, which is read with its sub-folders: .jsonl (also .gz, .xz, .zst), .parquet, and
            text files (.txt, .md, .rst), each of which is one document.
        field: the field or column of the text.
    """

    kind: Literal["text"]
    path: Path
    field: str = "text"


class ConversationsSource(_Source):
    """Records with `messages` and, where wanted, `tools`, in the shapes of the chat API.

    Attributes:
        path: a .jsonl file (also .gz, .xz, .zst), a .parquet file, or a folder of them. Paths of media in messages are
            relative to this file or folder and may not leave it.
        loss: learn the turns of the assistant, or every token.
        thinking: the mode of all turns; by default turns with reasoning are thinking turns, the others instant ones.
    """

    kind: Literal["conversations"]
    path: Path
    loss: Loss = "answers"
    thinking: bool | None = None


SourceConfig = Annotated[TasksSource | TextSource | ConversationsSource, Field(discriminator="kind")]


class DataConfig(_Table):
    """The data of a run.

    Attributes:
        sources: by name.
        sequence_tokens: room of one packed stream in tokens.
        vision_budget: room of one stream in patches; no limit by default.
        longest_document: in tokens; the room of a stream by default.
        too_long: what happens to longer plain text: a piece from a place drawn at random, or nothing. Conversations
            and documents with media are never cut.
        block_streams: streams that are packed together.
        surplus: share of documents drawn beyond a block's room: more of it fills streams of long documents better and
            leaves more documents out.
        seed: of everything that is drawn.
        workers: processes that prepare streams ahead; 0 prepares them in the process that asks. Changes no stream.
    """

    sources: dict[str, SourceConfig] = Field(min_length=1)
    sequence_tokens: int = Field(ge=8)
    vision_budget: int | None = Field(default=None, ge=1)
    longest_document: int | None = Field(default=None, ge=4)
    too_long: Literal["cut", "skip"] = "cut"
    block_streams: int = Field(default=16, ge=1)
    surplus: float = Field(default=0.02, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0, le=64)

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.longest_document is not None and self.longest_document > self.sequence_tokens:
            raise ValueError(
                f"longest_document ({self.longest_document}) exceeds sequence_tokens ({self.sequence_tokens})"
            )
        return self

    @property
    def document_limit(self) -> int:
        """The most tokens of one document."""
        return self.longest_document or self.sequence_tokens


def parse_data_config(table: object, place: str = "data") -> DataConfig:
    """Check a `[data]` table.

    Raises:
        InputError: names the key below `place`, what is wrong with it and, for an unknown one, the nearest valid one.
    """
    try:
        return DataConfig.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        tags = {"tasks", "text", "conversations"}
        path = [str(step) for index, step in enumerate(first["loc"]) if not (index == 2 and step in tags)]
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"unknown key; {_nearest(first['loc'])}"
        raise InputError(f"{'.'.join([place, *path])}: {reason}") from None


def _nearest(location: tuple[int | str, ...]) -> str:
    models: dict[str, type[BaseModel]] = {
        "tasks": TasksSource,
        "text": TextSource,
        "conversations": ConversationsSource,
    }
    model: type[BaseModel] = DataConfig if len(location) == 1 else models[str(location[2])]
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
