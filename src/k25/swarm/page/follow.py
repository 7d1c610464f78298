"""Following a run's record for all who look at it: the whole state first, then what has changed.

The record is read only while somebody looks. Each reader gets every update; one that falls far behind is let go, and
begins anew when it connects again.
"""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncGenerator, Iterator

from k25.agent import RecordReader
from k25.agent.record_reader import Entry
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.swarm.events import RunResumed, RunStopped
from k25.swarm.folder import RunFolder
from k25.swarm.page.shown import Clock, agent_json, span_json
from k25.swarm.state import WORKING, RunState

_POLL, _LOOK_FOR_WRITER, _IDLE = 0.2, 1.0, 15.0  # seconds
_MOST_WAITING = 200


class RunFollower:
    """A run as its record tells it, for any number of readers. The record may not exist yet."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.state = RunState()
        self.clock = Clock()
        self.running = False
        self._reader: RecordReader | None = None
        self._problem = ""
        self._looked = 0.0
        self._faults = 0
        self._open: dict[str, set[int]] = {}  # places of calls that had not ended when they were last told
        self._told: dict[str, int] = {}  # calls told of each agent
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._new_readers: set[asyncio.Queue[str | None]] = set()  # of the readers, those that know nothing yet
        self._closing = False
        self._wake = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def updates(self) -> AsyncGenerator[str]:
        """Updates as JSON, the whole state first; an empty text after some time without any. Ends with `close`."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._readers.add(queue)
        self._new_readers.add(queue)
        self._wake.set()
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        try:
            while True:
                try:
                    update = await asyncio.wait_for(queue.get(), _IDLE)
                except TimeoutError:
                    update = ""
                if update is None:
                    return
                yield update
        finally:
            self._readers.discard(queue)

    async def close(self) -> None:
        """Let all readers go, and close the record."""
        self._closing = True
        self._wake.set()
        if self._following is not None:
            await self._following
        if self._reader is not None:
            self._reader.close()

    async def _follow(self) -> None:
        """The one task that reads the record: a thread at a time, and never cancelled while one is at it."""
        try:
            while self._readers and not self._closing:
                update = await asyncio.to_thread(self._read)
                if update is not None:
                    self._tell(update, self._readers - self._new_readers)
                self._new_readers &= self._readers
                if fresh := set(self._new_readers):
                    self._tell(await asyncio.to_thread(self._whole), fresh & self._readers)
                    self._new_readers -= fresh
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL)
                self._wake.clear()
        finally:
            for queue in self._readers:
                queue.put_nowait(None)
            self._following = None

    def _tell(self, update: str, readers: set[asyncio.Queue[str | None]]) -> None:
        for queue in readers:
            if queue.qsize() >= _MOST_WAITING:
                self._readers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(update)

    def _read(self) -> str | None:
        """Take in what the record has new, and say what that changes; None for nothing."""
        was_running, problem = self.running, self._problem
        looked = time.monotonic() - self._looked >= _LOOK_FOR_WRITER
        if looked:
            self._looked = time.monotonic()
            self.running = self.folder.is_running()
        touched: dict[str, None] = {}
        try:
            for entry in self._new_entries():
                touched |= dict.fromkeys(self._apply(entry))
        except sqlite3.Error as error:
            self._problem = f"{self.folder.record}: the record cannot be read ({error})"
        if not self.running and self.state.finished is None:
            if touched:
                self._looked = 0.0  # whoever wrote this may have begun since: look again
            elif looked:
                touched = dict.fromkeys(agent.id for agent in self.state.agents.values() if agent.status in WORKING)
                self.state.interrupt()
        if not touched and (was_running, problem) == (self.running, self._problem) and not self.running:
            return None
        return json.dumps(self._update(touched))

    def _new_entries(self) -> Iterator[Entry]:
        if self._reader is None:
            try:
                self._reader = self.folder.reader()
            except InputError as error:
                self._problem = str(error)
                return
        yield from self._reader.entries(after=self.state.last_seq)
        self._problem = ""

    def _apply(self, entry: Entry) -> list[str]:
        """The agents that the event touches."""
        if not self.state.began:
            self.clock.begin(entry.time)
        if isinstance(entry.event, RunResumed) and self.state.began:
            self.clock.skip(self.state.last_time, entry.time)
        self.state.apply(entry)
        if isinstance(entry.event, RunResumed | RunStopped):
            return list(self.state.agents)
        return [entry.event.agent]

    def _whole(self) -> str:
        self._told, self._open, self._faults = {}, {}, 0
        return json.dumps({**self._update(dict.fromkeys(self.state.agents)), "whole": True})

    def _update(self, touched: dict[str, None]) -> JsonObject:
        state, main = self.state, self.state.main
        faults, self._faults = state.faults[self._faults :], len(state.faults)
        return {
            "whole": False,
            "problem": self._problem,
            "now": self.clock.at(time.time() if self.running else state.last_time),
            "running": self.running,
            "finished": state.finished is not None,
            "question": state.started.question if state.started else "",
            "settings": state.started.settings if state.started else {},
            "main": main.id if main else None,
            "answer": state.finished.text if state.finished else main.text if main else "",
            "detail": main.detail if main else "",
            "critical": state.critical_path(),
            "criticalSteps": state.critical_steps,
            "resumed": self.clock.resumed,
            "agents": [self._agent(name) for name in touched if name in state.agents],
            "faults": [[self.clock.at(each.time), each.agent, each.what, each.detail] for each in faults],
        }

    def _agent(self, name: str) -> JsonObject:
        """An agent, with those of its calls that are new or not known to have ended."""
        agent = self.state.agents[name]
        places = sorted(self._open.get(name, set()) | set(range(self._told.get(name, 0), len(agent.spans))))
        self._told[name] = len(agent.spans)
        self._open[name] = {place for place in places if agent.spans[place].ended is None}
        shown = {place: span_json(agent.spans[place], self.clock) for place in places}
        return {**agent_json(agent, self.clock), "spans": shown}
