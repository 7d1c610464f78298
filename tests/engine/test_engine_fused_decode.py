"""A decode step in one call computes what its operators compute one by one, to the bit."""

import copy

import pytest
import torch
from engine_helpers import tiny_model
from test_engine_kernels import with_int4_experts

from k25 import kernels
from k25.engine.accelerate import KernelDecoder, RowContexts
from k25.errors import InputError
from k25.model import LatentCache

COMPILED = [
    name for name in ("amx_bf16", "avx512_bf16", "avx512", "avx2", "portable") if name in kernels.available().variants
]
PAGE = 4
# Row by row: pages of its sequence, and its position. Two rows belong to one sequence, as pieces of prompts do.
TABLES = [[7, 2, 5], [1, 0, 0], [7, 2, 5], [3, 6, 0], [8, 0, 0], [4, 9, 10], [11, 12, 13], [14, 0, 0], [15, 16, 17]]
POSITIONS = [9, 0, 10, 5, 3, 11, 8, 2, 7]


def without_shared_experts(model):
    model = copy.deepcopy(model)
    for layer in model.decoder.layers:
        if hasattr(layer.ffn, "shared_experts"):
            layer.ffn.shared_experts = None
    return model


MODELS = {
    "bf16": lambda: tiny_model(dtype=torch.bfloat16, vision=False),
    "int4": lambda: with_int4_experts(tiny_model(dtype=torch.bfloat16, vision=False))[0],
    "uncompressed queries": lambda: tiny_model(dtype=torch.bfloat16, vision=False, query_rank=None),
    "no shared experts": lambda: without_shared_experts(tiny_model(dtype=torch.bfloat16, vision=False)),
}


@pytest.fixture(params=COMPILED or [pytest.param("", marks=pytest.mark.skip("the compiled kernels are not here"))])
def variant(request):
    with kernels.use(request.param):
        yield request.param


def contexts(model, rows, dtype):
    """A cache of random rows, and where the given rows stand in it."""
    cache = LatentCache(model.config.text, 18 * PAGE, dtype)
    cache.latents.normal_(generator=torch.Generator().manual_seed(3))
    tables = torch.tensor(TABLES, dtype=torch.int32)[rows]
    positions = torch.tensor(POSITIONS)[rows]
    slots = tables.gather(1, positions[:, None] // PAGE)[:, 0].long() * PAGE + positions % PAGE
    keys = RowContexts(
        cache=cache, page_size=PAGE, slots_T=slots, tables_TP=tables, lengths_T=(positions + 1).to(torch.int32)
    )
    return keys, positions


def decode(decoder, model, rows, dtype=torch.bfloat16):
    """Scores of all rows, the experts of every mixture layer, and the cache afterwards."""
    keys, positions = contexts(model, rows, dtype)
    embeddings = torch.randn(len(TABLES), 32, generator=torch.Generator().manual_seed(4))[rows]
    scores, chosen = decoder.scores(embeddings, positions, keys, torch.arange(len(rows)))
    return scores, torch.stack(list(chosen)), keys.cache.latents


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_one_call_gives_the_bits_of_its_operators(variant, name, dtype):
    model = MODELS[name]()
    rows = list(range(len(TABLES)))
    fused = decode(KernelDecoder(model.decoder), model, rows, dtype)
    composed = decode(KernelDecoder(model.decoder, fused=False), model, rows, dtype)
    assert all(torch.equal(one, other) for one, other in zip(fused, composed, strict=True))


def test_a_row_has_the_same_bits_alone_and_in_a_crowd(variant):
    model = MODELS["int4"]()
    decoder = KernelDecoder(model.decoder)
    scores, chosen, _ = decode(decoder, model, list(range(len(TABLES))))
    # The third row's sequence has the first row's token in it, so those two come together.
    for rows in ([0], [1], [0, 2], [3], [8, 4, 5]):
        alone, experts, _ = decode(decoder, model, rows)
        assert torch.equal(alone, scores[rows])
        assert torch.equal(experts, chosen[:, rows])


def test_threads_change_nothing(variant):
    model, rows = MODELS["bf16"](), list(range(len(TABLES)))
    decoder, threads = KernelDecoder(model.decoder), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = decode(decoder, model, rows)
        torch.set_num_threads(3)
        shared = [decode(decoder, model, rows) for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for result in shared for one, other in zip(alone, result, strict=True))


def test_only_the_rows_that_are_asked_for_get_scores(variant):
    model, rows = MODELS["bf16"](), list(range(len(TABLES)))
    decoder = KernelDecoder(model.decoder)
    keys, positions = contexts(model, rows, torch.bfloat16)
    embeddings = torch.randn(len(TABLES), 32, generator=torch.Generator().manual_seed(4))
    some, _ = decoder.scores(embeddings, positions, keys, torch.tensor([6, 1]))
    assert torch.equal(some, decode(decoder, model, rows)[0][[6, 1]])


def test_what_lies_outside_the_cache_is_an_error_not_a_stray_write(variant):
    model = MODELS["bf16"]()
    decoder = KernelDecoder(model.decoder)
    keys, positions = contexts(model, [0, 1], torch.bfloat16)
    before = keys.cache.latents.clone()
    embeddings = torch.zeros(2, 32)
    keys.tables_TP[0, 1] = 18
    with pytest.raises(RuntimeError, match="a page outside the cache"):
        decoder.scores(embeddings, positions, keys, torch.arange(2))
    with pytest.raises(RuntimeError, match="outside the context"):
        decoder.scores(embeddings, positions + 250, keys, torch.arange(2))
    with pytest.raises(RuntimeError, match="no such row"):
        decoder.scores(embeddings, positions - positions, keys, torch.tensor([2]))
    assert torch.equal(keys.cache.latents, before)


def test_the_operators_in_torch_come_close(variant):
    model, rows = MODELS["bf16"](), list(range(len(TABLES)))
    scores, _, latents = decode(KernelDecoder(model.decoder), model, rows, torch.float32)
    with kernels.use("torch"):
        expected, _, cached = decode(KernelDecoder(model.decoder, fused=False), model, rows, torch.float32)
    # Scores spread over about 20; a bf16 product keeps two to three digits, and may turn a close choice of experts.
    assert (scores - expected).abs().median() < 0.03
    assert (latents - cached).abs().median() < 0.01


def test_without_the_compiled_kernels_there_is_no_single_call():
    with kernels.use("torch"), pytest.raises(InputError, match="needs the compiled kernels"):
        KernelDecoder(tiny_model(dtype=torch.bfloat16, vision=False).decoder)
