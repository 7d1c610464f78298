"""What is to be synthesised, as typed data from a TOML file: who is asked what, how answers are verified and chosen.

[endpoints.teacher]
url = "http://127.0.0.1:8000/v1"
model = "k2.5"
candidates = 4
options = { temperature = 1.0, max_tokens = 4096 }

[prompts.sums]
kind = "tasks"
tasks = ["add", "tool-steps"]
count = 100

[prompts.questions]
kind = "conversations"
path = "questions.jsonl"
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from k25.agent import Endpoint, Patience, Price
from k25.errors import InputError

_Share = Annotated[float, Field(ge=0, le=1)]
_Bounds = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PriceConfig(_Table):
    """Money per million tokens, in any one unit."""

    prompt: float = Field(default=0.0, ge=0)
    completion: float = Field(default=0.0, ge=0)
    cached: float = Field(default=0.0, ge=0)


class ServerConfig(_Table):
    """A model behind an OpenAI-compatible URL.

    Attributes:
        url: with or without `/v1`.
        model: the name that the server knows.
        key_variable: the environment variable that holds the key, where one is needed.
        options: further fields of every request: temperature, max_tokens, thinking, ...
        price: what its tokens cost.
        concurrency: the most requests at once; fewer while the server says that there are too many.
        attempts: how often a request that fails is sent in all.
    """

    url: str
    model: str
    key_variable: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    price: PriceConfig = PriceConfig()
    concurrency: int = Field(default=16, ge=1)
    attempts: int = Field(default=8, ge=1)

    def endpoint(self) -> Endpoint:
        """Where the agent loop's client finds it. Raises InputError for a bad URL or a key that is not set."""
        if self.key_variable and not os.environ.get(self.key_variable):
            raise InputError(f"{self.url}: the environment variable {self.key_variable} is not set; it holds the key")
        return Endpoint(
            self.url,
            self.model,
            key_variable=self.key_variable,
            options=self.options,
            price=Price(**self.price.model_dump()),
            patience=Patience(attempts=self.attempts),
        )


class EndpointConfig(ServerConfig):
    """A model that answers prompts: `candidates` times each."""

    candidates: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "EndpointConfig":
        fixed = "seed" in self.options or self.options.get("temperature") == 0
        if self.candidates > 1 and fixed:
            raise ValueError("a fixed seed or temperature 0 makes all candidates the same; leave it out or ask for one")
        return self


class _PromptSet(_Table):
    """What all prompt sets have.

    Attributes:
        instruction: a system message that the asked models see and the records leave out, such as how to name the
            final answer so that the checkers find it.
    """

    instruction: str = ""


class TasksPrompts(_PromptSet):
    """Exercises of `k25.tasks`, with their exact checkers; their tools are run.

    Attributes:
        tasks: names.
        count: exercises of each task, in turn of each difficulty.
        difficulty: one, or a range [least, most]; by default all that a task has.
        seed: which stream of exercises.
    """

    kind: Literal["tasks"]
    tasks: list[str] = Field(min_length=1)
    count: int = Field(default=100, ge=1)
    difficulty: int | tuple[int, int] | None = None
    seed: int = 0


class ConversationPrompts(_PromptSet):
    """A .jsonl file: `messages`, and where wanted `tools`, `answer` (the reference) and `difficulty`.

    Declared tools are not run: an answer that calls one ends there, and `answer` may be a list of the right calls,
    `{"name": ..., "arguments": {...}}`. Pictures are `data:` URLs.
    """

    kind: Literal["conversations"]
    path: Path


PromptSet = Annotated[TasksPrompts | ConversationPrompts, Field(discriminator="kind")]


class VerifyConfig(_Table):
    """The stages before the judge.

    Attributes:
        turns: the most model calls of one answer.
        answer_characters: bounds on the final answer.
        reasoning_characters: bounds on all reasoning together; a lower bound of 1 asks for thinking.
        score: the least score of an exact checker.
        majority: where there is neither a checker nor a reference: the share of a prompt's candidates that must agree
            on the final answer; 0 leaves the verdict to the judge.
    """

    turns: int = Field(default=8, ge=1)
    answer_characters: _Bounds = (1, 20_000)
    reasoning_characters: _Bounds = (0, 200_000)
    score: _Share = 1.0
    majority: _Share = 0.5


