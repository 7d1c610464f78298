"""Train a small tokenizer in the released file format, with the `tokenizers` library as the BPE trainer.

The result has the split pattern of the release and the same 256 control tokens behind its base vocabulary, so every id
in a configuration is base + offset. Base tokens are the 256 bytes, then the merges in the order in which they were
learnt: rank = token id = merge priority.
"""

from collections.abc import Iterable, Iterator

from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.chat.tokenizer import SPLIT_PATTERN, Tokenizer
from k25.errors import InputError

BYTES = 256
SMALLEST_VOCABULARY = BYTES + CONTROL_TOKEN_COUNT


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, *, least_count: int = 2) -> Tokenizer:
    """Learn a byte-level BPE vocabulary.

    Args:
        texts: the training texts; they are streamed, not kept.
        vocabulary_size: all ids, control tokens included: at least 512.
        least_count: pairs seen less often than this are never merged.

    Raises:
        InputError: if the size is too small, if the texts are too few for it, or if `tokenizers` is not installed.
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise InputError(
            f"vocabulary_size: {vocabulary_size} is too small; the least is {SMALLEST_VOCABULARY}, "
            "256 bytes and 256 control tokens"
        )
    trained = _train(texts, vocabulary_size - CONTROL_TOKEN_COUNT, least_count)
    if len(trained) + CONTROL_TOKEN_COUNT < vocabulary_size:
        raise InputError(
            f"the texts allow a vocabulary of only {len(trained) + CONTROL_TOKEN_COUNT} tokens, not {vocabulary_size}: "
            "give more text or ask for a smaller vocabulary_size"
        )
    from_printable = {character: value for value, character in _printable_bytes().items()}
    ranks = {bytes(from_printable[character] for character in token): rank for token, rank in trained.items()}
    return Tokenizer(dict(sorted(ranks.items(), key=lambda item: item[1])))


def _train(texts: Iterable[str], base_tokens: int, least_count: int) -> dict[str, int]:
    """The base vocabulary in the trainer's printable spelling of bytes, token to rank."""
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Trainee
    except ImportError:
        raise InputError("training a tokenizer needs the package tokenizers: pip install 'k25[tokenizer]'") from None
    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=base_tokens,
        min_frequency=least_count,
        initial_alphabet=list(_printable_bytes().values()),
        show_progress=False,
    )
    trainee.train_from_iterator(_checked(texts), trainer)
    return trainee.get_vocab()


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}]: expected a string, got {type(text).__name__}")
        yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _printable_bytes() -> dict[int, str]:
    """Byte to printable character as in byte-level BPE: itself if printable, else the next one from U+0100 on."""
    themselves = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(BYTES) if value not in themselves]
    return {value: chr(value) for value in themselves} | {
        value: chr(BYTES + index) for index, value in enumerate(others)
    }
