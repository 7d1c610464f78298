"""Artifacts: files that agents hand to each other by reference instead of by text.

A reference is `artifact:DIGEST/NAME`, where DIGEST begins the SHA-256 of the content; the store keeps the file at that
very path, so it needs no index, storing the same file twice changes nothing, and a reference survives a restart.
"""

import hashlib
import mimetypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from k25.errors import InputError

_REFERENCE = re.compile(r"artifact:([0-9a-f]{20})/([\w][\w.\- ]{0,119})")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file: what to ask the store for, and its size in bytes."""

    reference: str
    size: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.reference.rpartition("/")[2]

    @property
    def media_type(self) -> str:
        """The media type that its name suggests."""
        return mimetypes.guess_type(self.name)[0] or "application/octet-stream"


class ArtifactStore:
    """The artifacts of one run, in one folder (made when first needed)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, content: bytes) -> Artifact:
        """Store `content`; its name is reduced to characters that every file system takes."""
        safe = re.sub(r"[^\w.\- ]+", "_", Path(name).name).lstrip(". -")[-120:] or "artifact"
        digest = hashlib.sha256(content).hexdigest()[:20]
        path = self.folder / digest / safe
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Readers see the whole file or none: it is written aside and renamed.
            aside = path.with_name(f".{uuid4().hex}")
            aside.write_bytes(content)
            os.replace(aside, path)  # noqa: PTH105 - atomic on every platform
        return Artifact(f"artifact:{digest}/{safe}", len(content))

    def path(self, reference: str) -> Path:
        """Where the file lies. Raises InputError if there is no such artifact."""
        match = _REFERENCE.fullmatch(reference.strip())
        path = self.folder / match[1] / match[2] if match else None
        if path is None or not path.is_file():
            raise InputError(f"there is no artifact {reference!r}; copy the whole reference, artifact:DIGEST/NAME")
        return path

    def get(self, reference: str) -> bytes:
        """The content. Raises InputError if there is no such artifact."""
        return self.path(reference).read_bytes()

    def list(self) -> list[Artifact]:
        """Every artifact of the run, by reference."""
        files = (path for path in self.folder.glob("*/*") if not path.name.startswith("."))
        found = [Artifact(f"artifact:{path.parent.name}/{path.name}", path.stat().st_size) for path in files]
        return sorted(found, key=lambda artifact: artifact.reference)
