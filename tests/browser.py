"""A real browser for tests: Debian's Chromium, driven by Playwright, that reaches nothing but this machine."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 30.0
"""Longer than anything takes on a busy machine."""
WIDE = (1280, 860)
NARROW = (390, 844)


@contextmanager
def chromium() -> "Iterator[Browser]":
    """The browser; skips the test where there is none, and says what to install."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # A container's root has no sandbox, and its /dev/shm is small.
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


class Opened:
    """A page that is open, with all that went wrong on it."""

    def __init__(
        self, browser: "Browser", url: str, size: tuple[int, int] = WIDE, scheme: str = "dark", motion: str = "reduce"
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion=motion,  # type: ignore[arg-type]
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * WAIT_S)
        self.errors: list[str] = []
        """Uncaught errors, and what the browser refused."""
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if "Security Policy" in message.text else None
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def wait(self, condition: str, within_s: float = WAIT_S) -> None:
        """Wait until a JavaScript expression is true. `wait_for_function` would need a page that allows `eval`."""
        deadline = time.monotonic() + within_s
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(20)

    def shoot(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        self.page.screenshot(path=path, full_page=True)
