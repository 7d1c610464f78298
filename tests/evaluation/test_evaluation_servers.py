"""A server gives the same answers as the same weights in this process."""

import asyncio

import numpy as np
import pytest
from served_here import serving

from k25.agent import Endpoint
from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import Policy, PolicyClients, ServerClients, attempt_all, exercises, named_tasks
from k25.evaluation.server_clients import data_url
from k25.media import Frames, ImageInput, MediaProcessor, VideoInput, open_url
from k25.tasks import get_task

TOKENS = 12


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.mark.parametrize(
    "suite", [["add", "copy", "word-problem", "word-problem-thinking"], ["colour-grid", "clip-order"]]
)
@pytest.mark.parametrize("thinking", [False, True])
def test_a_server_answers_as_the_engine_in_this_process(server, suite, thinking):
    samples = exercises(named_tasks(suite), samples=3, difficulty=1)
    served = server.served

    async def here():
        async with Engine(served.model, EngineConfig(cache_tokens=8192)) as engine:
            policy = Policy(engine, served.tokenizer, served.media, "nano")
            form = "thinking" if thinking else "instant"
            clients = PolicyClients(policy, form, SamplingParameters(temperature=0, max_tokens=TOKENS))
            return await attempt_all(samples, clients)

    async def there():
        options = {"temperature": 0, "max_tokens": TOKENS}
        endpoint = Endpoint(server.url, "nano", options=options)
        async with ServerClients(endpoint, concurrency=8, thinking=thinking) as clients:
            return await attempt_all(samples, clients)

    def said(attempts):
        turns = [attempt.trajectory.turns[0] for attempt in attempts]
        return [(turn.content, turn.reasoning, turn.usage.prompt_tokens) for turn in turns]

    assert said(asyncio.run(there())) == said(asyncio.run(here()))


@pytest.mark.parametrize("task", ["clip-direction", "clip-count", "clip-order"])
def test_clips_travel_exactly(task, nano):
    clip = get_task(task).sample(3, 1, difficulty=3).media[0]
    content = open_url(data_url(clip))
    sent, kept = (nano.processor([VideoInput(source)]) for source in (content, Frames(clip.frames, clip.fps)))
    assert sent.grid_thws.tolist() == kept.grid_thws.tolist()
    assert np.array_equal(sent.pixel_values, kept.pixel_values)


def test_pictures_travel_exactly():
    picture = get_task("colour-grid").sample(0, 0).media[0]
    processor = MediaProcessor()
    assert data_url(picture).startswith("data:image/png;base64,")
    sent, kept = (processor([ImageInput(source)]) for source in (open_url(data_url(picture)), picture))
    assert np.array_equal(sent.pixel_values, kept.pixel_values)
