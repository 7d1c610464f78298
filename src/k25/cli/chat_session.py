"""The interactive side of `k25 chat`: reading lines, commands, turns, and what Ctrl-C means."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import get_args

from k25.cli.chat_client import Endpoint, Json, Reply, ServerError
from k25.cli.chat_conversation import Conversation, Kind, Mode
from k25.cli.chat_display import Display
from k25.errors import InputError

HELP = """\
/image PATH, /video PATH   attach a file to the next question
/mode instant|thinking     choose whether the model thinks first
/think                     show what the model thought before its last answer
/system TEXT               set the system prompt; without TEXT show it, with - remove it
/save FILE                 write the conversation as JSON
/clear                     forget the conversation, keep the system prompt
/help                      show this
/quit                      leave (so does Ctrl-D)
Ctrl-C stops an answer; twice in a row it leaves. A line that begins with // sends a slash."""


def answer(endpoint: Endpoint, body: Json, display: Display) -> tuple[Reply, ServerError | KeyboardInterrupt | None]:
    """Stream one answer onto the display. What came is returned even if the stream failed or Ctrl-C stopped it."""
    reply = Reply()

    async def stream() -> None:
        async with contextlib.aclosing(endpoint.stream(body, reply, display.waiting)) as changes:
            async for _ in changes:
                display.update(reply)

    try:
        asyncio.run(stream())
    except (ServerError, KeyboardInterrupt) as failure:
        display.finish(reply)
        return reply, failure
    display.finish(reply)
    return reply, None


class Session:
    """A chat on a terminal. `run` returns when the user leaves; KeyboardInterrupt means by Ctrl-C."""

    def __init__(self, endpoint: Endpoint, conversation: Conversation) -> None:
        self.endpoint = endpoint
        self.conversation = conversation
        self.thinking = ""
        self._interrupted = False
        self._leaving = False

    def run(self) -> None:
        """Read lines and answer them."""
        with contextlib.suppress(ImportError):  # line editing where Python was built with it
            import readline  # noqa: F401
        Display().note(f"{self.conversation.settings.model} at {self.endpoint.base}; /help lists commands")
        while not self._leaving:
            try:
                self._one_line()
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                if self._interrupted:
                    raise
                self._interrupted = True
                Display().note("Ctrl-C once more, or /quit, leaves")

    def _one_line(self) -> None:
        waiting = len(self.conversation.attachments)
        try:
            line = input(f"[{waiting} attached] > " if waiting else "> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            self._leaving = True
            return
        self._interrupted = False
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self._turn(line.removeprefix("/") if line.startswith("//") else line)
        except InputError as error:
            Display().error(str(error))

    def _turn(self, text: str) -> None:
        """Question, answer and, as long as the model calls tools, their results from the user."""
        start = len(self.conversation.turns)
        self.conversation.ask(text)
        while True:
            display = Display()
            reply, failure = answer(self.endpoint, self.conversation.body(self.endpoint), display)
            self.thinking = reply.reasoning or self.thinking
            kept = self.conversation.keep(reply)
            if isinstance(failure, KeyboardInterrupt):
                self._interrupted = True
                display.note("stopped" + (", what came is kept" if kept else ""))
            elif failure is not None:
                display.error(str(failure) + ("; what came is kept" if kept else ""))
            if not kept:
                self.conversation.take_back(start)
                display.note("the question is not kept: there is no answer to it")
                return
            calls = self.conversation.turns[-1].get("tool_calls", [])
            if not calls:
                return
            if not self._tool_results(calls):
                self.conversation.take_back(start)
                display.note("the question is taken back: the model waits for results")
                return

    def _tool_results(self, calls: list[Json]) -> bool:
        """Ask for the result of each call; False if the user will not give one."""
        for call in calls:
            try:
                result = input(f"result of {call['function']['name']} > ")
            except (EOFError, KeyboardInterrupt):
                sys.stdout.write("\n")
                return False
            self.conversation.turns.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        return True

    def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            raise InputError(f"there is no command /{name}; /help lists commands")
        command(self, argument.strip())

    def _attach(self, kind: Kind, path: str) -> None:
        if not path:
            raise InputError(f"name the file: /{kind} PATH")
        self.conversation.attach(kind, Path(path))

    def _image(self, path: str) -> None:
        self._attach("image", path)

    def _video(self, path: str) -> None:
        self._attach("video", path)

    def _mode(self, mode: str) -> None:
        if mode not in get_args(Mode):
            raise InputError(f"/mode {mode}: choose instant or thinking")
        self.conversation.settings.mode = "instant" if mode == "instant" else "thinking"

    def _think(self, _: str) -> None:
        Display().note(self.thinking.strip() or "the model has not thought yet")

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = "" if text == "-" else text
        else:
            Display().note(self.conversation.system or "there is no system prompt")

    def _save(self, path: str) -> None:
        if not path:
            raise InputError("name the file: /save FILE")
        self.conversation.save(Path(path).expanduser())
        Display().note(f"saved {len(self.conversation.messages)} messages to {path}")

    def _clear(self, _: str) -> None:
        self.conversation.clear()
        self.thinking = ""
        Display().note("cleared")

    def _help(self, _: str) -> None:
        Display().note(HELP)

    def _quit(self, _: str) -> None:
        self._leaving = True


_COMMANDS = {
    "image": Session._image,
    "video": Session._video,
    "mode": Session._mode,
    "think": Session._think,
    "system": Session._system,
    "save": Session._save,
    "clear": Session._clear,
    "help": Session._help,
    "quit": Session._quit,
}
