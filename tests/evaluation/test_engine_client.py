"""Tokens in, tokens out: what the client says it sent and got is what the network computes."""

import asyncio
import base64
import io
from dataclasses import replace

import pytest
import torch
from engine_helpers import full_forward_logprobs

from k25.agent import ModelError, ModelRequest
from k25.chat import special_tokens as special
from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import EngineClient, Policy, PolicyClients, attempt_all, exercises, named_tasks
from k25.tasks import get_task, task_names
from k25.train.data.drafts import Drafter

CONFIG = EngineConfig(cache_tokens=16_384, max_running=16)


class Forced:
    """A guide that allows one token at a time: the given ones."""

    def __init__(self, token_ids):
        self.token_ids = list(token_ids)

    def fill_mask(self, mask, remaining):
        mask.zero_()
        word = self.token_ids[0] // 32
        mask[word] = torch.tensor(1 << self.token_ids[0] % 32).to(torch.int32)

    def accept(self, token_id):
        assert token_id == self.token_ids.pop(0)

    @property
    def finished(self):
        return not self.token_ids


class Steered(Engine):
    """A real engine whose outputs are dictated, one script per request."""

    def __init__(self, model, scripts):
        super().__init__(model, CONFIG)
        self.scripts = list(scripts)

    def generate(self, request):
        guide = Forced(self.scripts.pop(0))
        return super().generate(replace(request, sampling=replace(request.sampling, guide=guide)))


def policy_of(engine, nano):
    return Policy(engine, nano.tokenizer, nano.processor, "nano")


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 120))


async def turns_of(nano, scripts, requests, **options):
    """What one client answers to requests of one conversation; each is a function of the turns before."""
    async with Steered(nano.model, scripts) as engine:
        client = EngineClient(policy_of(engine, nano), **options)
        turns = []
        for request in requests:
            turns.append(await client.complete(request(turns)))
        return turns, client.media_items("talk")


def letters(tokenizer, text):
    """The text one byte per token: not how the tokenizer would write it."""
    ids = [token for character in text for token in tokenizer.encode(character)]
    assert ids != tokenizer.encode(text)
    return ids


def call_of_table(tokenizer, text='{"key": "the entry"}'):
    ids = tokenizer.control_tokens
    header = letters(tokenizer, "functions.table_lookup:0")
    names = (special.TOOL_CALLS_BEGIN, special.TOOL_CALL_BEGIN, special.TOOL_CALL_ARGUMENTS)
    section, call, arguments = (ids[name] for name in names)
    ends = [ids[special.TOOL_CALL_END], ids[special.TOOL_CALLS_END], ids[special.TURN_END]]
    return [section, call, *header, arguments, *letters(tokenizer, text), *ends]


TOOLS = get_task("tool-lookup").sample(0, 0).tools
QUESTION = {"role": "user", "content": "table value of the entry?"}


def result_of(turn, content="the value is 7"):
    return {"role": "tool", "tool_call_id": turn.tool_calls[0].id, "content": content}


@pytest.mark.parametrize("task", ["add", "colour-grid", "clip-order", "tool-lookup"])
@pytest.mark.parametrize("form", ["instant", "thinking"])
def test_ids_and_logprobs_are_those_of_one_plain_forward_pass(nano, task, form):
    sample = get_task(task).sample(5, 0)

    async def ask():
        async with Engine(nano.model, CONFIG) as engine:
            sampling = SamplingParameters(temperature=1.0, max_tokens=12, seed=3)
            client = EngineClient(policy_of(engine, nano), form=form, sampling=sampling, media=sample.media)
            turn = await client.complete(ModelRequest(sample.prompt, sample.tools, conversation="talk"))
            return turn.tokens, client.media_items("talk")

    tokens, media = run(ask())
    rows = full_forward_logprobs(nano.model, tokens["prompt"] + tokens["output"], media)[len(tokens["prompt"]) - 1 : -1]
    expected = [row[token].item() for row, token in zip(rows, tokens["output"], strict=True)]
    assert tokens["logprobs"] == pytest.approx(expected, abs=1e-4)
    assert tokens["versions"] == [0] * len(tokens["output"])
    assert len(media) == (0 if task in ("add", "tool-lookup") else 1)


@pytest.mark.parametrize("name", task_names())
def test_prompts_are_those_that_training_teaches(nano, name):
    """The training data's own encoding of a sample begins with the prompt, in both forms."""
    sample = get_task(name).sample(11, 0)
    drafter = Drafter("source", nano.tokenizer, nano.processor)
    thinking = bool(sample.messages[sample.prompt_messages].get("reasoning_content"))
    chat = drafter.task_chat(sample, answers_only=True)[0]
    expected = {"thinking" if thinking else "instant": chat}
    if not sample.tools:
        expected["plain"] = drafter.task_plain(sample, answers_only=True)

    async def prompts():
        async with Engine(nano.model, CONFIG) as engine:
            for form, draft in expected.items():
                sampling = SamplingParameters(temperature=0, max_tokens=1)
                client = EngineClient(policy_of(engine, nano), form=form, sampling=sampling, media=sample.media)
                turn = await client.complete(ModelRequest(sample.prompt, sample.tools))
                yield turn.tokens["prompt"], draft

    async def check():
        async for prompt, draft in prompts():
            assert prompt == draft.token_ids[: draft.is_target.index(True)]

    run(check())


