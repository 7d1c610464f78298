"""A gateway before an engine with a nano network; outputs can be dictated, so that tests decide what agents see."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import openai
import torch

from k25.chat import special_tokens as special
from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import Policy
from k25.rl.gateway import Gateway
from k25.tasks import get_task

CONFIG = EngineConfig(cache_tokens=32_768, max_running=64)
SHORT = SamplingParameters(max_tokens=8, seed=7)
TOOLS = get_task("tool-lookup").sample(0, 0).tools
QUESTION = {"role": "user", "content": "What is the value of key 3?"}


class Forced:
    """A guide that allows one token at a time: the given ones."""

    def __init__(self, token_ids):
        self.token_ids = list(token_ids)

    def fill_mask(self, mask, remaining):
        mask.zero_()
        mask[self.token_ids[0] // 32] = torch.tensor(1 << self.token_ids[0] % 32).to(torch.int32)

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


@asynccontextmanager
async def gateway_of(nano, scripts=None, **options):
    engine = Engine(nano.model, CONFIG) if scripts is None else Steered(nano.model, scripts)
    async with engine, Gateway(Policy(engine, nano.tokenizer, nano.processor, "nano"), **options) as gateway:
        yield gateway, engine


def client_of(handle, **options):
    return openai.AsyncOpenAI(base_url=handle.url, api_key="any", max_retries=0, **options)


def run(coroutine):
    """An asynchronous test, with a limit that only a hang exceeds."""
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def letters(tokenizer, text):
    """The text one byte per token: not how the tokenizer would write it."""
    ids = [token for character in text for token in tokenizer.encode(character)]
    assert ids != tokenizer.encode(text)
    return ids


def said(tokenizer, text):
    return [*letters(tokenizer, text), tokenizer.control_tokens[special.TURN_END]]


def called(tokenizer, number, arguments='{"key": 3}'):
    ids = tokenizer.control_tokens
    header = letters(tokenizer, f"functions.table_lookup:{number}")
    names = (special.TOOL_CALLS_BEGIN, special.TOOL_CALL_BEGIN, special.TOOL_CALL_ARGUMENTS)
    section, call, begin = (ids[name] for name in names)
    ends = [ids[special.TOOL_CALL_END], ids[special.TOOL_CALLS_END], ids[special.TURN_END]]
    return [section, call, *header, begin, *letters(tokenizer, arguments), *ends]
