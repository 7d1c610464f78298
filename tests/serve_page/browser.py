"""The system's Chromium, headless and without any traffic of its own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000  # milliseconds that a page may take to show what is expected, on a machine that is busy otherwise
_QUIET = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]


@contextmanager
def running_browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-sync", *(f"--{name}" for name in _QUIET)]
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
