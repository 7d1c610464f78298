"""Whatever a client sends, it gets the API's error body and the rollout stays whole."""

import asyncio
from contextlib import aclosing

import aiohttp
import openai
import pytest
from gateway_helpers import CONFIG, QUESTION, SHORT, TOOLS, client_of, gateway_of, run

from k25.agent import ModelError
from k25.engine import Engine, SamplingParameters
from k25.errors import InputError
from k25.evaluation import Policy
from k25.rl.gateway import Gateway


async def answer_to(nano, body, path="{url}/chat/completions", method="POST", headers=None, **options):
    """Status and body of one request, and the handle."""
    async with gateway_of(nano, **options) as (gateway, _), gateway.rollout(sampling=SHORT, max_turns=3) as handle:
        address = path.format(url=handle.url, root=gateway.url)
        headers = {name: value.format(key=handle.key) for name, value in (headers or {}).items()}
        async with aiohttp.ClientSession() as session:
            sent = {"data": body} if isinstance(body, bytes) else {"json": body}
            async with session.request(method, address, headers=headers, **sent) as answer:
                return answer.status, await answer.json(), handle


def error_of(message, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


REFUSED = "not available in a recorded rollout; leave it out"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "Invalid request: messages: Input should be a valid list"),
        ({"messages": []}, 'nano: messages: expected a non-empty list of messages, or an object {"messages": [...]}'),
        ({"messages": [{"role": "user"}]}, "nano: messages[0]: a user message needs content"),
        ({"n": 2}, "Invalid request: n: Input should be 1"),
        ({"stop": ["\n"]}, f"stop: {REFUSED}"),
        ({"logprobs": True}, f"logprobs: {REFUSED}"),
        ({"response_format": {"type": "json_object"}}, f"response_format: {REFUSED}"),
        ({"tool_choice": "required"}, "Invalid request: tool_choice: Input should be 'auto' or 'none'"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_requests_that_cannot_be_served_are_refused_with_400(nano, fields, message, stream):
    status, body, handle = run(answer_to(nano, {"model": "m", "messages": [QUESTION], "stream": stream, **fields}))
    assert (status, body) == (400, error_of(message))
    assert handle.samples() == ()


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'{"messages":' + b"[" * 100_000])
def test_bodies_that_are_no_request_are_refused_with_400(nano, body):
    status, answer, _ = run(answer_to(nano, body))
    assert status == 400
    assert answer["error"]["message"].startswith("Invalid request: ")
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "method", "headers", "expected"),
    [
        ("{url}x/chat/completions", "POST", {}, (404, "resource_not_found_error")),
        ("{root}/../rollouts/unknown/v1/chat/completions", "POST", {}, (404, "resource_not_found_error")),
        ("{url}/embeddings", "POST", {}, (404, "resource_not_found_error")),
        ("{url}/chat/completions", "GET", {}, (405, "invalid_request_error")),
        ("{root}/chat/completions", "POST", {}, (401, "incorrect_api_key_error")),
        ("{root}/chat/completions", "POST", {"authorization": "Bearer wrong"}, (401, "incorrect_api_key_error")),
    ],
)
def test_wrong_addresses_and_keys_are_answered_in_the_api_form(nano, path, method, headers, expected):
    status, body, _ = run(answer_to(nano, {"messages": [QUESTION]}, path, method, headers))
    assert (status, body["error"]["type"]) == expected


def test_the_key_finds_the_rollout_at_the_gateways_own_url(nano):
    body = {"messages": [QUESTION]}
    status, _, handle = run(answer_to(nano, body, "{root}/chat/completions", headers={"authorization": "Bearer {key}"}))
    assert (status, len(handle.samples())) == (200, 1)


def test_long_bodies_are_refused_with_413(nano):
    body = {"messages": [{"role": "user", "content": "x" * 2000}]}
    status, answer, _ = run(answer_to(nano, body, max_body_bytes=1000))
    assert (status, answer) == (413, error_of("the request is longer than the gateway takes"))


def test_a_conversation_beyond_the_context_is_refused_with_400(nano):
    status, answer, handle = run(answer_to(nano, {"messages": [{"role": "user", "content": "word " * 20_000}]}))
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert handle.samples() == ()


def test_the_models_are_the_policy_alone(nano):
    status, body, _ = run(answer_to(nano, None, "{url}/models", "GET"))
    assert (status, [model["id"] for model in body["data"]]) == (200, ["nano"])


def asked(client):
    return client.chat.completions.create(model="m", messages=[QUESTION])


def test_turns_beyond_the_limit_are_refused(nano):
    async def ask():
        async with (
            gateway_of(nano) as (gateway, _),
            gateway.rollout(sampling=SHORT, max_turns=1) as handle,
            client_of(handle) as client,
        ):
            await asked(client)
            with pytest.raises(openai.BadRequestError, match="has used its 1 turns"):
                await asked(client)

    run(ask())


def test_too_many_requests_at_once_are_refused_with_429(nano):
    async def ask():
        async with (
            gateway_of(nano, max_requests=2) as (gateway, _),
            gateway.rollout(sampling=SHORT) as handle,
            client_of(handle) as client,
        ):
            return await asyncio.gather(*(asked(client) for _ in range(5)), return_exceptions=True)

    answers = run(ask())
    assert sum(isinstance(answer, openai.RateLimitError) for answer in answers) == 3


def test_sampling_is_the_rollouts_and_what_a_client_asks_is_counted(nano):
    body = {"messages": [QUESTION], "tools": TOOLS, "temperature": 0, "max_tokens": 2, "user": "me", "seed": None}
    status, answer, handle = run(answer_to(nano, body))
    assert status == 200
    assert answer["usage"]["completion_tokens"] > 2
    assert handle.unused == {"temperature": 1, "max_tokens": 1}


def test_a_taken_port_is_an_input_error():
    async def twice():
        async with Gateway() as first:
            port = int(first.url.split(":")[2].split("/")[0])
            with pytest.raises(InputError, match="cannot listen there"):
                async with Gateway(port=port):
                    pass

    run(twice())


class Failing:
    """An engine that is lost after some tokens."""

    def __init__(self, engine):
        self.engine = engine

    async def generate(self, request):
        async with aclosing(self.engine.generate(request)) as events:
            for _ in range(20):
                yield await anext(events)
        raise ModelError("the engine is gone")


def test_an_engine_that_fails_in_the_middle_of_a_stream_ends_it_with_the_error(nano):
    endless = SamplingParameters(logit_bias=dict.fromkeys(nano.tokenizer.control_tokens.values(), -100.0))

    async def listen(client, said):
        async for chunk in await client.chat.completions.create(model="m", messages=[QUESTION], stream=True):
            said.append(chunk.choices[0].delta.content or "")

    async def ask():
        said = []
        async with Engine(nano.model, CONFIG) as engine:
            policy = Policy(Failing(engine), nano.tokenizer, None, "nano")
            async with Gateway(policy) as gateway, gateway.rollout(sampling=endless) as handle:
                async with client_of(handle) as client:
                    with pytest.raises(openai.APIError, match="the engine is gone"):
                        await listen(client, said)
                return said, handle

    said, handle = run(ask())
    assert len("".join(said)) > 10
    assert handle.dropped == {"model error": 1}
    assert handle.samples() == ()
