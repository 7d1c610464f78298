"""A second opinion, where it is installed."""

import kimi_peer
import pytest


@pytest.fixture(scope="session")
def kimi_processors():
    try:
        return kimi_peer.kimi_processors()
    except ImportError as error:
        pytest.skip(f"the Kimi processors of transformers need torch and torchvision ({error})")
