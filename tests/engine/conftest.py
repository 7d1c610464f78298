import pytest
from engine_helpers import tiny_model


@pytest.fixture(scope="session")
def model():
    """One tiny random model in float32; tests that change weights make their own."""
    return tiny_model()
