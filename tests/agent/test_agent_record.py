"""The record: durable before anyone acts, readable by others, complete."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from agent_helpers import complete

from k25.agent import Record, RecordError, RecordReader
from k25.agent.events import Event, ModelCallRetried, ToolCallStarted
from k25.errors import InputError


def started(number, agent="a"):
    return ToolCallStarted(agent=agent, turn=number, call_id=f"c{number}", tool="t", arguments="{}")


def test_events_come_back_as_they_went_in(tmp_path):
    retried = ModelCallRetried(agent="b", turn=1, attempt=1, status=None, error="é\ud800", wait=0.5)
    events = [started(0), retried]
    with Record(tmp_path / "r") as record:
        numbers = [record.append(event) for event in events]
    with RecordReader(tmp_path / "r") as reader:
        assert [entry.event for entry in reader.entries()] == events
        assert [entry.seq for entry in reader.entries()] == numbers == [1, 2]
        assert [entry.event for entry in reader.entries(agent="b")] == events[1:]
        assert [entry.event for entry in reader.entries(kinds=[ToolCallStarted])] == events[:1]
        assert abs(next(reader.entries()).time - time.time()) < 600


def test_what_was_flushed_is_visible_to_others_at_once(tmp_path):
    async def run():
        with Record(tmp_path / "r") as record, RecordReader(tmp_path / "r") as reader:
            for number in range(50):
                record.append(started(number))
                await record.flush()
                assert reader.last_seq() == number + 1

    complete(run())


def test_many_flushes_share_a_commit(tmp_path):
    async def run():
        with Record(tmp_path / "r") as record:

            async def one(number):
                record.append(started(number))
                await record.flush()

            commits = []
            record._database.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
            await asyncio.gather(*(one(number) for number in range(500)))
            assert 1 <= len(commits) < 100
            assert record.reader.last_seq() == 500

    complete(run())


def test_a_long_log_is_taken_over_into_the_database_while_events_come(tmp_path, monkeypatch):
    monkeypatch.setattr("k25.agent.record.CHECKPOINT_BYTES", 100_000)
    sizes = []

    async def run():
        with Record(tmp_path / "r") as record:
            for number in range(600):
                record.append(started(number))
                await record.flush()
                sizes.append((tmp_path / "r-wal").stat().st_size)
                assert record.reader.last_seq() == number + 1

    complete(run())
    assert max(sizes) < 1_000_000  # two and a half million otherwise
    with RecordReader(tmp_path / "r") as reader:
        assert [entry.event for entry in reader.entries()] == [started(number) for number in range(600)]


def test_what_must_survive_a_power_cut_is_on_the_disk_when_it_is_flushed(tmp_path):
    async def run():
        with Record(tmp_path / "r", survive_power_loss=True) as record:
            assert record._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: each commit is synced

            async def one(number):
                record.append(started(number))
                await record.flush()
                assert record.reader.last_seq() > number

            await asyncio.gather(*(one(number) for number in range(50)))

    complete(run())


def test_an_agents_events_are_found_by_index_in_a_record_that_was_closed_or_taken_up(tmp_path):
    def indices():
        database = sqlite3.connect(tmp_path / "r")
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
        database.close()
        return found

    with Record(tmp_path / "r") as record:
        record.append(started(0))
        assert indices() == []
    assert indices() == [("events_of_agent",)]
    database = sqlite3.connect(tmp_path / "r")
    database.execute("DROP INDEX events_of_agent")  # as a kill leaves it
    database.close()
    with Record(tmp_path / "r"):
        assert indices() == [("events_of_agent",)]


def test_a_record_goes_on_where_it_ended(tmp_path):
    for expected in (1, 2):
        with Record(tmp_path / "r") as record:
            assert record.append(started(expected)) == expected
            assert record.knows("a") == (expected == 2)
            assert not record.knows("b")


def test_flushed_events_survive_a_kill(tmp_path):
    code = (
        "import asyncio, sys, pathlib; from k25.agent import Record; from k25.agent.events import ToolCallStarted\n"
        "async def main():\n"
        "    record = Record(pathlib.Path(sys.argv[1]))\n"
        "    for n in range(10**6):\n"
        "        record.append(ToolCallStarted(agent='a', turn=n, call_id='c', tool='t', arguments=''))\n"
        "        await record.flush()\n"
        "        print(n + 1, flush=True)\n"
        "asyncio.run(main())"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(20):
        seen = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    seen = max([seen, *(int(line) for line in child.stdout.read().split("\n")[:-1])])
    child.wait()
    with Record(tmp_path / "r") as record:
        assert seen <= record.reader.last_seq() <= seen + 1


def test_only_one_process_writes(tmp_path):
    with Record(tmp_path / "r"), pytest.raises(InputError, match="another process"):
        Record(tmp_path / "r")
    Record(tmp_path / "r").close()


def test_what_is_no_record_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 50)
    for open_it in (Record, RecordReader):
        with pytest.raises(InputError, match="no record"):
            open_it(tmp_path / "text")
    with pytest.raises(InputError, match="no such record"):
        RecordReader(tmp_path / "absent")


def test_a_newer_record_is_refused(tmp_path):
    Record(tmp_path / "r").close()
    with sqlite3.connect(tmp_path / "r") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    for open_it in (Record, RecordReader):
        with pytest.raises(InputError, match="version 99"):
            open_it(tmp_path / "r")


def test_a_record_that_cannot_be_written_says_so(tmp_path):
    async def run():
        record = Record(tmp_path / "r")
        with sqlite3.connect(tmp_path / "r") as other:
            other.execute("DROP TABLE events")
        other.close()
        record.append(started(0))
        with pytest.raises(RecordError, match="no such table"):
            await record.flush()
        with pytest.raises(RecordError):
            record.append(started(1))
        with pytest.raises(RecordError):
            record.close()

    complete(run())


def test_a_place_that_can_hold_no_record_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", Path("/proc/here")):
        with pytest.raises(InputError, match=f"{folder}: cannot hold a run .*; name another folder"):
            Record(folder / "r")


def test_an_event_that_is_no_json_is_named(tmp_path):
    with Record(tmp_path / "r") as record:
        record.append(started(0))
    with sqlite3.connect(tmp_path / "r") as database:
        database.execute("UPDATE events SET data = '{'")
    database.close()
    with RecordReader(tmp_path / "r") as reader, pytest.raises(InputError, match="event 1 is damaged"):
        list(reader.entries())


def test_a_damaged_file_is_named_whatever_is_asked_of_it(tmp_path):
    with Record(tmp_path / "r") as record:
        for number in range(2_000):
            record.append(started(number))
    content = bytearray((tmp_path / "r").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)  # all pages but the first
    (tmp_path / "r").write_bytes(content)
    questions = (
        lambda reader: list(reader.entries()),
        lambda reader: reader.conversation("a"),
        lambda reader: reader.finished_agent("a"),
        RecordReader.last_seq,
        RecordReader.agents,
    )
    with RecordReader(tmp_path / "r") as reader:
        for ask in questions:
            with pytest.raises(InputError, match=r"the record is damaged .*malformed"):
                ask(reader)


def test_a_closed_record_takes_nothing_more(tmp_path):
    record = Record(tmp_path / "r")
    record.close()
    with pytest.raises(RecordError, match="closed"):
        record.append(started(0))


def test_the_tail_follows_another_writer(tmp_path):
    async def run():
        with Record(tmp_path / "r") as record, RecordReader(tmp_path / "r") as reader:
            record.append(started(0))
            tail = reader.tail(poll=0.001)
            assert (await anext(tail)).event == started(0)
            waiting = asyncio.ensure_future(anext(tail))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            record.append(started(1))
            assert (await waiting).event == started(1)
            await tail.aclose()

    complete(run())


def test_other_packages_add_kinds_and_unknown_kinds_stay_readable(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Approved(Event):
        kind: ClassVar[str] = "approved"
        by: str

    with Record(tmp_path / "r") as record:
        record.append(Approved(agent="a", by="me"))
    with sqlite3.connect(tmp_path / "r") as database:
        database.execute("INSERT INTO events VALUES (2, 0, 'a', 'from the future', 1, NULL, '{\"x\": 1}')")
    database.close()
    with RecordReader(tmp_path / "r") as reader:
        known, unknown = (entry.event for entry in reader.entries())
    assert known == Approved(agent="a", by="me")
    assert unknown.stored_kind == "from the future"
    assert unknown.data["x"] == 1
