"""A real browser (Chromium, driven by playwright) that opens a page and tells what came alive in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.trust.payloads import MARK

BROWSER_VARIABLE = "BI_HARNESS_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

ELEMENTS = frozenset(
    (
        "html head meta title style body a header p div span h1 h2 h3 h4 ul li dl dt dd nav main section "
        "table thead tbody tr th td article code b br pre details summary footer "
    ).split()
)
"""What the page's template writes itself."""

_BEFORE = f"""
window.__fired = 0; window.__broken = [];
window.{MARK} = () => {{ window.__fired += 1; }};
document.addEventListener('securitypolicyviolation', e => window.__broken.push(e.violatedDirective));
"""

# Everything that a reader could do: look at it, point at it, open it, click on it.
_TOUCH = """() => {
  for (const d of document.querySelectorAll('details')) d.open = !d.open;
  for (const e of document.querySelectorAll('*')) {
    for (const name of ['mouseover', 'mouseenter', 'focus', 'toggle', 'pointerdown'])
      e.dispatchEvent(new Event(name));
    if (e.focus) e.focus();
  }
  for (const a of document.querySelectorAll('a[href]'))
    if (a.click && !a.getAttribute('href').startsWith('#')) a.click();
}"""

_LOOK = """(allowed) => {
  const found = [];
  for (const e of document.querySelectorAll('*')) {
    const tag = e.tagName.toLowerCase();
    if (!allowed.includes(tag)) found.push('<' + tag + '>');
    for (const a of e.attributes) {
      if (a.name.startsWith('on')) found.push(a.name);
      if (['src', 'srcdoc', 'style', 'action', 'formaction', 'data'].includes(a.name)) found.push(a.name);
      const ours = a.value.startsWith('#') || /^logs\\/[A-Za-z0-9_][A-Za-z0-9_./-]*$/.test(a.value);
      if (a.name === 'href' && !ours) found.push('href=' + a.value.slice(0, 60));
    }
  }
  return found;
}"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page did.

    Attributes:
        fired: scripts of payloads that ran, and dialogs.
        requests: addresses it asked for, itself apart.
        violations: what its policy stopped.
        strange: elements and attributes that the template does not write.
    """

    fired: int
    requests: tuple[str, ...]
    violations: tuple[str, ...]
    strange: tuple[str, ...]


def why_none() -> str:
    """Why there is no browser; empty where there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed (pip install -r requirements/trust.txt)"
    if executable() is None:
        return f"no Chromium on the PATH (or in {BROWSER_VARIABLE})"
    return ""


def executable() -> str | None:
    """Of the browser."""
    return os.environ.get(BROWSER_VARIABLE) or next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """Opens pages, one after the other."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self._context = browser.new_context()
        self._context.add_init_script(_BEFORE)
        self._path = folder / "page.html"
        self.version = str(browser.version)

    def open(self, html: str) -> Seen:
        """Open a page from a file, touch everything in it, and tell what it did."""
        from playwright.sync_api import Error

        self._path.write_text(html, encoding="utf-8")
        address = self._path.as_uri()
        page = self._context.new_page()
        asked: list[str] = []
        dialogs: list[str] = []

        def route(route: Any) -> None:
            if route.request.url.partition("#")[0] == address:
                route.continue_()
            else:
                route.abort()

        def note(request: Any) -> None:
            if request.url.partition("#")[0] != address:
                asked.append(request.url[:200])

        def dismiss(dialog: Any) -> None:
            dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("request", note)
        page.on("dialog", dismiss)
        page.route("**/*", route)
        fired, strange, violations = 0, [], []
        try:
            page.goto(address, wait_until="load")
            strange = page.evaluate(_LOOK, sorted(ELEMENTS))
            fired = page.evaluate("window.__fired")
            page.evaluate(_TOUCH)
            page.wait_for_timeout(20)
            fired = max(fired, page.evaluate("window.__fired || 0"))
            violations = page.evaluate("window.__broken || []")
        except Error as error:
            strange = [*strange, f"the page went elsewhere: {str(error)[:200]}"]
        finally:
            page.close()
        # A log that is linked to is asked for by the click; it is a file of the run's own folder.
        logs = self._path.parent.as_uri() + "/logs/"
        return Seen(
            fired + len(dialogs),
            tuple(url for url in asked if not url.startswith(logs)),
            tuple(violations),
            tuple(strange),
        )


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A headless Chromium; its pages are files in ``folder``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its own sandbox needs rights that a container's root does not have.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=executable(), args=flags)
        try:
            yield Browser(running, folder)
        finally:
            running.close()
