"""Prompts from tasks and files: what is asked, with which tools, and what an answer is checked against."""

import asyncio
import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from k25.agent import Tool, ToolContext, ToolOutput, Toolset
from k25.chat import Message, TextPart, parse_messages, parse_tools
from k25.errors import InputError
from k25.synthesis.plan import ConversationPrompts, Plan, TasksPrompts
from k25.tasks import Clip, Sample, Task, get_task

JsonObject = dict[str, Any]
_FIELDS = ("messages", "tools", "answer", "difficulty", "id")


@dataclass(frozen=True)
class Exact:
    """An exercise and the task that checks its answers."""

    task: Task
    sample: Sample

    def score(self, answer: str) -> float:
        """From 0 to 1."""
        return self.task.score(self.sample, answer)


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: unique in its plan, and the same as long as the prompt is.
        set_name: the prompt set.
        label: the task, or the prompt set, under which results are counted.
        source: where it comes from, for the records.
        messages: the prompt, as the records will have it.
        instruction: a system message for the asked models only.
        tools: declared tools, in the shape of the chat API.
        difficulty: where it is known.
        exact: the exact checker, if there is one.
        reference: the reference answer, if there is one.
    """

    id: str
    set_name: str
    label: str
    source: JsonObject
    messages: tuple[JsonObject, ...]
    instruction: str = ""
    tools: tuple[JsonObject, ...] = ()
    difficulty: int | None = None
    exact: Exact | None = None
    reference: str | None = None

    @property
    def asked(self) -> list[JsonObject]:
        """What the models are sent."""
        instruction = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return [*instruction, *self.messages]

    @property
    def runs_tools(self) -> bool:
        """Whether calls get results; otherwise an answer ends with its calls."""
        return self.exact is not None

    def toolset(self) -> Toolset:
        """The tools of one candidate."""
        return Toolset(self.label, [_PromptTool(declaration, self.exact) for declaration in self.tools])


class _PromptTool(Tool):
    """A declared tool; that of an exercise is run by its task."""

    def __init__(self, declaration: JsonObject, exact: Exact | None) -> None:
        function = declaration["function"]
        self.name = function["name"]
        self.description = function.get("description") or ""
        self.parameters = function.get("parameters") or {"type": "object", "properties": {}}
        self.idempotent = True
        self._declaration = declaration
        self._exact = exact

    def definition(self) -> JsonObject:
        return self._declaration

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:  # noqa: ARG002
        if self._exact is None:
            return ToolOutput("")
        task, sample = self._exact.task, self._exact.sample
        text = await asyncio.to_thread(task.call_tool, sample, self.name, arguments)
        return ToolOutput(text, is_error=text.startswith("error:"))


def prompts_of(plan: Plan) -> list[Prompt]:
    """All prompts of a plan, in its order.

    Raises:
        InputError: for unknown tasks and difficulties, and for files, with the line that is wrong.
    """
    prompts: list[Prompt] = []
    for name, one in plan.prompts.items():
        prompts += _exercises(name, one) if isinstance(one, TasksPrompts) else _conversations(name, one)
    for prompt in prompts:
        _check_verifiable(prompt, plan)
    return prompts


def _check_verifiable(prompt: Prompt, plan: Plan) -> None:
    if prompt.exact is not None or prompt.reference is not None:
        return
    majority = plan.verify.majority
    if majority == 0 and plan.judge is None:
        raise InputError(
            f"prompts.{prompt.set_name}: nothing verifies its answers; add a judge, or set verify.majority"
        )
    if majority > 0 and plan.candidates < 2:
        raise InputError(
            f"prompts.{prompt.set_name}: prompts without a reference answer are verified by a majority of candidates; "
            "ask for at least 2 per prompt, or set verify.majority = 0 and a judge"
        )


def _exercises(set_name: str, config: TasksPrompts) -> Iterator[Prompt]:
    for name in dict.fromkeys(config.tasks):
        task = get_task(name)
        if task.modality == "video":
            raise InputError(f"prompts.{set_name}: task {name} shows videos, which chat APIs do not take; leave it out")
        levels = _levels(config, task, set_name)
        for index in range(config.count):
            sample = task.sample(config.seed, index, levels[index % len(levels)])
            place = {"seed": config.seed, "index": index, "difficulty": sample.difficulty}
            yield Prompt(
                id=f"{set_name}/{name}/{config.seed}/{sample.difficulty}/{index}",
                set_name=set_name,
                label=name,
                source={"kind": "task", "set": set_name, "task": name, **place},
                messages=tuple(_with_pictures(message, sample) for message in sample.prompt),
                instruction=config.instruction,
                tools=sample.tools,
                difficulty=sample.difficulty,
                exact=Exact(task, sample),
            )


def _levels(config: TasksPrompts, task: Task, set_name: str) -> Sequence[int]:
    """The difficulties to go through; of a range those that the task has."""
    wanted = config.difficulty
    if isinstance(wanted, int):
        return [wanted]
    least, most = wanted or (1, task.hardest)
    levels = range(least, min(most, task.hardest) + 1)
    if not levels:
        raise InputError(
            f"prompts.{set_name}.difficulty: task {task.name} has 1 to {task.hardest}, nothing in [{least}, {most}]"
        )
    return levels


def _with_pictures(message: JsonObject, sample: Sample) -> JsonObject:
    """The message with its pictures inside, as data URLs."""
    content = message["content"]
    if not isinstance(content, list):
        return message
    parts = [
        {**part, "image_url": {"url": _data_url(sample, part["image_url"]["url"])}} if "image_url" in part else part
        for part in content
    ]
    return {**message, "content": parts}


def _data_url(sample: Sample, reference: str) -> str:
    picture = sample.media[int(reference.partition(":")[2])]
    assert not isinstance(picture, Clip), "tasks with videos are refused"
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _conversations(set_name: str, config: ConversationPrompts) -> Iterator[Prompt]:
    seen: Counter[str] = Counter()
    for number, line in enumerate(_lines(config.path), 1):
        place = f"{config.path}, line {number}"
        if not line.strip():
            continue
        record = _record(line, place)
        try:
            messages = parse_messages(record.get("messages"))
            tools = parse_tools(record.get("tools") or [])
            _check_prompt(messages)
            reference = _reference(record.get("answer"))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if any(tool.function is None for tool in tools):
            raise InputError(f"{place}: tools: only tools of type function can be declared")
        difficulty = record.get("difficulty")
        if difficulty is not None and (isinstance(difficulty, bool) or not isinstance(difficulty, int)):
            raise InputError(f"{place}: difficulty must be a whole number, not {difficulty!r}")
        digest = blake2b(json.dumps([record.get(field) for field in _FIELDS]).encode(), digest_size=8).hexdigest()
        seen[digest] += 1
        named = {"id": record["id"]} if "id" in record else {}
        prompt = Prompt(
            id=f"{set_name}/{digest}/{seen[digest]}",
            set_name=set_name,
            label=set_name,
            source={"kind": "file", "set": set_name, "file": config.path.name, "line": number, **named},
            messages=tuple(message.to_dict() for message in messages),
            instruction=config.instruction,
            tools=tuple(tool.to_dict() for tool in tools),
            difficulty=difficulty,
            reference=reference,
        )
        try:
            prompt.toolset()
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        yield prompt
    if not seen:
        raise InputError(f"{config.path}: has no prompts; give one JSON object per line")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path of the prompts") from None


def _record(line: bytes, place: str) -> JsonObject:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: is not JSON ({error})") from None
    if not isinstance(record, dict) or "messages" not in record:
        raise InputError(f'{place}: expected an object with "messages"')
    return record


def _check_prompt(messages: list[Message]) -> None:
    if messages[-1].role == "assistant":
        raise InputError("messages: the last one is the assistant's; a prompt ends where the answer begins")
    for index, message in enumerate(messages):
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, TextPart):
                continue
            if part.type == "video_url" or not part.image_url.url.startswith("data:"):
                raise InputError(f"messages[{index}]: give media as pictures in data: URLs")


def _reference(answer: object) -> str | None:
    """A text as it is; a number as text; calls in the form that verification compares."""
    if answer is None or isinstance(answer, str):
        return answer
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    if isinstance(answer, list) and answer and all(_is_call(one) for one in answer):
        return calls_text([(one["name"], one["arguments"]) for one in answer])
    raise InputError('answer: expected a text, a number, or a list of {"name": ..., "arguments": {...}}')


def _is_call(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("arguments"), dict)


def calls_text(calls: list[tuple[str, JsonObject]]) -> str:
    """Calls as one text that is equal for equal calls, whatever their order."""
    return json.dumps(sorted(json.dumps({"name": name, "arguments": given}, sort_keys=True) for name, given in calls))
