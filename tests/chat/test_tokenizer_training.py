"""Training a small tokenizer in the released file format."""

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from k25.chat.special_tokens import OFFSETS
from k25.chat.tokenizer import SPLIT_PATTERN
from k25.chat.tokenizer_training import train_tokenizer
from k25.errors import InputError


def test_every_control_token_sits_at_its_offset(small_tokenizer):
    assert small_tokenizer.vocabulary_size == 1024
    for name, offset in OFFSETS.items():
        assert small_tokenizer.token_id(name) == 1024 - 256 + offset


def test_the_first_ranks_are_those_of_the_release(small_tokenizer):
    assert [small_tokenizer.token_bytes(rank) for rank in range(3)] == [b"!", b'"', b"#"]
    assert sorted(small_tokenizer.token_bytes(rank) for rank in range(256)) == [bytes([value]) for value in range(256)]


def test_every_merge_joins_two_tokens_of_lower_rank(small_tokenizer):
    ranks = {small_tokenizer.token_bytes(rank): rank for rank in range(small_tokenizer.base_tokens)}
    for token, rank in ranks.items():
        if rank >= 256:
            splits = [(token[:at], token[at:]) for at in range(1, len(token))]
            assert any(max(ranks.get(left, rank), ranks.get(right, rank)) < rank for left, right in splits)


def test_encodings_equal_those_of_the_trainer(source_texts, small_tokenizer):
    trainer_side = Tokenizer(models.BPE())
    trainer_side.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer_side.train_from_iterator(
        source_texts,
        trainers.BpeTrainer(
            vocab_size=768, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    for text in [*source_texts, "Unseen words, 你好 and 12345\n\n  🙂 don't"]:
        assert small_tokenizer.encode(text) == trainer_side.encode(text).ids


def test_training_twice_gives_the_same_vocabulary(source_texts, small_tokenizer):
    again = train_tokenizer(iter(source_texts), 1024)
    tokens = range(1024)
    assert [again.token_bytes(i) for i in tokens] == [small_tokenizer.token_bytes(i) for i in tokens]


def test_frequent_text_takes_fewer_tokens(small_tokenizer, source_texts):
    text = source_texts[0]
    assert len(small_tokenizer.encode(text)) < 0.6 * len(text.encode())


def test_too_small_a_vocabulary_is_an_input_error():
    with pytest.raises(InputError, match="the least is 512"):
        train_tokenizer(["text"], 511)


def test_too_little_text_is_an_input_error():
    with pytest.raises(InputError, match="allow a vocabulary of only 513 tokens, not 600"):
        train_tokenizer(["ab ab"], 600)


def test_text_that_is_no_string_is_an_input_error():
    with pytest.raises(InputError, match=r"texts\[1\]: expected a string, got bytes"):
        train_tokenizer(["a", b"b"], 600)
