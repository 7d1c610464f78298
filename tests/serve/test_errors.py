"""Error bodies byte for byte, the strict policy, keys, sizes: over plain HTTP."""

import json

import pytest
from served_here import serving

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "functions.clock:0", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
INSTANT = {"thinking": {"type": "disabled"}}


def body(message, kind="invalid_request_error"):
    return json.dumps({"error": {"message": message, "type": kind}}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.5}, "invalid temperature: only 1 is allowed for this model"),
        ({"temperature": 1.0, **INSTANT}, "invalid temperature: only 0.6 is allowed for this model"),
        ({"top_p": 0.8}, "invalid top_p: only 0.95 is allowed for this model"),
        ({"n": 2}, "invalid n: only 1 is allowed for this model"),
        ({"presence_penalty": 0.5}, "invalid presence_penalty: only 0 is allowed for this model"),
        ({"frequency_penalty": 0.5}, "invalid frequency_penalty: only 0 is allowed for this model"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice 'required' is incompatible with thinking enabled"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
            "tool_choice 'specified' is incompatible with thinking enabled",
        ),
        (
            {"messages": [*HI, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
            "thinking is enabled but reasoning_content is missing in assistant tool call message at index 1",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "text content is empty"),
        ({"max_tokens": 1_000_000}, "Your request exceeded model token limit: 4096"),
        ({**INSTANT, "reasoning_effort": "low"}, "cannot specify both 'thinking' and 'reasoning_effort'"),
    ],
)
def test_the_strict_server_words_its_refusals_as_the_published_api(strict_server, fields, message):
    answer = strict_server.chat(**fields)
    assert (answer.status, answer.body) == (400, body(message))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0, "top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0},
        {"temperature": 0.6, **INSTANT},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200, **INSTANT},
        {
            "messages": [
                *HI,
                {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": CALL["id"], "content": "12:00"},
            ]
        },
    ],
)
def test_the_strict_server_takes_what_the_published_api_takes(strict_server, fields):
    assert strict_server.chat(**fields).status == 200


def test_an_unanswered_call_is_refused_strictly(strict_server):
    history = [*HI, {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [CALL]}, *HI]
    assert b"tool_call_id functions.clock:0 not found" in strict_server.chat(messages=history).body


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": "Hi"}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": ["x" * 33]}, "32 bytes"),
        ({"stop": list("abcdef")}, "stop"),
        ({"tools": [TOOL] * 2}, "duplicated"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}, "builtin_function"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "other"),
        ({"thinking": {"type": "enabled", "keep": "all"}}, "thinking.keep"),
        ({"thinking": {"type": "enabled"}, "chat_template_kwargs": {"thinking": False}}, "on and off"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}, "schema"),
        ({"logit_bias": {"1280": 1}}, "logit_bias"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"seed": 2**64}, "seed"),
        ({"messages": [{"role": "user", "content": "word " * 6000}]}, "Input token length too long"),
        ({"messages": [{"role": "tool", "tool_call_id": "nowhere", "content": ""}]}, "nowhere"),
        ({"messages": [{"role": "user", "content": "\ud800", "tool_calls": 7}]}, "messages[0]"),
    ],
)
def test_a_wrong_request_is_named(server, fields, part):
    answer = server.chat(**fields)
    assert answer.status == 400, answer.body
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert part in answer.json["error"]["message"]


def test_an_unknown_model_is_not_found(server):
    answer = server.chat(model="gpt-\ud800")
    expected = body("Not found the model gpt-\ud800 or Permission denied", "resource_not_found_error")
    assert (answer.status, answer.body) == (404, expected)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"model": ' + b"9" * 5000 + b"}", b"null", b"[]", b"NaN"]
)
def test_a_body_that_is_no_request_is_malformed(server, content):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/k25/generate"):
        answer = server.request("POST", path, content)
        assert answer.status == 400, answer.body
        assert answer.json["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods_have_error_bodies(server):
    expected = body("The requested resource was not found", "resource_not_found_error")
    assert server.request("GET", "/v1/nothing").body == expected
    wrong_method = server.request("GET", "/v1/chat/completions")
    assert (wrong_method.status, wrong_method.json["error"]["type"]) == (405, "invalid_request_error")


def test_every_answer_has_a_trace_id(server):
    ids = {server.request("GET", path).headers["x-trace-id"] for path in ("/health", "/v1/models", "/nowhere")}
    assert len(ids) == 3


def test_keys_are_asked_for_under_v1_only():
    with serving(api_keys=("first", "second")) as server:
        missing = server.request("GET", "/v1/models")
        assert (missing.status, missing.body) == (401, body("Invalid Authentication", "invalid_authentication_error"))
        wrong = server.request("GET", "/v1/models", headers={"Authorization": "Bearer third"})
        assert (wrong.status, wrong.body) == (401, body("Incorrect API key provided", "incorrect_api_key_error"))
        for key in ("first", "second"):
            assert server.request("GET", "/v1/models", headers={"Authorization": f"bearer {key}"}).status == 200
        assert server.request("GET", "/health").status == 200
        assert server.request("GET", "/").status == 200


def test_a_body_beyond_the_limit_is_refused_announced_or_not():
    with serving(max_body_bytes=1000) as server:
        expected = body("the request body is larger than 1000 bytes")
        large = json.dumps({"model": "nano", "messages": [{"role": "user", "content": "x" * 2000}]}).encode()
        announced = server.request("POST", "/v1/chat/completions", large)
        assert (announced.status, announced.body) == (413, expected)
        chunks = b"7d0\r\n" + large[:2000] + b"\r\n0\r\n\r\n"
        chunked = server.request("POST", "/v1/chat/completions", chunks, {"Transfer-Encoding": "chunked"})
        assert (chunked.status, chunked.body) == (413, expected)


@pytest.fixture(scope="module")
def loopback_server():
    with serving(allowed_hosts=("127.0.0.1", "::1", "localhost")) as running:
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "LocalHost:1", "[::1]:8000", "[::1]"])
def test_a_server_on_loopback_answers_to_its_own_names(loopback_server, host):
    assert loopback_server.request("GET", "/v1/models", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[::2]:8000", "10.0.0.1"]
)
@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/chat/completions"])
def test_a_page_elsewhere_cannot_use_it_through_a_name_of_its_own(loopback_server, host, path):
    answer = loopback_server.request("GET", path, headers={"Host": host})
    assert answer.status == 403
    assert answer.json["error"]["type"] == "permission_denied_error"
    assert "--allowed-host" in answer.json["error"]["message"]
