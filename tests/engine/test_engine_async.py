"""The asynchronous face: streams, cancellation, weights that change under way, a full queue."""

import asyncio
import gc
import time

import pytest
import torch
from engine_helpers import assert_is_greedy, generate, greedy, run, tiny_model, tokens_of

from k25.engine import Engine, EngineConfig, GenerationRequest, QueueFull, SamplingParameters
from k25.errors import InputError


async def collect(engine, request):
    return [event async for event in engine.generate(request)]


def endless(name):
    return GenerationRequest(name, [1, 2, 3], (), SamplingParameters(seed=0))


async def until(condition):
    """Wait for what the worker thread is about to do."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


def test_requests_from_many_tasks_run_together(model):
    async def scenario():
        async with Engine(model, EngineConfig(block_size=4)) as engine:
            requests = [greedy(str(n), [n + 1, 2, 3]) for n in range(20)]
            everything = await asyncio.gather(*(collect(engine, request) for request in requests))
            for request, events in zip(requests, everything, strict=True):
                assert_is_greedy(model, request, events)
            metrics = engine.metrics()
            assert metrics.generated_tokens == 160
            assert metrics.steps < 80
            assert metrics.finished == {"length": 20}

    run(scenario())


def test_closing_a_stream_frees_its_blocks_before_it_returns(model):
    async def scenario():
        async with Engine(model, EngineConfig(block_size=4, prefix_reuse=False)) as engine:
            stream = engine.generate(endless("x"))
            await anext(stream)
            await stream.aclose()
            assert engine._core.scheduler.pool.available == engine.metrics().blocks_total
            assert not engine._core.has_work
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(scenario())


def test_dropping_a_stream_ends_its_request(model):
    async def scenario():
        async with Engine(model) as engine:
            stream = engine.generate(endless("x"))
            await anext(stream)
            del stream
            gc.collect()
            await until(lambda: engine.metrics().finished.get("cancelled") == 1)
            assert engine.metrics().blocks_used == 0

    run(scenario())


def test_a_task_that_is_cancelled_takes_its_request_along(model):
    async def scenario():
        async with Engine(model) as engine:
            task = asyncio.create_task(collect(engine, endless("x")))
            await until(lambda: engine.metrics().generated_tokens > 3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task
            await until(lambda: engine.metrics().running == 0)

    run(scenario())


def test_who_stops_waiting_for_new_weights_does_not_stop_the_engine(model):
    async def go():
        async with Engine(model) as engine:
            # The engine's thread cannot look into its inbox until the waiting task is gone.
            with engine._wake:
                waiting = asyncio.create_task(engine.update_weights([], version=7))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            assert await engine.update_weights([]) == 8

    run(go())


def test_who_stops_waiting_while_a_stream_closes_leaves_its_place_free(model):
    async def go():
        async with Engine(model) as engine:
            stream = engine.generate(endless("x"))
            await anext(stream)
            with engine._wake:
                closing = asyncio.create_task(stream.aclose())
                await asyncio.sleep(0)
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)
            await until(lambda: not engine._queues)

    run(go())


def test_cancelling_by_name_ends_the_stream_with_that_reason(model):
    async def scenario():
        async with Engine(model) as engine:
            stream = engine.generate(endless("x"))
            await anext(stream)
            assert await engine.cancel("x")
            events = [event async for event in stream]
            assert events[-1].finish_reason == "cancelled"
            assert not await engine.cancel("x")

    run(scenario())


def test_leaving_the_engine_ends_open_streams(model):
    async def scenario():
        async with Engine(model) as engine:
            stream = engine.generate(endless("x"))
            await anext(stream)
        events = [event async for event in stream]
        assert events[-1].finish_reason == "cancelled"
        with pytest.raises(RuntimeError, match="not running"):
            engine.generate(endless("y"))

    run(scenario())


def test_a_full_queue_refuses_with_a_hint(model):
    async def scenario():
        async with Engine(model, EngineConfig(max_running=2, max_waiting=1)) as engine:
            streams = [engine.generate(endless(str(n))) for n in range(3)]
            with pytest.raises(QueueFull) as refused:
                engine.generate(endless("3"))
            assert 1 <= refused.value.retry_after <= 60
            await streams[0].aclose()
            assert len(await collect(engine, greedy("3", [1, 2]))) == 8
            for stream in streams[1:]:
                await stream.aclose()

    run(scenario())


def test_a_name_in_flight_cannot_be_used_twice(model):
    async def scenario():
        async with Engine(model) as engine:
            stream = engine.generate(endless("x"))
            with pytest.raises(InputError, match="x is in flight"):
                engine.generate(endless("x"))
            await stream.aclose()

    run(scenario())


def test_new_weights_take_effect_within_a_request_and_every_token_says_which():
    old, new = tiny_model(0), tiny_model(1)

    async def scenario():
        async with Engine(old, EngineConfig(block_size=4)) as engine:
            stream = engine.generate(greedy("x", list(range(12)), max_tokens=200))
            events = [await anext(stream) for _ in range(5)]
            assert await engine.update_weights(new.state_dict().items()) == 1
            events += [event async for event in stream]
            versions = [event.policy_version for event in events]
            assert versions == sorted(versions)
            assert set(versions) == {0, 1}
            assert len(events) == 200
            # What the old weights left in the cache is not used by the new ones.
            request = greedy("y", list(range(12)))
            after = await collect(engine, request)
            assert after[0].cached_tokens == 0
            assert_is_greedy(new, request, after)
            assert (await collect(engine, greedy("z", list(range(12)))))[0].cached_tokens == 8
            assert await engine.update_weights([], version=7) == 7

    run(scenario())


def test_weights_that_do_not_fit_change_nothing():
    mine = tiny_model()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    good = ("decoder.norm.weight", torch.zeros(32))

    async def scenario():
        async with Engine(mine) as engine:
            with pytest.raises(InputError, match="no weight named nonsense"):
                await engine.update_weights([good, ("nonsense", torch.zeros(1))])
            with pytest.raises(InputError, match=r"decoder\.norm\.weight has shape"):
                await engine.update_weights([("decoder.norm.weight", torch.zeros(31))])
            assert engine.metrics().policy_version == 0

    run(scenario())
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


def test_the_event_loop_is_not_blocked_while_the_network_runs(model, monkeypatch):
    forward = model.logits

    def slow(hidden):
        time.sleep(0.3)
        return forward(hidden)

    monkeypatch.setattr(model, "logits", slow)

    async def scenario():
        async with Engine(model) as engine:
            task = asyncio.create_task(collect(engine, greedy("x", [1, 2], max_tokens=2)))
            turns = 0
            while not task.done():
                turns += 1
                await asyncio.sleep(0.01)
            assert turns > 20

    run(scenario())


def test_a_failing_step_ends_its_requests_and_the_engine_goes_on(model, monkeypatch):
    forward, calls = model.logits, []

    def failing_once(hidden):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no memory left")
        return forward(hidden)

    monkeypatch.setattr(model, "logits", failing_once)

    async def scenario():
        async with Engine(model) as engine:
            events = await collect(engine, greedy("x", [1, 2, 3]))
            assert (events[-1].finish_reason, events[-1].error) == ("error", "the request failed: no memory left")
            assert tokens_of(await collect(engine, greedy("y", [1, 2, 3]))) == tokens_of(
                generate(model, [greedy("y", [1, 2, 3])])["y"]
            )
            assert engine.metrics().blocks_used == 0

    run(scenario())