@pytest.mark.parametrize("form", ["instant", "thinking"])
def test_a_tool_loop_continues_the_very_ids_that_the_model_wrote(nano, form):
    ids = nano.tokenizer.control_tokens
    thought = [*letters(nano.tokenizer, "the table"), ids[special.THINK_END]] if form == "thinking" else []
    scripts = [thought + call_of_table(nano.tokenizer), [*letters(nano.tokenizer, "seven"), ids[special.TURN_END]]]

    def first(_):
        return ModelRequest([QUESTION], TOOLS, conversation="talk")

    def second(turns):
        return ModelRequest([QUESTION, turns[0].message(), result_of(turns[0])], TOOLS, conversation="talk")

    (asked, answered), _ = run(turns_of(nano, scripts, [first, second], form=form))
    written = asked.tokens["prompt"] + asked.tokens["output"]
    assert asked.tool_calls[0].name == "table_lookup"
    assert asked.tokens["output"] == scripts[0]
    assert answered.tokens["prompt"][: len(written)] == written
    added = nano.tokenizer.decode(answered.tokens["prompt"][len(written) :])
    opening = "<think>" if form == "thinking" else "<think></think>"
    middle = "## Return of functions.table_lookup:0\nthe value is 7<|im_end|>"
    assert added == f"<|im_system|>tool<|im_middle|>{middle}<|im_assistant|>assistant<|im_middle|>{opening}"
    whole = answered.tokens["prompt"] + answered.tokens["output"]
    rows = full_forward_logprobs(nano.model, whole, ())
    for turn in (asked, answered):
        start = len(turn.tokens["prompt"])
        expected = [rows[start - 1 + n, token].item() for n, token in enumerate(turn.tokens["output"])]
        assert turn.tokens["logprobs"] == pytest.approx(expected, abs=1e-4)


def test_a_turn_that_was_cut_short_is_closed_before_the_next(nano):
    ids = nano.tokenizer.control_tokens
    cut = call_of_table(nano.tokenizer)[:-1]

    def second(turns):
        return ModelRequest([QUESTION, turns[0].message(), result_of(turns[0])], TOOLS, conversation="talk")

    requests = [lambda _: ModelRequest([QUESTION], TOOLS, conversation="talk"), second]
    turns, _ = run(turns_of(nano, [cut, [ids[special.TURN_END]]], requests))
    written = turns[0].tokens["prompt"] + cut
    assert turns[1].tokens["prompt"][: len(written) + 1] == [*written, ids[special.TURN_END]]


def test_reasoning_of_a_finished_answer_leaves_the_prompt_as_the_template_has_it(nano):
    ids = nano.tokenizer.control_tokens
    thought = [
        *nano.tokenizer.encode("hmm"),
        ids[special.THINK_END],
        *nano.tokenizer.encode("yes"),
        ids[special.TURN_END],
    ]

    def second(turns):
        return ModelRequest([QUESTION, turns[0].message(), {"role": "user", "content": "sure?"}], conversation="talk")

    requests = [lambda _: ModelRequest([QUESTION], conversation="talk"), second]
    turns, _ = run(turns_of(nano, [thought, [ids[special.TURN_END]]], requests, form="thinking"))
    prompt = nano.tokenizer.decode(turns[1].tokens["prompt"])
    assert turns[0].reasoning == "hmm"
    assert "<think></think>yes<|im_end|>" in prompt
    assert "hmm" not in prompt


def test_pictures_that_tools_return_join_the_conversation(nano):
    ids = nano.tokenizer.control_tokens
    sample = get_task("colour-grid").sample(0, 0)
    file = io.BytesIO()
    sample.media[0].save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture = [{"type": "image_url", "image_url": {"url": url}}]

    def second(turns):
        messages = [*sample.prompt, turns[0].message(), result_of(turns[0], picture)]
        return ModelRequest(messages, TOOLS, conversation="talk")

    requests = [lambda _: ModelRequest(sample.prompt, TOOLS, conversation="talk"), second]
    scripts = [call_of_table(nano.tokenizer), [*letters(nano.tokenizer, "seven"), ids[special.TURN_END]]]
    turns, media = run(turns_of(nano, scripts, requests, media=sample.media))
    # The same pixels, once from memory and once by way of a file.
    assert media[0].content_hash == media[1].content_hash
    whole = turns[1].tokens["prompt"] + turns[1].tokens["output"]
    row = full_forward_logprobs(nano.model, whole, media)[len(turns[1].tokens["prompt"]) - 1]
    assert turns[1].tokens["logprobs"][0] == pytest.approx(row[turns[1].tokens["output"][0]].item(), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_concurrency_changes_no_answer(nano, temperature):
    samples = exercises(named_tasks(["add", "colour-grid", "tool-lookup"]), samples=4, difficulty=1)

    async def answers(concurrency):
        async with Engine(nano.model, CONFIG) as engine:
            sampling = SamplingParameters(temperature=temperature, max_tokens=10, seed=1)
            clients = PolicyClients(policy_of(engine, nano), "instant", sampling)
            attempts = await attempt_all(samples, clients, repeats=2, concurrency=concurrency)
            return [attempt.trajectory.text for attempt in attempts]

    alone = run(answers(1))
    assert run(answers(16)) == alone
    if temperature:
        assert alone[::2] != alone[1::2]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user"}], "needs content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "media:3"}}]}], "media:3"),
        ([{"role": "user", "content": "far too much " * 5000}], "the context holds"),
        ([{"role": "assistant", "content": "so", "partial": True}], "partial"),
    ],
)
def test_requests_that_cannot_be_served_are_model_errors_of_one_line(nano, messages, reason):
    async def ask():
        async with Engine(nano.model, CONFIG) as engine:
            await EngineClient(policy_of(engine, nano)).complete(ModelRequest(messages))

    with pytest.raises(ModelError, match=reason) as caught:
        run(ask())
    assert "\n" not in str(caught.value)
