"""A nano network with random weights, in memory and as a checkpoint folder."""

import pytest
import torch

from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.checkpoint import save_model
from k25.evaluation import Checkpoint
from k25.media import MediaConfig, MediaProcessor
from k25.model import K25Model, initialise, preset


def random_nano(seed: int = 0) -> Checkpoint:
    config = preset("nano")
    model = K25Model(config)
    initialise(model, seed)
    with torch.no_grad():
        model.decoder.head.weight.mul_(20)  # so that the likeliest token is clearly the likeliest
    media = MediaConfig.for_context(config.text.max_position_embeddings, config.vision.patch_size, 2)
    tokenizer = preset_tokenizer(config.text.vocab_size - CONTROL_TOKEN_COUNT)
    return Checkpoint(model, tokenizer, MediaProcessor(media, threads=1), "nano")


@pytest.fixture(scope="session")
def nano():
    return random_nano()


@pytest.fixture(scope="session")
def nano_run(nano, tmp_path_factory):
    """The folder of a finished run."""
    run = tmp_path_factory.mktemp("run")
    save_model(nano.model, run / "model")
    nano.tokenizer.save(run / "model")
    nano.processor.config.save(run / "model")
    return run
