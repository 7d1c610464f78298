"""Conversations as training samples: token ids and which of them the model is to learn.

Every assistant turn is learnt in the context in which the model would have produced it: the prompt is the rendering of
the messages before it, with the reasoning that the template shows there, and the target is what follows the
generation prompt: reasoning, `</think>`, content, tool calls and `<|im_end|>`. The stock template cannot produce such
samples, because it drops the reasoning of every finished answer. Turns whose contexts continue each other, such as the
steps of a tool loop, share one sample.

`<think>`, and `<think></think>` in instant mode, belong to the prompt, so they are not learnt: with them, instant
samples would teach a thinking model to close its think block at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from k25.chat.messages import Message, ToolDefinition
from k25.chat.rendering import Rendering, VideoChunk
from k25.chat.template import generation_prompt, render, render_turn
from k25.chat.tokenizer import Tokenizer
from k25.errors import InputError


@dataclass(frozen=True)
class TrainingSample:
    """Token ids (T,) and, for each, whether the model is to learn it, that is, to predict it from the ids before it."""

    token_ids: list[int]
    is_target: list[bool]


def training_samples(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    tools: Sequence[ToolDefinition] = (),
    *,
    thinking: bool | None = None,
    preserve_thinking: bool = False,
    image_tokens: Sequence[int] = (),
    videos: Sequence[Sequence[VideoChunk]] = (),
) -> list[TrainingSample]:
    """One sample per context in which an assistant turn of the conversation was produced.

    Args:
        messages: a conversation with at least one assistant message to learn; those of weight 0 are context alone.
        tokenizer: the vocabulary.
        tools: the declared tools.
        thinking: the mode of all turns; by default turns with reasoning are thinking turns, the others instant ones.
        preserve_thinking: show the reasoning of all earlier turns; then all turns of one mode share one sample.
        image_tokens: tokens of each picture, in the order of the conversation.
        videos: the chunks of each video, in the order of the conversation.

    Raises:
        InputError: without an assistant message, with a partial one, or if the media counts differ.
    """
    if any(message.partial for message in messages):
        raise InputError("a conversation with a partial message cannot be trained on: finish or drop the message")
    render(messages, tools, add_generation_prompt=False).expand_media(image_tokens, videos)
    samples: list[TrainingSample] = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        mode = bool(message.reasoning_content) if thinking is None else thinking
        context = render(messages[:index], tools, thinking=mode, preserve_thinking=preserve_thinking)
        media = (image_tokens[: context.image_count], videos[: context.video_count])
        prompt_ids = context.expand_media(*media).token_ids(tokenizer)
        _add(samples, prompt_ids, _target(message, thinking=mode).token_ids(tokenizer), learnt=bool(message.weight))
    if not any(any(sample.is_target) for sample in samples):
        raise InputError("the conversation has no assistant message to learn")
    return samples


def _target(message: Message, *, thinking: bool) -> Rendering:
    learnt = message.model_copy(update={"reasoning_content": message.reasoning_content or ""})
    return Rendering(render_turn(learnt, keep_reasoning=thinking)[len(generation_prompt(thinking=thinking)) :])


def _add(samples: list[TrainingSample], prompt_ids: list[int], target_ids: list[int], *, learnt: bool) -> None:
    """Append a sample, or extend the last one if the prompt continues it."""
    known = samples[-1] if samples else TrainingSample([], [])
    done = len(known.token_ids)
    if done and prompt_ids[:done] == known.token_ids:
        samples.pop()
    else:
        known, done = TrainingSample([], []), 0
    is_target = [*known.is_target, *[False] * (len(prompt_ids) - done), *[learnt] * len(target_ids)]
    samples.append(TrainingSample(prompt_ids + target_ids, is_target))
