"""The served world: pages as they were built, search, counting, and weather that does not depend on timing."""

import asyncio
import hashlib

import aiohttp
import pytest

from k25.errors import InputError
from k25.swarm.bench import Weather, serve_world


def with_client(world, use, weather=None):
    async def run():
        async with serve_world(world, weather) as running, aiohttp.ClientSession(running.url) as client:
            return await asyncio.wait_for(use(client, running), 60)

    return asyncio.run(run())


def test_every_resource_is_served_as_it_was_built(world):
    async def use(client, _):
        for path in world.paths():
            async with client.get(path) as answer:
                assert answer.status == 200, path
                served = world.get(path)
                assert (await answer.read(), answer.headers["Content-Type"]) == (served.body, served.media_type)

    with_client(world, use)


def test_search_answers_urls_that_can_be_fetched(world):
    async def use(client, running):
        async with client.get("/search", params={"q": "Béland airports", "n": "3"}) as answer:
            found = await answer.json()
        assert len(found["results"]) == 3
        for result in found["results"]:
            assert result["url"].startswith(running.url + "/")
            async with client.get(result["url"].removeprefix(running.url)) as page:
                assert page.status == 200
        return found["results"][0]["title"]

    assert "Béland" in with_client(world, use)


@pytest.mark.parametrize("count", ["0", "51", "x", "-1", ""])
def test_a_wrong_number_of_results_is_said(world, count):
    async def use(client, _):
        async with client.get("/search", params={"q": "a", "n": count}) as answer:
            return answer.status, await answer.json()

    status, body = with_client(world, use)
    assert (status, "from 1 to 50" in body["error"]) == (400, True)


def test_what_was_asked_for_is_counted(world):
    async def use(client, running):
        for path in ("/country/AA", "/country/AA", "/country/BB", "/nowhere", "/search?q=x", "/health"):
            async with client.get(path):
                pass
        async with client.get("/statistics") as answer:
            return await answer.json(), running.statistics

    shown, statistics = with_client(world, use)
    assert shown == statistics.as_json()
    assert shown["pages"] == {"/country/AA": 2, "/country/BB": 1}
    assert (shown["searches"], shown["missing"], shown["faults"]) == ({"x": 1}, {"/nowhere": 1}, {})


async def outcomes(client, running):
    """What 200 requests meet, in any order; this client repeats a dropped request once by itself."""

    async def one(index):
        try:
            async with client.get(f"/element/{1 + index % 10}?attempt={index}") as answer:
                return index, answer.status
        except aiohttp.ClientError:
            return index, "dropped"

    return dict(await asyncio.gather(*map(one, range(200)))), dict(running.statistics.faults)


def test_the_same_seed_gives_the_same_faults_whatever_the_timing(world):
    first, second, other = (with_client(world, outcomes, Weather(fault_share=0.3, seed=seed)) for seed in (1, 1, 2))
    assert first == second != other
    statuses, faults = first
    assert {429, 500, 200} <= set(statuses.values())
    assert set(faults) == {"429", "500", "dropped", "slow"}
    assert 30 < sum(faults.values()) < 100


def test_faults_pass_when_a_request_is_repeated(world):
    async def use(client, _):
        for path in ("/element/1", "/country/AA", "/airports"):
            for _ in range(50):
                try:
                    async with client.get(path) as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    continue
            else:
                raise AssertionError(path)

    with_client(world, use, Weather(fault_share=0.5))


def test_latency_is_waited_for(world):
    async def use(client, _):
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with client.get("/element/1"):
            return loop.time() - started

    assert with_client(world, use, Weather(latency=0.2)) >= 0.2


@pytest.mark.parametrize("wrong", [{"latency": -1}, {"jitter": -1}, {"fault_share": 1.5}, {"fault_share": -0.1}])
def test_impossible_weather_is_a_wrong_input(wrong):
    with pytest.raises(InputError):
        Weather(**wrong)


def test_weather_is_spread_over_its_kinds():
    weather = Weather(latency=1, jitter=1, fault_share=1)
    kinds = [weather.of(hashlib.md5(bytes([index])).hexdigest(), 1) for index in range(200)]
    assert {fault for _, fault in kinds} == {"429", "500", "dropped", "slow"}
    assert all((20 if fault == "slow" else 1) <= wait <= (40 if fault == "slow" else 2) for wait, fault in kinds)


def test_a_port_in_use_is_a_wrong_input(world):
    async def use(_, running):
        async with serve_world(world, port=int(running.url.rpartition(":")[2])):
            pass

    with pytest.raises(InputError, match="choose another one"):
        with_client(world, use)
