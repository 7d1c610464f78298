"""Servers that many tests share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from served_here import serving


@pytest.fixture(scope="session")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def strict_server():
    with serving(strict=True) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made
