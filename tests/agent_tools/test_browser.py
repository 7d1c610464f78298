"""The browser tool in real Chromium against loopback sites, and attempts to lead it to private ones."""

import asyncio

import pytest
from contexts_made_here import context_in
from world_made_here import SECRET, world

from k25.agent import Toolset
from k25.agent.tools import AddressPolicy, BrowserPool, BrowserTool
from k25.agent.tools.browser_pool import find_chromium

pytest.importorskip("playwright")
if find_chromium() is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)


PROBES = {"/image", "/frame", "/style", "/script", "/fetch", "/socket", "/name"}


def browse(folder, *calls, agents=1, allowed=(), awaited=frozenset()):
    """The outputs of calls made one after the other (by each agent in turn), and what reached the private site.

    awaited: what is to reach it, however long that takes.
    """

    async def run():
        async with world() as made:
            pool = BrowserPool(AddressPolicy((made.site_address, *allowed)))
            toolsets = [Toolset("web", [BrowserTool(pool)]) for _ in range(agents)]
            outputs = []
            try:
                for number, arguments in enumerate(calls):
                    given = dict(arguments)
                    if "url" in given:
                        given["url"] = given["url"].format(site=made.site, private=made.private, port=made.private_port)
                    toolset = toolsets[number % agents]
                    outputs.append(await toolset.call("browser", given, context_in(folder)))
                    if "probing" in given.get("url", ""):
                        await asyncio.sleep(0.5)
                async with asyncio.timeout(120):
                    while not awaited <= set(made.reached):
                        await asyncio.sleep(0.01)
            finally:
                for toolset in toolsets:
                    for tool in toolset:
                        await tool.close()
                await pool.close()
            return outputs, made.reached

    return asyncio.run(run())


def visit(name):
    return {"action": "visit", "url": "{site}/" + name}


def test_a_page_is_read_and_its_links_are_clicked(tmp_path):
    (first, second, back), _ = browse(tmp_path, visit("plain"), {"action": "click", "element": 1}, {"action": "back"})
    assert "# Cities & rivers" in first.text
    assert "the second page [#1]" in first.text
    assert "Vienna | Danube" in first.text
    assert "unseen" not in first.text
    assert "Here is the second page." in second.text
    assert "Vienna" in back.text


@pytest.mark.slow
def test_forms_are_filled_in_and_sent(tmp_path):
    outputs, _ = browse(
        tmp_path,
        visit("search"),
        {"action": "type", "element": 2, "text": "books"},
        {"action": "type", "element": 1, "text": "rivers", "submit": True},
    )
    assert '[#1 text "What" = ""]' in outputs[0].text
    assert "You asked for rivers in books" in outputs[2].text


@pytest.mark.slow
def test_scripts_run_and_windows_are_followed(tmp_path):
    outputs, _ = browse(
        tmp_path,
        visit("script"),
        {"action": "click", "element": 1},
        visit("window"),
        {"action": "click", "element": 1},
    )
    assert "not yet" in outputs[0].text
    assert "clicked at last" in outputs[1].text
    assert "Here is the second page." in outputs[3].text


@pytest.mark.slow
def test_long_pages_are_paged_searched_and_scrolled(tmp_path):
    outputs, _ = browse(
        tmp_path,
        visit("long"),
        {"action": "read", "page": 2},
        {"action": "find", "text": "PARAGRAPH 150"},
        {"action": "scroll"},
        {"action": "screenshot"},
    )
    assert "Page 1 of" in outputs[0].text
    assert "Page 2 of" in outputs[1].text
    assert "1 lines hold the text" in outputs[2].text
    assert "The screen is at 864 of" in outputs[3].text
    assert outputs[4].images[0].startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_pdf_is_shown_as_text(tmp_path):
    pytest.importorskip("pypdf")
    outputs, _ = browse(tmp_path, visit("paper.pdf"), {"action": "find", "text": "hello"})
    assert "Hello from a PDF" in outputs[0].text
    assert "1 lines hold the text" in outputs[1].text


@pytest.mark.slow
def test_agents_have_pages_of_their_own(tmp_path):
    outputs, _ = browse(tmp_path, visit("plain"), visit("second"), {"action": "read"}, {"action": "read"}, agents=2)
    assert "Vienna" in outputs[2].text
    assert "second page." in outputs[3].text


@pytest.mark.slow
def test_mistakes_are_told_to_the_model(tmp_path):
    outputs, _ = browse(
        tmp_path,
        {"action": "read"},
        {"action": "visit"},
        visit("second"),
        {"action": "click", "element": 9},
        {"action": "find"},
    )
    for output, part in zip(
        outputs, ["no page is open", "needs url", None, "no element #9", "needs text"], strict=True
    ):
        assert part is None or (output.is_error and part in output.text)


def test_private_addresses_and_other_schemes_are_refused(tmp_path):
    urls = [
        "{private}/direct",
        "http://localhost:{port}/name",
        "http://[::ffff:127.0.0.1]:{port}/mapped",
        "{site}/redirect?to={private}/redirected",
        "{site}/redirect?to=file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "data:text/html,hello",
        "chrome://version",
        "view-source:{private}/source",
        "javascript:alert(1)",
    ]
    outputs, reached = browse(tmp_path, *({"action": "visit", "url": url} for url in urls))
    for output in outputs:
        assert output.is_error
        assert SECRET not in output.text
        assert "root:" not in output.text
    assert reached == []


def test_without_the_refusal_the_probing_page_would_reach_the_private_site(tmp_path):
    _, reached = browse(tmp_path, visit("probing"), allowed=("127.0.0.1", "localhost"), awaited=PROBES)
    assert set(reached) >= PROBES


def test_nothing_that_a_page_loads_or_runs_reaches_the_private_site(tmp_path):
    outputs, reached = browse(tmp_path, visit("probing"), {"action": "read"})
    assert "probing" in outputs[0].text
    assert SECRET not in outputs[1].text
    assert reached == []


@pytest.mark.slow
def test_a_page_cannot_take_the_agent_to_a_private_address_or_a_file(tmp_path):
    outputs, reached = browse(
        tmp_path,
        visit("jumping"),
        {"action": "read"},
        visit("local"),
        {"action": "click", "element": 1},
        {"action": "read"},
    )
    assert reached == []
    for output in outputs:
        assert SECRET not in output.text
        assert "root:" not in output.text


@pytest.mark.slow
def test_a_page_that_gives_orders_arrives_as_framed_material(tmp_path):
    (output,), reached = browse(tmp_path, visit("injected"))
    assert output.text.startswith("The text below was written by others.")
    assert output.text.count("</page_content>") == 1
    assert reached == []
