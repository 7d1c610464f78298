"""The arguments of one tool call, cleaned while they stream: trimmed, decoded if encoded twice, and checked."""

import re

from k25.chat.tool_call_json import JsonObjectChecker

# More whitespace than this is passed on rather than held, so that endless whitespace needs no memory.
MAX_HELD_WHITESPACE = 1_024
_MAX_OPENING = 64

_BLANK_INSIDE_QUOTE = r'"(?:[ \t\n\r]|\\[ntr])*'
_ENCODED_OBJECT = re.compile(_BLANK_INSIDE_QUOTE + r"(?=\{)")
_UNDECIDED = re.compile(_BLANK_INSIDE_QUOTE + r"\\?")
_STRING_PART = re.compile(r'\\(?:u[0-9a-fA-F]{0,4}|[^u])?|"\s*', re.DOTALL)
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class ArgumentStream:
    """Raw argument text in, clean argument text out, in linear time and bounded memory.

    - Whitespace around the arguments is dropped.
    - A JSON string that holds a JSON object (arguments encoded twice) is decoded once. To tell, text is held back only
      while it consists of the opening quote and whitespace; a string that holds anything else is passed on as it is.
    """

    def __init__(self) -> None:
        self._checker = JsonObjectChecker()
        self._opening: str | None = ""
        self._string: _EncodedString | None = None
        self._whitespace = ""
        self._empty = True

    def feed(self, text: str) -> str:
        """Take the next raw piece; the clean text that is settled by it, possibly none."""
        if self._opening is not None:
            text = self._decide(self._opening + text)
        if self._string is not None:
            text = self._string.feed(text)
        return self._pass_on(text)

    def finish(self, closed: bool) -> tuple[str, bool]:
        """The last clean text, and whether all of it is one JSON object.

        closed: a marker ended the arguments, rather than the end of the stream; no arguments then mean `{}`.
        """
        rest = self._opening or ""
        if self._string is not None:
            rest = self._string.finish()
        rest = self._pass_on(rest)
        if self._empty and closed:
            return "{}", True
        return rest, self._checker.complete

    def _decide(self, opening: str) -> str:
        opening = opening.lstrip()
        self._opening = opening
        if len(opening) < _MAX_OPENING and (not opening or _UNDECIDED.fullmatch(opening)):
            return ""
        self._opening = None
        encoded = _ENCODED_OBJECT.match(opening[:_MAX_OPENING])
        if encoded is None:
            return opening
        self._string = _EncodedString()
        return opening[encoded.end() :]

    def _pass_on(self, text: str) -> str:
        if not text:
            return ""
        text = self._whitespace + text
        length = len(text.rstrip())
        length += (len(text) - length) // MAX_HELD_WHITESPACE * MAX_HELD_WHITESPACE
        self._whitespace = text[length:]
        text = text[:length]
        if text:
            self._empty = False
            self._checker.feed(text)
        return text


class _EncodedString:
    """Decodes the inside of a JSON string, after its opening quote.

    The decoded text is JSON itself, so some characters may stay escaped without a change of its value: those beyond
    ASCII (surrogate pairs need no joining), and `<`, so that no marker can appear that was not one in the raw text.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The decoded text so far; a cut escape, or a quote that may be the closing one, waits for what follows."""
        text = self._held + text
        self._held = ""
        decoded = []
        position = 0
        for match in _STRING_PART.finditer(text):
            decoded.append(text[position : match.start()].replace("<", r"\u003c"))
            position = match.end()
            part = match.group()
            if position == len(text) and _may_go_on(part):
                self._held = part
            else:
                decoded.append(_decode(part))
        decoded.append(text[position:].replace("<", r"\u003c"))
        return "".join(decoded)

    def finish(self) -> str:
        """What was held back, without the closing quote."""
        return "" if self._held.startswith('"') else self._held


def _may_go_on(part: str) -> bool:
    if part.startswith('"'):
        return len(part) < MAX_HELD_WHITESPACE
    return part == "\\" or (part.startswith("\\u") and len(part) < 6)


def _decode(part: str) -> str:
    """An escape as its character; a quote that closes nothing, and what is no escape, as it is."""
    if part.startswith("\\u") and len(part) == 6:
        code = int(part[2:], 16)
        return chr(code) if code < 0x80 and code != ord("<") else part
    if part.startswith("\\") and len(part) == 2:
        return _ESCAPES.get(part[1], part)
    return part
