"""Agents speak the OpenAI protocol to the gateway; what it records is what the network saw and said."""

import asyncio
import base64
import io

import openai
import pytest
from engine_helpers import full_forward_logprobs
from gateway_helpers import QUESTION, SHORT, TOOLS, called, client_of, gateway_of, letters, run, said
from PIL import Image

from k25.engine import SamplingParameters


def trained(sample):
    return [(span.token_ids, span.logprobs) for span in sample.spans if span.trainable]


def assert_is_a_training_forward(nano, sample):
    """One plain forward pass over the sample's ids gives the recorded log-probabilities."""
    rows = full_forward_logprobs(nano.model, list(sample.token_ids), sample.media)
    position = 0
    for span in sample.spans:
        if span.trainable:
            expected = [rows[position + i - 1, token].item() for i, token in enumerate(span.token_ids)]
            assert list(span.logprobs) == pytest.approx(expected, abs=1e-4)
        position += len(span.token_ids)


def test_a_conversation_becomes_one_sample_that_a_training_forward_reproduces(nano):
    async def talk():
        async with gateway_of(nano) as (gateway, _), gateway.rollout(sampling=SHORT) as handle:
            async with client_of(handle) as client:
                messages = [QUESTION]
                for _ in range(3):
                    answer = await client.chat.completions.create(model="gpt-4o", messages=messages)
                    messages.append(answer.choices[0].message.model_dump())
                    messages.append({"role": "user", "content": [{"type": "text", "text": "And then?"}]})
            return handle, answer

    handle, answer = run(talk())
    (sample,) = handle.samples()
    assert [span.trainable for span in sample.spans] == [False, True] * 3
    assert sample.trainable_tokens == sum(turn.usage.completion_tokens for turn in handle.answers)
    assert len(sample.token_ids) == answer.usage.total_tokens
    assert answer.model == "nano"
    assert_is_a_training_forward(nano, sample)


def test_a_stream_says_what_the_plain_answer_says(nano):
    greedy = SamplingParameters(temperature=0, max_tokens=8)
    fields = {"model": "m", "messages": [QUESTION]}

    async def talk():
        async with gateway_of(nano) as (gateway, _), gateway.rollout(sampling=greedy) as handle:
            client = client_of(handle)
            plain = await client.chat.completions.create(**fields)
            usage = {"include_usage": True}
            stream = await client.chat.completions.create(**fields, stream=True, stream_options=usage)
            chunks = [chunk async for chunk in stream]
            await client.close()
            return plain, chunks, handle

    plain, chunks, handle = run(talk())
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == plain.choices[0].message.content != ""
    assert choices[0].delta.role == "assistant"
    assert choices[-1].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    first, second = handle.samples()
    assert first.token_ids == second.token_ids


def test_a_streamed_tool_conversation_continues_the_exact_ids(nano):
    """The model spells its call in single letters; those ids come back, however the client spells them."""
    tokenizer = nano.tokenizer
    scripts = [called(tokenizer, 0), said(tokenizer, "The value is 7.")]

    async def talk():
        async with gateway_of(nano, scripts) as (gateway, _), gateway.rollout() as handle, client_of(handle) as client:
            stream = await client.chat.completions.create(model="m", messages=[QUESTION], tools=TOOLS, stream=True)
            calls = [c.choices[0].delta.tool_calls[0] async for c in stream if c.choices[0].delta.tool_calls]
            (call,) = calls
            spelt = {"name": call.function.name, "arguments": '{ "key":3 }'}
            turn = {"role": "assistant", "content": None, "tool_calls": [{"id": call.id, "type": "function"}]}
            turn["tool_calls"][0]["function"] = spelt
            result = {"role": "tool", "tool_call_id": call.id, "content": "7"}
            messages = [QUESTION, {**turn, "refusal": None, "reasoning_content": None}, result]
            answer = await client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
            return call, answer, handle

    call, answer, handle = run(talk())
    assert (call.id, call.function.arguments) == ("functions.table_lookup:0", '{"key": 3}')
    assert answer.choices[0].message.content == "The value is 7."
    (sample,) = handle.samples()
    first, second = trained(sample)
    assert list(first[0]), list(second[0]) == (called(tokenizer, 0), said(tokenizer, "The value is 7."))
    assert_is_a_training_forward(nano, sample)


