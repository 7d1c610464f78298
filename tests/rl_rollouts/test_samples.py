"""Samples are the engine's ids: a conversation's turns become streams, and nothing is made again from text."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k25.agent import ModelRequest, ModelTurn
from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import EngineClient, Policy
from k25.rl import Span, samples_of

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=4)


def turn(prompt, output, version=0):
    tokens = {
        "prompt": list(prompt),
        "output": list(output),
        "logprobs": [-0.5 * (place + 1) for place in range(len(output))],
        "versions": [version] * len(output),
    }
    return ModelTurn(tokens=tokens)


@st.composite
def conversations(draw):
    """Turns, each of which continues any earlier one, forks inside its prompt, or begins anew."""
    turns = []
    for version in range(draw(st.integers(1, 6))):
        ground = []
        if turns and draw(st.booleans()):
            earlier = draw(st.sampled_from(turns)).tokens
            whole = [*earlier["prompt"], *earlier["output"]]
            ground = whole[: draw(st.sampled_from([len(whole), len(whole) - 1, len(whole) // 2]))]
        turns.append(turn(ground + draw(IDS), draw(IDS), version))
    return turns


@given(conversations())
@settings(max_examples=300, deadline=None)
def test_every_generated_token_is_trainable_once_after_exactly_its_prompt(turns):
    samples = samples_of(turns)
    found = []
    for sample in samples:
        seen = []
        for span in sample.spans:
            if span.trainable:
                found.append((seen, list(span.token_ids), list(span.logprobs), list(span.versions)))
            seen = seen + list(span.token_ids)
        assert tuple(seen) == sample.token_ids
    expected = [(t.tokens["prompt"], t.tokens["output"], t.tokens["logprobs"], t.tokens["versions"]) for t in turns]
    assert sorted(found) == sorted(expected)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_conversation_that_only_grows_is_one_stream(parts):
    turns, ids = [], []
    for given_ids, output in parts:
        ids = ids + given_ids
        turns.append(turn(ids, output))
        ids = ids + output
    (sample,) = samples_of(turns)
    assert list(sample.token_ids) == ids
    assert sample.trainable_tokens == sum(len(output) for _, output in parts)


def test_turns_of_a_real_engine_share_a_stream_until_history_is_rewritten(nano):
    async def talked():
        async with Engine(nano.model, EngineConfig(cache_tokens=16_384)) as engine:
            sampling = SamplingParameters(max_tokens=12, seed=3)
            client = EngineClient(Policy(engine, nano.tokenizer, nano.processor), sampling=sampling)
            messages, turns = [], []
            for text in ("One", "Two", "Three"):
                messages.append({"role": "user", "content": text})
                turns.append(await client.complete(ModelRequest(list(messages), conversation="talk")))
                messages.append(turns[-1].message())
            messages[1] = {"role": "assistant", "content": "I never said that."}
            messages.append({"role": "user", "content": "Four"})
            turns.append(await client.complete(ModelRequest(list(messages), conversation="talk")))
            return turns

    turns = asyncio.run(talked())
    whole, forked = samples_of(turns)
    assert [span.trainable for span in whole.spans] == [False, True] * 3
    assert [list(span.token_ids) for span in whole.spans[1::2]] == [each.tokens["output"] for each in turns[:3]]
    assert whole.token_ids == (*turns[2].tokens["prompt"], *turns[2].tokens["output"])
    assert [list(span.token_ids) for span in forked.spans] == [turns[3].tokens["prompt"], turns[3].tokens["output"]]


def test_wrong_spans_and_turns_without_tokens_are_refused():
    with pytest.raises(ValueError, match="2 tokens, 1 log-probabilities"):
        Span((1, 2), True, (-1.0,), (0, 0))
    with pytest.raises(ValueError, match="given span"):
        Span((1,), False, (-1.0,), (0,))
    with pytest.raises(ValueError, match="without tokens"):
        samples_of([ModelTurn(content="text only")])
