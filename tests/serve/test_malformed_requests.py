"""Requests made from the OpenAPI description, right and wrong: never a 5xx, and nothing stays behind."""

import json
import random

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from served_here import serving

from k25.engine import EngineConfig

# A short context keeps the answers to well-formed requests short.
SMALL = EngineConfig(cache_tokens=256)


@pytest.fixture(scope="module")
def small_server():
    with serving(SMALL) as running:
        yield running


def strategy(url):
    """Any operation with arguments that fit its description, or do not."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations for mode in modes])


def attack(server, number):
    statuses = {}

    @hypothesis.settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy(server.url), known=st.booleans())
    def run(case, known):
        if known and isinstance(case.body, dict):
            # With the right model and short answers the request gets further.
            case.body |= {"model": "nano", "max_tokens": 2}
        status = case.call(timeout=240).status_code
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500

    run()
    return statuses


@pytest.mark.slow
def test_a_few_hundred_requests_never_break_the_server(small_server):
    statuses = attack(small_server, 300)
    assert statuses.get(400, 0) > 30
    assert small_server.running() == 0
    assert small_server.engine.metrics().blocks_used == 0


def wild_json(rng, depth=0):
    """Values that are unlikely in any field, some of them large, deep or out of range."""
    plain = [None, True, 0, -1, 2**63, 1e308, -0.0, "", "x" * 300, "\ud800", "nano", "<|im_end|>", "data:,", "ms://"]
    if depth > 3 or rng.random() < 0.6:
        return rng.choice(plain)
    if rng.random() < 0.5:
        return [wild_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = ["role", "content", "type", "text", "function", "name", "tool_calls", "image_url", "url", "$ref", "items"]
    return {rng.choice(keys): wild_json(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_wild_values_in_every_field_never_break_the_server(small_server):
    rng = random.Random(7)
    paths = {"/v1/chat/completions": "ChatRequest", "/v1/completions": "CompletionRequest"}
    schemas = small_server.request("GET", "/openapi.json").json["components"]["schemas"]
    for _ in range(300):
        path, name = rng.choice(list(paths.items()))
        body = {"model": "nano", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
        for field in rng.sample(sorted(schemas[name]["properties"]), 2):
            body[field] = wild_json(rng)
        answer = small_server.request("POST", path, json.dumps(body).encode())
        assert answer.status < 500, (body, answer.body)


@pytest.mark.slow
def test_ten_thousand_requests_never_break_the_server():
    with serving(SMALL) as server:
        attack(server, 10_000)
        assert server.running() == 0
        assert server.engine.metrics().blocks_used == 0
