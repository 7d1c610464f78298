"""The program inside the sandbox that runs an agent's Python cells in one IPython shell.

It imports nothing of K25 and is passed to the interpreter as text. Requests come on standard input, answers go to the
original standard output, both as a length (4 bytes, big-endian) and JSON. Whatever cells and their child processes
print goes through a pipe, bounded to the first and last part.
"""

import base64
import json
import os
import random
import signal
import sys
import threading
from typing import Any

from IPython.core.displayhook import DisplayHook  # type: ignore[import-not-found,unused-ignore]
from IPython.core.displaypub import DisplayPublisher  # type: ignore[import-not-found,unused-ignore]
from IPython.core.interactiveshell import InteractiveShell  # type: ignore[import-not-found,unused-ignore]
from traitlets import Type  # type: ignore[import-not-found,unused-ignore]
from traitlets.config import Config  # type: ignore[import-not-found,unused-ignore]

_HALF = 40_000  # bytes of output kept from the beginning, and as many from the end
_IMAGES = 8

images: list[str] = []


def _show(data: dict[str, Any]) -> bool:
    """Keep an image for the answer, and say in the text where it belongs."""
    picture = data.get("image/png")
    if picture is None or len(images) >= _IMAGES:
        return False
    images.append(picture if isinstance(picture, str) else base64.b64encode(picture).decode())
    sys.stdout.write(f"[image {len(images)}]\n")
    return True


class _Hook(DisplayHook):  # type: ignore[misc,unused-ignore]
    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        if not _show(format_dict):
            super().write_format_data(format_dict, md_dict)


class _Publisher(DisplayPublisher):  # type: ignore[misc,unused-ignore]
    def publish(self, data: dict[str, Any], *args: Any, **options: Any) -> None:  # noqa: ARG002
        if not _show(data):
            sys.stdout.write(str(data.get("text/plain", "")) + "\n")


class _Shell(InteractiveShell):  # type: ignore[misc,unused-ignore]
    displayhook_class = Type(_Hook)
    display_pub_class = Type(_Publisher)

    def ask_exit(self) -> None:
        sys.stdout.write("exit() has no effect here; the interpreter is kept for the next call.\n")

    def enable_gui(self, gui: Any = None) -> None:
        """There is no screen."""


class _Output:
    """Reads what is printed, in a thread, and hands over what came between two marks."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._left_out = 0
        self._mark = b""
        self._complete = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def collect(self) -> str:
        mark = b"\0end of cell %d\0" % random.getrandbits(64)
        self._complete.clear()
        self._mark = mark
        os.write(1, mark)
        self._complete.wait()
        text, left_out = bytes(self._buffer).replace(mark, b""), self._left_out
        self._buffer, self._left_out, self._mark = bytearray(), 0, b""
        if not left_out:
            return text.decode(errors="replace")
        head, tail = text[:_HALF].decode(errors="replace"), text[_HALF:].decode(errors="replace")
        return f"{head}\n[{left_out} bytes of output are left out here]\n{tail}"

    def _read(self) -> None:
        while block := os.read(self._descriptor, 1 << 16):
            self._buffer += block
            excess = len(self._buffer) - 2 * _HALF
            if excess > 0:
                del self._buffer[_HALF : _HALF + excess]
                self._left_out += excess
            if self._mark and self._mark in self._buffer[-len(block) - 64 :]:
                self._complete.set()


def _requests(descriptor: int) -> Any:
    with os.fdopen(descriptor, "rb") as stream:
        while len(header := stream.read(4)) == 4:
            yield json.loads(stream.read(int.from_bytes(header, "big")))


def main() -> None:
    """Run cells until the input ends."""
    # A host that runs in the background is deaf to interrupts, and would pass that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Cells get other descriptors than the conversation with the host.
    requests, answers = os.dup(0), os.dup(1)
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    output = _Output(reading)
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.banner1 = ""
    shell = _Shell.instance(config=config)
    cells: list[str] = []
    arrived = threading.Condition()

    def listen() -> None:
        for request in _requests(requests):
            if "code" in request:
                with arrived:
                    cells.append(request["code"])
                    arrived.notify()
            else:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        os._exit(0)

    def answer(value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(answers, data) :]

    threading.Thread(target=listen, daemon=True).start()
    answer({"ready": True})
    while True:
        try:
            with arrived:
                while not cells:
                    arrived.wait()
                code = cells.pop(0)
            images.clear()
            done = shell.run_cell(code, store_history=True)  # type: ignore[no-untyped-call,unused-ignore]
            sys.stdout.flush()
            sys.stderr.flush()
            answer({"text": output.collect(), "images": list(images), "error": not done.success})
        except KeyboardInterrupt:
            # An interrupt that came just after its cell had ended concerns nobody.
            continue


if __name__ == "__main__":
    main()
