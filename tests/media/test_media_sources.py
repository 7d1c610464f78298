"""Files, data URLs, and the guard around http(s)."""

import base64
import ipaddress
import os
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from media_made_here import encoded, noise

from k25.addresses import is_public
from k25.errors import InputError
from k25.media import MediaLimits, RemotePolicy, open_bytes, open_path, open_url
from k25.media.remote import fetch
from k25.media.sources import sniff

PNG = encoded(noise(12, 9), "PNG")
BASE64 = base64.b64encode(PNG).decode()
LOOPBACK = RemotePolicy(seconds=5.0, allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),))


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"data:image/png;base64, {BASE64}",
        f"  data:image/png;base64,{BASE64}\n",
        f"data:image/.png;base64,{BASE64}",
        f"data:video/mp4;base64,{BASE64}",
        f"DATA:;BASE64,{BASE64}",
        "data:image/png;base64," + "\r\n".join(BASE64[n : n + 76] for n in range(0, len(BASE64), 76)),
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        "data:image/png;base64," + BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ],
)
def test_data_urls_as_clients_write_them(url):
    source = open_url(url)
    assert (source.data, source.format.name) == (PNG, "png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,iVBO*w0K", "base64 is malformed"),
        ("data:image/png;base64,iVBOR", "base64 is malformed"),
        ("data:text/plain;base64,aGVsbG8=", "no image or video"),
        ("ms://file-1", "no data, http or https URL"),
        ("file:///etc/passwd", "no data, http or https URL"),
        ("/etc/passwd", "no data, http or https URL"),
        ("", "no data, http or https URL"),
        ("http://example.com/a.png", "fetching from the network is off"),
    ],
)
def test_other_urls_are_errors(url, message):
    with pytest.raises(InputError, match=message):
        open_url(url)


def test_an_error_names_a_data_url_without_its_content():
    with pytest.raises(InputError) as caught:
        open_url("data:image/png;base64," + "QUJD" * 1000)
    assert len(str(caught.value)) < 200


def test_a_large_data_url_is_refused_before_it_is_decoded():
    with pytest.raises(InputError, match="more than the limit of 100"):
        open_url("data:;base64," + "A" * 1000, MediaLimits(max_bytes=100))


def test_files_are_recognised_by_content(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(PNG)
    source = open_path(path)
    assert (source.path, source.format.name) == (path, "png")


def test_wrong_files_are_errors(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "big.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "none.png": "cannot be opened",
        "empty.png": "is empty",
        "text.png": "supported format",
        "pipe.png": "no regular file",
        ".": "Is a directory",
        "a\0b": "no valid file name",
    }.items():
        with pytest.raises(InputError, match=message):
            open_path(tmp_path / name)
    with pytest.raises(InputError, match="more than the limit"):
        open_path(tmp_path / "big.png", MediaLimits(max_bytes=20))


def test_a_strange_file_name_stays_on_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        open_path(tmp_path / "a\nb\x1b[31m.png")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x1cftypqt  ", "mp4"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "mp4"),
        (b"RIFF\0\0\0\0WAVE", None),
        (bytes([0x47]) + bytes(187) + bytes([0x47]) + bytes(187) + bytes([0x47]), "mpeg"),
        (bytes(4) + bytes([0x47]) + bytes(191) + bytes([0x47]) + bytes(191) + bytes([0x47]), "mpeg"),
        (b"GGG hello", None),
        (b"Try skipping this", None),
        (b"#EXTM3U", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_only_listed_containers_are_recognised(head, name):
    found = sniff(head)
    assert (found and found.name) == name


def test_empty_bytes_are_an_error():
    with pytest.raises(InputError, match="upload: is empty"):
        open_bytes(b"", "upload")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0", "169.254.169.254"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_inner_addresses_are_refused_however_they_are_written(monkeypatch, scheme, host):
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("connected"))
    with pytest.raises(InputError, match=r"private network|is unknown"):
        open_url(f"{scheme}://{host}:9/a.png", remote=RemotePolicy())


def test_a_name_with_one_inner_address_is_refused(monkeypatch):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answer)
    with pytest.raises(InputError, match=r"10\.0\.0\.1"):
        open_url("http://example.com/", remote=RemotePolicy())


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    # A name server that says something public first and something private ever after.
    answers, connected = [], []

    def resolve(*_, **__):
        answers.append("93.184.216.34" if not answers else "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[-1], 80))]

    def connect(address, *_):
        connected.append(address)
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(InputError, match="unreachable"):
        open_url("http://rebind.example/", remote=RemotePolicy())
    assert answers == ["93.184.216.34"]
    assert connected == [("93.184.216.34", 80)]


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.png",
        "http://host:99999/",
        "http://[::1/",
        "http://user:secret@host/",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "http://höst/",
        "https://" + "a" * 300 + "/",
    ],
)
def test_malformed_urls_are_errors(url):
    with pytest.raises(InputError) as caught:
        open_url(url, remote=RemotePolicy())
    assert str(caught.value).isprintable()


