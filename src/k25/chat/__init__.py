"""How the model is spoken to: messages, tokenizer, template, parsers. Needs no torch.

Rendering: `parse_messages`, `parse_tools`, `render`, `Rendering`. Token ids: `Tokenizer`, `StreamingDecoder`.
Less common needs have modules of their own: `jinja_template` (a checkpoint's own template), `training_targets` (loss
masks), `tokenizer_training`, `tool_declaration`, `special_tokens`.
"""

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
from k25.chat.rendering import Rendering, VideoChunk
from k25.chat.template import Mode, render, render_mode
from k25.chat.tokenizer import StreamingDecoder, Tokenizer

__all__ = [
    "FunctionCall",
    "FunctionDefinition",
    "ImagePart",
    "MediaSource",
    "Message",
    "Mode",
    "Rendering",
    "StreamingDecoder",
    "TextPart",
    "Tokenizer",
    "ToolCall",
    "ToolDefinition",
    "VideoChunk",
    "VideoPart",
    "parse_messages",
    "parse_tools",
    "render",
    "render_mode",
]
