"""The model client: every dialect and every failure of real servers."""

import asyncio
import json

import pytest
from agent_helpers import RawServer, complete, delta, plain, sse

from k25.agent import AdaptiveLimit, Endpoint, HttpModelClient, ModelError, ModelRequest, ModelTurn, Patience, Price
from k25.agent.model import ToolCall, Usage
from k25.errors import InputError

HELLO = [{"role": "user", "content": "Hello"}]
STEP = {"type": "function", "function": {"name": "step", "parameters": {"type": "object", "properties": {"n": {}}}}}
QUICK = Patience(first_wait=0.001, longest_wait=0.002, attempts=4)
HASTY = Patience(first_wait=0.001, attempts=4, first_token=1.0, between_tokens=1.0)  # only for servers that fall silent
GOOD = sse(delta(content="Hi"), delta("stop"))
SECTION = "<|tool_calls_section_begin|><|tool_call_begin|>functions.step:0<|tool_call_argument_begin|>"
SECTION_END = "<|tool_call_end|><|tool_calls_section_end|>"


def ask(*answers, messages=HELLO, limit=None, retries=None, **options):
    """The turn that a server with these answers gives, and the server."""

    async def run():
        async with RawServer(*answers).running() as server:
            endpoint = Endpoint(server.url, "m", **{"patience": QUICK, **options})
            noted = retries if retries is not None else []
            async with HttpModelClient(endpoint, limit) as client:
                request = ModelRequest(messages, [STEP], conversation="c", on_retry=noted.append)
                return await client.complete(request), server

    return complete(run())


def turn_of(*events, **options):
    return ask(sse(*events), **options)[0]


def piece(index=None, identifier=None, name=None, arguments=None):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    named = {key: value for key, value in (("index", index), ("id", identifier)) if value is not None}
    return {**named, "function": function}


def test_text_reasoning_and_usage_arrive():
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 60}}
    turn = turn_of(
        delta(role="assistant", content=""),
        delta(reasoning_content="Let me "),
        delta(reasoning_content="see."),
        delta(content="Hi"),
        delta("stop", content="!"),
        {"choices": [], "usage": usage},
        price=Price(prompt=1.0, completion=10.0, cached=0.5),
    )
    assert (turn.reasoning, turn.content, turn.finish_reason) == ("Let me see.", "Hi!", "stop")
    assert turn.usage == Usage(100, 20, 60)
    assert turn.cost == pytest.approx((40 * 1.0 + 60 * 0.5 + 20 * 10.0) / 1e6)


def test_usage_inside_the_last_choice_is_read():
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert turn_of(delta(content="Hi"), {"choices": [choice]}).usage == Usage(3, 2)


def test_without_usage_the_tokens_are_estimated():
    usage = turn_of(delta(content="word " * 40), delta("stop")).usage
    assert 25 <= usage.completion_tokens <= 75
    assert usage.prompt_tokens > 0


def test_the_other_spelling_of_reasoning_is_read():
    assert turn_of(delta(reasoning="Hm"), delta("stop", content="Hi")).reasoning == "Hm"


@pytest.mark.parametrize(
    "pieces",
    [
        [
            [piece(0, "a", "step", "")],
            [piece(0, arguments='{"n"')],
            [piece(0, arguments=":1}"), piece(1, "b", "step", "{}")],
        ],
        [[piece(None, "a", "step", '{"n":1}')], [piece(None, "b", "step", "{}")]],
        [[piece(0, "a", "step", '{"n":1}')], [piece(0, "b", "step", "{}")]],
        [[piece(0, "a", "step", {"n": 1})], [piece(1, "b", "step", "{}")]],
        [
            [piece(1, "b", "step", "{}")][:0],
            [piece(None, "a", "step", '{"n"'), piece(None, arguments=":1}")],
            [piece(None, "b", "step", "{}")],
        ],
    ],
    ids=["by index", "without index", "one index", "object", "pieces without index"],
)
def test_tool_calls_are_joined_however_they_are_cut(pieces):
    turn = turn_of(*(delta(tool_calls=each) for each in pieces), delta("stop"))
    first, second = turn.tool_calls
    assert (first.id, first.name, json.loads(first.arguments)) == ("a", "step", {"n": 1})
    assert second == ToolCall("b", "step", "{}")
    assert turn.finish_reason == "tool_calls"


def test_a_reason_of_tool_calls_without_any_is_a_stop():
    assert turn_of(delta("tool_calls", content="Hi")).finish_reason == "stop"


