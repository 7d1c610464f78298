"""A nano network with random weights, and environments written for `verifiers` where Python finds them."""

import os
from pathlib import Path

import pytest
import torch

from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.evaluation import Checkpoint
from k25.media import MediaConfig, MediaProcessor
from k25.model import K25Model, initialise, preset

ENVIRONMENTS = Path(__file__).parent / "environments"


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


@pytest.fixture
def installed(monkeypatch):
    """The environments, as if they were installed: for this process and for the tool servers that it starts."""
    pytest.importorskip("verifiers.v1", reason="verifiers is not installed: pip install 'k25[verifiers]'")
    monkeypatch.syspath_prepend(ENVIRONMENTS)
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ENVIRONMENTS), *([inherited] if inherited else [])]))
