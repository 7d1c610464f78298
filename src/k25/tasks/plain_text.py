"""A sample as plain text without chat markup, for mixtures of pre-training documents."""

import json
from dataclasses import dataclass

from k25.tasks.sample import JsonObject, Sample

_MEDIA = "media:"


@dataclass(frozen=True)
class PlainText:
    """The document of one sample.

    Attributes:
        parts: text, or the index of an entry of the sample's `media`. The last part is the answer.
        answer: characters `answer[0]` to `answer[1]` (exclusive) of the joined text parts are the answer; a loss on
            answers only covers these.
    """

    parts: tuple[str | int, ...]
    answer: tuple[int, int]


def plain_text(sample: Sample) -> PlainText:
    """The prompt, a newline, and the answer.

    The answer is all that follows the prompt: reasoning, calls as `name {"argument": value}`, what tools returned, and
    the final answer, each on its own line.
    """
    parts: list[str | int] = []
    for message in sample.prompt:
        parts += _content_parts(message)
        parts.append("\n")
    answer = "\n".join(text for message in sample.messages[sample.prompt_messages :] for text in _lines(message))
    merged = _merged(parts)
    start = sum(len(part) for part in merged if isinstance(part, str))
    return PlainText((*merged, answer), (start, start + len(answer)))


def _content_parts(message: JsonObject) -> list[str | int]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [_media_index(part) if part["type"] != "text" else part["text"] for part in content]


def _media_index(part: JsonObject) -> int:
    source = part[part["type"]]
    url = source if isinstance(source, str) else source["url"]
    return int(url.removeprefix(_MEDIA))


def _lines(message: JsonObject) -> list[str]:
    calls = [f"{call['function']['name']} {_arguments(call)}" for call in message.get("tool_calls", [])]
    return [text for text in (message.get("reasoning_content"), message.get("content"), *calls) if text]


def _arguments(call: JsonObject) -> str:
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _merged(parts: list[str | int]) -> list[str | int]:
    merged: list[str | int] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged
