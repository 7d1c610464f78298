"""One Chromium for all tests of the run page."""

import pytest

pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from browser import CHROMIUM, PATIENCE, running_browser
from swarm_page_world import running_page


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with running_browser() as started:
        yield started


@pytest.fixture
def open_page(browser):
    """Serves the page of a run and opens it; the test fails if a script failed or something foreign was asked for."""
    contexts, servers, problems = [], [], []

    def open_run(folder, **options):
        serving = running_page(folder)
        url = serving.__enter__()
        servers.append(serving)
        context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if is_problem(said) else None)
        page.on("request", lambda sent: None if sent.url.startswith((url, "data:")) else problems.append(sent.url))
        page.goto(url)
        return page

    yield open_run
    for context in contexts:
        context.close()
    for serving in servers:
        serving.__exit__(None, None, None)
    assert not problems


def is_problem(said):
    """A refused image is none: the server gives out no image that is not one."""
    return said.type == "error" and "/images/" not in said.location["url"]
