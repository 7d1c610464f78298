"""Decode at fixed shapes computes what decode at the shapes of the moment does."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from engine_helpers import assert_is_greedy, greedy, run_core, tiny_model, tokens_of

from k25.engine import EngineConfig, decode_graphs
from k25.engine.core import EngineCore

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")

REQUESTS = [greedy(str(number), [number + 1, 2, 3], max_tokens=20 + 9 * number) for number in range(5)]


class CountedSteps(decode_graphs.DecodeGraphs):
    shapes: list[tuple[int, int]]

    def decode(self, embeddings_TD, positions_T, blocks):
        scores_TV, chosen = super().decode(embeddings_TD, positions_T, blocks)
        self.shapes = list(self._steps)
        return scores_TV, chosen


def test_few_shapes_serve_all_steps():
    core = EngineCore(tiny_model(), EngineConfig(block_size=4, cache_tokens=400, fixed_shapes=True))
    core.runner._graphs.__class__ = CountedSteps
    events = run_core(core, REQUESTS)
    assert core.runner._graphs.shapes == [(8, 16), (4, 16), (2, 16), (1, 16)]
    for request in REQUESTS:
        assert_is_greedy(core.model, request, events[request.request_id])


def test_contexts_too_large_to_pad_are_left_to_the_ordinary_step(monkeypatch):
    monkeypatch.setattr(decode_graphs, "_MOST_CONTEXT_TOKENS", 16)
    core = EngineCore(tiny_model(), EngineConfig(block_size=4, cache_tokens=400, fixed_shapes=True))
    core.runner._graphs.__class__ = CountedSteps
    events = run_core(core, REQUESTS)
    assert not hasattr(core.runner._graphs, "shapes")
    assert_is_greedy(core.model, REQUESTS[0], events["0"])


def test_expert_choices_are_those_of_the_ordinary_step():
    chosen = []
    for fixed in (False, True):
        config = EngineConfig(block_size=4, cache_tokens=400, fixed_shapes=fixed, record_experts=True)
        events = run_core(EngineCore(tiny_model(), config), REQUESTS)
        chosen.append([np.sort(events[request.request_id][-1].experts, axis=-1) for request in REQUESTS])
    for ordinary, padded in zip(*chosen, strict=True):
        np.testing.assert_array_equal(ordinary, padded)


def test_a_device_that_records_nothing_decodes_all_the_same(caplog):
    core = EngineCore(tiny_model(), EngineConfig(block_size=4, cache_tokens=400, fixed_shapes=True))

    def refuse(*_):
        raise decode_graphs.RecordingError("out of memory")

    core.runner._graphs.decode = refuse
    with caplog.at_level(logging.WARNING):
        events = run_core(core, REQUESTS)
    assert [record.message for record in caplog.records] == ["decoding goes on without CUDA graphs: out of memory"]
    assert_is_greedy(core.model, REQUESTS[0], events["0"])


@needs_gpu
def test_replayed_graphs_give_the_tokens_of_single_kernels_before_and_after_new_weights():
    new = tiny_model(1, torch.bfloat16).state_dict()
    outputs = []
    for fixed in (False, True):
        model = tiny_model(dtype=torch.bfloat16).cuda()
        core = EngineCore(model, EngineConfig(block_size=4, cache_tokens=400, fixed_shapes=fixed))
        before = run_core(core, REQUESTS)
        core.update_weights(new.items(), None)
        renamed = [dataclasses.replace(request, request_id=f"{request.request_id} again") for request in REQUESTS]
        after = run_core(core, renamed)
        outputs.append([tokens_of(events) for events in (*before.values(), *after.values())])
    agreeing = [a == b for a, b in zip(*outputs, strict=True)]
    # Rounding may turn a token over where two score alike.
    assert sum(agreeing) >= len(agreeing) - 2
