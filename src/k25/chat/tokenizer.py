"""The tokenizer: byte-level BPE on `tiktoken`, reading the released file format.

A vocabulary file (`tiktoken.model`) has one line per base token: base64 of its bytes, a space, its rank. The rank is
both the token id and the merge priority. The 256 control tokens of `special_tokens` follow the base tokens. Text is cut
by the released split pattern, and very long text before that by the released tokenizer's two length rules.

Unlike the released tokenizer, `encode` takes control-token texts for plain text unless told otherwise: whoever wrote
the text must not be able to end a turn.
"""

import base64
import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import tiktoken

from k25.chat import special_tokens as special
from k25.errors import InputError

VOCABULARY_FILE = "tiktoken.model"
CONFIG_FILE = "tokenizer_config.json"

SPLIT_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# The released tokenizer's limits, in characters: of one piece of text, and of a run of only space or only non-space.
LONGEST_TEXT = 400_000
LONGEST_RUN = 25_000

_RUN = re.compile(r"\s+|\S+")
_RUN_BEFORE = {True: re.compile(r"(?s:.*)\S"), False: re.compile(r"(?s:.*)\s")}


class Tokenizer:
    """Text to token ids and back.

    Args:
        ranks: the base vocabulary, token bytes to rank; ranks are 0..n-1 and every single byte is present.
        control_tokens: the 256 control tokens, name to id n..n+255; without them, the names of `special_tokens`.
    """

    def __init__(self, ranks: dict[bytes, int], control_tokens: dict[str, int] | None = None):
        self.base_tokens = len(ranks)
        self.vocabulary_size = self.base_tokens + special.CONTROL_TOKEN_COUNT
        self.control_tokens = control_tokens or special.control_tokens(self.base_tokens)
        self._ranks = ranks
        self._encoding = tiktoken.Encoding(
            name="kimi", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self.control_tokens
        )
        self._control_names = frozenset(self.control_tokens)
        self._skipped = frozenset(
            token_id for name, token_id in self.control_tokens.items() if name not in special.KEPT_WHEN_SKIPPING
        )

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Read a vocabulary: a `tiktoken.model` file, or a checkpoint folder that holds one.

        A `tokenizer_config.json` beside it may name control tokens that are reserved here; it may not rename others.

        Raises:
            InputError: if the file is absent or not in the released format.
        """
        path = Path(path)
        file = path / VOCABULARY_FILE if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"{path}: no tokenizer here; give a {VOCABULARY_FILE} file or a folder that holds one")
        ranks = _read_ranks(file)
        return cls(ranks, _read_control_tokens(file.with_name(CONFIG_FILE), len(ranks)))

    def save(self, folder: str | Path) -> None:
        """Write `tiktoken.model` and `tokenizer_config.json` into a folder, which is created if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in self._ranks.items())
        _replace(folder / VOCABULARY_FILE, "".join(lines))
        _replace(folder / CONFIG_FILE, json.dumps(self._config(), indent=2) + "\n")

    def _config(self) -> dict[str, object]:
        named = {self.base_tokens + offset: name for name, offset in special.OFFSETS.items()}
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        return {
            "tokenizer_class": "TikTokenTokenizer",
            "bos_token": special.BEGIN_OF_SEQUENCE,
            "eos_token": special.END_OF_SEQUENCE,
            "unk_token": special.UNKNOWN,
            "pad_token": special.PADDING,
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": {
                str(token_id): {"content": name, "special": name not in special.KEPT_WHEN_SKIPPING, **flags}
                for token_id, name in sorted(named.items())
            },
        }

    def encode(self, text: str, *, control_tokens: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: lone surrogates become U+FFFD.
            control_tokens: recognise the texts of control tokens, as the released tokenizer does by default. Leave it
                off for text that others wrote.
        """
        if len(text) <= LONGEST_RUN:
            return self._encode(text, control_tokens)
        pieces = cut_long_text(text)
        token_ids = self._encode(next(pieces), control_tokens)
        for piece in pieces:
            token_ids += self._encode(piece, control_tokens)
        return token_ids

    def _encode(self, text: str, control_tokens: bool) -> list[int]:
        if control_tokens:
            return self._encoding.encode(text, allowed_special=self._control_names, disallowed_special=())
        return self._encoding.encode_ordinary(text)

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of token ids, with U+FFFD for invalid UTF-8.

        Args:
            token_ids: ids of this vocabulary.
            skip_special: leave control tokens out, except the think and tool-call markers, which are ordinary text to
                the released tokenizer.

        Raises:
            InputError: for an id outside the vocabulary.
        """
        return self.decode_bytes(token_ids, skip_special=skip_special).decode("utf-8", errors="replace")

    def decode_bytes(self, token_ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The bytes of token ids; see `decode`."""
        skipped = self._skipped if skip_special else frozenset()
        return b"".join(self.token_bytes(token_id) for token_id in token_ids if token_id not in skipped)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, which need not be whole characters.

        Raises:
            InputError: for an id outside the vocabulary.
        """
        if not 0 <= token_id < self.vocabulary_size:
            raise InputError(f"token id {token_id} is outside the vocabulary (0 to {self.vocabulary_size - 1})")
        return self._encoding.decode_single_token_bytes(token_id)

    def token_id(self, token: str | bytes) -> int:
        """The id of a whole token (control tokens by name), or the id of `[UNK]` if there is none."""
        if isinstance(token, str) and token in self.control_tokens:
            return self.control_tokens[token]
        data = token.encode() if isinstance(token, str) else token
        return self._ranks.get(data, self.control_tokens[special.UNKNOWN])


class StreamingDecoder:
    """Token ids to text as they come; bytes of an unfinished character are held back.

    The pieces joined equal `tokenizer.decode` of all ids at once.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these further ids complete."""
        return self._utf8.decode(self._tokenizer.decode_bytes(token_ids, skip_special=self._skip_special))

    def finish(self) -> str:
        """The rest: U+FFFD if the stream ended inside a character."""
        return self._utf8.decode(b"", final=True)


def cut_long_text(text: str) -> Iterator[str]:
    """Cut as the released tokenizer does: every 400,000 characters, then runs of more than 25,000 like characters."""
    for start in range(0, len(text), LONGEST_TEXT):
        window = text[start : start + LONGEST_TEXT]
        cut_from = 0
        for cut in _run_cuts(window):
            yield window[cut_from:cut]
            cut_from = cut
        yield window[cut_from:]


def _run_cuts(text: str) -> Iterator[int]:
    # A run longer than the limit covers a multiple of the limit, so only the runs at those places need a look.
    seen_until = 0
    for probe in range(LONGEST_RUN, len(text), LONGEST_RUN):
        if probe < seen_until:
            continue
        before = _RUN_BEFORE[text[probe].isspace()].match(text, seen_until, probe)
        run_start = before.end() if before else seen_until
        run = _RUN.match(text, run_start)
        seen_until = run.end() if run else probe
        yield from range(run_start + LONGEST_RUN, seen_until, LONGEST_RUN)


def _read_ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        token, _, rank = line.partition(b" ")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise InputError(f"{file}, line {number}: expected base64 of a token, a space and its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise InputError(f"{file}: ranks must be 0 to {len(ranks) - 1} without gaps or repeated tokens")
    if any(bytes([value]) not in ranks for value in range(256)):
        raise InputError(f"{file}: a byte-level vocabulary must hold all 256 single bytes")
    return ranks


def _read_control_tokens(config_file: Path, base_tokens: int) -> dict[str, int]:
    names = special.control_tokens(base_tokens)
    if not config_file.is_file():
        return names
    try:
        added = json.loads(config_file.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        given = {int(token_id): entry["content"] for token_id, entry in added.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise InputError(f"{config_file}: not a tokenizer configuration (added_tokens_decoder is unreadable)") from None
    by_id = {token_id: name for name, token_id in names.items()}
    for token_id, name in given.items():
        ours = by_id.get(token_id)
        if ours != name and (ours is None or ours in special.OFFSETS or name in names):
            raise InputError(f"{config_file}: token {token_id} is named {name}, where {ours} belongs")
        by_id[token_id] = name
    return {name: token_id for token_id, name in by_id.items()}


def _replace(file: Path, text: str) -> None:
    aside = file.with_name(file.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
