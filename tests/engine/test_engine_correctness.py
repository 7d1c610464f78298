"""What the engine says does not depend on how it computes it."""

import dataclasses

import pytest
import torch
from engine_helpers import (
    GRIDS,
    assert_is_greedy,
    full_forward_logprobs,
    generate,
    greedy,
    image,
    run_core,
    tiny_model,
    tokens_of,
    with_images,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k25.engine import EngineConfig, GenerationRequest, SamplingParameters
from k25.engine.core import EngineCore
from k25.errors import InputError

text = st.lists(st.integers(0, 20), min_size=1, max_size=40)


@st.composite
def crowds(draw):
    """Requests that share beginnings and images, and an engine that is short of everything."""
    shared = draw(st.lists(st.integers(0, 20), max_size=40))
    requests = []
    for number in range(draw(st.integers(1, 5))):
        images = [
            image(*draw(st.tuples(st.integers(0, 1), st.sampled_from(GRIDS)))) for _ in range(draw(st.integers(0, 2)))
        ]
        tokens = (shared if draw(st.booleans()) else []) + with_images(draw(text), images)
        requests.append(greedy(str(number), tokens, media=images, max_tokens=draw(st.integers(1, 12))))
    block_size = draw(st.sampled_from([1, 3, 4, 16]))
    longest = max(len(r.token_ids) + r.sampling.max_tokens for r in requests)
    config = EngineConfig(
        block_size=block_size,
        cache_tokens=longest + block_size + draw(st.integers(0, 100)),
        max_running=draw(st.integers(1, 5)),
        prefill_chunk_tokens=draw(st.sampled_from([1, 2, 5, 17, 64])),
        prefix_reuse=draw(st.booleans()),
        vision_cache_bytes=draw(st.sampled_from([0, 10**6])),
        fixed_shapes=draw(st.booleans()),
    )
    return requests, config


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crowds())
def test_greedy_output_equals_a_full_forward_pass_however_it_is_scheduled(model, crowd):
    requests, config = crowd
    core = EngineCore(model, config)
    for attempt in range(2):  # the second time, the cache is warm
        events = run_core(core, requests)
        for request in requests:
            assert len(events[request.request_id]) == request.sampling.max_tokens
            assert_is_greedy(model, request, events[request.request_id])
        assert core.metrics().blocks_used == 0, attempt


def test_scarce_blocks_cause_preemption_and_nobody_notices(model):
    requests = [greedy(str(n), [n + 1, 2, 3, 4], max_tokens=40) for n in range(4)]
    core = EngineCore(model, EngineConfig(block_size=4, cache_tokens=80))
    events = run_core(core, requests)
    assert core.metrics().preemptions > 0
    for request in requests:
        assert_is_greedy(model, request, events[request.request_id])


def test_a_repeated_prompt_with_an_image_is_found_in_the_cache(model):
    item = image(3, (1, 4, 4))
    tokens = with_images(list(range(20)), [item])
    core = EngineCore(model, EngineConfig(block_size=4))
    first = run_core(core, [greedy("a", tokens, media=[item])])["a"]
    second = run_core(core, [greedy("b", tokens, media=[item])])["b"]
    assert (first[0].cached_tokens, second[0].cached_tokens) == (0, 24)
    assert (first[0].prompt_tokens, second[0].prompt_tokens) == (25, 25)
    assert tokens_of(first) == tokens_of(second)
    assert core.metrics().vision_items == 1


def test_another_image_at_the_same_place_is_not_found_in_the_cache(model):
    core = EngineCore(model, EngineConfig(block_size=4))
    for number, found in ((1, 0), (2, 8)):  # only the text before the image is shared
        item = image(number, (1, 4, 4))
        tokens = with_images(list(range(8)), [item])
        request = greedy(str(number), tokens, media=[item])
        events = run_core(core, [request])[str(number)]
        assert events[0].cached_tokens == found
        assert_is_greedy(model, request, events)


def test_simultaneous_requests_with_one_beginning_compute_it_once(model):
    prompt = [n % 20 for n in range(64)]
    requests = [greedy(str(n), [*prompt, n], max_tokens=4) for n in range(6)]
    core = EngineCore(model, EngineConfig(block_size=16, prefill_chunk_tokens=512))
    events = run_core(core, requests)
    assert sorted(e[0].cached_tokens for e in events.values()) == [0, 64, 64, 64, 64, 64]
    for request in requests:
        assert_is_greedy(model, request, events[request.request_id])


def test_an_image_seen_again_after_other_text_is_encoded_once(model):
    item = image(3, (1, 4, 4))
    core = EngineCore(model, EngineConfig())
    for start in ([1], [2]):
        run_core(core, [greedy("x", with_images(start, [item]), media=[item])])
    assert (core.metrics().vision_items, core.metrics().vision_hits) == (1, 1)


