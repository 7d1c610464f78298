"""The 256 control tokens that follow the base vocabulary, by name and offset.

Every K2.5-family vocabulary, large or tiny, ends in the same block: token id = number of base tokens + offset. The
release has 163,584 base tokens, so `[BOS]` is 163584 and `[PAD]` 163839. Names without an entry here are reserved.
"""

CONTROL_TOKEN_COUNT = 256
RELEASED_BASE_TOKENS = 163_584

BEGIN_OF_SEQUENCE = "[BOS]"
END_OF_SEQUENCE = "[EOS]"
TURN_END = "<|im_end|>"
USER = "<|im_user|>"
ASSISTANT = "<|im_assistant|>"
SYSTEM = "<|im_system|>"
TURN_MIDDLE = "<|im_middle|>"
TOOL_CALLS_BEGIN = "<|tool_calls_section_begin|>"
TOOL_CALLS_END = "<|tool_calls_section_end|>"
TOOL_CALL_BEGIN = "<|tool_call_begin|>"
TOOL_CALL_ARGUMENTS = "<|tool_call_argument_begin|>"
TOOL_CALL_END = "<|tool_call_end|>"
MEDIA_BEGIN = "<|media_begin|>"
MEDIA_CONTENT = "<|media_content|>"
MEDIA_END = "<|media_end|>"
MEDIA_PAD = "<|media_pad|>"
THINK_BEGIN = "<think>"
THINK_END = "</think>"
UNKNOWN = "[UNK]"
PADDING = "[PAD]"

OFFSETS: dict[str, int] = {
    BEGIN_OF_SEQUENCE: 0,
    END_OF_SEQUENCE: 1,
    TURN_END: 2,
    USER: 3,
    ASSISTANT: 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "[EOT]": 9,
    SYSTEM: 10,
    TOOL_CALLS_BEGIN: 11,
    TOOL_CALLS_END: 12,
    TOOL_CALL_BEGIN: 13,
    TOOL_CALL_ARGUMENTS: 14,
    TOOL_CALL_END: 15,
    TURN_MIDDLE: 17,
    MEDIA_BEGIN: 18,
    MEDIA_CONTENT: 19,
    MEDIA_END: 20,
    MEDIA_PAD: 21,
    THINK_BEGIN: 22,
    THINK_END: 23,
    UNKNOWN: 254,
    PADDING: 255,
}

# Ordinary added tokens: "skip special tokens" keeps their text when decoding.
KEPT_WHEN_SKIPPING = frozenset(
    {TOOL_CALLS_BEGIN, TOOL_CALLS_END, TOOL_CALL_BEGIN, TOOL_CALL_ARGUMENTS, TOOL_CALL_END, THINK_BEGIN, THINK_END}
)


def control_tokens(base_tokens: int = RELEASED_BASE_TOKENS) -> dict[str, int]:
    """All 256 control tokens of a vocabulary with `base_tokens` base tokens, name to id, in id order."""
    names = {offset: name for name, offset in OFFSETS.items()}
    ids = range(base_tokens, base_tokens + CONTROL_TOKEN_COUNT)
    return {names.get(token_id - base_tokens, f"<|reserved_token_{token_id}|>"): token_id for token_id in ids}
