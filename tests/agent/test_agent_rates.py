"""Calls and tokens per minute: of one provider and of all together, on a clock that only the tests move."""

import asyncio
import heapq
import random
from contextlib import suppress

import pytest
from agent_helpers import RawServer, complete, delta, plain, sse

from k25.agent import AdaptiveLimit, Endpoint, HttpModelClient, ModelRequest, Pace, Patience, RateLimit
from k25.agent.context import estimate_tokens
from k25.agent.model import Usage
from k25.agent.rates import Clock
from k25.errors import InputError

HELLO = [{"role": "user", "content": "Hello"}]


class FakeTime:
    """A clock that stands still until it is moved; sleepers wake in the order of their times."""

    def __init__(self):
        self.seconds = 1_000.0
        self.sleepers = []
        self.clock = Clock(lambda: self.seconds, self.sleep)

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (self.seconds + seconds, id(woken), woken))
        await woken

    async def pass_by(self, seconds):
        end = self.seconds + seconds
        await settled()
        while self.sleepers and self.sleepers[0][0] <= end:
            self.seconds, _, woken = heapq.heappop(self.sleepers)
            if not woken.done():
                woken.set_result(None)
            await settled()
        self.seconds = end
        await settled()


async def settled():
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(50):
        await asyncio.sleep(0)


class Calls:
    """Calls that begin when pace and limit let them, and end when they are told to."""

    def __init__(self, time):
        self.time = time
        self.began = []
        self.tasks = {}
        self.ends = {}

    def ask(self, name, pace, limit=None, tokens=0):
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._call(name, pace, limit or AdaptiveLimit(100), tokens))

    async def _call(self, name, pace, limit, tokens):
        async with pace.slot(limit, tokens) as charges:
            self.began.append((name, self.time.seconds - 1_000))
            await self.ends[name].wait()
        return charges

    async def end(self, name, usage=None):
        self.ends[name].set()
        for charge in await self.tasks[name]:
            charge.correct(usage or Usage())

    async def stop(self):
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def on_a_fake_clock(scenario):
    """Runs a coroutine function of (time, calls); what it returns."""

    async def run():
        time = FakeTime()
        calls = Calls(time)
        try:
            return await scenario(time, calls)
        finally:
            await calls.stop()

    return complete(run())


def test_calls_beyond_the_rate_begin_when_the_earlier_ones_are_a_minute_old():
    async def scenario(time, calls):
        pace = Pace(RateLimit(calls=2, clock=time.clock))
        calls.ask("a", pace)
        await time.pass_by(10)
        for name in "bcde":
            calls.ask(name, pace)
        await time.pass_by(200)
        return calls.began

    assert on_a_fake_clock(scenario) == [("a", 0), ("b", 10), ("c", 60), ("d", 70), ("e", 120)]


def test_no_window_of_a_minute_holds_more_calls_than_the_rate_whenever_they_come():
    chance = random.Random(1)

    async def scenario(time, calls):
        pace = Pace(RateLimit(calls=7, clock=time.clock))
        for number in range(60):
            calls.ask(number, pace)
            await time.pass_by(chance.choice([0, 0.5, 3, 30]))
        await time.pass_by(600)
        return calls.began

    began = on_a_fake_clock(scenario)
    assert [name for name, _ in began] == list(range(60))
    times = [moment for _, moment in began]
    assert all(later - earlier >= 60 - 1e-6 for earlier, later in zip(times, times[7:], strict=False))
    # And the rate is used: from the first wait on, whoever waits begins as soon as the window allows.
    assert sum(abs(later - earlier - 60) < 1e-6 for earlier, later in zip(times, times[7:], strict=False)) > 10


def test_a_call_that_waits_for_its_minute_holds_no_slot():
    async def scenario(time, calls):
        pace, limit = Pace(RateLimit(calls=1, clock=time.clock)), AdaptiveLimit(2)
        for name in "abc":
            calls.ask(name, pace, limit)
        await time.pass_by(30)
        return calls.began, limit.in_flight

    assert on_a_fake_clock(scenario) == ([("a", 0)], 1)


