"""One Chromium for all tests of the page of a run; without one they are skipped."""

import asyncio
import threading

import pytest

from k25.rl.watch import serving_page


class PageServer(threading.Thread):
    """The page of one run, served from a thread."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.url, self.ready = folder, "", threading.Event()

    def run(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        async with serving_page(self.folder) as self.url:
            self.ready.set()
            await self.stopped.wait()

    def stop(self):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.join(30)
        assert not self.is_alive()


@pytest.fixture
def serve():
    """Serves the page of a run; gives its address."""
    servers = []

    def serve_folder(folder):
        server = PageServer(folder)
        servers.append(server)
        server.start()
        assert server.ready.wait(30)
        return server.url

    yield serve_folder
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    from browser import CHROMIUM, running_browser

    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with running_browser() as started:
        yield started


@pytest.fixture
def open_page(browser, serve):
    """Opens the page of a run; the test fails if a script failed or something foreign was asked for."""
    contexts, problems = [], []

    def open_run(folder):
        url = serve(folder)
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("request", lambda sent: None if sent.url.startswith((url, "data:")) else problems.append(sent.url))
        page.goto(url)
        return page

    yield open_run
    for context in contexts:
        context.close()
    assert not problems
