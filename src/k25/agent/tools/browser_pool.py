"""One headless Chromium for all agents; each agent gets a context of its own: cookies, storage and pages apart."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k25.agent.tools.addresses import AddressPolicy
from k25.agent.tools.proxy import CheckedProxy
from k25.errors import InputError

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ARGUMENTS = (
    # Names are resolved by the proxy alone, and nothing goes around it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-background-networking",
    "--disable-gpu",
)


def find_chromium() -> str | None:
    """The machine's own Chromium or Chrome."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class BrowserPool:
    """Starts the browser with the first context and ends it with `close`.

    executable: which Chromium; found on the PATH, else Playwright's own.
    chromium_sandbox: Chromium's own sandbox, which it cannot have as root; by default wherever we are not root.
    """

    def __init__(
        self,
        policy: AddressPolicy | None = None,
        *,
        executable: str | None = None,
        chromium_sandbox: bool | None = None,
    ) -> None:
        self.policy = policy or AddressPolicy()
        self._executable = executable or find_chromium()
        self._chromium_sandbox = os.geteuid() != 0 if chromium_sandbox is None else chromium_sandbox
        self._starting = asyncio.Lock()
        self._proxy = CheckedProxy(self.policy)
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None

    async def context(self) -> "BrowserContext":
        """A new context. Raises InputError where there is no browser."""
        async with self._starting:
            if self._browser is None or not self._browser.is_connected():
                await self.close()
                await self._start()
        assert self._browser is not None
        return await self._browser.new_context(
            accept_downloads=False, service_workers="block", viewport={"width": 1280, "height": 960}
        )

    async def close(self) -> None:
        """End the browser and the proxy; a later `context` starts them anew."""
        if self._browser is not None:
            await self._browser.close()
        if self._playwright is not None:
            await self._playwright.stop()
        await self._proxy.close()
        if self._home is not None:
            self._home.cleanup()
        self._browser = self._playwright = self._home = None

    async def _start(self) -> None:
        try:
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise InputError('the browser tool needs Playwright; install it with: pip install "k25[agent]"') from None
        port = await self._proxy.start()
        self._home = tempfile.TemporaryDirectory(prefix="k25-browser-")
        self._playwright = await async_playwright().start()
        try:
            self._browser = await self._playwright.chromium.launch(
                executable_path=self._executable,
                headless=True,
                chromium_sandbox=self._chromium_sandbox,
                args=list(_ARGUMENTS),
                proxy={
                    "server": f"http://127.0.0.1:{port}",
                    "username": self._proxy.USER,
                    "password": self._proxy.password,
                },
                # A page that breaks out of its renderer finds no keys in the environment.
                env={"PATH": os.environ.get("PATH", ""), "HOME": self._home.name, "TMPDIR": self._home.name},
            )
        except Error as error:
            await self.close()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            program = Path(self._executable).name if self._executable else "Chromium"
            raise InputError(f"{program} does not start ({lines[0][:200]}); install chromium or use fetch") from None
