"""Sandboxes for the tests: skipped, with the reason, where this machine offers none."""

import pytest

from k25.agent.sandbox import Sandbox, SandboxSettings
from k25.agent.sandbox.sandbox import bubblewrap_problem


@pytest.fixture
def sandbox() -> Sandbox:
    problem = bubblewrap_problem()
    if problem is not None:
        pytest.skip(problem)
    return Sandbox(SandboxSettings(backend="bubblewrap"))
