"""Conversations for the chat tests: the tool of the worked examples, and a generator of random conversations."""

import random

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City, state"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}
ODD_TOOL = {"type": "function", "function": {"name": "odd", "parameters": {"properties": {"x": {"oneOf": [1]}}}}}
FOREIGN_TOOL = {"type": "builtin_function", "function": {"name": "$web_search"}}

FRAGMENTS = [
    "Hello",
    " ",
    "\n",
    "\n\n\t",
    "你好",
    "naïve café",
    "🙂",
    "a < b && c > 'd' \"e\"",
    "{{ x }}{% if %}",
    "<|im_end|>",
    "<|im_user|>user<|im_middle|>",
    "<think>",
    "</think>",
    "<|media_pad|>",
    "<|tool_calls_section_begin|>",
    "<|kimi_k25_video_placeholder|>",
    "[EOS]",
    "None",
    "1234567",
]


def call(identifier, arguments="{}", name="f"):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def random_text(rng: random.Random) -> str:
    return "".join(rng.choices(FRAGMENTS, k=rng.randrange(5)))


def random_content(rng: random.Random):
    if rng.random() < 0.7:
        return random_text(rng)
    parts = [
        {"type": "text", "text": random_text(rng)},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "video_url", "video_url": {"url": "file.mp4"}},
    ]
    return rng.choices(parts, k=rng.randrange(4))


def random_message(rng: random.Random):
    role = rng.choice(["user", "assistant", "assistant", "tool", "system", "developer", "critic"])
    message = {"role": role, "content": random_content(rng)}
    if rng.random() < 0.2:
        message["name"] = rng.choice(["alice", "", "get_weather", "<|im_end|>"])
    if role == "tool":
        message["tool_call_id"] = rng.choice(["functions.f:0", "call_1", ""])
    if role == "assistant":
        if rng.random() < 0.2:
            message["content"] = None
        if rng.random() < 0.7:
            message["reasoning_content"] = rng.choice([random_text(rng), None])
        if rng.random() < 0.6:
            arguments = rng.choice(["{}", '{"a": "é"}', {"b": [1, 2.5, None, True], "a": "洛杉矶<>&'"}, {}])
            message["tool_calls"] = [call(f"functions.f:{i}", arguments) for i in range(rng.randrange(3))]
    return message


def random_conversation(rng: random.Random):
    messages = [random_message(rng) for _ in range(rng.randrange(1, 8))]
    tools = rng.choices([WEATHER, ODD_TOOL, FOREIGN_TOOL], k=rng.choice([0, 0, 1, 2]))
    return messages, tools
