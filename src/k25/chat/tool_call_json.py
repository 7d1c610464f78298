"""Is a stream of text one whole JSON object (RFC 8259)? Decided piece by piece, keeping only the nesting."""

import re
from enum import Enum, auto

MAX_DEPTH = 512
MAX_SCALAR_LENGTH = 4_000

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR_CHARACTERS = re.compile(r"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_HEX = frozenset("0123456789abcdefABCDEF")


class _Inside(Enum):
    STRUCTURE = auto()
    STRING = auto()
    ESCAPE = auto()
    HEX = auto()
    SCALAR = auto()
    BROKEN = auto()


class _Expected(Enum):
    ROOT = auto()
    FIRST_KEY = auto()
    KEY = auto()
    COLON = auto()
    FIRST_ITEM = auto()
    VALUE = auto()
    COMMA = auto()
    NOTHING = auto()


_MAY_CLOSE = {"}": (_Expected.FIRST_KEY, _Expected.COMMA), "]": (_Expected.FIRST_ITEM, _Expected.COMMA)}
_FIRST = {"{": _Expected.FIRST_KEY, "[": _Expected.FIRST_ITEM}
_CLOSING = {"{": "}", "[": "]"}


class JsonObjectChecker:
    """Follows JSON text in pieces of any size, in linear time.

    Nesting deeper than `MAX_DEPTH` and numbers longer than `MAX_SCALAR_LENGTH` characters count as broken.
    """

    def __init__(self) -> None:
        self._inside = _Inside.STRUCTURE
        self._expected = _Expected.ROOT
        self._open: list[str] = []
        self._scalar = ""
        self._hex_missing = 0

    @property
    def complete(self) -> bool:
        """Whether all text so far is exactly one JSON object, with whitespace around it at most."""
        return self._inside is _Inside.STRUCTURE and self._expected is _Expected.NOTHING

    def feed(self, text: str) -> None:
        """Follow the next piece."""
        position = 0
        while position < len(text):
            match self._inside:
                case _Inside.STRING:
                    position = self._string(text, position)
                case _Inside.STRUCTURE:
                    position = self._structure(text, position)
                case _Inside.SCALAR:
                    position = self._scalar_piece(text, position)
                case _Inside.ESCAPE:
                    position = self._escape(text, position)
                case _Inside.HEX:
                    position = self._hex(text, position)
                case _Inside.BROKEN:
                    return

    def _structure(self, text: str, position: int) -> int:
        position = _run(_SPACE, text, position)
        if position == len(text):
            return position
        character, expected = text[position], self._expected
        if character == '"':
            self._open_string(expected)
        elif character in _FIRST:
            self._open_container(character, expected)
        elif character in _MAY_CLOSE:
            self._close_container(character, expected)
        elif character == "," and expected is _Expected.COMMA:
            self._expected = _Expected.KEY if self._open[-1] == "{" else _Expected.VALUE
        elif character == ":" and expected is _Expected.COLON:
            self._expected = _Expected.VALUE
        elif expected in (_Expected.VALUE, _Expected.FIRST_ITEM):
            self._inside, self._scalar = _Inside.SCALAR, ""
            return position
        else:
            self._inside = _Inside.BROKEN
        return position + 1

    def _open_string(self, expected: _Expected) -> None:
        if expected in (_Expected.KEY, _Expected.FIRST_KEY):
            self._inside, self._expected = _Inside.STRING, _Expected.COLON
        elif expected in (_Expected.VALUE, _Expected.FIRST_ITEM):
            self._inside, self._expected = _Inside.STRING, _Expected.COMMA
        else:
            self._inside = _Inside.BROKEN

    def _open_container(self, character: str, expected: _Expected) -> None:
        value_expected = expected in (_Expected.VALUE, _Expected.FIRST_ITEM)
        root_expected = expected is _Expected.ROOT and character == "{"
        if (value_expected or root_expected) and len(self._open) < MAX_DEPTH:
            self._open.append(character)
            self._expected = _FIRST[character]
        else:
            self._inside = _Inside.BROKEN

    def _close_container(self, character: str, expected: _Expected) -> None:
        if expected in _MAY_CLOSE[character] and _CLOSING[self._open[-1]] == character:
            self._open.pop()
            self._expected = _Expected.COMMA if self._open else _Expected.NOTHING
        else:
            self._inside = _Inside.BROKEN

    def _string(self, text: str, position: int) -> int:
        position = _run(_PLAIN, text, position)
        if position == len(text):
            return position
        ends = {'"': _Inside.STRUCTURE, "\\": _Inside.ESCAPE}
        self._inside = ends.get(text[position], _Inside.BROKEN)
        return position + 1

    def _escape(self, text: str, position: int) -> int:
        if text[position] == "u":
            self._inside, self._hex_missing = _Inside.HEX, 4
        else:
            self._inside = _Inside.STRING if text[position] in '"\\/bfnrt' else _Inside.BROKEN
        return position + 1

    def _hex(self, text: str, position: int) -> int:
        digits = text[position : position + self._hex_missing]
        self._hex_missing -= len(digits)
        if not _HEX.issuperset(digits):
            self._inside = _Inside.BROKEN
        elif self._hex_missing == 0:
            self._inside = _Inside.STRING
        return position + len(digits)

    def _scalar_piece(self, text: str, position: int) -> int:
        end = _run(_SCALAR_CHARACTERS, text, position)
        self._scalar += text[position:end]
        if len(self._scalar) > MAX_SCALAR_LENGTH:
            self._inside = _Inside.BROKEN
        elif end < len(text):
            whole = _SCALAR.fullmatch(self._scalar) is not None
            self._inside = _Inside.STRUCTURE if whole else _Inside.BROKEN
            self._expected = _Expected.COMMA
        return end


def _run(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where the run of characters that begins at `position` ends; the patterns match the empty run too."""
    match = pattern.match(text, position)
    assert match is not None
    return match.end()
