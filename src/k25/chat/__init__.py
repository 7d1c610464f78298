"""How the model is spoken to: messages, tokenizer, template, parsers. Needs no torch.

Prompts: `parse_messages`, `parse_tools`, `render`, `Rendering`. Token ids: `Tokenizer`, `StreamingDecoder`. Outputs:
`TextParser`, `TokenParser`, `parse_text`, their events, and `rewrite_tool_call_ids` for histories with foreign ids.
Less common needs have modules of their own: `jinja_template` (a checkpoint's own template), `training_targets` (loss
masks), `tokenizer_training`, `tool_declaration`, `special_tokens`.
"""

from k25.chat.identifiers import rewrite_tool_call_ids, tool_call_id
from k25.chat.messages import (
    FunctionCall,
    FunctionDefinition,
    ImagePart,
    MediaSource,
    Message,
    TextPart,
    ToolCall,
    ToolDefinition,
    VideoPart,
    parse_messages,
    parse_tools,
)
from k25.chat.parser import TextParser, TokenParser, parse_text
from k25.chat.parser_events import (
    ContentDelta,
    Event,
    EventCollector,
    Finished,
    ParsedOutput,
    ParsedToolCall,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from k25.chat.rendering import Rendering, VideoChunk
from k25.chat.template import Mode, render, render_mode
from k25.chat.tokenizer import StreamingDecoder, Tokenizer

__all__ = [
    "ContentDelta",
    "Event",
    "EventCollector",
    "Finished",
    "FunctionCall",
    "FunctionDefinition",
    "ImagePart",
    "MediaSource",
    "Message",
    "Mode",
    "ParsedOutput",
    "ParsedToolCall",
    "ReasoningDelta",
    "Rendering",
    "StreamingDecoder",
    "TextParser",
    "TextPart",
    "TokenParser",
    "Tokenizer",
    "ToolArgumentsDelta",
    "ToolCall",
    "ToolCallFinished",
    "ToolCallStarted",
    "ToolDefinition",
    "VideoChunk",
    "VideoPart",
    "parse_messages",
    "parse_text",
    "parse_tools",
    "render",
    "render_mode",
    "rewrite_tool_call_ids",
    "tool_call_id",
]
