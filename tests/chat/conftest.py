"""Fixtures of the chat tests: the family's tokenizer where it is at hand, and a small one trained on the spot."""

from pathlib import Path

import pytest

from k25.chat import Tokenizer
from k25.chat.tokenizer_training import train_tokenizer

ROOT = Path(__file__).parents[2]
KIMI_TOKENIZER = ROOT.parent / "shared/data/kimi-tokenizer"


@pytest.fixture(scope="session")
def kimi_tokenizer():
    if not (KIMI_TOKENIZER / "tiktoken.model").is_file():
        pytest.skip("the family's tokenizer file is not beside the checkout (../shared/data/kimi-tokenizer)")
    return Tokenizer.from_file(KIMI_TOKENIZER)


@pytest.fixture(scope="session")
def source_texts():
    return [file.read_text(encoding="utf-8") for file in sorted((ROOT / "src/k25/chat").glob("*.py"))]


@pytest.fixture(scope="session")
def small_tokenizer(source_texts):
    return train_tokenizer(source_texts, 1024)
