"""Tokenizers from recipes."""

import re

import pytest

from k25.chat import Tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.cli.tokenizer import train
from k25.errors import InputError
from k25.train.tokenizer_recipe import TokenizerRecipe, load_tokenizer_recipe, train_from_recipe


def base_tokens(tokenizer):
    return [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocabulary_size - CONTROL_TOKEN_COUNT)]


def small(vocabulary_size=700, **changes):
    return TokenizerRecipe(vocabulary_size=vocabulary_size, tasks=("add", "copy"), samples_per_task=50, **changes)


def test_no_token_holds_two_digits():
    tokens = base_tokens(train_from_recipe(small()))
    assert not [token for token in tokens if len(re.findall(rb"\d", token)) > 1]


def test_digits_are_merged_where_the_recipe_lets_them():
    tokens = base_tokens(train_from_recipe(small(single_digits=False)))
    assert [token for token in tokens if len(re.findall(rb"\d", token)) > 1]


def test_the_vocabulary_has_the_size_asked_for_and_every_byte():
    tokenizer = train_from_recipe(small())
    assert tokenizer.vocabulary_size == 700
    assert {bytes([value]) for value in range(256)} <= set(base_tokens(tokenizer))


def test_files_are_read_and_damaged_records_left_out(tmp_path):
    lines = ['{"text": "xylophone xylophone xylophone"}'] * 200
    (tmp_path / "a.jsonl").write_text("\n".join(["{broken", *lines, '{"no": "text"}']))
    found = base_tokens(train_from_recipe(small(580, own_source=False, files=(tmp_path / "a.jsonl",))))
    assert any(b"xylophone" in token for token in found)


def test_the_command_writes_a_tokenizer_and_replaces_none_unasked(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('vocabulary_size = 600\ntasks = ["add"]\nsamples_per_task = 20\n')
    train(str(recipe), out=tmp_path / "tokenizer")
    written = Tokenizer.from_file(tmp_path / "tokenizer")
    assert written.vocabulary_size == 600
    assert written.decode(written.encode("1 + 2 = 3\n")) == "1 + 2 = 3\n"
    with pytest.raises(InputError, match=r"holds a tokenizer; give another --out, or --overwrite"):
        train(str(recipe), out=tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vocabulary_size = 600\nsingle_digit = true\n", r"single_digit: unknown key; did you mean single_digits\?"),
        ("vocabulary_size = 'many'\n", r"vocabulary_size: Input should be a valid integer"),
        ("tasks = ['add']\n", r"vocabulary_size: Field required"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"mine.toml: {message}"):
        load_tokenizer_recipe(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nonesuch.txt: no such file"):
        train_from_recipe(small(files=(tmp_path / "nonesuch.txt",)))