def test_the_minute_counts_from_when_a_call_begins_not_from_when_it_came():
    async def scenario(time, calls):
        pace, limit = Pace(RateLimit(calls=1, clock=time.clock)), AdaptiveLimit(1)
        calls.ask("a", pace, limit)
        calls.ask("b", pace, limit)
        await time.pass_by(100)
        assert calls.began == [("a", 0)]
        await calls.end("a")
        await settled()
        calls.ask("c", pace, limit)
        await calls.end("b")
        await time.pass_by(100)
        return calls.began

    assert on_a_fake_clock(scenario) == [("a", 0), ("b", 100), ("c", 160)]


def test_a_call_that_waits_can_be_cancelled_and_the_next_takes_its_turn():
    async def scenario(time, calls):
        pace, limit = Pace(RateLimit(calls=1, clock=time.clock)), AdaptiveLimit(5)
        for name in "abcd":
            calls.ask(name, pace, limit)
        await time.pass_by(30)
        for name in "bc":  # the head of the line, which waits for the clock, and one behind it
            calls.tasks[name].cancel()
            with suppress(asyncio.CancelledError):
                await calls.tasks[name]
        await time.pass_by(30)
        return calls.began, limit.in_flight

    assert on_a_fake_clock(scenario) == ([("a", 0), ("d", 60)], 2)


def test_one_provider_that_waits_does_not_delay_another():
    async def scenario(time, calls):
        total = RateLimit(calls=100, clock=time.clock)
        slow = Pace(RateLimit(calls=1, clock=time.clock), total)
        fast = Pace(RateLimit(calls=50, clock=time.clock), total)
        for number in range(20):
            calls.ask(f"slow {number}", slow)
            calls.ask(f"fast {number}", fast)
        await time.pass_by(1)
        return [name for name, _ in calls.began]

    began = on_a_fake_clock(scenario)
    assert began.count("slow 0") == 1
    assert sorted(began) == sorted(["slow 0", *(f"fast {number}" for number in range(20))])


def test_the_rate_of_all_together_holds_across_providers_and_both_get_their_share():
    async def scenario(time, calls):
        total = RateLimit(calls=4, clock=time.clock)
        for provider in ("x", "y"):
            pace = Pace(RateLimit(calls=3, clock=time.clock), total)
            for number in range(8):
                calls.ask(f"{provider}{number}", pace)
        await time.pass_by(59)
        first = [name for name, _ in calls.began]
        await time.pass_by(200)
        return first, calls.began

    first, began = on_a_fake_clock(scenario)
    assert len(first) == 4
    assert {name[0] for name in first} == {"x", "y"}
    times = [moment for _, moment in began]
    assert len(began) == 16
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[4:], strict=False))


def test_prompts_that_exceed_the_tokens_of_a_minute_wait():
    async def scenario(time, calls):
        pace = Pace(RateLimit(tokens=1_000, clock=time.clock))
        for name, tokens in (("a", 600), ("b", 300), ("c", 300), ("d", 50)):
            calls.ask(name, pace, tokens=tokens)
            await time.pass_by(5)
        await time.pass_by(100)
        return calls.began

    # d would have found room at once, but c came before it.
    assert on_a_fake_clock(scenario) == [("a", 0), ("b", 5), ("c", 60), ("d", 60)]


def test_what_the_model_wrote_counts_from_when_it_is_known():
    async def scenario(time, calls):
        pace = Pace(RateLimit(tokens=1_000, clock=time.clock))
        calls.ask("a", pace, tokens=100)
        await time.pass_by(40)
        await calls.end("a", Usage(100, 900))
        calls.ask("b", pace, tokens=200)
        await time.pass_by(100)
        return calls.began

    # The prompt of a is forgotten at 60, which leaves 100 beside what it wrote; that is forgotten at 100.
    assert on_a_fake_clock(scenario) == [("a", 0), ("b", 100)]


