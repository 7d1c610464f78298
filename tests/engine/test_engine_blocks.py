"""Block bookkeeping under random use, and what stays behind after heavy use."""

import random

import pytest
import torch
from engine_helpers import greedy, image, run_core, with_images
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from k25.engine import EngineConfig, GenerationRequest, SamplingParameters
from k25.engine.blocks import BlockPool
from k25.engine.core import EngineCore
from k25.engine.vision_cache import VisionCache

BLOCKS = 6


class PoolUse(RuleBasedStateMachine):
    """Holders take, share, register and give back blocks; a plain model counts along."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(BLOCKS)
        self.holders: list[list[int]] = []
        self.contents: dict[int, bytes] = {}
        self.keys = 0

    @precondition(lambda self: self.pool.available)
    @rule(extend=st.booleans())
    def take(self, extend):
        block = self.pool.allocate()
        assert all(block not in holder for holder in self.holders)
        self.contents.pop(block, None)
        if extend and self.holders:
            self.holders[-1].append(block)
        else:
            self.holders.append([block])

    @precondition(lambda self: self.holders)
    @rule(pick=st.randoms())
    def register(self, pick):
        block = pick.choice(pick.choice(self.holders))
        if block not in self.contents:
            self.keys += 1
            self.contents[block] = b"%d" % self.keys
        self.pool.register(block, self.contents[block])

    @precondition(lambda self: self.contents)
    @rule(pick=st.randoms())
    def share(self, pick):
        block, key = pick.choice(sorted(self.contents.items()))
        found = self.pool.find(key)
        if found is not None:
            assert found == block
            self.pool.share(block)
            self.holders.append([block])

    @precondition(lambda self: self.holders)
    @rule(pick=st.randoms())
    def give_back(self, pick):
        self.pool.release(self.holders.pop(pick.randrange(len(self.holders))))

    @rule()
    def forget(self):
        self.pool.forget()
        self.contents.clear()

    @invariant()
    def every_block_is_held_or_available(self):
        held = {block for holder in self.holders for block in holder}
        assert self.pool.available == BLOCKS - len(held)
        findable = {block for block, key in self.contents.items() if self.pool.find(key) == block}
        assert self.pool.reusable == len(findable - held)


PoolUse.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolUse = PoolUse.TestCase


def test_the_least_recently_used_block_goes_first_and_ends_before_beginnings():
    pool = BlockPool(4)
    old, new = [pool.allocate(), pool.allocate()], [pool.allocate(), pool.allocate()]
    for name, block in zip((b"o1", b"o2", b"n1", b"n2"), old + new, strict=True):
        pool.register(block, name)
    pool.release(old)
    pool.release(new)
    assert [pool.allocate() for _ in range(4)] == [old[1], old[0], new[1], new[0]]
    assert pool.evictions == 4


def test_eviction_makes_room_and_later_requests_still_come_out_right(model):
    core = EngineCore(model, EngineConfig(block_size=4, cache_tokens=64))
    first = run_core(core, [greedy("x", list(range(20)))])["x"]
    for start in range(1, 12):
        run_core(core, [greedy("y", [start] * 30)])
    assert core.metrics().evictions > 0
    again = run_core(core, [greedy("x", list(range(20)))])["x"]
    assert [e.token_id for e in again] == [e.token_id for e in first]


@pytest.mark.slow
def test_thousands_of_tiny_requests_leave_nothing_behind(model):
    core = EngineCore(model, EngineConfig(block_size=4, cache_tokens=256, max_running=32, vision_cache_bytes=2000))
    pick = random.Random(0)
    requests = []
    for number in range(3000):
        media = [image(pick.randrange(50), (1, 2, 2))] if number % 10 == 0 else []
        tokens = with_images([pick.randrange(20) for _ in range(pick.randrange(1, 9))], media)
        sampling = SamplingParameters(max_tokens=pick.randrange(1, 4), repetition_penalty=1.1)
        requests.append(GenerationRequest(str(number), tokens, media, sampling))
    for start in range(0, len(requests), 100):
        batch = requests[start : start + 100]
        for request in batch:
            core.add(request)
        for request in batch[::7]:
            core.cancel(request.request_id)
        while core.has_work:
            core.step()
    metrics = core.metrics()
    assert (metrics.running, metrics.waiting, metrics.blocks_used) == (0, 0, 0)
    assert sum(metrics.finished.values()) == 3000
    assert core.vision.used <= 2000
    assert core.runner.cache.latents.shape[1] == 256


def test_a_long_prompt_does_not_hold_up_short_ones(model):
    core = EngineCore(model, EngineConfig(block_size=4, prefill_chunk_tokens=16))
    core.add(greedy("long", [n % 20 for n in range(240)], max_tokens=2))
    core.step()
    core.add(greedy("short", [1, 2, 3, 4, 5], max_tokens=2))
    order = []
    while core.has_work:
        order += [name for name, _ in core.step()]
    assert order[0] == "short"


def test_vision_features_are_kept_within_their_limit_most_recent_last():
    cache = VisionCache(limit=3 * 400)
    for number in range(4):
        cache.put(b"%d" % number, torch.zeros(10, 10))
        cache.get(b"0")
    assert cache.get(b"0") is not None
    assert cache.get(b"1") is None
    assert cache.used == 1200
    cache.put(b"large", torch.zeros(1000, 10))
    assert cache.get(b"large") is None
