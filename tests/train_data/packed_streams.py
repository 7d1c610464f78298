"""Configurations and comparisons that the tests of the data pipeline share."""

import itertools
from typing import Any

import torch

from k25.chat import Tokenizer
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.media import MediaConfig, MediaProcessor
from k25.train.batch import PackedBatch
from k25.train.data import Streams, parse_data_config

SUMS: dict[str, Any] = {"kind": "tasks", "tasks": ["add", "sort"]}
PICTURES: dict[str, Any] = {"kind": "tasks", "tasks": ["colour-grid", "count-shapes"], "form": "chat"}


def tokenizer() -> Tokenizer:
    return preset_tokenizer(512)


def processor() -> MediaProcessor:
    return MediaProcessor(MediaConfig(in_patch_limit=256), threads=1)


def streams(sources: dict[str, Any], **settings: Any) -> Streams:
    table = {"sequence_tokens": 512, "block_streams": 4, "sources": sources} | settings
    return Streams(parse_data_config(table), tokenizer(), processor())


def equal(one: PackedBatch, other: PackedBatch) -> bool:
    """Whether two streams are the same to the last bit."""
    for name, value in vars(one).items():
        again = getattr(other, name)
        if isinstance(value, torch.Tensor):
            if again is None or value.dtype != again.dtype or not torch.equal(value, again):
                return False
        elif value != again:
            return False
    return True


def documents(batch: PackedBatch) -> list[list[int]]:
    """The token ids of a stream's documents."""
    edges = batch.boundaries_S.tolist()
    ids = batch.tokens_T.tolist()
    return [ids[start:end] for start, end in itertools.pairwise(edges)]
