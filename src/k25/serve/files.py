"""Uploaded files on disk: bounded, separate for every key, whole or absent after a crash."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import FileResponse, Response

from k25.errors import InputError
from k25.media import open_path
from k25.media.sources import WEBP, MediaFormat
from k25.serve.errors import NOT_FOUND, ApiError, invalid, json_response
from k25.serve.settings import ServerSettings

FILE_SCHEME = "ms://"
PURPOSES = ("image", "video", "file-extract")
LARGEST_FILE = 100_000_000
_BLOCK = 1 << 20
_ID = re.compile(r"file-[0-9a-f]{24}")


@dataclass(frozen=True)
class StoredFile:
    """One uploaded file; `owner` is a digest of its key."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    owner: str

    def to_dict(self) -> dict[str, Any]:
        """As clients see it."""
        shown = {key: value for key, value in asdict(self).items() if key != "owner"}
        return {**shown, "object": "file", "status": "ready", "status_details": ""}


class FileStore:
    """A folder with, for every file, its content and then, written last, its description."""

    def __init__(self, settings: ServerSettings) -> None:
        self._folder = settings.state / "files"
        self._max_files, self._max_bytes = settings.max_files, settings.max_file_bytes
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files = {file.id: file for file in self._found()}
        except OSError as error:
            raise InputError(f"{self._folder}: cannot keep files here ({error.strerror}); choose --state") from None

    def _found(self) -> list[StoredFile]:
        """What an earlier server left; what it was still writing is removed."""
        found = []
        for description in self._folder.glob("*.json"):
            try:
                file = StoredFile(**json.loads(description.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                continue
            if _ID.fullmatch(file.id) and self._content(file.id).is_file():
                found.append(file)
        known = {f"{file.id}{suffix}" for file in found for suffix in ("", ".json")}
        for path in self._folder.glob("file-*"):
            if path.name not in known:
                path.unlink()
        return found

    def _content(self, file_id: str) -> Path:
        return self._folder / file_id

    def get(self, file_id: str, owner: str) -> StoredFile | None:
        """A file of this owner."""
        file = self._files.get(file_id)
        return file if file is not None and file.owner == owner else None

    def path(self, file_id: str, owner: str) -> Path | None:
        """Where the content of a file of this owner lies."""
        return None if self.get(file_id, owner) is None else self._content(file_id)

    def of(self, owner: str) -> list[StoredFile]:
        """All files of this owner, newest first."""
        return sorted((f for f in self._files.values() if f.owner == owner), key=lambda f: f.created_at, reverse=True)

    async def add(self, upload: UploadFile, purpose: str, owner: str) -> StoredFile:
        """Store an upload. Raises ApiError where it is empty, too large, beyond the quota or not what it is for."""
        file_id = f"file-{secrets.token_hex(12)}"
        content, description = self._content(file_id), self._folder / f"{file_id}.json"
        try:
            size = 0
            with content.open("wb") as out:
                async for block in _blocks(upload):
                    size += len(block)
                    self._check_room(size, owner)
                    await asyncio.to_thread(out.write, block)
            await asyncio.to_thread(_check_content, content, size, purpose)
            file = StoredFile(file_id, size, int(time.time()), _shown(upload.filename), purpose, owner)
            aside = description.with_suffix(".new")
            aside.write_text(json.dumps(asdict(file)), encoding="utf-8")
            aside.replace(description)
        except BaseException:
            content.unlink(missing_ok=True)
            raise
        self._files[file_id] = file
        return file

    def _check_room(self, size: int, owner: str) -> None:
        if size > LARGEST_FILE:
            raise invalid(f"the file is larger than {LARGEST_FILE} bytes")
        if len(self.of(owner)) >= self._max_files:
            raise invalid(f"there are {self._max_files} files already; delete some")
        if sum(file.bytes for file in self._files.values()) + size > self._max_bytes:
            raise invalid("the server's room for files is used up; delete some")

    def remove(self, file_id: str, owner: str) -> bool:
        """Delete a file; whether it was there."""
        if self.get(file_id, owner) is None:
            return False
        del self._files[file_id]
        # The description goes first: content without one is cleared away at the next start.
        (self._folder / f"{file_id}.json").unlink(missing_ok=True)
        self._content(file_id).unlink(missing_ok=True)
        return True


def file_routes(files: FileStore) -> APIRouter:
    """/v1/files."""
    routes = APIRouter(prefix="/v1/files", tags=["files"])

    def found(file_id: str, request: Request) -> StoredFile:
        file = files.get(file_id, request.state.owner)
        if file is None:
            raise ApiError(404, NOT_FOUND, "there is no such file")
        return file

    @routes.post("", summary="Upload a file")
    async def upload(
        request: Request, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form()]
    ) -> Response:
        if purpose not in PURPOSES:
            raise invalid(f"purpose must be one of {', '.join(PURPOSES)}")
        return json_response((await files.add(file, purpose, request.state.owner)).to_dict())

    @routes.get("", summary="List the files")
    async def listing(request: Request) -> Response:
        shown = [file.to_dict() for file in files.of(request.state.owner)]
        return json_response({"object": "list", "data": shown, "has_more": False})

    @routes.get("/{file_id}", summary="Describe a file")
    async def describe(file_id: str, request: Request) -> Response:
        return json_response(found(file_id, request).to_dict())

    @routes.get("/{file_id}/content", summary="The content of a file")
    async def content(file_id: str, request: Request) -> Response:
        file = found(file_id, request)
        path = files.path(file.id, file.owner)
        assert path is not None
        # Always as bytes to be saved: an uploaded page must not run in this server's name.
        headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    @routes.delete("/{file_id}", summary="Delete a file")
    async def delete(file_id: str, request: Request) -> Response:
        file = found(file_id, request)
        files.remove(file.id, file.owner)
        return json_response({"id": file.id, "object": "file", "deleted": True})

    return routes


async def _blocks(upload: UploadFile) -> AsyncIterator[bytes]:
    while block := await upload.read(_BLOCK):
        yield block


def _check_content(path: Path, size: int, purpose: str) -> None:
    """Raise ApiError for an empty file and for one that is not what its purpose says."""
    if size == 0:
        raise invalid("the file is empty")
    if purpose == "file-extract":
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise invalid("file-extract reads UTF-8 text only; images and videos have a purpose of their own") from None
        return
    found = open_path(path).format
    if purpose not in _uses(found):
        raise invalid(f"the file is no {purpose} but {found.name}")


def _uses(found: MediaFormat) -> set[str]:
    pictures = {"image"} if found.pillow else set()
    return pictures | ({"video"} if found.ffmpeg or found == WEBP else set())


def _shown(name: str | None) -> str:
    return "".join(character for character in name or "file" if character.isprintable())[-255:]
