"""The models of the command line: which of them share limits and rates."""

import asyncio

import pytest
from swarm_server import scripted_server

from k25.agent import ModelRequest
from k25.cli.swarm_models import ModelClients, ModelOptions, asked_models
from k25.errors import InputError
from k25.swarm.scripted import says

REQUEST = ModelRequest([{"role": "user", "content": "Hello"}])
SCRIPTS = {"m": lambda _: says("hi")}


def held_back(options, answered, *others):
    """Begin calls ("main" or "sub") in this order, and wait for the first ones; whether all others wait meanwhile."""

    async def run():
        clients = ModelClients(asked_models(options))
        async with clients.main() as main, clients.sub() as sub:
            both = {"main": main, "sub": sub}
            free = [asyncio.create_task(both[whose].complete(REQUEST)) for whose in answered]
            waiting = [asyncio.create_task(both[whose].complete(REQUEST)) for whose in others]
            await asyncio.wait_for(asyncio.gather(*free), 240)
            still = not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return still

    return asyncio.run(run())


def test_two_models_of_one_server_share_its_rate():
    with scripted_server(SCRIPTS) as (url, received):
        options = ModelOptions("m", url, calls_per_minute=1, sub_base_url=f"{url}/v1")
        assert held_back(options, ["main"], "sub", "main")
    assert len(received) == 1


def test_servers_have_rates_of_their_own():
    with scripted_server(SCRIPTS) as (url, _), scripted_server(SCRIPTS) as (other, received):
        options = ModelOptions("m", url, sub_base_url=other, calls_per_minute=1, sub_calls_per_minute=2)
        assert held_back(options, ["main", "sub", "sub"], "main", "sub")
    assert len(received) == 2


def test_the_total_rate_is_shared_by_all_servers():
    with scripted_server(SCRIPTS) as (url, _), scripted_server(SCRIPTS) as (other, received):
        options = ModelOptions("m", url, sub_base_url=other, total_calls_per_minute=2)
        assert held_back(options, ["main", "main"], "sub")
    assert not received


def test_tokens_of_a_minute_hold_calls_back():
    with scripted_server(SCRIPTS) as (url, received):
        assert held_back(ModelOptions("m", url, tokens_per_minute=5), ["main"], "main", "sub")
    assert len(received) == 1


def test_a_setup_that_was_recorded_before_there_were_rates_has_none():
    with scripted_server(SCRIPTS) as (url, _):
        setup = asked_models(ModelOptions("m", url))
        del setup["rates"]

        async def run():
            async with ModelClients(setup).main() as client:
                return [(await client.complete(REQUEST)).content for _ in range(3)]

        assert asyncio.run(run()) == ["hi"] * 3


def test_rates_of_a_sub_agents_server_need_that_server():
    with pytest.raises(InputError, match="--sub-base-url"):
        asked_models(ModelOptions("m", sub_base_url="https://API.moonshot.ai/v1", sub_tokens_per_minute=5))
