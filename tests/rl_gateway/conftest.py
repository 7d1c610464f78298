"""A nano network with random weights."""

import pytest
import torch

from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.evaluation import Checkpoint
from k25.media import MediaConfig, MediaProcessor
from k25.model import K25Model, initialise, preset


@pytest.fixture(scope="session")
def nano():
    config = preset("nano")
    model = K25Model(config)
    initialise(model, 0)
    with torch.no_grad():
        model.decoder.head.weight.mul_(20)
    media = MediaConfig.for_context(config.text.max_position_embeddings, config.vision.patch_size, 2)
    tokenizer = preset_tokenizer(config.text.vocab_size - CONTROL_TOKEN_COUNT)
    return Checkpoint(model, tokenizer, MediaProcessor(media, threads=1), "nano")