@pytest.mark.parametrize(("real", "begins"), [(100, 10), (900, 60)])
def test_the_estimate_of_a_prompt_gives_way_to_what_the_server_counts(real, begins):
    async def scenario(time, calls):
        pace = Pace(RateLimit(tokens=1_000, clock=time.clock))
        calls.ask("a", pace, tokens=500)
        await time.pass_by(10)
        await calls.end("a", Usage(real, 0))
        calls.ask("b", pace, tokens=600)
        await time.pass_by(100)
        return calls.began

    assert on_a_fake_clock(scenario) == [("a", 0), ("b", begins)]


def test_a_call_that_outlives_its_minute_leaves_no_error_in_the_sum():
    async def scenario(time, calls):
        pace = Pace(RateLimit(tokens=1_000, clock=time.clock))
        for name in "ab":
            calls.ask(name, pace, tokens=500)
        await time.pass_by(90)
        for name in "ab":
            await calls.end(name, Usage(900, 100))
        await time.pass_by(60)
        calls.ask("c", pace, tokens=1_000)
        await time.pass_by(1)
        return calls.began[2:]

    assert on_a_fake_clock(scenario) == [("c", 150)]


def test_a_prompt_larger_than_the_limit_begins_once_nothing_else_counts():
    async def scenario(time, calls):
        pace = Pace(RateLimit(tokens=1_000, clock=time.clock))
        calls.ask("small", pace, tokens=1)
        await time.pass_by(10)
        calls.ask("huge", pace, tokens=5_000)
        await time.pass_by(100)
        return calls.began

    assert on_a_fake_clock(scenario) == [("small", 0), ("huge", 60)]


def test_without_rates_nothing_but_the_slots_is_waited_for():
    async def scenario(time, calls):
        pace, limit = Pace(), AdaptiveLimit(3)
        for number in range(5):
            calls.ask(number, pace, limit, tokens=10**9)
        await settled()
        return [name for name, _ in calls.began]

    assert on_a_fake_clock(scenario) == [0, 1, 2]


@pytest.mark.parametrize("limits", [{"calls": 0}, {"tokens": 0}, {"calls": -3}])
def test_a_rate_below_one_is_a_wrong_input(limits):
    with pytest.raises(InputError, match="per minute: must be at least 1"):
        RateLimit(**limits)


def rate_after_a_failed_and_a_good_attempt(**limits):
    """The rate that a client was held to whose server first failed and then counted 40 and 60 tokens."""
    usage = {"prompt_tokens": 40, "completion_tokens": 60}
    answered = sse(delta(content="Hi"), delta("stop"), {"choices": [], "usage": usage})

    async def scenario(time, _):
        async with RawServer(plain(500, "{}"), answered).running() as server:
            rate = RateLimit(**limits, clock=time.clock)
            endpoint = Endpoint(server.url, "m", patience=Patience(first_wait=0.001))
            async with HttpModelClient(endpoint, pace=Pace(rate)) as client:
                assert (await client.complete(ModelRequest(HELLO))).content == "Hi"
            return rate

    return on_a_fake_clock(scenario)


@pytest.mark.parametrize(("calls", "wait"), [(2, 60), (3, 0)])
def test_every_attempt_of_the_client_counts_as_a_call(calls, wait):
    assert rate_after_a_failed_and_a_good_attempt(calls=calls).wait(0) == wait


def test_the_client_charges_what_the_server_counted_and_the_estimate_of_a_failed_attempt():
    rate = rate_after_a_failed_and_a_good_attempt(tokens=1_000)
    room = 1_000 - (40 + 60) - estimate_tokens(HELLO)
    assert (rate.wait(room), rate.wait(room + 1)) == (0, 60)
