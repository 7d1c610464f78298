"""Server-sent events (WHATWG HTML, section 9.2), taken apart as their bytes arrive."""


class EventStream:
    """Gives the data of each event. Comments, which some servers send to keep the line open, are no events."""

    def __init__(self) -> None:
        self.pending = b""  # the beginning of a line
        self._parts: list[bytes] = []

    def feed(self, block: bytes) -> list[bytes]:
        """The events that `block` completes."""
        *lines, self.pending = (self.pending + block).split(b"\n")
        parts, events = self._parts, list[bytes]()
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                parts.append(line[5:].removeprefix(b" "))
            elif not line and parts:
                events.append(b"\n".join(parts))
                parts.clear()
        return events

    def end(self) -> list[bytes]:
        """The last event, where the server left out the empty line behind it."""
        if not self._parts and not self.pending.startswith(b"data:"):
            return []
        return [b"\n".join([*self._parts, self.pending.removeprefix(b"data:").strip()]).strip()]