def test_leaked_markers_become_tool_calls():
    turn = turn_of(delta(content="I step." + SECTION), delta("stop", content='{"n": 1}' + SECTION_END))
    assert turn.content == "I step."
    assert turn.tool_calls == (ToolCall("functions.step:0", "step", '{"n": 1}'),)


def test_leaked_thinking_becomes_reasoning():
    turn = turn_of(delta("stop", content="<think>Hm</think>Hi"))
    assert (turn.reasoning, turn.content) == ("Hm", "Hi")


def test_calls_inside_reasoning_are_found():
    turn = turn_of(delta("stop", reasoning_content="Hm" + SECTION + "{}" + SECTION_END))
    assert turn.reasoning == "Hm"
    assert turn.tool_calls[0].name == "step"


def test_a_server_that_does_not_stream_is_understood():
    message = {"role": "assistant", "content": "Hi", "tool_calls": [piece(None, "a", "step", "{}")]}
    turn, _ = ask(plain(200, json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]})))
    assert turn.content == "Hi"
    assert turn.tool_calls == (ToolCall("a", "step", "{}"),)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_events_are_joined_however_the_bytes_are_cut(cut):
    head, _, body = GOOD.replace(b"\n\n", b"\r\n\r\n").partition(b"\r\n\r\n")
    body = b": keep-alive\r\n\r\n" + body
    head = head.replace(b"Connection: close", b"Transfer-Encoding: chunked\r\nConnection: close")
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
    assert ask(head + b"\r\n\r\n" + chunked)[0].content == "Hi"


