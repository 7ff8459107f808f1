"""Starts a real Chromium for the tests that need one."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Playwright, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Headless, without requests to other servers, and able to run as root in a container.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Timeout for everything in a page, in milliseconds. Only a failing test waits that long.
PATIENCE = 15_000
MISSING = (
    "there is no Chromium: install one (`apt-get install chromium`, or `playwright install chromium`), "
    "or name its executable in CHROMIUM"
)


def find(playwright: Playwright) -> str:
    """Return the executable: CHROMIUM, one on the PATH, or Playwright's own. Without any, skip; with CI=true, fail."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    for found in (*map(shutil.which, NAMES), playwright.chromium.executable_path):
        if found and Path(found).exists():
            return found
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING, pytrace=False)
    pytest.skip(MISSING)


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """Run a browser with FLAGS and ``flags``."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find(playwright), args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()