def test_text_comes_while_it_is_generated_and_calls_come_whole(nano):
    tokenizer = nano.tokenizer
    begins = tokenizer.control_tokens["<|tool_calls_section_begin|>"]
    text = letters(tokenizer, "Let me look: ÄÖ")
    scripts = [text + called(tokenizer, 0)]
    assert scripts[0].index(begins) == len(text)

    async def talk():
        async with gateway_of(nano, scripts) as (gateway, _), gateway.rollout() as handle, client_of(handle) as client:
            fields = {"model": "m", "messages": [QUESTION], "tools": TOOLS, "stream": True}
            stream = await client.chat.completions.create(**fields)
            return [chunk.choices[0].delta async for chunk in stream], handle

    deltas, handle = run(talk())
    pieces = [delta.content for delta in deltas if delta.content]
    assert len(pieces) > 5
    assert "".join(pieces) == "Let me look: ÄÖ"
    (calls,) = [delta.tool_calls for delta in deltas if delta.tool_calls]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("table_lookup", '{"key": 3}')]
    assert handle.answers[0].content == "Let me look: ÄÖ"
    (sample,) = handle.samples()
    assert [list(ids) for ids, _ in trained(sample)] == [scripts[0]]
    assert_is_a_training_forward(nano, sample)


@pytest.mark.parametrize("form", ["instant", "thinking"])
def test_the_first_text_is_there_long_before_the_turn_ends(nano, form):
    ends = dict.fromkeys(nano.tokenizer.control_tokens.values(), -100.0)
    long = SamplingParameters(max_tokens=200, logit_bias=ends, seed=3)

    async def talk():
        async with gateway_of(nano, form=form) as (gateway, engine), gateway.rollout(sampling=long) as handle:
            async with client_of(handle) as client:
                stream = await client.chat.completions.create(model="m", messages=[QUESTION], stream=True)
                said = {"content": "", "reasoning_content": ""}
                early = 0
                async for chunk in stream:
                    for kind in said:
                        said[kind] += getattr(chunk.choices[0].delta, kind, None) or ""
                    early += bool(said["content"] or said["reasoning_content"]) and engine.metrics().running == 1
            return said, early, handle

    said, early, handle = run(talk())
    assert early > 20
    turn = handle.answers[0]
    assert (said["content"], said["reasoning_content"]) == (turn.content, turn.reasoning)
    assert turn.usage.completion_tokens == 200


def test_reasoning_that_the_client_leaves_out_stays_in_the_prompt(nano):
    tokenizer = nano.tokenizer
    thought = [*tokenizer.encode("I look it up."), tokenizer.control_tokens["</think>"]]
    scripts = [thought + called(tokenizer, 0), thought + said(tokenizer, "It is 7.")]

    async def talk():
        async with (
            gateway_of(nano, scripts, form="thinking") as (gateway, _),
            gateway.rollout() as handle,
            client_of(handle) as client,
        ):
            answer = await client.chat.completions.create(model="m", messages=[QUESTION], tools=TOOLS)
            message = answer.choices[0].message
            reasoning = message.model_extra["reasoning_content"]
            kept = {key: value for key, value in message.model_dump().items() if key != "reasoning_content"}
            result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7"}
            await client.chat.completions.create(model="m", messages=[QUESTION, kept, result], tools=TOOLS)
            return reasoning, handle

    reasoning, handle = run(talk())
    assert reasoning == "I look it up."
    assert len(handle.samples()) == 1


def test_a_rewritten_history_is_a_fork_with_a_sample_of_its_own(nano):
    tokenizer = nano.tokenizer
    scripts = [said(tokenizer, text) for text in ("the one", "the other", "the third", "the last")]

    async def talk():
        async with gateway_of(nano, scripts) as (gateway, _), gateway.rollout() as handle, client_of(handle) as client:

            async def ask(*messages):
                answer = await client.chat.completions.create(model="m", messages=list(messages))
                return {"role": "assistant", "content": answer.choices[0].message.content}

            again = {"role": "user", "content": "Go on."}
            first = await ask(QUESTION)
            second = await ask(QUESTION, first, again)
            await ask(QUESTION, {"role": "assistant", "content": "zero"}, again)
            await ask(QUESTION, first, again, second, again)
            return handle

    handle = run(talk())
    main, fork = handle.samples()
    assert [list(ids) for ids, _ in trained(main)] == [scripts[0], scripts[1], scripts[3]]
    assert [list(ids) for ids, _ in trained(fork)] == [scripts[2]]
    assert [len(conversation) for conversation in handle.conversations] == [6, 4]


