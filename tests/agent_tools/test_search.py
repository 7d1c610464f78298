"""Searching a local corpus and HTTP services; the services are loopback servers with the published answer shapes."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from aiohttp import web
from contexts_made_here import context_in
from world_made_here import pdf_bytes

from k25.agent import Toolset
from k25.agent.tools import HttpSearch, LocalIndex, brave, read_document_tool, search_tool, searxng, serper
from k25.errors import InputError


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "rivers").mkdir(parents=True)
    (folder / "rivers" / "danube.md").write_text("# Danube\nThe Danube flows through Vienna and Budapest.")
    (folder / "rivers" / "rhine.txt").write_text("The Rhine flows through Basel and Cologne.")
    (folder / "cities.html").write_text("<title>Cities</title><p>Vienna, Zürich and <b>Basel</b> are cities.</p>")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.md").write_text("Vienna hidden")
    return folder


@pytest.fixture
def index(tmp_path, corpus) -> LocalIndex:
    made = LocalIndex(tmp_path / "index.sqlite")
    made.update([corpus])
    return made


def urls(index, query, limit=5):
    return [result.url for result in index.find(query, limit)]


def test_documents_with_all_words_come_first(index):
    assert urls(index, "Basel Cologne") == ["local:corpus/rivers/rhine.txt", "local:corpus/cities.html"]
    assert set(urls(index, "vienna")) == {"local:corpus/rivers/danube.md", "local:corpus/cities.html"}


def test_words_are_found_without_accents_and_in_other_forms(index):
    assert urls(index, "zurich city") == ["local:corpus/cities.html"]
    assert len(urls(index, "flowing")) == 2


@pytest.mark.parametrize("query", ['"', "a AND", "NEAR(", "*", "title:", "x' OR 1=1 --", "\0", "-", "(" * 1000])
def test_no_query_is_a_syntax_error(index, query):
    index.find(query, 5)


def test_snippets_show_the_passage(index, tmp_path):
    (result,) = index.find("Budapest", 5)
    assert result.title == "danube"
    assert "through Vienna and Budapest" in result.snippet


def test_an_update_reads_only_what_changed(index, corpus):
    assert index.update([corpus]).unchanged == 3
    danube = corpus / "rivers" / "danube.md"
    danube.write_text("Now about the Inn.")
    os.utime(danube, ns=(1, 1))
    (corpus / "rivers" / "rhine.txt").unlink()
    (corpus / "new.txt").write_text("The Elbe.")
    report = index.update([corpus])
    assert (report.added, report.removed, report.unchanged) == (2, 1, 1)
    assert urls(index, "Rhine") == []
    assert urls(index, "Budapest") == []
    assert urls(index, "Elbe") == ["local:corpus/new.txt"]


def test_links_out_of_the_folder_are_not_followed(index, corpus, tmp_path):
    (tmp_path / "secret.txt").write_text("a secret key")
    (corpus / "link.txt").symlink_to(tmp_path / "secret.txt")
    index.update([corpus])
    assert urls(index, "secret") == []


def test_pdf_files_are_indexed_and_damaged_ones_named(index, corpus):
    pytest.importorskip("pypdf")
    (corpus / "good.pdf").write_bytes(pdf_bytes("Hello from a PDF"))
    (corpus / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    report = index.update([corpus])
    assert urls(index, "hello") == ["local:corpus/good.pdf"]
    assert len(report.unreadable) == 1
    assert "bad.pdf" in report.unreadable[0]


def test_documents_that_are_no_files_survive_an_update(index, corpus):
    index.add("http://example.org/a", "A page", "about glaciers")
    index.add("http://example.org/a", "A page", "about volcanoes")
    index.update([corpus])
    assert urls(index, "glaciers") == []
    assert urls(index, "volcanoes") == ["http://example.org/a"]


def test_a_file_that_is_no_index_is_refused(tmp_path, corpus):
    (tmp_path / "other").write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(InputError, match="is no search index"):
        LocalIndex(tmp_path / "other")
    with pytest.raises(InputError, match="is no folder"):
        LocalIndex(tmp_path / "index2").update([tmp_path / "missing"])


def call(folder, tool, arguments):
    return asyncio.run(Toolset("web", [tool]).call(tool.name, arguments, context_in(folder)))


def test_several_queries_are_answered_in_one_call(index, tmp_path):
    output = call(tmp_path, search_tool(index), {"queries": ["Vienna", "Cologne", "nowhere"]})
    sections = output.text.split("## ")
    assert [section.splitlines()[0] for section in sections[1:]] == ["Vienna", "Cologne", "nowhere"]
    assert "local:corpus/rivers/rhine.txt" in sections[2]
    assert "(nothing found)" in sections[3]


@pytest.mark.parametrize("queries", [[], [" "], ["x"] * 21, "x"])
def test_wrong_queries_are_told(index, tmp_path, queries):
    assert call(tmp_path, search_tool(index), {"queries": queries}).is_error


def test_what_was_found_is_read_whole(index, tmp_path):
    tool = read_document_tool(index)
    assert "flows through Vienna" in call(tmp_path, tool, {"url": "local:corpus/rivers/danube.md"}).text
    for url in ("local:corpus/../secret.txt", "file:///etc/passwd", "/etc/passwd", "local:corpus/picture.png"):
        assert call(tmp_path, tool, {"url": url}).is_error


SEARXNG = {"query": "q", "results": [{"url": "http://a/", "title": "A", "content": "about a", "engine": "x"}]}
BRAVE = {"type": "search", "web": {"results": [{"title": "A", "url": "http://a/", "description": "about a"}]}}
SERPER = {"organic": [{"title": "A", "link": "http://a/", "snippet": "about a", "position": 1}], "credits": 1}
PLAIN = {"results": [{"title": "A", "url": "http://a/", "snippet": "about a"}]}


def ask(make, answers):
    """The results from a service that gives these (status, JSON) answers, and the requests that it saw."""
    seen = []

    async def run():
        async def handle(request):
            seen.append(
                (request.method, request.path, dict(request.query), await request.text(), dict(request.headers))
            )
            status, answer = answers[min(len(seen), len(answers)) - 1]
            return web.json_response(answer, status=status)

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await make(f"http://127.0.0.1:{runner.addresses[0][1]}").search("river basel", 3)
        finally:
            await runner.cleanup()

    return asyncio.run(run()), seen


@pytest.mark.parametrize(
    ("make", "answer", "method", "path", "parameters", "header"),
    [
        (searxng, SEARXNG, "GET", "/search", {"q": "river basel", "format": "json"}, None),
        (
            lambda url: brave("key", f"{url}/b"),
            BRAVE,
            "GET",
            "/b",
            {"q": "river basel", "count": "3"},
            "X-Subscription-Token",
        ),
        (lambda url: serper("key", f"{url}/s"), SERPER, "POST", "/s", {}, "X-API-KEY"),
        (lambda url: HttpSearch(f"{url}/find"), PLAIN, "GET", "/find", {"q": "river basel", "limit": "3"}, None),
    ],
    ids=["searxng", "brave", "serper", "plain"],
)
def test_services_are_asked_in_their_own_form(make, answer, method, path, parameters, header):
    results, seen = ask(make, [(200, answer)])
    assert [(each.title, each.url, each.snippet) for each in results] == [("A", "http://a/", "about a")]
    assert seen[0][:3] == (method, path, parameters)
    assert header is None or seen[0][4][header] == "key"
    if method == "POST":
        assert seen[0][3] == '{"q": "river basel", "num": 3}'


def test_an_answer_that_arrives_in_pieces_is_read_to_its_end():
    async def run():
        async def handle(request):
            response = web.StreamResponse()
            await response.prepare(request)
            text = json.dumps(PLAIN).encode()
            await response.write(text[:20])
            await asyncio.sleep(0.05)
            await response.write(text[20:])
            return response

        app = web.Application()
        app.router.add_get("/", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await HttpSearch(f"http://127.0.0.1:{runner.addresses[0][1]}").search("q", 3)
        finally:
            await runner.cleanup()

    assert [each.url for each in asyncio.run(run())] == ["http://a/"]


@pytest.mark.parametrize("wrong", ["search.example.org", "file:///etc/passwd", "http://[::1"])
def test_an_address_that_is_no_url_is_refused_at_once(wrong):
    with pytest.raises(InputError, match="no URL of a search service"):
        HttpSearch(wrong)


def test_a_busy_service_is_asked_again():
    results, seen = ask(HttpSearch, [(429, {}), (503, {}), (200, PLAIN)])
    assert len(results) == 1
    assert len(seen) == 3


@pytest.mark.parametrize(
    "answer", [[], {}, {"results": None}, {"results": [1, {"title": "no address"}]}, {"results": {}}]
)
def test_odd_answers_give_no_results(answer):
    assert ask(HttpSearch, [(200, answer)])[0] == []


def test_a_service_that_refuses_is_told_to_the_model_without_the_key(tmp_path):
    with pytest.raises(InputError, match="answered 401"):
        ask(lambda url: brave("secret-key", url), [(401, {})])
    output = call(tmp_path, search_tool(serper("secret-key", "http://127.0.0.1:9/")), {"queries": ["x"]})
    assert output.is_error
    assert "cannot be reached" in output.text
    assert "secret-key" not in output.text + repr(serper("secret-key"))
