"""The site in a real browser, opened from disk: it works, is usable by all, and no name in it comes alive."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.trust import payloads
from benchmarks.trust.browser import executable, why_none
from benchmarks.trust.fullest import fullest
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Examined
from bi_harness.report.dashboard.fleet import Fleet
from bi_harness.report.dashboard.pages import render_site
from bi_harness.report.dashboard.rows import Row, refused, row_of
from bi_harness.report.dashboard.site import write_site
from tests.report.dashboard.nights import DAY, row, shown

pytestmark = pytest.mark.browser

ELEMENTS = frozenset(
    [
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "script",
        "body",
        "a",
        "header",
        "main",
        "footer",
        "nav",
        "section",
        "article",
        "form",
        "noscript",
        "p",
        "div",
        "span",
        "h1",
        "h2",
        "h3",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "b",
        "i",
        "br",
        "code",
        "pre",
        "details",
        "summary",
        "figure",
        "figcaption",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "label",
        "input",
        "select",
        "option",
        "button",
        "svg",
        "path",
        "rect",
        "g",
        "text",
        "circle",
    ]
)
"""What the templates and the script write themselves."""

_LOOK = """(allowed) => {
  const found = [];
  for (const e of document.querySelectorAll('*')) {
    if (!allowed.includes(e.tagName.toLowerCase())) found.push('<' + e.tagName + '>');
    for (const a of e.attributes) {
      if (a.name.startsWith('on')) found.push(a.name);
      if (/^(src|srcdoc|action|formaction|data|xlink:href)$/.test(a.name)) found.push(a.name);
      const ours = /^(#[a-z-]*|((\\.\\.\\/)?(index|cells)\\.html)|feed\\.xml|cells\\/[a-z0-9-]+\\.html)$/;
      if (a.name === 'href' && !ours.test(a.value)) found.push('href=' + a.value.slice(0, 60));
    }
  }
  return found;
}"""
_BEFORE = f"""
window.__fired = 0; window.__broken = [];
window.{payloads.MARK} = () => {{ window.__fired += 1; }};
document.addEventListener('securitypolicyviolation', e => window.__broken.push(e.violatedDirective));
"""
_TOUCH = """() => {
  for (const d of document.querySelectorAll('details')) d.open = true;
  for (const e of document.querySelectorAll('*')) {
    for (const name of ['mouseover', 'mouseenter', 'focus', 'pointermove', 'toggle'])
      e.dispatchEvent(new Event(name, {bubbles: true}));
    if (e.focus) e.focus();
  }
}"""

SHORT = [text for text in payloads.ALL if text is not payloads.LONG]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if why := why_none():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=executable(), args=flags)
        yield running
        running.close()


def cell(device: str, model: str, mode: str = "eager", suite: str = "online") -> str:
    return f"{device}/{model}/FLASH_ATTN/tp1-dp1/{mode}/{suite}"


def months() -> Fleet:
    """Two devices, 40 models, 60 nights; one device stopped reporting, one model went bad with a new vLLM."""
    rows = []
    models = [f"model-{i:02}" for i in range(40)]
    for ago in range(60):
        new = ago < 9
        good = {cell("h200", model): "pp" for model in models}
        good |= {cell("h200", "model-07", "compile"): "pf" if new else "pp"}
        rows.append(row(ago, good, vllm="0.27.0" if new else "0.26.0"))
        if ago > 5:
            rows.append(
                row(ago, {cell("l4", model): "pw" if model.endswith("3") else "pp" for model in models})
            )
    return shown(*rows, refused("reports/bad", "contradicts itself", "x"))


def write(folder: Path, fleet: Fleet) -> Path:
    write_site(folder, render_site(fleet, title="Nights"))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("nights") / "site", months())


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    found = context.new_page()
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    found.on(
        "request", lambda request: errors.append(request.url) if not request.url.startswith("file:") else None
    )
    yield found
    context.close()
    assert errors == []


def rows_of(page: Any) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(".g-row:not(.g-group)").all_inner_texts()]


def test_the_grid_is_there_and_only_what_is_in_sight(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    assert page.inner_text("#count") == "81 cells, 60 nights"
    assert 10 < page.locator(".g-row").count() < 60
    assert page.get_attribute("#grid", "aria-rowcount") == "84"
    page.evaluate("document.querySelector('#view').scrollTop = 1e6")
    page.wait_for_timeout(100)
    assert "model-39" in rows_of(page)[-1]
    assert "stale" in rows_of(page)[-1]


def test_filters_and_the_address(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    page.fill("#f-q", "h200 model-07")
    page.wait_for_timeout(150)
    assert page.inner_text("#count").startswith("2 of 81 cells")
    page.click("#chips button:has-text('fail')")
    (only,) = rows_of(page)
    assert "model-07" in only
    assert "fail" in only
    assert "2026-03-02" in only
    address = page.url
    assert "status=fail" in address
    assert "q=h200" in address
    page.goto("about:blank")
    page.goto(address)
    assert rows_of(page) == [only]
    page.click("#f-clear")
    assert page.inner_text("#count") == "81 cells, 60 nights"
    assert page.url.endswith("index.html")
    page.select_option("#f-device", "l4")
    page.select_option("#f-nights", "30")
    assert page.inner_text("#count") == "40 of 81 cells, 30 nights"
    page.select_option("#f-device", "")
    page.select_option("#f-sort", "now")
    assert "fail" in rows_of(page)[0]


@pytest.mark.parametrize(
    "hashed",
    [
        "#device=<script>",
        "#device=__proto__&status=constructor",
        "#nights=1e9&sort=x",
        "#q=%FF%00",
        "#=&=&",
        "#certified",
    ],
)
def test_an_address_that_somebody_made(page: Any, site: Path, hashed: str) -> None:
    page.goto((site / "index.html").as_uri() + hashed)
    assert page.locator(".g-row").count() > 10 or "q=" in hashed
    assert page.input_value("#f-device") == ""


def test_by_keyboard(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator("#view [tabindex='0']").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getAttribute('aria-rowindex')")
    assert focused == "5"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#detail").startswith("2026-03-10 · ✓ pass · model-02")
    assert "vLLM 0.27.0" in page.inner_text("#detail")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    assert "2026-03-01" in page.inner_text("#detail")
    assert "vLLM 0.26.0" in page.inner_text("#detail")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "84"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/cells/*.html")
    assert "h200/model-00" in page.inner_text("h1")
    assert page.locator("[tabindex='0']").count() <= 4


def test_by_pointer(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    box = page.locator(".g-row:not(.g-group) .c-strip").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 5)
    assert page.inner_text("#detail").startswith("2026-03-10")
    page.mouse.move(box["x"] + 2, box["y"] + 5)
    assert page.inner_text("#detail").startswith("2026-01-10")


def test_a_missing_night_is_drawn_as_nothing(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri() + "#device=l4&q=model-00")
    path = page.locator(".g-row:not(.g-group) .strip path")
    assert path.count() == 1
    assert path.get_attribute("d") == "M0 5h54v6h-54z"
    assert "6 missing" in (page.locator(".g-row:not(.g-group) .c-strip").get_attribute("aria-label") or "")


def test_the_cells_page(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri() + "#status=fail")
    page.click(".g-row:not(.g-group) a")
    text = page.inner_text("body")
    for words in ("First bad", "0.26.0", "0.27.0", "First divergence", "bi-harness run -k b"):
        assert words in text
    page.click("header a")
    page.wait_for_url("**/index.html")


def test_without_scripts(chromium: Any, site: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert "every cell as a plain list" in page.inner_text("body")
    assert "NOT CERTIFIED" in page.inner_text("#certified")
    page.goto((site / "cells.html").as_uri())
    assert page.locator("tbody tr").count() == 81
    context.close()


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
@pytest.mark.parametrize("name", ["index.html", "cells.html", "cell"])
def test_nothing_is_wider_than_the_screen(chromium: Any, site: Path, width: int, name: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    path = next(site.glob("cells/h200-model-07-*compile*.html")) if name == "cell" else site / name
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_on_paper(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    before = page.locator(".g-row").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".g-row").count() == 83 > before
    page.emulate_media(media="print")
    assert not page.locator("#tools").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".g-row").count() < 83


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(chromium: Any, site: Path, scheme: str, width: int) -> None:
    if importlib.util.find_spec("axe_playwright_python") is None:
        pytest.skip("axe-playwright-python is not installed (pip install -r requirements/trust.txt)")
    from axe_playwright_python.sync_playwright import Axe

    # axe is a script of its own, which the pages' policy does not let in.
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    bad = next(site.glob("cells/h200-model-07-*compile*.html"))
    for path in (site / "index.html", bad):
        page.goto(path.as_uri())
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        found = Axe().run(page)
        assert [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]] == [], path.name
    context.close()


def named(text: str, ago: int, names: Iterator[str] | None = None) -> Row:
    """A certificate that is called so in every place, as though it had been verified."""
    statement = fullest(text, names=names)
    result = statement.predicate.bi_harness
    result = result.model_copy(
        update={
            "started": f"2026-03-{10 - ago:02}T01:00:00Z",
            "finished": f"2026-03-{10 - ago:02}T02:00:00Z",
            "effective": tuple(
                arm.model_copy(
                    update={"config": {k: v for k, v in arm.config.items() if k != "planted_fault"}}
                )
                for arm in result.effective
            ),
        }
    )
    predicate = statement.predicate.model_copy(update={"bi_harness": result})
    other: Statement = statement.model_copy(update={"predicate": predicate})
    examined = Examined(text, other, f"{ago}{text!r}", (), (text,), (text,), journal=False)
    return row_of(examined, f"{ago}{text!r}", text)


def hostile(text: str, names: Iterator[str] | None = None) -> Fleet:
    one = f"{text}/{text}/{text}/tp1-dp1/{text}/{text}"
    rows = [named(text, 2, names), named(text, 0, names)]
    rows += [
        row(1, {one: "pp"}, device=text or "x", vllm=text),
        row(0, {one: "pf"}, device=text or "x", vllm=text),
    ]
    found = shown(*rows, refused(text, text, text))
    assert found.as_of == DAY
    assert len(found.certificates) == 4
    return found


@pytest.mark.parametrize(
    "text", ["every one of them", *payloads.SCRIPTS[::4], payloads.PATHS[0], payloads.TERMINAL[15]]
)
def test_no_name_comes_alive(chromium: Any, tmp_path: Path, text: str) -> None:
    fleet = hostile("", itertools.cycle(SHORT)) if text == "every one of them" else hostile(text)
    site = write(tmp_path / "site", fleet)
    context = chromium.new_context()
    context.add_init_script(_BEFORE)
    page = context.new_page()
    asked: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for path in [site / "index.html", site / "cells.html", *sorted(site.glob("cells/*"))[:3]]:
        asked.clear()
        page.goto(path.as_uri())
        assert page.evaluate(_LOOK, sorted(ELEMENTS)) == [], path.name
        page.evaluate(_TOUCH)
        page.wait_for_timeout(30)
        assert page.evaluate(_LOOK, sorted(ELEMENTS)) == [], path.name
        assert page.evaluate("[window.__fired, window.__broken]") == [0, []]
        assert asked == [path.as_uri()]
        if path.name == "index.html":
            assert page.evaluate("document.documentElement.dataset.ready") == "1"
            assert page.locator(".g-row").count() > 1
    for svg in site.glob("badges/**/*.svg"):
        page.goto(svg.as_uri())
        assert page.evaluate("[...document.querySelectorAll('script, foreignObject, a, image')].length") == 0
    assert dialogs == []
    context.close()
    inside = {path.resolve().is_relative_to(site) for path in site.rglob("*")}
    assert inside == {True}


def test_the_check_can_fail(chromium: Any, tmp_path: Path) -> None:
    """Of pages that escape nothing, the same look finds what came alive, and the policy stops it."""
    context = chromium.new_context()
    context.add_init_script(_BEFORE)
    page = context.new_page()
    (tmp_path / "x.html").write_text(f"<!doctype html><title>x</title><p>{payloads.SCRIPTS[8]}")
    page.goto((tmp_path / "x.html").as_uri())
    page.wait_for_timeout(100)
    assert "onerror" in page.evaluate(_LOOK, sorted(ELEMENTS))
    assert page.evaluate("window.__fired") == 1
    text = (write(tmp_path / "site", months()) / "index.html").read_text()
    (tmp_path / "y.html").write_text(text.replace("<h1>", f"<h1>{payloads.SCRIPTS[8]}{payloads.SCRIPTS[0]}"))
    page.goto((tmp_path / "y.html").as_uri())
    page.wait_for_timeout(100)
    assert page.evaluate("window.__fired") == 0
    assert len(page.evaluate("window.__broken")) >= 2
    context.close()
