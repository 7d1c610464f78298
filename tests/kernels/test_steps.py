"""The small decode steps against the model's own modules and float64."""

import pytest
import torch

from k25 import kernels
from k25.errors import InputError
from k25.model.config import TextConfig
from k25.model.mixture import Router
from k25.model.normalisation import RMSNorm
from k25.model.presets import preset
from k25.model.rotary import rotary_table, rotate


def _norm(generator, width):
    norm = RMSNorm(width, 1e-5)
    norm.weight.data.uniform_(0.5, 2, generator=generator)
    return norm.requires_grad_(False)


@pytest.mark.parametrize(("tokens", "width"), [(1, 16), (3, 100), (64, 512), (2, 7), (0, 32)])
def test_the_norm_is_the_models_norm(variant, generator, tokens, width):
    norm, x = _norm(generator, width), torch.randn(tokens, width + 5, generator=generator)[:, :width]
    torch.testing.assert_close(kernels.rms_norm(x, norm.weight, norm.eps), norm(x))


def test_the_residual_is_added_in_place_before_the_norm(variant, generator):
    norm, (x, delta) = _norm(generator, 48), torch.randn(2, 5, 48, generator=generator)
    total = x + delta
    torch.testing.assert_close(kernels.add_rms_norm(x, delta, norm.weight, norm.eps), norm(total))
    assert torch.equal(x, total)


@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_routing_is_the_models_router(variant, generator, tokens):
    router = Router(preset("nano").text).requires_grad_(False)
    router.weight.normal_(generator=generator)
    router.selection_bias.normal_(generator=generator)
    x = torch.randn(tokens, router.weight.shape[1], generator=generator)
    weights, experts = kernels.route(
        x @ router.weight.T, router.selection_bias, router.experts_per_token, router.scaling_factor
    )
    expected_weights, expected_experts, _ = router(x)
    dense, expected = torch.zeros(2, tokens, len(router.weight))
    torch.testing.assert_close(
        dense.scatter(1, experts, weights), expected.scatter(1, expected_experts, expected_weights)
    )


def test_routing_a_row_that_is_not_a_number_still_names_experts(variant):
    _, experts = kernels.route(torch.full((1, 8), float("nan")), torch.zeros(8), 3, 1.0)
    assert experts.unique().numel() == 3
    assert 0 <= int(experts.min()) <= int(experts.max()) < 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_queries_are_rotated_and_new_tokens_cached_as_the_model_does(variant, generator, dtype):
    config: TextConfig = preset("nano").text
    heads, rank, turned = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
    norm, rotations = _norm(generator, rank), rotary_table(config, torch.tensor([3, 0, 77]))
    query = torch.randn(3, heads, config.qk_nope_head_dim + turned, generator=generator)
    latent = torch.randn(3, 8 + rank + turned, generator=generator)[:, 8:]
    up = kernels.PackedHeads.from_bf16(
        torch.randn(heads, rank, config.qk_nope_head_dim, generator=generator).bfloat16()
    )
    absorbed, cache = up(query[..., :-turned], spare=turned), torch.zeros(9, rank + turned, dtype=dtype)
    kernels.rotate_and_store(absorbed, query, latent, norm.weight, norm.eps, rotations, cache, torch.tensor([4, 8, 1]))
    torch.testing.assert_close(absorbed[..., rank:], rotate(query[..., -turned:], rotations))
    assert torch.equal(absorbed[..., :rank], up(query[..., :-turned]))
    rows = torch.cat((norm(latent[:, :rank]), rotate(latent[:, rank:], rotations)), dim=-1)
    torch.testing.assert_close(cache[[4, 8, 1]].float(), rows.to(dtype).float(), rtol=2**-7, atol=1e-6)
    assert cache[[0, 2, 3, 5, 6, 7]].eq(0).all()


def test_a_slot_outside_the_cache_is_an_error_not_a_stray_write(variant, generator):
    absorbed, query, latent = torch.zeros(1, 1, 24), torch.zeros(1, 1, 16), torch.zeros(1, 24)
    rotations, cache = torch.ones(1, 4, dtype=torch.complex64), torch.zeros(4, 24)
    with pytest.raises((RuntimeError, IndexError)):
        kernels.rotate_and_store(absorbed, query, latent, torch.ones(16), 1e-5, rotations, cache, torch.tensor([4]))


@pytest.mark.parametrize("width", [1, 15, 16, 1000, 4096])
def test_the_best_score_is_the_first_of_the_largest(variant, generator, width):
    scores = torch.randint(-50, 50, (5, width), generator=generator).float()
    scores[3] = float("-inf")
    columns, values = kernels.best(scores)
    assert torch.equal(values, scores.amax(-1))
    assert columns.tolist() == [row.index(max(row)) for row in scores.tolist()]


def test_a_row_with_a_score_that_is_not_a_number_has_no_best_score(variant):
    for place in (0, 20, 32):
        scores = torch.zeros(2, 33)
        scores[1, place] = float("nan")
        assert kernels.best(scores)[1].isnan().tolist() == [False, True]


@pytest.mark.parametrize("width", [1, 15, 1000, 4097])
def test_the_log_of_the_sum_of_exponentials_is_that_of_float64(variant, generator, width):
    scores = 40 * torch.randn(6, width, generator=generator)
    scores[4, width // 2], scores[5] = 300, scores[5] - 1e4
    expected = scores.double().logsumexp(-1)
    torch.testing.assert_close(kernels.log_sum_exp(scores).double(), expected, rtol=1e-6, atol=1e-5)


def test_memory_from_one_chunk_does_not_overlap(variant):
    parts = [kernels.empty((number, 3), torch.bfloat16).fill_(number) for number in range(1, 40)]
    assert all(bool((part == number).all()) for number, part in enumerate(parts, 1))


def test_a_variant_that_does_not_run_here_is_refused():
    with pytest.raises(InputError, match="'sse9' does not run here; choose one of"), kernels.use("sse9"):
        pass
