"""The record of a run: an append-only event log in SQLite.

`append` only queues. `flush` waits until everything appended so far is committed: what an agent has awaited survives
the death of the process at any moment (with `survive_power_loss`, of the machine too). All who flush in one turn of the
event loop share a commit; what nobody waits for is committed with it, or a few milliseconds later. Other processes may
read while one writes (`k25.agent.record_reader`).

A commit is made in the loop's own thread: it only hands a few pages to the system, in less time than another thread
needs to take the interpreter from a busy loop and give it back. What waits for the disk is left to a thread: commits
that must survive a power cut, and taking the log over into the database once it has grown.
"""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from k25.agent.events import Event
from k25.agent.record_reader import SCHEMA_VERSION, RecordReader
from k25.errors import InputError
from k25.sole_writer import sole_writer

COMMIT_SECONDS = 0.003  # after which events are committed that nobody waits for
CHECKPOINT_BYTES = 32 * 2**20  # about how long SQLite's log may become before it is taken over into the database
_COMMIT_BYTES = 8 * 2**10  # about what a commit adds to it besides its events: the rest of the pages that it changes
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
    turn INTEGER, call_id TEXT, data TEXT NOT NULL
);
PRAGMA user_version = {SCHEMA_VERSION};
"""
_INDEX = "CREATE INDEX IF NOT EXISTS events_of_agent ON events (agent, kind, turn, call_id)"
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_COLUMNS = frozenset({"agent", "turn", "call_id"})
_Row = tuple[int, float, str, str, int | None, str | None, str]


class RecordError(OSError):
    """The record could not be written (disk full, file gone); the run must not go on as if it were."""


class Record:
    """The writing side of one run's record; also reads. One process writes at a time.

    Raises InputError if the file is no record, is of a newer version, is being written by another process, or is in a
    place where none can be.
    """

    def __init__(self, path: Path, *, survive_power_loss: bool = False) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = sole_writer(
                path.with_name(path.name + ".lock"),
                f"{path}: another process is writing this record; wait for it or stop it",
            )
        except OSError as error:
            raise InputError(f"{path.parent}: cannot hold a run ({error.strerror}); name another folder") from None
        try:
            self._database = _open(path, survive_power_loss)
            self.reader = RecordReader(path)
        except BaseException:
            self._lock.close()
            raise
        self._seq = self.reader.last_seq()
        self._committed = self._seq
        self._earlier_agents = self.reader.agents() if self._seq else frozenset[str]()
        self._survive_power_loss = survive_power_loss
        self._queue: list[_Row] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commit_is_next = False
        self._commit_is_timed = False
        self._thread = ThreadPoolExecutor(1, f"record {path.name}")
        self._thread_work: Future[None] | None = None
        self._log_bytes = 0
        self._failure: Exception | None = None
        self._closed = False

    def append(self, event: Event) -> int:
        """Queue the event and return its number. Call it from one thread only. Raises RecordError."""
        self._check()
        if self._closed:
            raise RecordError(f"{self.path}: the record is closed")
        self._seq += 1
        fields = vars(event)
        data = _ENCODE({name: value for name, value in fields.items() if name not in _COLUMNS})
        when = time.time()
        self._queue.append((self._seq, when, event.agent, event.kind, fields.get("turn"), fields.get("call_id"), data))
        self._commit_in_time()
        return self._seq

    async def flush(self) -> None:
        """Wait until every event appended so far is committed. Raises RecordError if that is impossible."""
        if self._committed < self._seq and self._failure is None:
            waiting = asyncio.get_running_loop().create_future()
            self._waiters.append((self._seq, waiting))
            self._commit_next()
            await waiting
        self._check()

    def knows(self, agent: str) -> bool:
        """Whether the record held events of this agent when it was opened: only then can there be calls to reuse."""
        return agent in self._earlier_agents

    def make_index(self) -> None:
        """Let an agent's events be found without reading all of them; commits then cost more.

        A record has it when it is closed, and from the beginning when it is taken up.
        """
        self._database.execute(_INDEX)

    def close(self) -> None:
        """Commit what is queued and close. Raises RecordError if something could not be written."""
        self._closed = True
        self._thread.shutdown()
        if self._failure is None:
            self._attempt(self._write)
            with contextlib.suppress(sqlite3.Error):  # all is there, if slower to find
                self.make_index()
        self._notify()
        self.reader.close()
        self._database.close()
        self._lock.close()
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise RecordError(f"{self.path}: the record cannot be written: {self._failure}") from self._failure

    def _commit_in_time(self) -> None:
        """Commit within `COMMIT_SECONDS`; at once where there is no loop."""
        loop = self._running_loop()
        if loop is None:
            self._commit()
        elif not self._commit_is_timed:
            self._commit_is_timed = True
            loop.call_later(COMMIT_SECONDS, self._commit_timed)

    def _commit_next(self) -> None:
        """Commit when the loop has done all that is ready now."""
        loop = self._running_loop()
        if loop is not None and not self._commit_is_next:
            self._commit_is_next = True
            loop.call_soon(self._commit)

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if self._loop is not loop:  # what was to happen in another loop will not happen any more
            self._loop, self._commit_is_next, self._commit_is_timed = loop, False, False
        return loop

    def _commit_timed(self) -> None:
        self._commit_is_timed = False
        if self._queue:
            self._commit()

    def _commit(self) -> None:
        self._commit_is_next = False
        if self._failure is not None or self._closed or (self._thread_work and not self._thread_work.done()):
            return
        if self._survive_power_loss and self._loop is not None:
            self._in_thread(self._loop, self._write)
            return
        self._attempt(self._write)
        self._notify()
        if self._log_bytes > CHECKPOINT_BYTES and self._failure is None and self._loop is not None:
            self._in_thread(self._loop, self._checkpoint)

    def _in_thread(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        """Let the thread do it; what is appended meanwhile is committed afterwards."""

        def go_on() -> None:
            self._notify()
            if self._queue:
                self._commit()

        def done(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it those who waited
                loop.call_soon_threadsafe(go_on)

        self._thread_work = self._thread.submit(self._attempt, work)
        self._thread_work.add_done_callback(done)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failure = error

    def _write(self) -> None:
        rows = self._queue[:]
        if rows:
            with self._database:
                self._database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            del self._queue[: len(rows)]
            self._committed = rows[-1][0]
            self._log_bytes += _COMMIT_BYTES + sum(len(row[-1]) for row in rows)

    def _checkpoint(self) -> None:
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._log_bytes = 0

    def _notify(self) -> None:
        """Wake those whose events are committed."""
        waiters, self._waiters = self._waiters, []
        for seq, waiting in waiters:
            if seq > self._committed and self._failure is None:
                self._waiters.append((seq, waiting))
            elif not waiting.done() and not waiting.get_loop().is_closed():
                waiting.set_result(None)


def _open(path: Path, survive_power_loss: bool) -> sqlite3.Connection:
    # Autocommit is off only inside `with`; loop and thread use the connection in turns.
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise InputError(f"{path}: the record is of version {version}, newer than this k25; upgrade k25")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if survive_power_loss else 'NORMAL'}")
        if not survive_power_loss:  # the loop must not wait for the disk
            database.execute("PRAGMA wal_autocheckpoint = 0")
        database.executescript(_SCHEMA)
        if database.execute("SELECT 1 FROM events LIMIT 1").fetchone():  # finished calls will be looked for
            database.execute(_INDEX)
    except sqlite3.DatabaseError as error:
        database.close()
        raise InputError(f"{path}: this is no record of a run ({error}); give the run's record file") from None
    except InputError:
        database.close()
        raise
    return database