FAULTS = {
    "429": plain(429, '{"error": {"message": "slow down"}}'),
    "500": plain(500, "oops"),
    "closed": b"",
    "cut": sse(delta(content="H"), done=False),
    "rubbish": sse("{", done=False),
    "malformed": sse({"choices": [{"delta": {"tool_calls": 7}}]}),
    "error inside": sse({"error": {"message": "overloaded", "code": 503}}),
    "empty": sse(delta("stop")),
    "silence": None,
    "silence within": sse(delta(content="H"), done=False).replace(b"Connection: close", b"Content-Length: 9999"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_attempt_is_made_again_and_noted(fault):
    retries = []
    patience = HASTY if fault.startswith("silence") else QUICK
    turn, server = ask(FAULTS[fault], GOOD, retries=retries, patience=patience)
    assert turn.content == "Hi"
    assert len(server.bodies) == 2
    assert [retry.attempt for retry in retries] == [1]


def test_a_refused_connection_is_tried_as_often_as_allowed():
    retries = []

    async def run():
        async with HttpModelClient(Endpoint("http://127.0.0.1:1", "m", patience=QUICK)) as client:
            await client.complete(ModelRequest(HELLO, on_retry=retries.append))

    with pytest.raises(ModelError, match=r"cannot connect to 127\.0\.0\.1:1 \(Connection refused\).*after 4 attempts"):
        complete(run())
    assert len(retries) == 3


def test_a_server_whose_name_nobody_knows_is_named():
    async def run():
        endpoint = Endpoint("http://nowhere.invalid", "m", patience=Patience(attempts=1))
        async with HttpModelClient(endpoint) as client:
            await client.complete(ModelRequest(HELLO))

    with pytest.raises(ModelError, match=r"cannot connect to nowhere\.invalid:80 \(.+\); is the address right\?"):
        complete(run())


def test_a_refusal_that_arrives_in_pieces_is_read_to_its_end():
    head, key, tail = plain(401, '{"error": {"message": "wrong key"}}').partition(b"key")
    with pytest.raises(ModelError, match="wrong key"):
        ask((head, key + tail))


@pytest.mark.parametrize(
    "refusal",
    [
        plain(401, '{"error": {"message": "wrong key"}}'),
        plain(400, '{"error": "wrong key"}'),
        plain(429, '{"error": {"message": "wrong key", "type": "insufficient_quota"}}'),
        sse({"error": {"message": "wrong key", "type": "invalid_request_error"}}),
        plain(429, '{"error": {"message": "wrong key"}}', "Retry-After: 99999"),
    ],
)
def test_a_useless_attempt_is_not_repeated(refusal):
    retries = []
    with pytest.raises(ModelError, match="wrong key"):
        ask(refusal, retries=retries)
    assert retries == []


def test_the_address_that_a_server_sends_on_to_is_told():
    retries = []
    with pytest.raises(ModelError, match=r"308 .* https://elsewhere/v1/chat/completions; give that address"):
        ask(plain(308, "", "Location: https://elsewhere/v1/chat/completions"), retries=retries)
    assert retries == []


def test_retry_after_is_honoured_and_waits_grow():
    retries = []
    patience = Patience(first_wait=0.01, longest_wait=0.05, attempts=5)
    answers = [plain(429, "{}", "Retry-After: 0.2"), *[plain(500, "{}")] * 3, GOOD]
    ask(*answers, retries=retries, patience=patience)
    waits = [retry.wait for retry in retries]
    assert 0.2 <= waits[0] <= 0.21
    assert all(
        low <= wait <= high for wait, low, high in zip(waits[1:], (0.01, 0.02, 0.025), (0.02, 0.04, 0.05), strict=True)
    )


def test_a_waiting_call_holds_no_slot():
    limit = AdaptiveLimit(1)
    held = []
    ask(
        plain(500, "{}"),
        GOOD,
        limit=limit,
        retries=type("Noted", (list,), {"append": lambda _, __: held.append(limit.in_flight)})(),
    )
    assert held == [0]


def test_refusals_shrink_the_capacity_once_and_successes_restore_it():
    limit = AdaptiveLimit(8, calm=1000)

    async def run():
        async with limit.slot(), limit.slot(), limit.slot(), limit.slot():
            limit.overloaded()
            limit.overloaded()
            assert limit.capacity == 2
        for _ in range(100):
            limit.succeeded()
        assert limit.capacity == 8

    complete(run())


def test_the_client_tells_its_limit_what_the_server_said():
    limit = AdaptiveLimit(8)
    with pytest.raises(ModelError):
        ask(plain(429, "{}"), limit=limit)
    shrunk = limit.capacity
    assert shrunk == 1
    ask(GOOD, limit=limit)
    assert limit.capacity == 2


def test_a_limit_serves_in_order_and_survives_cancelled_waiters():
    order = []

    async def run():
        limit = AdaptiveLimit(1)

        async def work(name):
            async with limit.slot():
                order.append(name)
                await asyncio.sleep(0.001)

        tasks = [asyncio.create_task(work(name)) for name in range(6)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0.0012)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limit.in_flight == 0

    complete(run())
    assert order in ([0, 1, 3, 4, 5], [0, 3, 4, 5])


def test_a_waiter_that_is_cancelled_just_before_a_slot_comes_free_is_cancelled():
    async def run():
        limit = AdaptiveLimit(1)

        async def wait():
            async with limit.slot():
                pass

        async with limit.slot():
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.wait({waiting})
        return waiting.cancelled()

    assert complete(run())


def test_reasoning_goes_back_with_tool_calls_even_if_empty_and_broken_arguments_do_not():
    message = ModelTurn(tool_calls=(ToolCall("a", "step", '{"n": '), ToolCall("b", "step", '"{}"'))).message()
    assert message["reasoning_content"] == ""
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ["{}", "{}"]
    _, server = ask(GOOD, messages=[*HELLO, message], reasoning_field="reasoning")
    assert server.bodies[0]["messages"][1]["reasoning"] == ""
    assert "reasoning_content" not in server.bodies[0]["messages"][1]


def test_a_request_has_key_options_and_tools(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sesame")
    _, server = ask(GOOD, key_variable="TEST_KEY", options={"temperature": 1.0})
    assert b"Authorization: Bearer sesame" in server.headers[0]
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["stream"], body["tools"]) == ("m", 1.0, True, [STEP])
    assert "prompt_cache_key" not in body


def test_the_official_api_gets_the_name_of_the_conversation():
    body = Endpoint("https://api.moonshot.ai/v1", "kimi-k2.5").body(ModelRequest(HELLO, conversation="run-1"))
    assert json.loads(body)["prompt_cache_key"] == "run-1"


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/v1/", "http://h:1/v1/chat/completions"])
def test_addresses_are_understood_as_users_write_them(url):
    assert Endpoint(url, "m").completions_url == "http://h:1/v1/chat/completions"


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_a_price_below_zero_is_refused(wrong):
    with pytest.raises(InputError, match="below zero"):
        Price(completion=wrong)


@pytest.mark.parametrize(
    "wrong", [{"url": "localhost:80"}, {"url": "http://h:x"}, {"model": ""}, {"options": {"tools": []}}]
)
def test_wrong_endpoints_are_refused(wrong):
    with pytest.raises(InputError):
        Endpoint(**{"url": "http://h", "model": "m", **wrong})
