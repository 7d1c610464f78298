"""The engine against transformers' `generate` and llama.cpp on the same random weights: prefill and greedy decode.

Two K2.5-shaped text models, S of about 70 million parameters and M of about a billion. Ours runs through the
asynchronous engine, one request per sequence, without prefix reuse; `int4` has its routed experts in the released INT4
format; transformers stays in bf16 beside it, llama.cpp gets the same integers as Q4_0. Decode figures count generated
tokens and include the short prompts. llama.cpp is compared where `pip install llama-cpp-python gguf` was run.

    python benchmarks/engine.py [--quick] [--json FILE] [--only TEXT]
"""

import asyncio
import copy
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

import llama_cpp_peer
from harness import Case, Skip, main
from k25.checkpoint import save_model
from k25.engine import Engine, EngineConfig, GenerationRequest, SamplingParameters
from k25.model import K25Config, K25Model, initialise, int4, preset
from k25.model.experts import GroupedExperts, PackedExperts
from k25.model.mixture import MixtureOfExperts

PEER = "transformers"
SHORT_PROMPT = 8
NEW_TOKENS = {"S": 64, "M": 32}


def configuration(name: str) -> K25Config:
    """S is the preset `small` without its eyes, M a wider and deeper one."""
    small = dataclasses.replace(preset("small"), vision=None)
    if name == "S":
        return small
    text = dataclasses.replace(
        small.text,
        hidden_size=1024,
        num_hidden_layers=16,
        num_attention_heads=16,
        intermediate_size=4096,
        moe_intermediate_size=512,
        n_routed_experts=40,
        num_experts_per_tok=6,
        kv_lora_rank=256,
        q_lora_rank=512,
    )
    return dataclasses.replace(small, text=text)


def random_model(name: str) -> K25Model:
    """The model in bf16."""
    model = K25Model(configuration(name)).to(torch.bfloat16)
    initialise(model, seed=0)
    return model.eval()


def with_int4_experts(model: K25Model) -> K25Model:
    """A copy whose routed experts are packed."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            experts = module.experts
            assert isinstance(experts, GroupedExperts)
            packed = PackedExperts(len(experts.down), experts.gate_up.shape[-1], experts.down.shape[-1], torch.bfloat16)
            for part in ("gate_up", "down"):
                words, scale = int4.quantise(experts.get_parameter(part).detach())
                packed.get_buffer(f"{part}_packed").copy_(words)
                packed.get_buffer(f"{part}_scale").copy_(scale)
            module.experts = packed
    return model


def ours(model: K25Model, prompts: list[list[int]], new_tokens: int) -> Callable[[], None]:
    """Generate for all prompts at once."""
    engine = Engine(model, EngineConfig(prefix_reuse=False))
    sampling = SamplingParameters(temperature=0, max_tokens=new_tokens)
    names = itertools.count()

    async def one(prompt: list[int]) -> None:
        events = [event async for event in engine.generate(GenerationRequest(str(next(names)), prompt, (), sampling))]
        if events[-1].finish_reason != "length" or len(events) != new_tokens:
            raise AssertionError(f"{len(events)} of {new_tokens} tokens, then {events[-1]}")

    async def together() -> None:
        async with engine:
            await asyncio.gather(*(one(prompt) for prompt in prompts))

    return lambda: asyncio.run(together())


def theirs(peer: torch.nn.Module, prompts: list[list[int]], new_tokens: int) -> Callable[[], None]:
    """The same with `generate`."""
    rows = torch.tensor(prompts)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(rows)
    return lambda: peer.generate(rows, attention_mask=mask, **options)  # type: ignore[operator]


def cases(name: str, quick: bool) -> Iterator[Case]:
    """Prefill and decode of one size."""
    model = random_model(name)
    packed = with_int4_experts(model)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder, overwrite=True)
        peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for label, prompts, count, work in workloads(name, quick, model.config.bos_token_id):
        for kind, which in (("bf16", model), ("int4", packed)):
            mine, other = ours(which, prompts, count), theirs(peer, prompts, count)
            yield Case(f"{name} {kind} {label}", mine, other, PEER, "tokens/s", work=work)


def workloads(name: str, quick: bool, vocabulary: int) -> Iterator[tuple[str, list[list[int]], int, float]]:
    """A label, the prompts, how many tokens to generate, and how many count as work."""
    generator = torch.Generator().manual_seed(1)
    new_tokens = 32 if quick else NEW_TOKENS[name]
    shapes = [("prefill 512", 1, 512, 1), ("prefill 2048", 1, 2048, 1)]
    shapes += [(f"decode batch {batch}", batch, SHORT_PROMPT, new_tokens) for batch in (1, 8, 32)]
    for label, batch, length, count in shapes:
        prompts = torch.randint(0, vocabulary, (batch, length), generator=generator).tolist()
        yield label, prompts, count, float(batch * (length if count == 1 else count))


def llama_cpp_cases(name: str, quick: bool) -> Iterator[Case]:
    """The same work in llama.cpp, after a look whether it computes the same."""
    if absent := llama_cpp_peer.missing():
        raise Skip(f"not installed: {', '.join(absent)}")
    model = random_model(name)
    for kind, which in (("bf16", model), ("int4", with_int4_experts(model))):
        with tempfile.TemporaryDirectory() as folder:
            peer = llama_cpp_peer.LlamaCppModel(which, Path(folder))
        llama_cpp_peer.require_agreement(kind, which, peer)
        for label, prompts, count, work in workloads(name, quick, model.config.bos_token_id):
            rows = np.array(prompts, dtype=np.int32)
            with peer.context(len(rows), rows.shape[1] + count) as context:
                mine = ours(which, prompts, count)
                other = partial(exhaust, context, rows, count)
                yield Case(f"{name} {kind} {label} in llama.cpp", mine, other, "llama.cpp", "tokens/s", work=work)
        peer.close()


def exhaust(context: llama_cpp_peer.LlamaCpp, rows: NDArray[np.int32], new_tokens: int) -> None:
    """Generate for all rows at once."""
    for _ in context.logits(rows, new_tokens):
        pass


def small(quick: bool) -> Iterator[Case]:
    """About 70 million parameters."""
    return cases("S", quick)


def medium(quick: bool) -> Iterator[Case]:
    """About a billion parameters; not in the quick run."""
    return iter(()) if quick else cases("M", quick)


def small_in_llama_cpp(quick: bool) -> Iterator[Case]:
    """The small one against llama.cpp."""
    return llama_cpp_cases("S", quick)


def medium_in_llama_cpp(quick: bool) -> Iterator[Case]:
    """The medium one against llama.cpp; not in the quick run."""
    return iter(()) if quick else llama_cpp_cases("M", quick)


if __name__ == "__main__":
    main("engine", [small, medium, small_in_llama_cpp, medium_in_llama_cpp])
