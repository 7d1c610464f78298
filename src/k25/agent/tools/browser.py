"""The `browser` tool: visit, read, click, type, find, scroll, screenshot in an agent's own browser context."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from k25.agent.tool import ArgumentError, JsonObject, Tool, ToolClass, ToolContext, ToolOutput
from k25.agent.tools.browser_pool import BrowserPool
from k25.agent.tools.fetch import fetch_url
from k25.agent.tools.proxy import REFUSED_HEADER
from k25.agent.tools.reading import document, framed, page_of
from k25.errors import InputError

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, JSHandle, Page, Response

_VISIT_MILLISECONDS = 30_000
_ACT_MILLISECONDS = 5_000
_SETTLE_MILLISECONDS = 250
_FOUND = 20

_PARAMETERS: JsonObject = {
    "type": "object",
    "properties": {
        "action": {
            "type": "string",
            "enum": ["visit", "read", "click", "type", "find", "scroll", "screenshot", "back"],
            "description": "What to do.",
        },
        "url": {"type": "string", "description": "visit: the http or https address."},
        "element": {"type": "integer", "description": "click, type: the number behind # in the page's text."},
        "text": {"type": "string", "description": "type: what to enter or choose. find: what to look for."},
        "submit": {"type": "boolean", "description": "type: press Enter afterwards."},
        "page": {"type": "integer", "description": "read, visit: which page of a long text, from 1."},
        "down": {"type": "boolean", "description": "scroll: down (the default) or up by one screen."},
    },
    "required": ["action"],
    "additionalProperties": False,
}


class BrowserTool(Tool):
    """One agent's browser context, opened with the first call."""

    name = "browser"
    description = (
        "Use a web browser. visit opens a page and shows its text; links, buttons and fields carry numbers as [#3] "
        "for click and type. read shows the text again or its next pages, find the passages with a text, screenshot "
        "what the page looks like, scroll moves the screen. PDF files are shown as text."
    )
    parameters = _PARAMETERS
    tool_class: ToolClass = "browser"
    timeout = 120.0

    def __init__(self, pool: BrowserPool) -> None:
        self._pool = pool
        self._context: BrowserContext | None = None
        self._page: Page | None = None
        self._text = ""
        self._title = ""
        self._url = ""
        self._snapshot: JSHandle | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        """Close the context and its pages."""
        context, self._context, self._page = self._context, None, None
        if context is not None:
            await context.close()

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:  # noqa: ARG002
        """Do one action; the calls of one agent come one after the other."""
        from playwright.async_api import Error

        actions: dict[str, Callable[[JsonObject], Awaitable[ToolOutput]]] = {
            "visit": self._visit,
            "read": self._read,
            "click": self._click,
            "type": self._type,
            "find": self._find,
            "scroll": self._scroll,
            "screenshot": self._screenshot,
            "back": self._back,
        }
        async with self._turn:
            try:
                return await actions[arguments["action"]](arguments)
            except Error as error:
                reason = str(error).split("Call log:")[0].strip().splitlines()[0][:300]
                return ToolOutput.error(f"The browser reports: {reason}")

    async def _visit(self, arguments: JsonObject) -> ToolOutput:
        url = arguments.get("url")
        if not url:
            raise ArgumentError("visit needs url")
        _, host, port = self._pool.policy.check_url(url)
        # The proxy decides; this only says so sooner and more clearly.
        await self._pool.policy.resolve(host, port)
        page = await self._ready()
        from playwright.async_api import Error

        try:
            response = await page.goto(url, wait_until="domcontentloaded", timeout=_VISIT_MILLISECONDS)
        except Error as error:
            if "Download is starting" in str(error) or "ERR_ABORTED" in str(error):
                return await self._download(url, int(arguments.get("page", 1)))
            raise
        if response is not None and response.headers.get(REFUSED_HEADER):
            reason = (await response.body()).decode("ascii", "replace")
            await page.goto("about:blank")
            return ToolOutput.error(f"Not opened: {reason}")
        await self._settle(page)
        return await self._shown(int(arguments.get("page", 1)), _status_note(response))

    async def _read(self, arguments: JsonObject) -> ToolOutput:
        number = int(arguments.get("page", 1))
        if self._snapshot is None and self._text:
            return self._shown_page(number, "")
        self._current()
        return await self._shown(number)

    async def _click(self, arguments: JsonObject) -> ToolOutput:
        await (await self._element(arguments)).click(timeout=_ACT_MILLISECONDS)
        await self._settle(self._current())
        return await self._shown(1)

    async def _type(self, arguments: JsonObject) -> ToolOutput:
        element = await self._element(arguments)
        text = str(arguments.get("text", ""))
        if await element.evaluate("element => element.tagName") == "SELECT":
            await element.select_option(label=text, timeout=_ACT_MILLISECONDS)
        else:
            await element.fill(text, timeout=_ACT_MILLISECONDS)
        if arguments.get("submit"):
            await element.press("Enter", timeout=_ACT_MILLISECONDS)
        await self._settle(self._current())
        return await self._shown(1)

    async def _find(self, arguments: JsonObject) -> ToolOutput:
        wanted = str(arguments.get("text", "")).casefold()
        if not wanted:
            raise ArgumentError("find needs text")
        if self._snapshot is not None or not self._text:
            await self._take(self._current())
        lines = [line for line in self._text.splitlines() if wanted in line.casefold()]
        shown = "\n".join(line[:500] for line in lines[:_FOUND])
        note = f"{len(lines)} lines hold the text" + (f", the first {_FOUND} are:" if len(lines) > _FOUND else ".")
        return ToolOutput(framed(shown, self._url, note=note) if lines else "The text does not occur on this page.")

    async def _scroll(self, arguments: JsonObject) -> ToolOutput:
        page = self._current()
        direction = 1 if arguments.get("down", True) else -1
        position = await page.evaluate(
            "d => { scrollBy(0, d * innerHeight * 0.9); return [scrollY, document.documentElement.scrollHeight]; }",
            direction,
        )
        await self._settle(page)
        output = await self._shown(1)
        note = f"The screen is at {position[0]:.0f} of {position[1]:.0f} pixels.\n"
        return ToolOutput(note + output.text)

    async def _screenshot(self, arguments: JsonObject) -> ToolOutput:  # noqa: ARG002
        page = self._current()
        image = await page.screenshot(type="png", timeout=_VISIT_MILLISECONDS)
        return ToolOutput(f"The screen of {page.url}, which others made:", images=(image,))

    async def _back(self, arguments: JsonObject) -> ToolOutput:  # noqa: ARG002
        page = self._current()
        await page.go_back(wait_until="domcontentloaded", timeout=_VISIT_MILLISECONDS)
        return await self._shown(1)

    async def _ready(self) -> "Page":
        if self._page is None or self._page.is_closed():
            await self.close()
            self._context = await self._pool.context()
            self._context.on("page", self._follow)
            self._page = await self._context.new_page()
        return self._page

    def _follow(self, page: "Page") -> None:
        """A link opened a new window: continue there."""
        self._page = page

    def _current(self) -> "Page":
        if self._page is None or self._page.is_closed() or self._page.url == "about:blank":
            raise InputError("no page is open; visit one first")
        return self._page

    async def _element(self, arguments: JsonObject) -> Any:
        number = int(arguments.get("element", 0))
        self._current()
        found = None
        if self._snapshot is not None and number > 0:
            elements = await self._snapshot.get_property("elements")
            found = (await elements.get_property(str(number - 1))).as_element()
        if found is None:
            raise ArgumentError(f"there is no element #{number}; take a number from the page's text")
        return found

    async def _settle(self, page: "Page") -> None:
        from playwright.async_api import Error

        with contextlib.suppress(Error):
            await page.wait_for_timeout(_SETTLE_MILLISECONDS)
            await page.wait_for_load_state("load", timeout=_ACT_MILLISECONDS)

    async def _take(self, page: "Page") -> str:
        """Read the page, and keep handles of the elements that it numbers; returns its media type."""
        if page.url.partition(":")[0] not in ("http", "https"):
            scheme = page.url.partition(":")[0]
            await page.goto("about:blank")
            raise InputError(f"the page led to a {scheme}: address, which is not opened; visit another page")
        script = files("k25.agent.tools").joinpath("browser_page.js").read_text()
        self._snapshot = await page.evaluate_handle(script)
        self._text = str(await (await self._snapshot.get_property("text")).json_value())
        self._title = str(await (await self._snapshot.get_property("title")).json_value())
        self._url = page.url
        return str(await (await self._snapshot.get_property("type")).json_value())

    async def _shown(self, number: int, note: str = "") -> ToolOutput:
        page = self._current()
        if await self._take(page) == "application/pdf":
            return await self._download(page.url, number)
        return self._shown_page(number, note)

    def _shown_page(self, number: int, note: str) -> ToolOutput:
        text, count = page_of(self._text, number)
        number = min(max(number, 1), count)
        title = f"# {self._title}\n\n" if self._title and number == 1 else ""
        notes = [note] if note else []
        notes += [f"Page {number} of {count}."] if count > 1 else []
        return ToolOutput(framed(title + (text or "(no text)"), self._url, note=" ".join(notes)))

    async def _download(self, url: str, number: int) -> ToolOutput:
        """What the browser saves, or shows in a viewer of its own (a PDF), is fetched and read as text."""
        fetched = await fetch_url(url, self._pool.policy)
        read = await asyncio.to_thread(document, fetched.content, fetched.media_type, fetched.charset, fetched.url)
        self._snapshot, self._text, self._title, self._url = None, read.text, read.title, fetched.url
        return self._shown_page(number, "")


def _status_note(response: "Response | None") -> str:
    return f"The server answered {response.status}." if response is not None and response.status >= 400 else ""
