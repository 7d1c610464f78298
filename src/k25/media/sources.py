"""Where media come from: files, bytes, data URLs and, if allowed, http(s).

What something is, its first bytes tell; names and media types are never trusted. Only the listed containers are ever
handed to a decoder, and each to the one reader that is named for it: FFmpeg left to guess would follow playlists to
other files and addresses.
"""

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from k25.errors import InputError
from k25.media.config import MediaLimits
from k25.media.names import printable
from k25.media.remote import RemotePolicy, fetch

HEAD_BYTES = 1024
SUPPORTED = "png, jpeg, webp, gif, mp4, mov, 3gp, mkv, webm, avi, flv, wmv, mpeg"


@dataclass(frozen=True)
class MediaFormat:
    """A recognised container: its common name and what reads it, as a picture (Pillow) or as a video (FFmpeg)."""

    name: str
    pillow: str | None = None
    ffmpeg: str | None = None


PNG, JPEG = MediaFormat("png", pillow="PNG"), MediaFormat("jpeg", pillow="JPEG")
WEBP, GIF = MediaFormat("webp", pillow="WEBP"), MediaFormat("gif", pillow="GIF", ffmpeg="gif")
MP4, MATROSKA = MediaFormat("mp4", ffmpeg="mp4"), MediaFormat("matroska", ffmpeg="matroska")
AVI, _FLV, _WMV = MediaFormat("avi", ffmpeg="avi"), MediaFormat("flv", ffmpeg="flv"), MediaFormat("wmv", ffmpeg="asf")
_MPEG, _MPEG_VIDEO = MediaFormat("mpeg", ffmpeg="mpeg"), MediaFormat("mpeg", ffmpeg="mpegvideo")
_MPEG_TS = MediaFormat("mpeg", ffmpeg="mpegts")

_PREFIXES = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"\x1aE\xdf\xa3", MATROSKA),
    (b"FLV\x01", _FLV),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), _WMV),
    (b"\x00\x00\x01\xba", _MPEG),
    (b"\x00\x00\x01\xb3", _MPEG_VIDEO),
)
_RIFF = {b"WEBP": WEBP, b"AVI ": AVI}
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")


def sniff(head: bytes) -> MediaFormat | None:
    """The format that the first `HEAD_BYTES` bytes announce, or None."""
    for prefix, found in _PREFIXES:
        if head.startswith(prefix):
            return found
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[:1] < b"\x20" and head[4:8] in _QUICKTIME_ATOMS:  # an atom's size comes first; text does not start so
        return MP4
    # Transport stream packets of 188 bytes start with 0x47; m2ts puts four bytes of time before each.
    if any(head[first : first + 2 * step + 1 : step] == b"GGG" for first, step in ((0, 188), (4, 192))):
        return _MPEG_TS
    return None


@dataclass(frozen=True)
class MediaContent:
    """An image or video that was found but not decoded yet: `data` in memory or a `path`.

    `name` stands for it in errors. Make one with `open_path`, `open_bytes` or `open_url`.
    """

    name: str
    format: MediaFormat
    data: bytes | None = None
    path: Path | None = None

    def read(self, limits: MediaLimits) -> bytes:
        """The whole content."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            with self.path.open("rb") as file:
                data = file.read(limits.max_bytes + 1)
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror}); check the file") from None
        _check_size(self.name, len(data), limits)
        return data


def open_path(path: str | Path, limits: MediaLimits | None = None) -> MediaContent:
    """A file. Never call it with a text that a remote user chose: it opens whatever the process may read.

    Raises:
        InputError: the file is absent, unreadable, empty, too large, no regular file, or of no supported format.
    """
    path, name = Path(path), printable(str(path))
    try:
        # Without O_NONBLOCK a named pipe would hang here before it could be refused.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(HEAD_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except ValueError:
        raise InputError(f"{name}: is no valid file name; give the path of an image or video") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be opened ({error.strerror}); check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: is no regular file; give an image or video file")
    _check_size(name, status.st_size, limits or MediaLimits())
    return MediaContent(name, _recognised(name, head), path=path)


def open_bytes(data: bytes, name: str = "media", limits: MediaLimits | None = None) -> MediaContent:
    """Content in memory; `name` stands for it in errors.

    Raises:
        InputError: it is empty, too large, or of no supported format.
    """
    name = printable(name)
    _check_size(name, len(data), limits or MediaLimits())
    return MediaContent(name, _recognised(name, data[:HEAD_BYTES]), data=data)


def open_url(url: str, limits: MediaLimits | None = None, remote: RemotePolicy | None = None) -> MediaContent:
    """A data URL or, only if a `remote` policy is given, the content behind an http(s) URL.

    Safe with URLs that remote users chose: files are never opened, and `RemotePolicy` guards the network.

    Raises:
        InputError: the URL is malformed, of another scheme or not allowed, or its content is refused by `open_bytes`.
    """
    limits = limits or MediaLimits()
    url = url.strip()
    scheme = url.split(":", 1)[0].lower() if ":" in url else ""
    if scheme == "data":
        return _open_data_url(url, limits)
    if scheme in ("http", "https"):
        if remote is None:
            raise InputError(f"{printable(url)}: fetching from the network is off; send the content as a data URL")
        return open_bytes(fetch(url, remote, limits.max_bytes), url, limits)
    raise InputError(f"{printable(url)}: is no data, http or https URL; send data:image/png;base64,... or the like")


def _open_data_url(url: str, limits: MediaLimits) -> MediaContent:
    header, comma, body = url.partition(",")
    name = f"data URL ({printable(header[5:], 60)})" if header[5:] else "data URL"
    if not comma:
        raise InputError(f"{name}: has no comma before its content; write data:image/png;base64,...")
    is_base64 = header.replace(" ", "").lower().endswith(";base64")
    _check_size(name, len(body) * 3 // 4 if is_base64 else len(body) // 3, limits)
    content = unquote_to_bytes(body)
    if is_base64:
        # Clients wrap lines, put a space after the comma and leave the final `=` away; nothing else is forgiven.
        content = b"".join(content.split()).rstrip(b"=")
        try:
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
        except binascii.Error as error:
            raise InputError(f"{name}: its base64 is malformed ({error}); encode the content again") from None
    return open_bytes(content, name, limits)


def _check_size(name: str, size: int, limits: MediaLimits) -> None:
    if size == 0:
        raise InputError(f"{name}: is empty; give an image or video")
    if size > limits.max_bytes:
        raise InputError(f"{name}: {size} bytes are more than the limit of {limits.max_bytes}; shrink it")


def _recognised(name: str, head: bytes) -> MediaFormat:
    found = sniff(head)
    if found is None:
        raise InputError(f"{name}: is no image or video of a supported format; convert it to one of {SUPPORTED}")
    return found
