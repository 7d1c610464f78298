"""Loss masks: every turn in the context in which the model would have produced it."""

import random

import pytest
from conversations import call, random_conversation

from k25.chat import VideoChunk, parse_messages, parse_tools, render
from k25.chat.training_targets import training_samples
from k25.errors import InputError


def spans(sample):
    """(prompt ids before the span, target ids) of every run of targets."""
    found, start = [], None
    for at, target in enumerate([*sample.is_target, False]):
        if target and start is None:
            start = at
        if not target and start is not None:
            found.append((sample.token_ids[:start], sample.token_ids[start:at]))
            start = None
    return found


DIALOGUE = [
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": None, "reasoning_content": "r1", "tool_calls": [call("functions.f:0")]},
    {"role": "tool", "content": "t", "tool_call_id": "functions.f:0"},
    {"role": "assistant", "content": "a1", "reasoning_content": "r2"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]
CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|>"
)


def test_targets_are_what_follows_the_generation_prompt(small_tokenizer):
    samples = training_samples(parse_messages(DIALOGUE), small_tokenizer)
    targets = [small_tokenizer.decode(target) for sample in samples for _, target in spans(sample)]
    assert targets == [f"r1</think>{CALL}<|im_end|>", "r2</think>a1<|im_end|>", "a2<|im_end|>"]


def test_steps_of_a_tool_loop_share_a_sample(small_tokenizer):
    samples = training_samples(parse_messages(DIALOGUE), small_tokenizer)
    assert [len(spans(sample)) for sample in samples] == [2, 1]


def test_preserved_thinking_makes_one_sample_of_a_conversation(small_tokenizer):
    samples = training_samples(parse_messages(DIALOGUE), small_tokenizer, thinking=True, preserve_thinking=True)
    assert [len(spans(sample)) for sample in samples] == [3]


def test_history_loses_its_reasoning_but_the_trained_turn_keeps_it(small_tokenizer):
    dialogue = [*DIALOGUE[:5], {"role": "assistant", "content": "a2", "reasoning_content": "r3"}]
    last = training_samples(parse_messages(dialogue), small_tokenizer)[-1]
    text = small_tokenizer.decode(last.token_ids)
    assert "<think></think>a1" in text
    assert text.endswith("<think>r3</think>a2<|im_end|>")


def test_null_reasoning_is_not_learnt_as_the_word_none(small_tokenizer):
    dialogue = [DIALOGUE[0], {"role": "assistant", "content": "a", "reasoning_content": None}]
    [sample] = training_samples(parse_messages(dialogue), small_tokenizer, thinking=True)
    assert small_tokenizer.decode(spans(sample)[0][1]) == "</think>a<|im_end|>"


def test_every_target_follows_the_inference_prompt_of_its_turn(small_tokenizer):
    rng = random.Random(13)
    for _ in range(200):
        conversation, definitions = random_conversation(rng)
        messages, tools = parse_messages(conversation), parse_tools(definitions)
        turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
        if not turns or any(piece.kind.value == "video" for piece in render(messages).pieces):
            continue
        thinking, preserve = rng.random() < 0.7, rng.random() < 0.3
        images = [1] * render(messages).image_count
        samples = training_samples(
            messages, small_tokenizer, tools, thinking=thinking, preserve_thinking=preserve, image_tokens=images
        )
        prompts = [prompt for sample in samples for prompt, _ in spans(sample)]
        expected = [
            render(messages[:index], tools, thinking=thinking, preserve_thinking=preserve).token_ids(small_tokenizer)
            for index in turns
        ]
        assert prompts == expected


def test_media_are_expanded_in_every_sample(small_tokenizer):
    picture = {"type": "image_url", "image_url": "a.png"}
    dialogue = [
        {"role": "user", "content": [picture]},
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
        {"role": "user", "content": [picture, {"type": "video_url", "video_url": "v.mp4"}]},
        {"role": "assistant", "content": "b", "reasoning_content": "r"},
    ]
    samples = training_samples(
        parse_messages(dialogue), small_tokenizer, image_tokens=[2, 3], videos=[[VideoChunk("00:00:00.000", 4)]]
    )
    pad = small_tokenizer.token_id("<|media_pad|>")
    assert [sample.token_ids.count(pad) for sample in samples] == [2, 2 + 3 + 4]


@pytest.mark.parametrize(
    ("dialogue", "reason"),
    [
        (DIALOGUE[:1], "no assistant message"),
        ([DIALOGUE[0], {"role": "assistant", "content": "a", "partial": True}], "partial"),
        ([{"role": "user", "content": [{"type": "image", "image": "a"}]}, DIALOGUE[5]], "1 pictures"),
    ],
)
def test_a_conversation_that_cannot_be_learnt_is_an_input_error(small_tokenizer, dialogue, reason):
    with pytest.raises(InputError, match=reason):
        training_samples(parse_messages(dialogue), small_tokenizer)


def test_a_turn_of_weight_0_is_shown_and_not_learnt(small_tokenizer):
    weighted = [{**message, "weight": 0} if message.get("tool_calls") else message for message in DIALOGUE]
    shown = training_samples(parse_messages(DIALOGUE), small_tokenizer, preserve_thinking=True)
    learnt = training_samples(parse_messages(weighted), small_tokenizer, preserve_thinking=True)
    assert [sample.token_ids for sample in learnt] == [sample.token_ids for sample in shown]
    targets = [[target for _, target in spans(sample)] for sample in (shown[0], learnt[0])]
    assert targets[1] == targets[0][1:]


def test_a_conversation_whose_turns_all_have_weight_0_has_nothing_to_learn(small_tokenizer):
    dialogue = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]
    with pytest.raises(InputError, match="no assistant message to learn"):
        training_samples(parse_messages(dialogue), small_tokenizer)
