"""Reading a run's record: its events, the calls that need not be repeated, conversations, and the live tail."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from k25.agent.events import (
    KINDS,
    AgentFinished,
    AgentStarted,
    ContextRewritten,
    Event,
    ModelCallFinished,
    ModelCallStarted,
    ToolCallFinished,
    UnknownEvent,
)
from k25.agent.model import ModelTurn
from k25.agent.tool import JsonObject, ToolOutput
from k25.errors import InputError

Found = TypeVar("Found", bound=Event)

SCHEMA_VERSION = 1
_REMEDY = "take a copy of the run, or begin a new one"


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its number (from 1, without gaps) and its time (seconds since the epoch)."""

    seq: int
    time: float
    event: Event


class RecordReader:
    """Reads a record, also while another process writes it.

    Raises InputError if the file is absent or no record, and whatever is asked of it, where it is damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: there is no such record; give the folder or file of an existing run")
        self.path = path
        try:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: this is no record of a run ({error})") from None
        if version == 0:
            self.close()
            raise InputError(f"{path}: holds no run, or one that was cut off before it began; begin it anew")
        if version != SCHEMA_VERSION:
            self.close()
            raise InputError(f"{path}: the record is of version {version}, this k25 reads version {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def last_seq(self) -> int:
        """The number of the last event; 0 if there is none."""
        return sum(int(row[0]) for row in self._rows("SELECT coalesce(max(seq), 0) FROM events"))

    def agents(self) -> frozenset[str]:
        """Every agent that has events."""
        return frozenset(row[0] for row in self._rows("SELECT DISTINCT agent FROM events"))

    def entries(
        self, *, after: int = 0, agent: str | None = None, kinds: Sequence[type[Event]] = ()
    ) -> Iterator[Entry]:
        """Events in order, from number `after` + 1 on; only those of one agent or of some kinds if asked."""
        query = "SELECT seq, time, agent, kind, turn, call_id, data FROM events WHERE seq > ?"
        values: list[object] = [after]
        if agent is not None:
            query, values = query + " AND agent = ?", [*values, agent]
        if kinds:
            query += f" AND kind IN ({', '.join('?' * len(kinds))})"
            values = [*values, *(kind.kind for kind in kinds)]
        for row in self._rows(query + " ORDER BY seq", *values):
            yield self._entry(row)

    async def tail(self, *, after: int = 0, poll: float = 0.1) -> AsyncIterator[Entry]:
        """Events as they come, also from another process, without end; looks every `poll` seconds."""
        while True:
            for entry in list(self.entries(after=after)):
                after = entry.seq
                yield entry
            await asyncio.sleep(poll)

    def finished_model_call(self, agent: str, turn: int) -> ModelCallFinished | None:
        """The answer that request `turn` of the agent got, if it got one."""
        return self._find(ModelCallFinished, "agent = ? AND turn = ?", agent, turn)

    def finished_tool_call(self, agent: str, call_id: str) -> ToolCallFinished | None:
        """The result of the agent's call, if it has one. Call ids are unique within an agent."""
        return self._find(ToolCallFinished, "agent = ? AND call_id = ?", agent, call_id)

    def finished_agent(self, agent: str) -> AgentFinished | None:
        """How the agent ended, if it did."""
        return self._find(AgentFinished, "agent = ?", agent)

    def new_messages(self, agent: str, turn: int) -> list[JsonObject]:
        """The messages from outside that request `turn` added when it was last sent."""
        started = self._find(ModelCallStarted, "agent = ? AND turn = ?", agent, turn)
        return [] if started is None else started.new_messages

    def conversation(self, agent: str) -> list[JsonObject]:
        """The agent's messages so far, as the model would be sent them next."""
        messages: list[JsonObject] = []
        begun: dict[int, int] = {}
        results: dict[str, JsonObject] = {}
        kinds = (AgentStarted, ModelCallStarted, ModelCallFinished, ToolCallFinished, ContextRewritten)
        for entry in self.entries(agent=agent, kinds=kinds):
            match entry.event:
                case AgentStarted(messages=begin):
                    messages = list(begin)
                case ModelCallStarted(turn=turn, new_messages=new):
                    # A request that an interruption cut off is sent again.
                    del messages[begun.setdefault(turn, len(messages)) :]
                    messages += new
                case ModelCallFinished(answer=answer):
                    messages.append(ModelTurn.from_json(answer).message())
                case ContextRewritten(messages=rewritten):
                    messages = list(rewritten)
                case ToolCallFinished(call_id=call_id, output=output):
                    results[call_id] = tool_message(call_id, ToolOutput.from_json(output))
        return list(_with_results(messages, results))

    def _find(self, kind: type[Found], condition: str, *values: object) -> Found | None:
        query = f"SELECT seq, time, agent, kind, turn, call_id, data FROM events WHERE kind = ? AND {condition}"
        for row in self._rows(f"{query} ORDER BY seq DESC LIMIT 1", kind.kind, *values):
            found = self._entry(row).event
            return found if isinstance(found, kind) else None
        return None

    def _rows(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """What a query finds. Raises InputError if the file is damaged."""
        try:
            yield from self._database.execute(query, values)
        except sqlite3.ProgrammingError:  # it was closed
            raise
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path}: the record is damaged ({error}); {_REMEDY}") from None

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        try:
            return _entry(row)
        except (ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.path}: event {row[0]} is damaged ({reason}); {_REMEDY}") from None


def tool_message(call_id: str, output: ToolOutput) -> JsonObject:
    """The message that carries a result to the model."""
    return {"role": "tool", "tool_call_id": call_id, "content": output.content()}


def _with_results(messages: list[JsonObject], results: dict[str, JsonObject]) -> Iterator[JsonObject]:
    """The results behind the message that asked for them, in the order of its calls."""
    present = {message.get("tool_call_id") for message in messages if message["role"] == "tool"}
    for message in messages:
        yield message
        for call in message.get("tool_calls") or []:
            if call["id"] in results and call["id"] not in present:
                yield results[call["id"]]


def _entry(row: tuple[Any, ...]) -> Entry:
    seq, time, agent, kind, turn, call_id, text = row
    data = json.loads(text)
    known = KINDS.get(kind)
    if known is None:
        data.update({"turn": turn, "call_id": call_id})
        return Entry(seq, time, UnknownEvent(agent=agent, stored_kind=kind, data=data))
    names = {field.name for field in fields(known)}
    columns = {"agent": agent, "turn": turn, "call_id": call_id}
    values = {name: value for name, value in (columns | data).items() if name in names}
    return Entry(seq, time, known(**values))