@contextmanager
def serving(answer):
    """A server on loopback; `answer(handler)` writes the response."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, body, status=200, **headers):
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_an_allowed_server_is_read():
    with serving(lambda handler: send(handler, PNG)) as url:
        assert open_url(f"{url}/a.png?x=1", remote=LOOPBACK).data == PNG


def test_redirects_are_followed_a_few_times():
    def answer(handler):
        number = int(handler.path[1:])
        send(handler, b"", 302, Location=f"/{number - 1}") if number else send(handler, PNG)

    with serving(answer) as url:
        assert fetch(f"{url}/3", LOOPBACK, 10_000) == PNG
        with pytest.raises(InputError, match="more than 3 redirects"):
            fetch(f"{url}/4", LOOPBACK, 10_000)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://10.0.0.1/", "private network"),
        ("http://169.254.169.254/latest/meta-data/", "private network"),
        ("http://[::1]/", "private network"),
        ("file:///etc/passwd", "no http or https URL"),
        ("gopher://host/", "no http or https URL"),
        ("http://user:secret@host/", "credentials"),
    ],
)
def test_redirects_are_checked_like_the_first_url(target, message):
    answer = partial(send, body=b"", status=302, Location=target)
    with serving(answer) as url, pytest.raises(InputError, match=message):
        fetch(url, LOOPBACK, 1000)


def test_an_answer_above_the_size_limit_is_refused():
    answer = partial(send, body=bytes(5000))
    with serving(answer) as url, pytest.raises(InputError, match="larger than the limit of 1000 bytes"):
        fetch(url, LOOPBACK, 1000)


def test_an_endless_answer_is_cut_off():
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(bytes(1000))
        except OSError:
            pass

    with serving(answer) as url, pytest.raises(InputError, match="larger than the limit"):
        fetch(url, LOOPBACK, 50_000)


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_dripping_server_is_cut_off(part):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 1000\r\n\r\n" if part == "body" else b"X: "))
        try:
            for _ in range(100):
                handler.wfile.write(b"a")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    policy = RemotePolicy(seconds=0.3, allowed_networks=LOOPBACK.allowed_networks)
    with serving(answer) as url:
        start = time.monotonic()
        with pytest.raises(InputError, match=r"took longer than 0\.3 s"):
            fetch(url, policy, 10_000)
        assert time.monotonic() - start < 4  # dripping to the end would take 5 s


def test_an_answer_that_ends_early_is_an_error():
    answer = partial(send, body=PNG[:50], **{"Content-Length": "90", "Connection": "close"})
    with serving(answer) as url, pytest.raises(InputError, match="ended 40 bytes early"):
        fetch(url, LOOPBACK, 1000)


@pytest.mark.parametrize("status", [404, 500, 204, 302])
def test_a_failing_server_is_an_error(status):
    with serving(lambda handler: send(handler, b"", status)) as url, pytest.raises(InputError, match=str(status)):
        fetch(url, LOOPBACK, 1000)


def test_a_server_that_speaks_no_http_is_an_error():
    with serving(lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n")) as url:
        with pytest.raises(InputError, match="cannot be fetched"):
            fetch(url, LOOPBACK, 1000)
        with pytest.raises(InputError, match="cannot be fetched"):
            fetch(url.replace("http", "https"), LOOPBACK, 1000)


def test_a_closed_port_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch(f"http://127.0.0.1:{port}/", LOOPBACK, 1000)
