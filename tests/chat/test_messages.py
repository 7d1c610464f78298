"""Reading conversations: the shapes that are accepted, and errors that name the place."""

import pytest

from k25.chat import Message, parse_messages, parse_tools
from k25.errors import InputError

CALL = {"id": "functions.f:0", "function": {"name": "f", "arguments": "{}"}}


def test_reasoning_is_read_as_reasoning_content():
    [message] = parse_messages([{"role": "assistant", "content": "a", "reasoning": "r"}])
    assert message.reasoning_content == "r"


def test_reasoning_content_wins_over_its_alias_unless_null():
    both = {"role": "assistant", "content": "a", "reasoning": "alias"}
    assert parse_messages([{**both, "reasoning_content": "own"}])[0].reasoning_content == "own"
    assert parse_messages([{**both, "reasoning_content": None}])[0].reasoning_content == "alias"


def test_missing_and_null_reasoning_stay_apart():
    missing, null = parse_messages(
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "a", "reasoning": None}]
    )
    assert "reasoning_content" not in missing.model_fields_set
    assert "reasoning_content" in null.model_fields_set


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "image", "image": "a.png"},
        {"type": "image", "image": {"url": "a.png"}},
    ],
)
def test_pictures_come_as_strings_or_objects(part):
    [message] = parse_messages([{"role": "user", "content": [part]}])
    assert message.to_dict()["content"] == [{"type": "image_url", "image_url": {"url": "a.png"}}]


def test_an_object_with_messages_is_read_like_a_list():
    assert parse_messages({"messages": [{"role": "user", "content": "a"}], "model": "x"})[0].content == "a"


def test_a_whole_response_message_may_be_sent_back():
    returned = {"role": "assistant", "content": "a", "refusal": None, "annotations": [], "tool_calls": None}
    assert parse_messages([returned])[0].to_dict() == {"role": "assistant", "content": "a", "tool_calls": None}


def test_a_dumped_message_reads_back_as_itself():
    message = Message.model_validate({"role": "assistant", "content": None, "tool_calls": [CALL]})
    assert parse_messages([message.to_dict()]) == [message]
    assert message.to_dict()["tool_calls"][0]["type"] == "function"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("text", "messages: expected"),
        ([], "messages: expected"),
        ({"message": []}, "messages: expected"),
        (["x"], r"messages\[0\]: "),
        ([{"content": "a"}], r"messages\[0\]\.role: field required"),
        ([{"role": "user"}], r"messages\[0\]: a user message needs content"),
        ([{"role": "assistant"}], r"messages\[0\]: an assistant message needs"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content: .*string.* or .*list"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\]\.content\[0\]\.text: field required"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\]\.content\[0\]\.image_url: field"),
        ([{"role": "user", "content": [{"type": "video", "video": 3}]}], r"content\[0\]\.video_url: "),
        ([{"role": "user", "content": [{"type": "image", "image": ""}]}], r"content\[0\]\.image_url\.url: "),
        ([{"role": "tool", "content": "a"}], r"messages\[0\]: a tool message needs tool_call_id"),
        ([{"role": "user", "content": "a", "tool_calls": [CALL]}], r"only assistant messages have tool_calls"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": 3}]}], r"messages\[0\]\.tool_calls\[0\]\.id: "),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": 3}}]}],
            r"tool_calls\[0\]\.function\.arguments: ",
        ),
        (
            [{"role": "assistant", "content": "", "partial": True}, {"role": "user", "content": ""}],
            r"messages\[0\]\.partial: only the last",
        ),
        ([{"role": "user", "content": "", "partial": True}], r"messages\[0\]: partial is for an assistant"),
    ],
)
def test_a_wrong_conversation_names_the_place(data, place):
    with pytest.raises(InputError, match=place):
        parse_messages(data)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({}, "tools: expected a list"),
        ([3], r"tools\[0\]: "),
        ([{"type": "function"}], r"tools\[0\]: a tool of type function needs"),
        ([{"function": {"description": "a"}}], r"tools\[0\]\.function\.name: field required"),
        ([{"function": {"name": "f", "parameters": []}}], r"tools\[0\]\.function\.parameters: "),
    ],
)
def test_a_wrong_tool_names_the_place(data, place):
    with pytest.raises(InputError, match=place):
        parse_tools(data)


def test_a_tool_keeps_exactly_the_fields_that_were_given():
    given = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"x-odd": None}}}
    assert parse_tools([given])[0].to_dict() == given
