"""A small tokenizer for presets that have no vocabulary file of their own: the same one on every machine.

The 256 bytes come first, then the merges that byte-pair encoding learns from the text below, then two-byte tokens in
byte order until the vocabulary is full. Nothing has to be installed or downloaded for it.
"""

import re
from collections import Counter
from functools import cache
from itertools import pairwise, product

from k25.chat.tokenizer import Tokenizer
from k25.errors import InputError

_BYTES = 256
_LARGEST = _BYTES + _BYTES**2
_WORD = re.compile(r" ?[A-Za-z]+|\d{1,3}| ?[^\sA-Za-z\d]+|\s+")

_TEXT = """
A language model reads a text as a row of numbers and writes the next number, and then the next, until it has said what
it wanted to say. The numbers stand for pieces of words. A short piece such as "the" or "ing" is seen again and again,
so it gets a number of its own; a rare word is put together from smaller pieces, and in the end from single bytes. That
is why there is nothing that such a model cannot read or write: a letter from any country, a picture of a cat drawn in
dots and dashes, or a line of a program.

You are a helpful assistant. Answer the question of the user in a few words. If you do not know the answer, say that
you do not know it. Think before you answer: what is asked, what is given, which tools can help, and is the result
right? First count the things, then add the numbers, then check them. There are four red squares and two blue circles
in this image. The answer is 42. The weather in Paris is fine today, with 18 degrees and a little wind from the west.
Yes, it is. No, it is not. Hello! How are you? I am fine, thank you. What would you like to know about it?

One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, twenty, thirty, hundred, thousand. Monday,
Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday. The quick brown fox jumps over the lazy dog, and the dog does
not mind. Left and right, up and down, above and below, before and after, more and less, larger and smaller, first and
last, old and new, open and closed, black and white, green and yellow, inside and outside of the box in the corner.

When several people work on one thing at the same time, they should tell each other what they have found. One of them
searches for the sources, another one reads them, a third one writes the report; somebody has to decide who does what,
and to put the parts together at the end. Work that can be done side by side should be done side by side.

A small village lies between the river and the mountain. Every morning the baker opens his shop before sunrise, while
most people still sleep. Children walk to school along the narrow street, past gardens full of apples and cherries. In
autumn, clouds hang low over the valley; sometimes heavy rain falls for hours. Travellers arrive by train, stay several
nights, and often return the following year. They enjoy quiet evenings, simple meals, good neighbours and long books.

{"name": "get_weather", "arguments": {"city": "Berlin", "unit": "celsius", "days": 3}}
{"type": "object", "properties": {"value": {"type": "string", "description": "the value"}, "items": {"type": "array",
"items": {"type": "number"}}, "enabled": {"type": "boolean"}}, "required": ["value"], "additionalProperties": false}
{"id": 1, "title": "first", "tags": ["a", "b"], "size": null, "ok": true, "error": false, "count": 0, "text": ""}

def count(items: list[int], value: int) -> int:
    \"\"\"How often the value is in the list.\"\"\"
    result = 0
    for item in items:
        if item == value:
            result += 1
    return result

import sys
print(count([1, 2, 2, 3], 2), file=sys.stderr)

# Tools

## functions
namespace functions {
// Search for something
type search = (_: {
  // What to search for
  query: string,
  limit?: number,
}) => any;
}
"""


@cache
def preset_tokenizer(base_tokens: int) -> Tokenizer:
    """The tokenizer with `base_tokens` base tokens; the 256 control tokens follow them, as in every vocabulary.

    Raises:
        InputError: for fewer than 256 base tokens, or more than all single bytes and pairs of bytes.
    """
    if not _BYTES <= base_tokens <= _LARGEST:
        raise InputError(f"a made-up tokenizer has {_BYTES} to {_LARGEST} base tokens, not {base_tokens}")
    tokens = [bytes([value]) for value in range(_BYTES)]
    tokens += _learnt(base_tokens - _BYTES)
    known = set(tokens)
    pairs = (bytes(pair) for pair in product(range(_BYTES), repeat=2))
    tokens += [pair for pair in pairs if pair not in known]
    return Tokenizer({token: rank for rank, token in enumerate(tokens[:base_tokens])})


def _learnt(count: int) -> list[bytes]:
    """Up to `count` merges in the order of their learning: the most frequent pair, of equals the smallest."""
    words = Counter(tuple(bytes([value]) for value in word.encode()) for word in _WORD.findall(_TEXT))
    merges: dict[bytes, None] = {}
    while len(merges) < count:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None:
            break
        merges[b"".join(best)] = None
        merged: Counter[tuple[bytes, ...]] = Counter()
        for word, times in words.items():
            merged[_merge(word, best)] += times
        words = merged
    return list(merges)


def _merge(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    result: list[bytes] = []
    for token in word:
        if result and (result[-1], token) == pair:
            result[-1] += token
        else:
            result.append(token)
    return tuple(result)