def test_logprobs_of_a_sampled_output_equal_a_training_pass(model):
    item = image(5, (2, 2, 4))
    sampling = SamplingParameters(temperature=1.7, top_p=0.9, max_tokens=30, seed=4, top_logprobs=3, min_p=0.01)
    request = GenerationRequest("x", with_images([1, 2, 3], [item]), [item], sampling)
    events = generate(model, [request])["x"]
    expected = full_forward_logprobs(model, [*request.token_ids, *tokens_of(events)], request.media)
    for row, event in zip(expected[len(request.token_ids) - 1 : -1], events, strict=True):
        assert abs(event.logprob - row[event.token_id]) < 1e-4
        values = torch.tensor([logprob for _, logprob in event.top_logprobs])
        torch.testing.assert_close(values, row.topk(3).values, atol=1e-4, rtol=0)
        assert [token for token, _ in event.top_logprobs] == row.topk(3).indices.tolist()


def test_a_seed_gives_the_same_output_alone_and_in_a_crowd(model):
    def sampled(name, seed):
        return GenerationRequest(name, [1, 2, 3, int(name)], (), SamplingParameters(seed=seed, max_tokens=20, top_k=50))

    alone = tokens_of(generate(model, [sampled("7", 11)])["7"])
    crowd = [sampled(str(n), n + 4) for n in range(10)]
    together = generate(model, crowd, prefill_chunk_tokens=3, block_size=4, cache_tokens=90)
    assert tokens_of(together["7"]) == alone
    assert len({tuple(tokens_of(events)) for events in together.values()}) == 10


def test_requests_without_a_seed_differ(model):
    requests = [GenerationRequest(str(n), [1, 2], (), SamplingParameters(max_tokens=20)) for n in range(2)]
    events = generate(model, requests)
    assert tokens_of(events["0"]) != tokens_of(events["1"])


def test_a_model_without_query_latent_and_without_vision_runs():
    plain = tiny_model(vision=False, query_rank=None)
    request = greedy("x", [5, 6, 7])
    assert_is_greedy(plain, request, generate(plain, [request])["x"])


def test_a_stop_token_ends_the_request_and_is_reported(model):
    request = greedy("x", [1, 2, 3], max_tokens=10)
    free = tokens_of(generate(model, [request])["x"])
    stop = free[4]
    stopped = dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, stop_token_ids={stop}))
    events = generate(model, [stopped])["x"]
    assert tokens_of(events) == free[: free.index(stop) + 1]
    assert events[-1].finish_reason == "stop"


def test_min_tokens_holds_stop_tokens_back(model):
    sampling = SamplingParameters(seed=1, min_tokens=15, max_tokens=40, stop_token_ids=frozenset(range(100)))
    events = generate(model, [GenerationRequest("x", [1], (), sampling)])["x"]
    assert all(event.token_id >= 100 for event in events[:15])


def test_the_context_limit_ends_a_request_with_length(model):
    events = generate(model, [greedy("x", [1] * 250, max_tokens=None)])["x"]
    assert (len(events), events[-1].finish_reason) == (6, "length")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": []}, "empty"),
        ({"token_ids": [1, 160]}, "outside the vocabulary"),
        ({"token_ids": [-1]}, "outside the vocabulary"),
        ({"token_ids": [1] * 256}, "context holds 256"),
        ({"token_ids": [150, 150]}, "2 media placeholders for 0"),
        ({"media": (image(1, (1, 2, 2)),)}, "0 media placeholders for 1"),
        ({"token_ids": [150, 1, 150], "media": (image(1, (1, 4, 2)),)}, "do not follow each other"),
        ({"token_ids": [150], "media": (dataclasses.replace(image(1, (1, 2, 2)), grid=(1, 3, 2)),)}, "grid"),
        (
            {"token_ids": [150], "media": (dataclasses.replace(image(1, (1, 4, 2)), grid=(1, 2, 2)),)},
            "patches of shape",
        ),
        ({"sampling": SamplingParameters(logit_bias={999: 1.0})}, "logit_bias"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_by_name(model, change, message):
    request = dataclasses.replace(greedy("x", [1, 2]), **change)
    with pytest.raises(InputError, match=message):
        EngineCore(model, EngineConfig()).check(request)


def test_media_that_fail_end_their_own_request_only(model, monkeypatch):
    def fail(patches, grids):
        raise RuntimeError("out of memory in the tower")

    monkeypatch.setattr(model, "vision_features", fail)
    item = image(1, (1, 2, 2))
    good, bad = greedy("good", [1, 2, 3]), greedy("bad", with_images([1], [item]), media=[item])
    core = EngineCore(model, EngineConfig())
    events = run_core(core, [good, bad])
    assert_is_greedy(model, good, events["good"])
    assert [(e.finish_reason, e.error) for e in events["bad"]] == [
        ("error", "the request failed: out of memory in the tower")
    ]
    assert core.metrics().blocks_used == 0


def test_scores_that_are_not_numbers_end_the_request_with_an_error():
    broken = tiny_model()
    with torch.no_grad():
        broken.decoder.norm.weight.fill_(float("nan"))
    events = generate(broken, [greedy("x", [1])])["x"]
    assert [event.finish_reason for event in events] == ["error"]
