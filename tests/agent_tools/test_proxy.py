"""The browser's way out, spoken to directly: passwords, refusals, one request per connection, tunnels."""

import asyncio
import base64

import pytest
from world_made_here import world

from k25.agent.tools import AddressPolicy
from k25.agent.tools.proxy import CheckedProxy


def exchange(request, password=None):
    """What the proxy answers to raw bytes, and what reached the private site."""

    async def run():
        async with world() as made:
            proxy = CheckedProxy(AddressPolicy((made.site_address,)))
            port = await proxy.start()
            key = base64.b64encode(f"{proxy.USER}:{password or proxy.password}".encode()).decode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            text = request.format(
                site=made.site, address=made.site_address, private=made.private, port=made.private_port
            )
            writer.write(text.replace("\n", "\r\n").replace("KEY", f"Proxy-Authorization: Basic {key}").encode())
            answer = await asyncio.wait_for(reader.read(), 120)
            writer.close()
            await proxy.close()
            return answer.decode(), made.reached

    return asyncio.run(run())


def test_a_request_is_passed_on():
    answer, _ = exchange("GET {site}/second HTTP/1.1\nHost: x\nKEY\n\n")
    assert answer.startswith("HTTP/1.1 200")
    assert "Here is the second page." in answer


def test_a_tunnel_is_made_and_carries_both_ways():
    answer, _ = exchange("CONNECT {address} HTTP/1.1\nKEY\n\nGET /second HTTP/1.1\nHost: x\nConnection: close\n\n")
    assert answer.startswith("HTTP/1.1 200 Connection established")
    assert "Here is the second page." in answer


def test_strangers_are_refused():
    answer, _ = exchange("GET {site}/second HTTP/1.1\nHost: x\nKEY\n\n", password="guessed")
    assert answer.startswith("HTTP/1.1 407")
    assert exchange("CONNECT {address} HTTP/1.1\n\n")[0].startswith("HTTP/1.1 407")


@pytest.mark.parametrize(
    "request_line",
    [
        "GET {private}/x",
        "CONNECT 127.0.0.1:{port}",
        "CONNECT localhost:{port}",
        "CONNECT [::ffff:127.0.0.1]:{port}",
        "GET ftp://127.0.0.1/",
        "GET file:///etc/passwd",
        "CONNECT 169.254.169.254:80",
    ],
)
def test_private_addresses_are_refused(request_line):
    answer, reached = exchange(request_line + " HTTP/1.1\nHost: x\nKEY\n\n")
    assert answer.startswith("HTTP/1.1 403")
    assert reached == []


def test_a_second_request_on_the_connection_is_not_passed_on():
    request = "GET {site}/second HTTP/1.1\nHost: x\nKEY\n\n"
    answer, reached = exchange(request + "GET {private}/smuggled HTTP/1.1\nHost: x\nKEY\n\n")
    assert answer.count("HTTP/1.1") == 1
    assert reached == []


@pytest.mark.parametrize("request_text", ["nonsense\n\n", "GET\n\n", "CONNECT x:y HTTP/1.1\nKEY\n\n", "\n\n"])
def test_malformed_requests_only_end_their_connection(request_text):
    answer, _ = exchange(request_text)
    assert "200" not in answer
