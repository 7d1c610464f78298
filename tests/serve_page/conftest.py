"""One Chromium for each module of tests; each test has a page and a server of its own.

Not one for the session: while Playwright is open, its event loop runs in this thread, and no other test can start one.
"""

import pytest

pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from browser import CHROMIUM, PATIENCE, running_browser
from fastapi import FastAPI
from openai_stand_in import running_stand_in

from k25.serve.page import page_routes

BODY_LIMIT = 2_000_000


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with running_browser() as started:
        yield started


@pytest.fixture
def server():
    app = FastAPI()
    app.include_router(page_routes(BODY_LIMIT))
    with running_stand_in(app) as stand_in:
        yield stand_in


@pytest.fixture
def page(browser, server):
    """The loaded page; the test fails if a script failed, something was blocked or fetched from elsewhere."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
    opened.on("request", lambda sent: problems.append(sent.url) if not own(sent.url, server.url) else None)
    opened.goto(server.url)
    yield opened
    context.close()
    assert not problems


def own(url: str, server_url: str) -> bool:
    return url.startswith((server_url, "data:", "blob:"))
