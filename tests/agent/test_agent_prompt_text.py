"""The text of a prompt: JSON as anyone would write it, a hash of all of it, each message encoded once."""

import hashlib
import json

import pytest

from k25.agent import Endpoint, ModelRequest
from k25.agent.prompt_text import PromptText

TOOLS = [{"type": "function", "function": {"name": "step", "parameters": {"type": "object"}}}]
TALK = [
    {"role": "user", "content": 'é\ud800 "x"'},
    {"role": "assistant", "content": "", "reasoning_content": "hm"},
    {"role": "user", "content": [{"type": "text", "text": "y"}]},
]


def hashed(model, tools, messages):
    """The hash of records that exist: over the JSON of model and tools, and of each message."""
    texts = [json.dumps([model, tools]), *(json.dumps(message) for message in messages)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:32]


def test_the_hash_is_over_model_tools_and_all_messages():
    text = PromptText("m", TOOLS)
    for length in range(len(TALK) + 1):
        assert text.follow(TALK[:length]) == hashed("m", TOOLS, TALK[:length])


@pytest.mark.parametrize("after", [TALK[:1], [*TALK[:1], TALK[2]], [dict(TALK[0]), {"role": "user", "content": "z"}]])
def test_a_conversation_that_was_rewritten_is_followed_too(after):
    text = PromptText("m", TOOLS)
    text.follow(TALK)
    assert text.follow(after) == hashed("m", TOOLS, after)
    assert [json.loads(message) for message in text.messages] == after


def test_a_message_is_encoded_once(monkeypatch):
    encoded = []
    dumps = json.dumps
    text = PromptText("m", TOOLS)
    monkeypatch.setattr(json, "dumps", lambda value: encoded.append(value) or dumps(value))
    for length in range(len(TALK) + 1):
        text.follow(TALK[:length])
    assert encoded == TALK


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", None])
@pytest.mark.parametrize("tools", [[], TOOLS])
@pytest.mark.parametrize("may_call", [True, False])
def test_a_request_is_the_same_with_and_without_its_text(field, tools, may_call):
    endpoint = Endpoint("http://h", "m", reasoning_field=field, options={"temperature": 1.0})
    text = PromptText("m", tools)
    text.follow(TALK)
    bare = endpoint.body(ModelRequest(TALK, tools, may_call))
    assert endpoint.body(ModelRequest(TALK, tools, may_call, text=text)) == bare
    body = json.loads(bare)
    assert body.get("tools", []) == tools
    assert ("tool_choice" in body) == (bool(tools) and not may_call)
    assert body["messages"][0] == TALK[0]
    assert [message.get(field) for message in body["messages"] if field] == [None, "hm", None][: 3 if field else 0]


def test_messages_that_somebody_replaced_on_the_way_are_sent_as_they_are():
    text = PromptText("m", TOOLS)
    text.follow(TALK)
    filled = [*TALK[:2], {"role": "user", "content": "a picture's bytes"}]
    body = json.loads(Endpoint("http://h", "m").body(ModelRequest(filled, TOOLS, text=text)))
    assert body["messages"] == filled
