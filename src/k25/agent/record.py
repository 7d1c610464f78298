"""The record of a run: an append-only event log in SQLite.

`append` only queues; a writer thread commits whatever has gathered, at most once every few milliseconds, so that
hundreds of calls a second share a commit. `flush` waits until everything appended so far is committed: what an agent
has awaited survives the death of the process at any moment (with `survive_power_loss`, of the machine too). Other
processes may read while one writes (`k25.agent.record_reader`).
"""

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path
from typing import Self

from k25.agent.events import Event
from k25.agent.record_reader import SCHEMA_VERSION, RecordReader
from k25.errors import InputError
from k25.sole_writer import sole_writer

COMMIT_INTERVAL = 0.003  # seconds between commits under load; a lone event is committed at once
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
    turn INTEGER, call_id TEXT, data TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_agent ON events (agent, kind, turn, call_id);
PRAGMA user_version = {SCHEMA_VERSION};
"""
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_COLUMNS = frozenset({"agent", "turn", "call_id"})


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
        self._queue: deque[tuple[int, float, Event]] = deque()
        self._waiters: deque[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._failure: Exception | None = None
        self._wake = threading.Event()
        self._closing = False
        self._writer = threading.Thread(target=self._write, name=f"record {path.name}", daemon=True)
        self._writer.start()

    def append(self, event: Event) -> int:
        """Queue the event and return its number. Call it from one thread only. Raises RecordError."""
        self._check()
        if self._closing:
            raise RecordError(f"{self.path}: the record is closed")
        self._seq += 1
        self._queue.append((self._seq, time.time(), event))
        if not self._wake.is_set():
            self._wake.set()
        return self._seq

    async def flush(self) -> None:
        """Wait until every event appended so far is committed. Raises RecordError if that is impossible."""
        if self._committed < self._seq:
            loop = asyncio.get_running_loop()
            waiting: asyncio.Future[None] = loop.create_future()
            self._waiters.append((self._seq, loop, waiting))
            # The writer may have committed in between.
            if self._committed < self._seq and self._failure is None:
                await waiting
        self._check()

    def knows(self, agent: str) -> bool:
        """Whether the record held events of this agent when it was opened: only then can there be calls to reuse."""
        return agent in self._earlier_agents

    def close(self) -> None:
        """Commit what is queued and close. Raises RecordError if something could not be written."""
        self._closing = True
        self._wake.set()
        self._writer.join()
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

    def _write(self) -> None:
        while not (self._closing and not self._queue) and self._failure is None:
            self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            try:
                self._commit()
            except Exception as error:
                self._failure = error
            self._notify()
            if not self._closing:
                time.sleep(max(0.0, COMMIT_INTERVAL - (time.monotonic() - began)))
            if self._queue or self._closing:
                self._wake.set()

    def _commit(self) -> None:
        rows = []
        while self._queue:
            seq, when, event = self._queue.popleft()
            fields = vars(event)
            data = _ENCODE({name: value for name, value in fields.items() if name not in _COLUMNS})
            rows.append((seq, when, event.agent, event.kind, fields.get("turn"), fields.get("call_id"), data))
        if rows:
            with self._database:
                self._database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._committed = rows[-1][0]

    def _notify(self) -> None:
        """Wake those whose events are committed, one loop call for all of them."""
        ready: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        while self._waiters and (self._waiters[0][0] <= self._committed or self._failure is not None):
            _, loop, waiting = self._waiters.popleft()
            ready.setdefault(loop, []).append(waiting)
        for loop, futures in ready.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it those who waited
                loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: list["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _open(path: Path, survive_power_loss: bool) -> sqlite3.Connection:
    # Autocommit is off only inside `with`; the connection moves to the writer thread.
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise InputError(f"{path}: the record is of version {version}, newer than this k25; upgrade k25")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if survive_power_loss else 'NORMAL'}")
        database.executescript(_SCHEMA)
    except sqlite3.DatabaseError as error:
        database.close()
        raise InputError(f"{path}: this is no record of a run ({error}); give the run's record file") from None
    except InputError:
        database.close()
        raise
    return database
