"""The folder of a run: its record, the workspaces of its agents, their artifacts."""

import fcntl
from pathlib import Path

from k25.agent import ArtifactStore, RecordReader
from k25.errors import InputError

RECORD = "record.sqlite"


class RunFolder:
    """Names what lies in a run's folder; makes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def record(self) -> Path:
        """The record of what happened."""
        return self.path / RECORD

    @property
    def artifacts(self) -> ArtifactStore:
        """The files that agents hand to each other."""
        return ArtifactStore(self.path / "artifacts")

    def workspace(self, agent: str) -> Path:
        """Where an agent's own files are."""
        return self.path / "workspaces" / agent

    def reader(self) -> RecordReader:
        """Opens the record. Raises InputError if there is none."""
        if not self.record.is_file():
            raise InputError(f"{self.path}: holds no run; name the folder of one (it has a file {RECORD})")
        return RecordReader(self.record)

    def has_begun(self) -> bool:
        """Whether the folder holds a run; one that was killed before its first event was written is none."""
        try:
            with self.reader() as reader:
                return reader.last_seq() > 0
        except InputError:  # nothing there, or nothing that could be taken up
            return False

    def is_running(self) -> bool:
        """Whether a process writes the record now."""
        lock = self.record.with_name(self.record.name + ".lock")
        if not lock.is_file():
            return False
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False
