"""The HTTP that model calls speak: every form of an answer, every way in which a connection can end."""

import asyncio
import base64
import gc
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest
from agent_helpers import complete

from k25.agent.http_answer import AnswerParser, HttpError
from k25.agent.http_client import HttpClient
from k25.errors import InputError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH_2 = HEAD + b"Content-Length: 2\r\n\r\nhi"


def parsed(data, cut=1 << 30):
    parser = AnswerParser()
    body = b""
    for begin in range(0, len(data), cut):
        parser.feed(data[begin : begin + cut])
        body += parser.take()
    return parser, body


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 11, 1000])
def test_a_chunked_answer_is_the_same_however_it_is_cut(cut):
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    data = interim + CHUNKED + b"5;name=x\r\nhello\r\nB\r\n\r\n, world\r\n\r\n0\r\nX-Sum: 7\r\n\r\n"
    parser, body = parsed(data, cut)
    assert (parser.status, parser.headers["content-type"]) == (200, "text/plain")
    assert (body, parser.finished, parser.reusable) == (b"hello\r\n, world\r\n", True, True)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_an_answer_of_known_length_ends_there(cut):
    parser, body = parsed(LENGTH_2, cut)
    assert (body, parser.finished, parser.reusable) == (b"hi", True, True)


def test_an_answer_without_length_ends_with_the_connection():
    parser, body = parsed(HEAD + b"\r\nhi")
    assert (body, parser.finished) == (b"hi", False)
    parser.end()
    assert (parser.finished, parser.reusable) == (True, False)


def test_an_answer_without_content_is_complete_at_once():
    parser, body = parsed(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (parser.status, body, parser.finished, parser.reusable) == (204, b"", True, True)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
        LENGTH_2 + b"more",
        CHUNKED + b"0\r\n\r\nmore",
    ],
    ids=["old version", "announced", "more than its length", "more after the last chunk"],
)
def test_a_connection_that_cannot_go_on_is_not_used_again(data):
    parser, _ = parsed(data)
    assert (parser.finished, parser.reusable) == (True, False)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Encoding: br\r\n\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"1\r\nab\r\n",
        CHUNKED + b"1" * 5_000,
        CHUNKED + b"0\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(HttpError):
        parsed(data)


@pytest.mark.parametrize("data", [b"", HEAD, CHUNKED + b"5\r\nhel", HEAD + b"Content-Length: 5\r\n\r\nhel"])
def test_an_answer_that_breaks_off_is_no_answer(data):
    parser, _ = parsed(data)
    with pytest.raises(HttpError, match="closed the connection"):
        parser.end()


class Server:
    """Answers request n of connection c with `answers[c][n]`; where there is none, it closes the connection."""

    def __init__(self, *answers):
        self.answers = answers
        self.requests = []
        self.connections = 0
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def client(self, *, user="", host="127.0.0.1", headers=None, tls=None):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        url = f"http{'s' if tls else ''}://{user}{host}:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
        client = HttpClient(url, headers or {}, 10.0)
        try:
            yield client
        finally:
            await client.close()
            server.close()

    async def _serve(self, reader, writer):
        answers = self.answers[min(self.connections, len(self.answers) - 1)]
        self.connections += 1
        try:
            for answer in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
                self.requests.append(head + await reader.readexactly(int(length[16:])))
                writer.write(answer)
            if not answers or answers[-1]:
                await reader.readuntil(b"\r\n\r\n")
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.closed.set()
            writer.close()


async def asked(client, body=b"{}"):
    with await client.post(body) as answer:
        return answer.status, await answer.read_all(1 << 30)


def test_calls_one_after_another_share_a_connection():
    async def run():
        server = Server([LENGTH_2] * 3)
        async with server.client() as client:
            assert [await asked(client) for _ in range(3)] == [(200, b"hi")] * 3
        return server.connections

    assert complete(run()) == 1


def test_calls_at_the_same_time_have_connections_of_their_own():
    async def run():
        server = Server([LENGTH_2] * 3)
        async with server.client() as client:
            assert await asyncio.gather(*(asked(client) for _ in range(5))) == [(200, b"hi")] * 5
        return server.connections

    assert complete(run()) == 5


def test_a_kept_connection_that_the_server_closes_is_replaced_at_once():
    async def run():
        server = Server([LENGTH_2], [LENGTH_2])
        async with server.client() as client:
            assert [await asked(client) for _ in range(2)] == [(200, b"hi")] * 2
        return server.connections

    assert complete(run()) == 2


def test_a_new_connection_that_the_server_closes_is_an_error():
    async def run():
        async with Server([]).client() as client:
            await asked(client)

    with pytest.raises(HttpError, match=r"closed the connection|connection broke"):
        complete(run())


def test_an_answer_larger_than_what_may_wait_arrives_whole():
    body = bytes(range(256)) * 20_000

    async def run():
        async with Server([HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body]).client() as client:
            with await client.post(b"{}") as answer:
                await asyncio.sleep(0.05)  # nobody reads: the server has to wait
                return await answer.read_all(1 << 30)

    assert complete(run()) == body


def test_a_call_that_is_cut_off_closes_its_connection():
    async def run():
        server = Server([b""])
        async with server.client() as client:
            call = asyncio.create_task(asked(client))
            while not server.requests:
                await asyncio.sleep(0.001)
            call.cancel()
            await asyncio.wait_for(server.closed.wait(), 10)

    complete(run())


def test_the_request_says_what_it_has_to():
    async def run():
        server = Server([LENGTH_2])
        async with server.client(user="anna:%40b@", headers={"Accept": "text/event-stream"}) as client:
            await asked(client, b'{"a": 1}')
        return server.requests[0].decode().partition("\r\n\r\n")

    head, _, body = complete(run())
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert (first, body) == ("POST /v1/chat/completions HTTP/1.1", '{"a": 1}')
    assert headers["Host"].startswith("127.0.0.1:")
    assert (headers["Accept"], headers["Accept-Encoding"]) == ("text/event-stream", "identity")
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"anna:@b"


@pytest.mark.parametrize("value", ["two\r\nlines", "schlüssel"])
def test_a_header_that_cannot_be_sent_is_refused_by_name(value):
    with pytest.raises(InputError, match="Authorization"):
        HttpClient("http://127.0.0.1:1/", {"Authorization": f"Bearer {value}"}, 1.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    made = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *made]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


def test_calls_over_tls_work_and_share_a_connection(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))

    async def run():
        server = Server([LENGTH_2] * 2)
        async with server.client(host="localhost", tls=tls_server(certificate)) as client:
            assert [await asked(client) for _ in range(2)] == [(200, b"hi")] * 2
        return server.connections

    assert complete(run()) == 1


def test_a_certificate_that_nobody_vouches_for_ends_all_attempts(certificate):
    async def run():
        async with Server([LENGTH_2]).client(host="localhost", tls=tls_server(certificate)) as client:
            await asked(client)

    with pytest.raises(HttpError, match="certificate of localhost") as refused:
        complete(run())
    assert not refused.value.again


def test_nothing_is_left_open_without_a_call(recwarn):
    async def run():
        async with Server([LENGTH_2] * 2).client() as client:
            await asyncio.gather(*(asked(client) for _ in range(3)))

    complete(run())
    gc.collect()
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]
