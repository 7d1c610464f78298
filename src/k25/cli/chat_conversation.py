"""A conversation as requests need it: messages, attachments, system prompt and settings."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from k25.cli.chat_client import Endpoint, Json, Reply
from k25.errors import InputError

Mode = Literal["instant", "thinking"]
Kind = Literal["image", "video"]

_VIDEO_TYPES = {"matroska": "webm", "flv": "x-flv", "mov": "quicktime"}


@dataclass
class Settings:
    """What every request says besides the messages; None leaves the choice to the server."""

    model: str
    mode: Mode | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[Json] = field(default_factory=list)


class Conversation:
    """Messages of a chat in OpenAI shapes, and the media that wait for the next question."""

    def __init__(self, settings: Settings, system: str = "") -> None:
        self.settings = settings
        self.system = system
        self.turns: list[Json] = []
        self.attachments: list[Json] = []

    @property
    def messages(self) -> list[Json]:
        """The system prompt, if any, and all turns."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def attach(self, kind: Kind, path: Path) -> None:
        """Put a file beside the next question. Raises InputError."""
        self.attachments.append(media_part(kind, path))

    def ask(self, text: str) -> None:
        """Append a question with the waiting attachments."""
        texts = [{"type": "text", "text": text}] if text else []
        self.turns.append({"role": "user", "content": [*self.attachments, *texts] if self.attachments else text})
        self.attachments = []

    def take_back(self, length: int) -> None:
        """Forget everything after the first `length` turns; attachments of a forgotten question wait again."""
        content = self.turns[length]["content"]
        self.attachments = [part for part in content if part["type"] != "text"] if isinstance(content, list) else []
        del self.turns[length:]

    def clear(self) -> None:
        """Forget everything but the system prompt."""
        self.turns, self.attachments = [], []

    def keep(self, reply: Reply) -> bool:
        """Append an answer; False if there is nothing in it to keep."""
        message = reply.message()
        if message is not None:
            self.turns.append(message)
        return message is not None

    def body(self, endpoint: Endpoint) -> Json:
        """The request for the next answer."""
        settings = self.settings
        body: Json = {
            "model": settings.model,
            "messages": self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if settings.temperature is not None:
            body["temperature"] = settings.temperature
        if settings.max_tokens is not None:
            body["max_completion_tokens"] = settings.max_tokens
        if settings.tools:
            body["tools"] = settings.tools
        if settings.mode is not None:
            # The official API has a field of its own; vLLM and SGLang hand theirs to the chat template.
            thinking = settings.mode == "thinking"
            body["thinking"] = {"type": "enabled" if thinking else "disabled"}
            if not endpoint.is_moonshot:
                body["chat_template_kwargs"] = {"thinking": thinking}
        return body

    def save(self, path: Path) -> None:
        """Write the conversation as JSON that `k25 render` reads. Raises InputError; existing files stay."""
        data: dict[str, Any] = {"messages": self.messages}
        if self.settings.tools:
            data["tools"] = self.settings.tools
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(data, indent=1) + "\n")
        except FileExistsError:
            raise InputError(f"{path} exists already; give another name") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def media_part(kind: Kind, path: Path) -> Json:
    """A file as a content part with a data URL. Raises InputError for files that are no such image or video."""
    try:
        from k25.media import MediaLimits, open_path
    except ImportError:
        raise InputError("images and videos need more libraries: pip install 'k25[media]'") from None
    content = open_path(path.expanduser())
    if (content.format.pillow if kind == "image" else content.format.ffmpeg) is None:
        other = "video" if kind == "image" else "image"
        raise InputError(f"{path} is {content.format.name}, no {kind}; attach it as {other}")
    subtype = content.format.name if kind == "image" else _VIDEO_TYPES.get(content.format.name, content.format.name)
    data = base64.b64encode(content.read(MediaLimits())).decode()
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{subtype};base64,{data}"}}
