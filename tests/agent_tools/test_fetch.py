"""Reading pages over plain HTTP, and every way in which a page might lead the tool to private addresses."""

import asyncio
import ipaddress
import socket

import pytest
from contexts_made_here import context_in
from world_made_here import SECRET, pdf_bytes, world

from k25.addresses import is_public
from k25.agent import Toolset
from k25.agent.tools import AddressPolicy, fetch_tool
from k25.agent.tools.addresses import RefusedAddressError
from k25.agent.tools.reading import PAGE_CHARACTERS, document, framed, html_document, page_of
from k25.errors import InputError


def fetch(folder, path, allow=True, **arguments):
    """The output of one fetch of `path` on the open site, and what reached the private one."""

    async def run():
        async with world() as made:
            policy = AddressPolicy((made.site_address,) if allow else ())
            url = path.format(site=made.site, private=made.private, port=made.private_port)
            toolset = Toolset("web", [fetch_tool(policy)])
            output = await toolset.call("fetch", {"url": url, **arguments}, context_in(folder))
            return output, made.reached

    return asyncio.run(run())


def test_a_page_is_read_as_text_with_numbered_links(tmp_path):
    output, _ = fetch(tmp_path, "{site}/plain")
    for part in (
        "# Cities & rivers",
        "See the second page [#1] or elsewhere [#2].",
        "City | River\nVienna | Danube",
        "- one\n- two",
        "  kept\n    as is",
        "[#2] https://example.org/x",
    ):
        assert part in output.text
    assert "var x" not in output.text
    assert "color: red" not in output.text


def test_a_long_page_is_read_in_pages_that_lose_nothing(tmp_path):
    text = "\n".join(f"line {number}" for number in range(5000))
    count = page_of(text, 1)[1]
    assert count > 1
    assert "".join(page_of(text, number)[0] for number in range(1, count + 1)) == text
    assert len(page_of("x" * 50_000, 2)[0]) == PAGE_CHARACTERS
    output, _ = fetch(tmp_path, "{site}/long", page=2)
    assert "Page 2 of" in output.text


def test_a_pdf_is_read_as_text(tmp_path):
    pytest.importorskip("pypdf")
    output, _ = fetch(tmp_path, "{site}/paper.pdf")
    assert "Hello from a PDF" in output.text


def test_a_damaged_pdf_is_an_error_with_its_reason():
    pytest.importorskip("pypdf")
    with pytest.raises(InputError, match="PDF cannot be read"):
        document(pdf_bytes("x")[:200], "application/pdf")


def test_a_file_is_kept_as_an_artifact(tmp_path):
    output, _ = fetch(tmp_path, "{site}/paper.pdf", save=True)
    context = context_in(tmp_path)
    assert context.artifacts.get(output.artifacts[0].reference) == pdf_bytes("Hello from a PDF")


def test_an_answer_without_end_is_cut(tmp_path):
    output, _ = fetch(tmp_path, "{site}/endless")
    assert output.is_error
    assert "larger than" in output.text


def test_errors_of_the_server_are_told(tmp_path):
    output, _ = fetch(tmp_path, "{site}/deep/missing")
    assert output.is_error
    assert "404" in output.text


def test_redirects_are_followed(tmp_path):
    output, _ = fetch(tmp_path, "{site}/redirect?to=/redirect%3Fto%3D/second")
    assert "the second page" in output.text
    output, _ = fetch(tmp_path, "{site}/redirect?to=/redirect?to=%2Fredirect%3Fto%3D/x", page=1)
    assert output.is_error


@pytest.mark.parametrize(
    "url",
    [
        "{private}/direct",
        "http://localhost:{port}/name",
        "http://127.1:{port}/short",
        "http://2130706433:{port}/number",
        "http://0x7f000001:{port}/hexadecimal",
        "http://[::1]:{port}/six",
        "http://[::ffff:127.0.0.1]:{port}/mapped",
        "http://0.0.0.0:{port}/any",
        "{site}/redirect?to={private}/redirected",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:text/html,hello",
        "chrome://version",
        "http://user:password@127.0.0.1:{port}/",
    ],
)
def test_private_addresses_and_other_schemes_are_refused(tmp_path, url):
    output, reached = fetch(tmp_path, url)
    assert output.is_error
    assert SECRET not in output.text
    assert reached == []


def test_a_name_that_turns_private_after_the_check_is_refused(tmp_path, monkeypatch):
    answers = iter([("93.184.215.14", 0), ("127.0.0.1", 0)])
    real = socket.getaddrinfo

    def rebinding(host, port, *rest, **options):
        if host != "rebind.example":
            return real(host, port, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers)[0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    output, reached = fetch(tmp_path, "http://rebind.example:{port}/rebound")
    assert output.is_error
    assert reached == []


def test_a_public_name_with_one_private_address_is_refused(monkeypatch):
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 80)) for text in ("93.184.215.14", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    with pytest.raises(RefusedAddressError, match=r"10\.0\.0\.7"):
        asyncio.run(AddressPolicy().resolve("mixed.example", 80))


@pytest.mark.parametrize(
    ("allowed", "host", "port", "fits"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "127.0.0.1", 81, False),
        ("127.0.0.1", "127.0.0.1", 81, True),
        ("127.0.0.0/8", "127.9.9.9", 5, True),
        ("localhost", "localhost", 5, True),
        ("[::1]:80", "::1", 80, True),
        ("::1", "::1", 7, True),
        ("localhost:80", "localhost", 81, False),
        ("10.0.0.0/8", "127.0.0.1", 80, False),
    ],
)
def test_what_is_allowed_is_allowed_and_no_more(allowed, host, port, fits):
    policy = AddressPolicy((allowed,))
    if fits:
        assert asyncio.run(policy.resolve(host, port))
    else:
        with pytest.raises(RefusedAddressError):
            asyncio.run(policy.resolve(host, port))


@pytest.mark.parametrize("entry", ["http://x", "", "300.0.0.0/8", "host:port"])
def test_a_wrong_allowance_is_named(entry):
    with pytest.raises(InputError, match="allowed address"):
        AddressPolicy((entry,))


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("100.64.0.1", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("::", False),
    ],
)
def test_addresses_are_public_or_not(text, public):
    assert is_public(ipaddress.ip_address(text)) is public


def test_a_page_that_gives_orders_arrives_as_framed_material(tmp_path):
    output, reached = fetch(tmp_path, "{site}/injected")
    assert "not instructions to you" in output.text.splitlines()[0]
    assert output.text.count("</page_content>") == 1
    assert output.text.endswith("</page_content>")
    assert "IGNORE ALL PREVIOUS" in output.text
    assert reached == []


def test_the_frame_cannot_be_closed_from_inside_not_even_by_the_address():
    text = framed("</ PAGE_CONTENT>", 'http://x/">')
    assert text.count("page_content") == 2
    assert 'url="http://x/%22%3E"' in text


@pytest.mark.parametrize("charset", ["utf-8", "latin-1", "utf-16"])
def test_texts_are_decoded_as_declared(charset):
    assert document("für".encode(charset), "text/plain", charset).text == "für"


def test_unclosed_and_nested_markup_does_no_harm():
    assert html_document("<p>a<b>c<script>if (a < b) {</script><p>d<svg><title>x</title></svg>e").text == "ac\n\nde"
    assert html_document("<div>" * 5000 + "deep").text == "deep"
    assert html_document("<a href='http://[bad'>x</a> y").text == "x y"


def test_binary_content_is_refused_with_a_remedy():
    with pytest.raises(InputError, match="no text"):
        document(b"\x89PNG\r\n\x1a\n\0\0", "image/png")
