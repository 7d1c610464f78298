"""What agents, pages and models write stays text on the page, and the server gives out nothing but the run's own."""

import http.client
import json
import urllib.parse

import pytest
from playwright.sync_api import expect
from swarm_page_world import Assignment, calls, complete, delegate, exchanges, finished_run, running_page, says

from k25.agent import ToolContext, ToolOutput, tool
from k25.agent.events import ToolCallFinished
from k25.errors import InputError
from k25.swarm import RunFolder
from k25.swarm.page import serving_page

HOSTILE = (
    "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script> [a](javascript:window.hacked=1) "
    "</pre></div><svg onload=window.hacked=1> ![x](https://evil.example/pixel.png)\n\n"
    "| a | b |\n|---|---|\n| <b onclick=alert(1)>x</b> | </script><script>window.hacked = 1</script> |\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in which everything that can be hostile is."""
    folder = tmp_path_factory.mktemp("hostile")

    @tool
    async def fetch(url: str, context: ToolContext) -> ToolOutput:
        """Read."""
        page = context.artifacts.put("page.html", HOSTILE.encode())
        return ToolOutput(HOSTILE, images=(b"<svg onload='alert(1)'>",), artifacts=(page,))

    def sub(messages):
        done = exchanges(messages)
        return says(HOSTILE) if done else calls(messages, [("fetch", {"url": HOSTILE}), (HOSTILE, {HOSTILE: HOSTILE})])

    def main(messages):
        name = "<img src=x onerror=alert(1)>"
        answer = delegate(messages, [Assignment(name, HOSTILE)], bool, system_prompt=HOSTILE)
        return says(HOSTILE) if isinstance(answer, list) else answer

    assert finished_run(folder, main=main, sub=sub, tools=lambda: [fetch]).reason == "answered"
    return folder


@pytest.fixture
def ask(folder):
    with running_page(folder) as url:

        def ask(path, host=None, method="GET"):
            where = urllib.parse.urlsplit(url)
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=120)
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", where.netloc if host is None else host)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer, body

        yield ask


def test_hostile_content_stays_text_everywhere(open_page, folder):
    page = open_page(folder)
    expect(page.locator("#answer")).to_contain_text("<img src=x onerror='window.hacked = 1'>")
    expect(page.locator("#answer td").first).to_have_text("<b onclick=alert(1)>x</b>")
    expect(page.locator("#rows .name").nth(1)).to_have_text("<img src=x onerror=alert(1)>")
    for agent in (1, 0):
        page.get_by_role("treeitem").nth(agent).click()
        expect(page.locator("#conversation")).to_contain_text("The agent ended")
        expect(page.locator("#conversation")).to_contain_text("<script>window.hacked = 1</script>")
        for each in page.locator("#conversation summary").all():
            each.click()
    page.mouse.move(600, 300)
    for name in ("Artifacts", "Faults"):
        page.get_by_role("tab", name=name).click()
    assert page.evaluate("window.hacked") is None
    inside = "[...document.querySelectorAll('main *')].map(node => node.tagName)"
    assert not {"SCRIPT", "B", "IFRAME", "OBJECT"} & set(page.evaluate(inside))
    links = page.evaluate("[...document.querySelectorAll('main a')].map(link => link.protocol)")
    assert set(links) <= {"http:", "https:"}


@pytest.mark.parametrize(
    "path", ["/", "/page/app.js", "/page/style.css", "/page/markdown.js", "/conversation?agent=main"]
)
def test_headers_keep_everything_foreign_out(ask, path):
    answer, _ = ask(path)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8030", "127.0.0.1.evil.example", "", "localhost.:1", "[::2]"]
)
def test_other_host_names_are_refused(ask, host):
    answer, body = ask("/conversation?agent=main", host)
    assert answer.status == 421
    assert b"hacked" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:8030", "LOCALHOST"])
def test_names_of_this_machine_are_answered(ask, host):
    assert ask("/", host)[0].status == 200


def test_artifacts_are_attachments_of_no_type(ask, folder):
    (artifact,) = [each for each in RunFolder(folder).artifacts.list() if each.name == "page.html"]
    answer, body = ask("/" + artifact.reference.replace("artifact:", "artifacts/"))
    assert body == HOSTILE.encode()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_names_of_artifacts_may_be_in_any_script(ask, folder):
    stored = RunFolder(folder).artifacts.put("tábla 表 1.csv", b"1")
    name = urllib.parse.quote(stored.name)
    answer, body = ask(f"/artifacts/{stored.reference.split(':')[1].split('/')[0]}/{name}")
    assert (answer.status, body) == (200, b"1")
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts/../record.sqlite",
        "/artifacts/..%2Frecord.sqlite",
        "/artifacts/%2e%2e/record.sqlite",
        "/artifacts/{digest}/..%2F..%2Frecord.sqlite",
        "/artifacts/{digest}/..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "/artifacts/{digest}/%2Fetc%2Fpasswd",
        "/artifacts/{digest}/link.txt",
        "/artifacts/{digest}/",
        "/artifacts/{digest}/absent.csv",
        "/page/server.py",
        "/page/../server.py",
        "/page/..%2Fserver.py",
        "/record.sqlite",
    ],
)
def test_nothing_outside_the_artifact_store_is_given_out(ask, folder, path):
    (artifact,) = [each for each in RunFolder(folder).artifacts.list() if each.name == "page.html"]
    stored = RunFolder(folder).artifacts.path(artifact.reference)
    link = stored.with_name("link.txt")
    link.symlink_to(RunFolder(folder).record)
    try:
        answer, body = ask(path.format(digest=stored.parent.name))
    finally:
        link.unlink()
    assert answer.status == 404
    assert b"SQLite" not in body
    assert b"root:" not in body


def test_only_images_are_shown_as_images(ask, folder):
    with RunFolder(folder).reader() as reader:
        seq = next(entry.seq for entry in reader.entries(kinds=(ToolCallFinished,)) if entry.event.output["images"])
    for path in (f"/images/{seq}/0", f"/images/{seq}/7", "/images/1/0", "/images/999999/0", "/images/-1/0"):
        assert ask(path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(ask, method):
    for path in ("/", "/updates", "/conversation", "/artifacts/0/x"):
        assert ask(path, method=method)[0].status == 405


@pytest.mark.parametrize(
    ("query", "status"), [("agent=main&after=x", 400), ("agent=main&after=-1", 400), ("agent=%00", 200), ("", 200)]
)
def test_wrong_questions_are_answered_plainly(ask, query, status):
    answer, body = ask(f"/conversation?{query}")
    assert answer.status == status
    assert status != 200 or json.loads(body) == []


def test_a_taken_port_is_an_input_error(folder):
    async def twice():
        async with serving_page(folder) as url, serving_page(folder, urllib.parse.urlsplit(url).port):
            pass

    with pytest.raises(InputError, match="choose another port"):
        complete(twice())
