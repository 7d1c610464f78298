"""Decode from packed weights computes what the model computes."""

import copy

import pytest
import torch
from engine_helpers import full_forward_logprobs, greedy, run_core, tiny_model, tokens_of

from k25 import kernels
from k25.engine import EngineConfig
from k25.engine.accelerate import kernel_decoder
from k25.engine.core import EngineCore
from k25.model import int4
from k25.model.experts import PackedExperts
from k25.model.mixture import MixtureOfExperts

needs_kernels = pytest.mark.skipif(kernels.available().variant == "torch", reason="the compiled kernels are not here")


def with_int4_experts(model):
    """The model with quantised experts, and the same model with those experts in bf16."""
    packed, plain = copy.deepcopy(model), copy.deepcopy(model)
    for module, other in zip(packed.modules(), plain.modules(), strict=True):
        if isinstance(module, MixtureOfExperts):
            experts = PackedExperts(6, 32, 32, torch.bfloat16)
            for part in ("gate_up", "down"):
                weight = module.experts.get_parameter(part).detach()
                words, scale = int4.quantise(weight)
                experts.get_buffer(f"{part}_packed").copy_(words)
                experts.get_buffer(f"{part}_scale").copy_(scale)
                other.experts.get_parameter(part).data.copy_(int4.dequantise(words, scale, weight.shape[-1]))
            module.experts = experts
    return packed, plain


def assert_close_to_a_full_forward(model, reference, **config):
    core = EngineCore(model, EngineConfig(block_size=4, cache_tokens=160, **config))
    requests = [greedy(str(n), [n + 1, 5, 9, *range(n)], max_tokens=30) for n in range(6)]
    events = run_core(core, requests)
    differences = []
    for request in requests:
        mine = events[request.request_id]
        tokens = [*request.token_ids, *tokens_of(mine)]
        expected = full_forward_logprobs(reference, tokens, ())[len(request.token_ids) - 1 : -1]
        differences += [abs(event.logprob - row[event.token_id]) for row, event in zip(expected, mine, strict=True)]
    # The scores spread over about 20, and bf16 keeps two to three digits of each product. Where two experts score
    # alike, rounding can choose the other one, so single tokens may be further off.
    differences = torch.tensor(differences)
    assert differences.median() < 0.03
    assert differences.quantile(0.9) < 0.1


@needs_kernels
@pytest.mark.parametrize("query_rank", [24, None])
def test_decode_from_packed_bf16_weights_stays_close_to_float32(query_rank):
    model = tiny_model(dtype=torch.bfloat16, query_rank=query_rank, vision=False)
    assert kernel_decoder(model.decoder) is not None
    assert_close_to_a_full_forward(model, copy.deepcopy(model).float())


@needs_kernels
def test_decode_from_packed_int4_experts_stays_close_to_the_same_experts_in_float32():
    packed, plain = with_int4_experts(tiny_model(dtype=torch.bfloat16, vision=False))
    assert kernel_decoder(packed.decoder) is not None
    assert_close_to_a_full_forward(packed, plain.float())


def test_bf16_and_int4_run_without_kernels_too():
    packed, plain = with_int4_experts(tiny_model(dtype=torch.bfloat16, vision=False))
    assert_close_to_a_full_forward(plain, copy.deepcopy(plain).float(), kernels=False)
    assert_close_to_a_full_forward(packed, copy.deepcopy(plain).float(), kernels=False)


def test_float32_models_are_not_packed():
    assert kernel_decoder(tiny_model().decoder) is None


@needs_kernels
def test_replaced_weights_are_packed_anew():
    old, new = (tiny_model(seed, torch.bfloat16, vision=False) for seed in (0, 1))
    core = EngineCore(old, EngineConfig())
    core.update_weights(new.state_dict().items(), None)
    assert tokens_of(run_core(core, [greedy("x", [1, 2, 3])])["x"]) == tokens_of(
        run_core(EngineCore(new, EngineConfig()), [greedy("x", [1, 2, 3])])["x"]
    )