class Rubric(_Table):
    """What the judge grades from 1 to 5: `ask` says what to look at; answers below `least` are rejected."""

    ask: str = Field(min_length=1)
    least: int = Field(default=4, ge=1, le=5)
    weight: float = Field(default=1.0, gt=0)


class JudgeConfig(ServerConfig):
    """A model that grades the answers that passed all other stages.

    Attributes:
        rubrics: by name.
        again: how often it is asked again when its answer is not the JSON that was asked for.
    """

    rubrics: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Rubric] = Field(min_length=1)
    again: int = Field(default=1, ge=0)


class SelectConfig(_Table):
    """Which of the verified answers become records.

    Attributes:
        keep: the most per prompt.
        by: `best` grades first, or `diverse`: the best one, then those whose words differ most from the chosen ones.
        balance: within a prompt set no difficulty gets more than this many times the records of the rarest one; 0 keeps
            all.
    """

    keep: int = Field(default=1, ge=1)
    by: Literal["best", "diverse"] = "best"
    balance: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "SelectConfig":
        if 0 < self.balance < 1:
            raise ValueError("balance is a ratio of at least 1, or 0 to keep all")
        return self


class LimitsConfig(_Table):
    """The most tokens and money of the whole synthesis, judge and earlier runs into the same folder included."""

    tokens: int | None = Field(default=None, ge=1)
    money: float | None = Field(default=None, gt=0)


class Plan(_Table):
    """A whole synthesis."""

    endpoints: dict[str, EndpointConfig] = Field(min_length=1)
    prompts: dict[str, PromptSet] = Field(min_length=1)
    verify: VerifyConfig = VerifyConfig()
    judge: JudgeConfig | None = None
    select: SelectConfig = SelectConfig()
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        seen: dict[str, str] = {}
        for name, endpoint in self.endpoints.items():
            identity = f"{endpoint.url} {endpoint.model} {sorted(endpoint.options.items())}"
            if identity in seen:
                raise ValueError(f"endpoints {seen[identity]} and {name} are the same; ask one for more candidates")
            seen[identity] = name
        return self

    @property
    def candidates(self) -> int:
        """Candidates per prompt."""
        return sum(endpoint.candidates for endpoint in self.endpoints.values())


def load_plan(path: Path) -> Plan:
    """Read a plan; paths in it are relative to its folder.

    Raises:
        InputError: for a file that cannot be read, and for a key that is unknown or wrong, with the nearest valid one.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the plan's TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from None
    plan = parse_plan(table, str(path))
    moved = {
        name: one.model_copy(update={"path": path.parent / one.path}) if isinstance(one, ConversationPrompts) else one
        for name, one in plan.prompts.items()
    }
    return plan.model_copy(update={"prompts": moved})


def parse_plan(table: object, place: str = "plan") -> Plan:
    """Check a plan's table. Raises InputError that names the key."""
    try:
        return Plan.model_validate(table)
    except ValidationError as error:
        # A misspelt key is also a missing one: the misspelling is what the user can see.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        kinds = {"tasks", "conversations"}
        steps = [str(step) for index, step in enumerate(first["loc"]) if not (index == 2 and step in kinds)]
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"unknown key; {_nearest(first['loc'])}"
        raise InputError(f"{place}: {'.'.join([*steps, ''])[:-1] or 'plan'}: {reason}") from None


def _nearest(location: tuple[int | str, ...]) -> str:
    step, key = (str(location[0]) if len(location) > 1 else ""), str(location[-1])
    models: dict[str, type[BaseModel]] = {
        "": Plan,
        "endpoints": EndpointConfig,
        "verify": VerifyConfig,
        "judge": Rubric if "rubrics" in location else JudgeConfig,
        "select": SelectConfig,
        "limits": LimitsConfig,
        "prompts": TasksPrompts if "tasks" in location else ConversationPrompts,
    }
    model = PriceConfig if "price" in location else models[step]
    near = difflib.get_close_matches(key, model.model_fields, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(model.model_fields)}"