def test_requests_at_the_same_time_are_branches(nano):
    async def talk():
        async with gateway_of(nano) as (gateway, _), gateway.rollout(sampling=SHORT) as handle:
            async with client_of(handle) as client:
                asked = (client.chat.completions.create(model="m", messages=[QUESTION]) for _ in range(4))
                answers = await asyncio.gather(*asked)
            return answers, handle

    answers, handle = run(talk())
    assert len(handle.samples()) == 4
    assert len({answer.choices[0].message.content for answer in answers}) > 1


def test_pictures_come_as_data_urls_and_are_part_of_the_sample(nano):
    file = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "text", "text": "Which colour?"}, {"type": "image_url", "image_url": {"url": url}}]

    async def talk():
        async with gateway_of(nano) as (gateway, _), gateway.rollout(sampling=SHORT) as handle:
            async with client_of(handle) as client:
                messages = [{"role": "user", "content": content}]
                answer = await client.chat.completions.create(model="m", messages=messages)
                messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "Sure?"}]
                await client.chat.completions.create(model="m", messages=messages)
            return handle

    (sample,) = run(talk()).samples()
    assert len(sample.media) == 1
    assert_is_a_training_forward(nano, sample)


@pytest.mark.slow
def test_fifty_rollouts_at_once_do_not_mix(nano):
    async def one(gateway, number):
        async with gateway.rollout(sampling=SamplingParameters(max_tokens=4)) as handle, client_of(handle) as client:
            messages = [{"role": "user", "content": f"Rollout {number}"}]
            for _ in range(2):
                answer = await client.chat.completions.create(model="m", messages=messages)
                messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "More."}]
            return handle

    async def all_of_them():
        async with gateway_of(nano) as (gateway, engine):
            handles = await asyncio.gather(*(one(gateway, number) for number in range(50)))
            return handles, engine.metrics()

    handles, metrics = run(all_of_them())
    for number, handle in enumerate(handles):
        (sample,) = handle.samples()
        assert f"Rollout {number}<" in nano.tokenizer.decode(list(sample.token_ids))
        assert [span.trainable for span in sample.spans] == [False, True] * 2
    assert (metrics.running, metrics.waiting) == (0, 0)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place_in_the_engine(nano, stream):
    long = SamplingParameters(max_tokens=2000, logit_bias={nano.tokenizer.control_tokens["<|im_end|>"]: -100})

    async def leave():
        async with gateway_of(nano) as (gateway, engine), gateway.rollout(sampling=long) as handle:
            async with client_of(handle) as client:
                asking = asyncio.ensure_future(
                    client.chat.completions.create(model="m", messages=[QUESTION], stream=stream)
                )
                await until(lambda: engine.metrics().running == 1)
                if stream:
                    await (await asking).close()
                asking.cancel()
                await asyncio.wait({asking})
            await until(lambda: engine.metrics().running == 0)
            return handle, engine.metrics()

    handle, metrics = run(leave())
    assert metrics.finished == {"cancelled": 1}
    assert handle.dropped == {"client left": 1}
    assert handle.samples() == ()


def test_the_end_of_a_rollout_ends_its_requests(nano):
    long = SamplingParameters(max_tokens=2000, logit_bias={nano.tokenizer.control_tokens["<|im_end|>"]: -100})

    async def end():
        async with gateway_of(nano) as (gateway, engine):
            async with gateway.rollout(sampling=long) as handle:
                client = client_of(handle)
                asking = asyncio.ensure_future(client.chat.completions.create(model="m", messages=[QUESTION]))
                await until(lambda: engine.metrics().running == 1)
            with pytest.raises(openai.NotFoundError, match="has finished"):
                await asking
            with pytest.raises(openai.NotFoundError, match="has finished"):
                await client.chat.completions.create(model="m", messages=[QUESTION])
            await client.close()
            await until(lambda: engine.metrics().running == 0)
            return handle

    assert run(end()).dropped == {"rollout ended": 1}
