"""An HTTP/1.1 answer, taken apart as its bytes arrive (RFC 9112); no sockets here."""

from collections.abc import Callable


class HttpError(OSError):
    """No connection, or an answer that is broken or not understood. `again` tells whether another attempt may help."""

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


_MOST_HEAD = 65_536  # bytes
_MOST_LINE = 4_096


class AnswerParser:
    """One answer to a POST. `headers` have names in lower case.

    has_head: status and headers are known; finished: the whole body has come; reusable: the connection may go on to
    carry another request after it. All raise HttpError for what is no HTTP/1.1.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.has_head = False
        self.finished = False
        self.reusable = False
        self.waiting = 0  # bytes of the body that nobody has taken
        self._body: list[bytes] = []
        self._pending = b""
        # A function, no bound method: that would be a cycle, and keep the parser until it is searched for.
        self._read: Callable[[AnswerParser, bytes], None] = AnswerParser._read_head
        self._left = 0
        self._inside = False

    def feed(self, data: bytes) -> None:
        """Take the bytes that have arrived."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        self._read(self, data)

    def end(self) -> None:
        """The server has closed the connection."""
        if self.has_head and self._read is AnswerParser._read_rest:
            self.finished = True
        elif not self.finished:
            raise HttpError("the server closed the connection before its answer was complete")

    def take(self) -> bytes:
        """What has come of the body since the last call."""
        body, self._body, self.waiting = b"".join(self._body), [], 0
        return body

    def _read_head(self, data: bytes) -> None:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            first, *lines = data[:end].decode("latin-1").split("\r\n")
            data = data[end + 4 :]
            version, _, rest = first.partition(" ")
            status, _, self.reason = rest.partition(" ")
            if not (version.startswith("HTTP/1.") and status.isdecimal() and len(status) == 3):
                raise HttpError(f"the server does not speak HTTP/1.1: it begins with {first[:80]!r}", again=False)
            if status[0] == "1":  # an interim answer; the real one follows
                continue
            self.status, self.has_head = int(status), True
            for line in lines:
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
            self.reusable = version == "HTTP/1.1" and "close" not in self.headers.get("connection", "").lower()
            self._read = self._body_reader()
            self._read(self, data)
            return
        self._keep(data, _MOST_HEAD, "a head without end")

    def _body_reader(self) -> "Callable[[AnswerParser, bytes], None]":
        """How the end of the body is told (RFC 9112, section 6.3)."""
        coding = self.headers.get("content-encoding", "identity").lower()
        transfer = self.headers.get("transfer-encoding", "").lower()
        if coding != "identity" or transfer not in ("", "chunked"):
            raise HttpError(f"the server encodes its answer as {transfer or coding}, which was not asked for")
        if transfer:
            return AnswerParser._read_chunks
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            length = "0"
        if length is None:
            self.reusable = False
            return AnswerParser._read_rest
        if not length.isdecimal():
            raise HttpError(f"the server sends the length {length!r}")
        self._left = int(length)
        return AnswerParser._read_length

    def _read_length(self, data: bytes) -> None:
        self._add(data[: self._left])
        if len(data) > self._left:
            self.reusable = False
        self._left -= min(self._left, len(data))
        self.finished = self._left == 0

    def _read_rest(self, data: bytes) -> None:
        self._add(data)

    def _read_chunks(self, data: bytes) -> None:
        """Lines with a size, each followed by as many bytes and a line break; the size 0 ends it."""
        at = 0
        while True:
            if self._left:
                piece = data[at : at + self._left]
                self._add(piece)
                at += len(piece)
                self._left -= len(piece)
            end = data.find(b"\r\n", at)
            if self._left or end < 0:
                break
            line, at = data[at:end], end + 2
            if self._inside:
                self._inside = False
                if line:
                    raise HttpError("the server sends a chunk that is longer than it says")
                continue
            self._left = _chunk_size(line)
            self._inside = True
            if self._left == 0:
                self._read = AnswerParser._read_trailers
                self._read_trailers(data[at:])
                return
        self._keep(data[at:], _MOST_LINE, "a chunk without a size")

    def _read_trailers(self, data: bytes) -> None:
        end = 0 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n") + 2
        if end == 1:
            self._keep(data, _MOST_HEAD, "trailers without end")
            return
        self.finished = True
        self.reusable = self.reusable and len(data) == end + 2

    def _add(self, piece: bytes) -> None:
        if piece:
            self._body.append(piece)
            self.waiting += len(piece)

    def _keep(self, data: bytes, most: int, what: str) -> None:
        if len(data) > most:
            raise HttpError(f"the server sends {what}")
        self._pending = data


def _chunk_size(line: bytes) -> int:
    try:
        size = int(line.partition(b";")[0], 16)
    except ValueError:
        size = -1
    if size < 0:
        raise HttpError(f"the server sends a chunk of the size {line[:40]!r}")
    return size
