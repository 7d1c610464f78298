"""The engine tells which experts every token went to, however it came by the token's latents."""

import json

import numpy as np
import pytest
import torch
from engine_helpers import generate, greedy, image, run_core, tiny_model, tokens_of, with_images

from k25 import kernels
from k25.engine import EngineConfig, choices_from_json, choices_to_json, extended
from k25.engine.core import EngineCore
from k25.model import Segments, StreamKeys

RECORDED = EngineConfig(block_size=4, record_experts=True)


@torch.no_grad()
def chosen_by_a_full_forward(model, tokens, media):
    """Sorted experts (T, M, K) of one uncached training pass over the whole sequence."""
    features = None
    if media:
        features = model.vision_features(torch.cat([item.patches for item in media]), [item.grid for item in media])
    segments = Segments.from_lengths([len(tokens)])
    output = model(torch.tensor(tokens), segments.positions(), StreamKeys(segments), features)
    return torch.stack(output.chosen, dim=1).sort().values.numpy()


def assert_chosen(model, request, events):
    assert all(event.experts is None for event in events[:-1])
    read = [*request.token_ids, *tokens_of(events)][:-1]
    expected = chosen_by_a_full_forward(model, read, request.media)
    assert events[-1].experts.dtype == np.int16
    np.testing.assert_array_equal(np.sort(events[-1].experts), expected)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_choices_of_prompt_pictures_and_output_are_those_of_a_full_forward_pass(model, chunk):
    item = image(3, (1, 4, 4))
    requests = [greedy(str(n), with_images([n, *range(n, 20)], [item]), media=[item]) for n in range(3)]
    core = EngineCore(model, EngineConfig(block_size=4, prefill_chunk_tokens=chunk, record_experts=True))
    events = run_core(core, requests)
    for request in requests:
        assert_chosen(model, request, events[request.request_id])


def test_a_beginning_found_in_the_cache_brings_its_choices_along(model):
    core = EngineCore(model, RECORDED)
    first = greedy("first", list(range(20)), max_tokens=10)
    said = tokens_of(run_core(core, [first])["first"])
    again = greedy("again", [*first.token_ids, *said, 3, 4], max_tokens=10)
    events = run_core(core, [again])["again"]
    assert events[0].cached_tokens == 28
    assert_chosen(model, again, events)


def test_a_request_that_gave_way_and_was_computed_again_leaves_nothing_out(model):
    requests = [greedy(str(n), [n + 1, 2, 3, 4], max_tokens=40) for n in range(4)]
    core = EngineCore(model, EngineConfig(block_size=4, cache_tokens=80, record_experts=True))
    events = run_core(core, requests)
    assert core.metrics().preemptions > 0
    for request in requests:
        assert_chosen(model, request, events[request.request_id])


@pytest.mark.skipif(kernels.available().variant == "torch", reason="the compiled kernels are not here")
def test_decode_from_packed_weights_records_what_the_packed_router_chose():
    model = tiny_model(dtype=torch.bfloat16, vision=False)
    request = greedy("x", list(range(30)), max_tokens=60)
    events = generate(model, [request], record_experts=True)["x"]
    read = [*request.token_ids, *tokens_of(events)][:-1]
    expected = chosen_by_a_full_forward(model.float(), read, ())
    # Rounding can choose another expert where two score alike; random choices would agree in 1 of 15.
    agree = (np.sort(events[-1].experts) == expected).all(-1)
    assert agree.shape == (89, 2)
    assert agree.mean() > 0.9


def test_nothing_is_told_unless_asked_for(model):
    assert all(event.experts is None for event in generate(model, [greedy("x", [1, 2])])["x"])


def test_choices_survive_json_and_the_first_recording_of_a_token_counts():
    first, later = np.full((3, 2, 2), 383, np.int16), np.arange(20, dtype=np.int16).reshape(5, 2, 2)
    np.testing.assert_array_equal(choices_from_json(json.loads(json.dumps(choices_to_json(later)))), later)
    np.testing.assert_array_equal(extended(first, later), np.concatenate((first, later[3:])))
    np.testing.assert_array_equal(extended(None, later), later)
    np.testing.assert_array_equal(extended(later, first), later)
