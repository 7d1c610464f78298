"""Packed attention against a naive softmax per segment."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from k25.model.packed_attention import Segments, _max_logits_in_blocks, max_attention_logits, packed_attention

SCALE = 0.2


def naive(query, key, value, causal):
    """One segment (L, H, N) with the queries at the end of the keys."""
    scores = torch.einsum("qhn,khn->hqk", query, key) * SCALE
    if causal:
        hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(len(key) - len(query) + 1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("hqk,khv->qhv", scores.softmax(-1), value)


def random_inputs(queries, keys, dtype=torch.float64):
    generator = torch.Generator().manual_seed(queries * 1000 + keys)
    shapes = [(queries, 3, 24), (keys, 3, 24), (keys, 3, 16)]
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "lengths", [[1], [5, 1, 300, 7], [64, 64, 64], [129, 129, 2, 2], [9, 10, 10, 12], [3, 4, 90, 99, 5]]
)
def test_every_segment_attends_as_if_alone(lengths, causal):
    segments = Segments.from_lengths(lengths)
    inputs = random_inputs(sum(lengths), sum(lengths))
    ours = packed_attention(*inputs, segments, scale=SCALE, causal=causal)
    parts = zip(*(tensor.split(lengths) for tensor in inputs), strict=True)
    reference = torch.cat([naive(*part, causal) for part in parts])
    torch.testing.assert_close(ours, reference)

    grad = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(reference, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_short_segments_of_different_lengths_are_one_call_of_the_kernel():
    lengths = [9, 9, 10, 12, 13]
    query, key, value = (part.detach().float() for part in random_inputs(sum(lengths), sum(lengths)))
    with torch.profiler.profile() as profiled:
        packed_attention(query, key, value, Segments.from_lengths(lengths), scale=SCALE, causal=True)
    assert sum("flash_attention_for_cpu" in event.name for event in profiled.events()) == 1


def test_the_largest_logits_of_padded_segments_are_those_of_real_pairs():
    lengths = [9, 9, 10, 12, 13]
    query, key, _ = (part.detach() for part in random_inputs(sum(lengths), sum(lengths)))
    measured = max_attention_logits(query, key, Segments.from_lengths(lengths), SCALE)
    naive_logits = [
        (torch.einsum("qhn,khn->hqk", q, k) * SCALE).masked_fill(
            torch.ones(len(q), len(q)).triu(1).bool(), float("-inf")
        )
        for q, k in zip(query.split(lengths), key.split(lengths), strict=True)
    ]
    torch.testing.assert_close(measured, torch.stack([one.amax((1, 2)) for one in naive_logits]).amax(0).float())


def test_new_tokens_see_their_whole_cached_context():
    new, context = [3, 1, 0, 4], [10, 6, 5, 4]
    query, key, value = random_inputs(sum(new), sum(context))
    ours = packed_attention(
        query,
        key,
        value,
        Segments.from_lengths(new),
        scale=SCALE,
        causal=True,
        key_segments=Segments.from_lengths(context),
    )
    parts = zip(query.split(new), key.split(context), value.split(context), strict=True)
    torch.testing.assert_close(ours, torch.cat([naive(*part, True) for part in parts]))


@pytest.mark.parametrize("causal", [True, False])
def test_the_formula_for_devices_without_a_flash_kernel_is_the_same_attention(causal, monkeypatch):
    lengths = [5, 130, 130]
    segments = Segments.from_lengths(lengths)
    inputs = random_inputs(sum(lengths), sum(lengths), torch.float32)
    grad = torch.randn(sum(lengths), 3, 16)

    def attention_and_gradients():
        out = packed_attention(*inputs, segments, scale=SCALE, causal=causal)
        return out, *torch.autograd.grad(out, inputs, grad)

    by_kernel = attention_and_gradients()
    monkeypatch.setattr("k25.model.packed_attention._has_flash_kernel", lambda _: False)
    for formula, kernel in zip(attention_and_gradients(), by_kernel, strict=True):
        torch.testing.assert_close(formula, kernel)


def test_measured_maximum_is_the_largest_visible_logit_of_each_head():
    lengths = [3, 300, 1]
    query, key, _ = random_inputs(sum(lengths), sum(lengths), torch.float32)
    measured = max_attention_logits(query, key, Segments.from_lengths(lengths), SCALE)
    largest = []
    for q, k in zip(query.split(lengths), key.split(lengths), strict=True):
        scores = torch.einsum("qhn,khn->hqk", q, k) * SCALE
        visible = torch.ones_like(scores[0], dtype=torch.bool).tril()
        largest.append(scores.masked_fill(~visible, float("-inf")).amax((1, 2)))
    torch.testing.assert_close(measured, torch.stack(largest).amax(0))


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_measuring_logits_never_holds_the_score_matrix():
    length, heads = 3000, 2
    query = torch.randn(length, heads, 16)
    segments = Segments.from_lengths([length])
    with LargestTensor() as largest:
        _max_logits_in_blocks(query, query, segments.cu_seqlens, SCALE)
    assert 0 < largest.elements <= 256 * length * heads < length * length * heads


def test_positions_restart_in_every_segment():
    assert Segments.from_lengths([3, 0, 1, 2]).positions().tolist() == [0, 1, 2, 0, 0, 1]
