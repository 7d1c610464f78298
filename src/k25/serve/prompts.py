"""A conversation to what the engine takes: token ids, and patches of its images and videos.

Token counts come first and are checked before anything is decoded.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from k25.chat import (
    ImagePart,
    Message,
    TextPart,
    Tokenizer,
    ToolDefinition,
    VideoChunk,
    VideoPart,
    parse_messages,
    parse_tools,
    render,
    rewrite_tool_call_ids,
)
from k25.chat.identifiers import count_tool_calls
from k25.chat.messages import MediaSource
from k25.engine import MediaItem
from k25.errors import InputError
from k25.media import (
    ImageInput,
    MediaContent,
    MediaProcessor,
    RemotePolicy,
    VideoCount,
    VideoInput,
    open_path,
    open_url,
)
from k25.serve.errors import invalid
from k25.serve.files import FILE_SCHEME, FileStore
from k25.serve.policy import ChatMode

MediaInput = ImageInput | VideoInput


@dataclass(frozen=True)
class Conversation:
    """A checked conversation: tool-call ids rebuilt, `calls_before` the number of calls so far."""

    messages: list[Message]
    tools: list[ToolDefinition]
    calls_before: int


@dataclass(frozen=True)
class Prompt:
    """What the engine continues. `open_reasoning`: the output begins inside the think block.

    `prefix` is the text of the answer that the prompt already holds (partial mode).
    """

    token_ids: list[int]
    media: tuple[MediaItem, ...] = ()
    open_reasoning: bool = False
    prefix: str = ""


def read_conversation(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Conversation:
    """Check a conversation. A null `reasoning_content` counts as absent: the template would print it as a word.

    Raises:
        InputError: with the place and what is wrong there.
    """
    # Checked before the ids are rebuilt, so that errors name what the client sent.
    parse_messages(list(messages))
    rewritten = [
        {key: value for key, value in message.items() if value is not None or key == "content"}
        for message in rewrite_tool_call_ids(messages)
    ]
    return Conversation(parse_messages(rewritten), parse_tools(list(tools)), count_tool_calls(rewritten))


class PromptBuilder:
    """Renders, counts, reads media and encodes. Without a `media` processor images and videos are refused."""

    def __init__(
        self, tokenizer: Tokenizer, media: MediaProcessor | None, files: FileStore, *, longest: int, remote: bool
    ) -> None:
        self._tokenizer, self._media, self._files = tokenizer, media, files
        self._longest = longest
        self._remote = RemotePolicy() if remote else None
        # Decoding is bounded: a crowd of pictures waits here and not in memory.
        self._decoding = asyncio.Semaphore(2)

    async def build(self, conversation: Conversation, mode: ChatMode, owner: str) -> Prompt:
        """The prompt of a conversation.

        Raises:
            InputError, ApiError: for unusable media, and a prompt that leaves no room for an answer.
        """
        inputs = await self._find_media(conversation.messages, owner)
        token_ids = await asyncio.to_thread(self._encode, conversation, mode, inputs)
        self.check_length(len(token_ids))
        last = conversation.messages[-1]
        media = await self._decode(inputs)
        if last.partial:
            return Prompt(token_ids, media, prefix=_text(last))
        return Prompt(token_ids, media, open_reasoning=mode.thinking)

    async def count(self, conversation: Conversation, mode: ChatMode, owner: str) -> int:
        """The number of tokens of the prompt; no picture is decoded for it."""
        inputs = await self._find_media(conversation.messages, owner)
        return len(await asyncio.to_thread(self._encode, conversation, mode, inputs))

    async def parts(self, parts: Sequence[Mapping[str, Any]], owner: str) -> tuple[MediaItem, ...]:
        """The media of content parts that come without a conversation."""
        if not parts:
            return ()
        message = {"role": "user", "content": list(parts)}
        return await self._decode(await self._find_media(parse_messages([message]), owner))

    def check_length(self, tokens: int) -> None:
        """Raise ApiError for a prompt that leaves no room for an answer."""
        if tokens >= self._longest:
            raise invalid(f"Input token length too long: {tokens} tokens, the limit is {self._longest}")

    def _encode(self, conversation: Conversation, mode: ChatMode, inputs: Sequence[MediaInput]) -> list[int]:
        rendering = render(
            conversation.messages,
            conversation.tools,
            thinking=mode.thinking,
            preserve_thinking=mode.preserve_thinking,
        )
        if inputs:
            assert self._media is not None
            images: list[int] = []
            videos: list[list[VideoChunk]] = []
            for one in inputs:
                count = self._media.count(one)
                # Too many are refused before the rest is looked at.
                self.check_length(sum(images) + sum(chunk.tokens for video in videos for chunk in video) + count.tokens)
                if isinstance(count, VideoCount):
                    tokens = count.plan.frame.tokens
                    videos.append([VideoChunk(chunk.timestamp, tokens) for chunk in count.plan.chunks])
                else:
                    images.append(count.tokens)
            rendering = rendering.expand_media(images, videos)
        return rendering.token_ids(self._tokenizer)

    async def _find_media(self, messages: Sequence[Message], owner: str) -> list[MediaInput]:
        sources = [
            part
            for message in messages
            for part in (message.content if isinstance(message.content, list) else ())
            if not isinstance(part, TextPart)
        ]
        if not sources:
            return []
        if self._media is None:
            raise invalid("this model reads no images or videos")
        return await asyncio.to_thread(lambda: [self._open(part, owner) for part in sources])

    def _open(self, part: ImagePart | VideoPart, owner: str) -> MediaInput:
        if isinstance(part, ImagePart):
            return ImageInput(self._content(part.image_url, owner))
        return VideoInput(self._content(part.video_url, owner))

    def _content(self, source: MediaSource, owner: str) -> MediaContent:
        assert self._media is not None
        url = source.url.strip()
        if url.startswith(FILE_SCHEME):
            path = self._files.path(url.removeprefix(FILE_SCHEME), owner)
            if path is None:
                raise InputError(f"{url[:80]}: there is no such file; upload it to /v1/files first")
            return open_path(path, self._media.limits)
        return open_url(url, self._media.limits, self._remote)

    async def _decode(self, inputs: Sequence[MediaInput]) -> tuple[MediaItem, ...]:
        if not inputs:
            return ()
        async with self._decoding:
            return await asyncio.to_thread(self._items, inputs)

    def _items(self, inputs: Sequence[MediaInput]) -> tuple[MediaItem, ...]:
        processor = self._media
        assert processor is not None
        batch = processor(inputs)
        patches, items, start = torch.from_numpy(batch.pixel_values), [], 0
        names = [
            _content_hash(one, number, processor)
            for one, count in zip(inputs, batch.counts, strict=True)
            for number in range(len(count.grids))
        ]
        for name, (frames, rows, columns) in zip(names, batch.grid_thws.tolist(), strict=True):
            end = start + frames * rows * columns
            items.append(MediaItem(patches[start:end], (frames, rows, columns), name))
            start = end
        return tuple(items)


def _content_hash(one: MediaInput, chunk: int, processor: MediaProcessor) -> bytes:
    """Names the pixels by the bytes that they come from: equal files become equal patches."""
    assert isinstance(one.source, MediaContent)
    digest = hashlib.blake2b(one.source.read(processor.limits), digest_size=16)
    digest.update(f"{type(one).__name__} {chunk}".encode())
    return digest.digest()


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content or () if isinstance(part, TextPart))
