"""`k25 swarm` with `k25 serve nano`: random weights, so nonsense, through the whole pipeline of both."""

import json
import re
import signal
import subprocess
import sys

import pytest
from swarm_helpers import events_of, state_of
from test_swarm_cli import PATIENCE, k25

from k25.agent.events import ToolCallStarted

pytestmark = pytest.mark.slow
pytest.importorskip("fastapi", reason="needs the libraries of the server")


@pytest.fixture
def url():
    command = [sys.executable, "-m", "k25", "serve", "nano", "--port", "0", "--dtype", "fp32"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        for line in server.stderr:
            if found := re.search(r"http://\S+(?=/v1)", line):
                break
        yield found[0]
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=PATIENCE)


def test_a_model_of_our_own_server_makes_calls_that_fit_and_the_run_is_replayed(tmp_path, url):
    request = '{"tool_choice": "required", "thinking": {"type": "disabled"}, "max_tokens": 160, "seed": 4}'
    limits = ("--steps", "3", "--sub-steps", "2", "--tools", "files")
    arguments = ("A question.", "--base-url", url, "--out", "r", "--request", request, *limits)
    status, out, err = k25(*arguments, cwd=tmp_path)
    assert status in (0, 1), err  # random weights may have nothing to say at the end
    state = state_of(tmp_path / "r")
    assert state.main.status == "budget"
    assert state.main.model == "nano"
    assert state.main.usage.completion_tokens > 0
    calls = events_of(tmp_path / "r", ToolCallStarted, agent="main")
    assert len(calls) >= 3
    # Guided decoding: whatever it asks for has the form that the tool declares.
    required = {"create_subagent": {"name", "system_prompt"}, "assign_task": {"agent", "prompt"}, "files": {"action"}}
    for call in calls:
        assert required[call.tool] <= json.loads(call.arguments).keys()
    replayed, text, err = k25("replay", "r", cwd=tmp_path)
    assert (replayed, text.strip()) == (0, out.strip())
    assert "equal byte for byte" in err
