"""Decode attention over paged latents, against float64."""

import pytest
import torch
from agreement import BF16_ROUNDING, rounds_activations

from k25 import kernels


def _case(generator, heads, width, page_size, lengths, dtype):
    pages = [-(-length // page_size) for length in lengths]
    order = torch.randperm(sum(pages) + 3, generator=generator).to(torch.int32)
    cache = torch.randn(len(order), page_size, width, generator=generator).to(dtype)
    tables = torch.full((len(lengths), max(pages) + 1), 2**30, dtype=torch.int32)  # never read past the context
    for row, count in enumerate(pages):
        tables[row, :count], order = order[:count], order[count:]
    query = torch.randn(len(lengths), heads, width, generator=generator).to(dtype)
    return query, cache, tables, torch.tensor(lengths, dtype=torch.int32)


def _exact(query, cache, tables, lengths, values, scale):
    out, magnitude = torch.zeros(2, *query.shape[:2], values, dtype=torch.float64)
    for token, length in enumerate(lengths.tolist()):
        slots = [(int(tables[token, at // cache.shape[1]]), at % cache.shape[1]) for at in range(length)]
        rows = (
            torch.stack([cache[page, slot] for page, slot in slots]).double()
            if slots
            else torch.zeros(0, cache.shape[2])
        )
        weights = (query[token].double() @ rows.double().T * scale).softmax(-1)
        out[token], magnitude[token] = weights @ rows[:, :values].double(), weights @ rows[:, :values].double().abs()
    return out, magnitude


CASES = [
    (1, 16, 16, 1, [1]),
    (4, 80, 64, 16, [1, 17, 64, 65]),
    (8, 160, 128, 64, [300, 3]),
    (5, 72, 56, 7, [63, 129, 20]),
    (16, 576, 512, 32, [200]),
    (20, 24, 8, 16, [128, 5]),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("heads", "width", "values", "page_size", "lengths"), CASES)
def test_attention_over_pages_equals_the_exact_softmax(
    variant, generator, heads, width, values, page_size, lengths, dtype
):
    query, cache, tables, lengths_T = _case(generator, heads, width, page_size, lengths, dtype)
    scale = 2 * width**-0.5
    result = kernels.latent_attention(query, cache, tables, lengths_T, values, scale)
    exact, magnitude = _exact(query, cache, tables, lengths_T, values, scale)
    # In bf16 the weights and the result are rounded; torch rounds the scores as well: an error of score * 2**-8 in the
    # exponent moves a weight by that factor.
    largest_score = 8 if variant == "torch" else 0
    bound = (1e-5 if dtype == torch.float32 else (2 + 2 * largest_score) * BF16_ROUNDING) * magnitude
    assert result.dtype == dtype
    assert ((result.double() - exact).abs() <= bound + 1e-6).all()


def test_a_float32_query_reads_a_bf16_cache(variant, generator):
    query, cache, tables, lengths = _case(generator, 4, 80, 16, [33, 90], torch.bfloat16)
    exact, magnitude = _exact(query, cache, tables, lengths, 64, 0.1)
    result = kernels.latent_attention(query.float(), cache, tables, lengths, 64, 0.1)
    # The scores are at most about 6: rounding the query moves a weight by that many roundings; weights are rounded too.
    bound = 13 * BF16_ROUNDING if rounds_activations(variant) else 1e-5
    assert ((result.double() - exact).abs() <= bound * magnitude + 1e-6).all()


def test_large_scores_neither_overflow_nor_vanish(variant, generator):
    query, cache, tables, lengths = _case(generator, 4, 32, 16, [150], torch.float32)
    result = kernels.latent_attention(query * 1000, cache, tables, lengths, 16, 1.0)
    exact, _ = _exact(query * 1000, cache, tables, lengths, 16, 1.0)
    assert torch.allclose(result.double(), exact, atol=1e-3)


def test_an_empty_context_gives_zeros(variant, generator):
    query, cache, tables, lengths = _case(generator, 4, 32, 16, [4, 0], torch.bfloat16)
    assert kernels.latent_attention(query, cache, tables, lengths, 16, 1.0)[1].eq(0).all()


def test_a_sequence_has_the_same_bits_alone_and_in_a_crowd(variant, generator):
    query, cache, tables, lengths = _case(generator, 8, 80, 16, [5, 300, 64, 129, 1, 17], torch.bfloat16)
    together = kernels.latent_attention(query, cache, tables, lengths, 64, 0.1)
    for row in range(6):
        one = slice(row, row + 1)
        assert torch.equal(
            kernels.latent_attention(query[one], cache, tables[one], lengths[one], 64, 0.1)[0], together[row]
        )


def test_a_page_outside_the_cache_is_an_error_not_a_stray_read(variant, generator):
    if variant == "torch":
        pytest.skip("torch's indexing has its own error")
    query, cache, tables, lengths = _case(generator, 4, 32, 16, [20], torch.bfloat16)
    tables[0, 1] = len(cache)
    with pytest.raises(RuntimeError, match="outside the cache"):
        kernels.latent_attention(query, cache, tables, lengths, 16, 1.0)
    with pytest.raises(RuntimeError, match="shorter"):
        kernels.latent_attention(query, cache, tables, lengths + 1000, 16, 1.0)
