"""A real Chromium for tests of the pages, and what none of them may do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 120_000
"""How long a test waits for anything: jobs take seconds on a quiet machine."""
_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


def executable() -> str | None:
    """The browser; None where there is none. (Ubuntu's `chromium-browser` only says what else to install.)"""
    found = (path for name in NAMES if (path := shutil.which(name)))
    return next(
        (path for path in found if not subprocess.run([path, "--version"], capture_output=True).returncode), None
    )


@contextmanager
def launched() -> Iterator[Any]:
    """A browser for a module's tests, which are skipped where there is none."""
    path = executable()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Witness:
    """What a page does beside what a test looks at.

    Attributes:
        origin: of the service.
        refused: statuses that the test provokes; the browser reports each of them in its console.
        messages: errors and warnings of the console, and exceptions.
        strays: addresses outside of the service's origin that were asked for.
    """

    origin: str
    refused: set[int] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        """Begin to listen."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", self._on_request)
        page.add_init_script(_VIOLATIONS)

    def check(self, page: Any) -> None:
        """Nothing was reported and no request left the service."""
        assert self.strays == []
        assert page.evaluate("window.violations ?? []") == []
        assert not self.messages, "\n".join(self.messages)

    def _on_console(self, message: Any) -> None:
        found = re.search(r"status of (\d+)", message.text)
        if message.type in ("error", "warning") and not (found and int(found[1]) in self.refused):
            self.messages.append(f"{message.type}: {message.text} at {message.location.get('url')}")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.origin}/", "blob:", "data:")):
            self.strays.append(request.url)


@contextmanager
def opened(browser: Any, origin: str, **context: Any) -> Iterator[tuple[Any, Witness]]:
    """A page in a context of its own; when the block ends well, the witness is asked."""
    within = browser.new_context(
        base_url=origin, viewport=context.pop("viewport", {"width": 1280, "height": 800}), **context
    )
    within.set_default_timeout(PATIENCE_MS)
    witness = Witness(origin)
    try:
        page = within.new_page()
        witness.watch(page)
        yield page, witness
        witness.check(page)
    finally:
        within.close()
