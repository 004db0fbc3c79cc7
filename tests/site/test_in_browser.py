"""The built site in Chromium: nothing from outside, no error, accessible, light, readable on a phone."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import TEXT

LIMIT = 500 * 1024  # bytes over the wire, compressed, for a page without an interactive figure
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Preloading would ask for the style sheets again, which a page from a file may not do.
AXE = {"runOnly": RULES, "resultTypes": ["violations"], "preload": False}
STILL = {"reduced_motion": "reduce"}  # nothing half faded in while contrast is measured
LOCAL = ("http://127.0.0.1", "file:", "data:", "blob:")
STATE = """() => {
  const root = document.documentElement;
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  return {
    theme: root.dataset.theme,
    overflow: root.scrollWidth - root.clientWidth,
    formulas: document.querySelectorAll(".math").length,
    typeset: document.querySelectorAll(".math mjx-container").length,
    errors: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.textContent),
    repeated: ids.filter((one, n) => ids.indexOf(one) < n),
  };
}"""


# Everything unfolded. Of the coloured words in code, one of each kind stays coloured: they share a style, and
# measuring the contrast of hundreds of them would take most of the time.
UNFOLD = """async () => {
  document.querySelectorAll("article details").forEach(box => { box.open = true; });
  const seen = new Set();
  document.querySelectorAll(".highlight pre span").forEach(word => {
    const kind = word.className + (word.closest(".cell_output") ? " output" : "");
    if (seen.has(kind)) word.replaceWith(...word.childNodes); else seen.add(kind);
  });
  await new Promise(done => setTimeout(done, 60));  // the page hears of the unfolding
}"""


class Visit:
    """One page in the browser: what it asked for, what went wrong, and its state when it was ready."""

    def __init__(self, context: Any, address: str) -> None:
        self.problems: list[str] = []
        self.requests: set[str] = set()
        self.page = context.new_page()
        self.page.on("request", self.note)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on(
            "console", lambda line: line.type == "error" and self.problems.append(f"console: {line.text}")
        )
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        self.page.on(
            "response",
            lambda reply: reply.status >= 400 and self.problems.append(f"{reply.status} {reply.url}"),
        )
        self.page.goto(address, wait_until="load")
        if self.page.query_selector(".math"):
            self.page.wait_for_selector("html[data-math=done]", state="attached", timeout=20_000)
        self.page.wait_for_timeout(80)  # the page marks the boxes that scroll, so that Tab reaches them

    def note(self, request: Any) -> None:
        """Remember a request; one to another host is a problem (and fails: the browser has no network)."""
        self.requests.add(request.url.split("?")[0].split("#")[0])
        if not request.url.startswith(LOCAL):
            self.problems.append(f"request to another host: {request.url}")

    def violations(self) -> list[str]:
        """What axe-core finds with everything unfolded: WCAG 2.2 A and AA, and best practice."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python")
        self.page.evaluate(UNFOLD)
        results = axe.Axe().run(
            self.page, context={"exclude": [["svg.mtl-figure"], ["mjx-container"]]}, options=AXE
        )
        return [
            f"{one['impact']} {one['id']}: "
            + "; ".join(" ".join(map(str, node["target"])) for node in one["nodes"][:3])
            for one in results.response["violations"]
        ]


@functools.cache
def compressed(path: str) -> int:
    """The bytes that a web server sends for a file."""
    body = Path(path).read_bytes()
    return len(gzip.compress(body, 6)) if Path(path).suffix in TEXT else len(body)


@pytest.fixture(scope="session")
def wide_light(browser: Any) -> Any:
    """A window in the light theme."""
    return browser.new_context(
        color_scheme="light", viewport={"width": 1280, "height": 900}, offline=True, **STILL
    )


@pytest.fixture(scope="session")
def phone_dark(browser: Any) -> Any:
    """A phone in the dark theme."""
    return browser.new_context(color_scheme="dark", viewport={"width": 390, "height": 844}, **STILL)


def test_from_a_file_in_the_light_theme(wide_light: Any, site: Path, page_name: str) -> None:
    """No network, no error, formulas set, ids unique, at most 500 KiB, no accessibility violation."""
    visit = Visit(wide_light, (site / page_name).resolve().as_uri())
    state, found = visit.page.evaluate(STATE), visit.violations()
    visit.page.close()
    assert not visit.problems
    assert state["typeset"] == state["formulas"] and not state["errors"]
    assert not state["repeated"]
    weight = {
        url.rpartition("/")[2]: compressed(unquote(urlsplit(url).path))
        for url in visit.requests
        if url.startswith("file:")
    }
    if not any("plotly" in name for name in weight):
        assert sum(weight.values()) <= LIMIT, sorted(weight.items(), key=lambda item: -item[1])[:6]
    assert not found
    assert state["theme"] == "light"


def test_from_a_server_on_a_phone_in_the_dark_theme(phone_dark: Any, server: str, page_name: str) -> None:
    """No error, nothing wider than the phone, no accessibility violation."""
    visit = Visit(phone_dark, server + page_name)
    state, found = visit.page.evaluate(STATE), visit.violations()
    visit.page.close()
    assert not visit.problems
    assert state["overflow"] <= 0, f"{state['overflow']} pixels wider than the phone"
    assert not found
    assert state["theme"] == "dark"


def test_a_folded_solution_opens(wide_light: Any, site: Path) -> None:
    with_solutions = [p for p in site.glob("chapters/**/*.html") if "mtl-solution" in p.read_text("utf-8")]
    if not with_solutions:
        pytest.skip("no chapter has a solution")
    for path in with_solutions:
        page = Visit(wide_light, path.resolve().as_uri()).page
        solution = page.locator("details.mtl-solution").first
        content = solution.locator(".mtl-exercise-content")
        assert not content.is_visible()
        solution.locator("summary").first.click()
        assert content.is_visible()
        page.close()


def test_a_notebook_can_be_downloaded(wide_light: Any, site: Path) -> None:
    notebooks = sorted((site / "_sources/chapters").rglob("*.ipynb"))
    if not notebooks:
        pytest.skip("no chapter is a notebook")
    for notebook in notebooks:
        path = (site / notebook.relative_to(site / "_sources")).with_suffix(".html")
        page = Visit(wide_light, path.resolve().as_uri()).page
        button = page.locator(".btn-download-source-button").first
        target = (path.parent / str(button.get_attribute("href"))).resolve()
        page.close()
        assert target.exists() and target.suffix == ".ipynb"


def test_search_works_from_a_file(wide_light: Any, site: Path) -> None:
    visit = Visit(wide_light, (site / "search.html").resolve().as_uri() + "?q=encoder")
    visit.page.wait_for_selector("#search-results li a", timeout=10_000)
    visit.page.close()
    assert not visit.problems


def test_the_theme_can_be_switched(phone_dark: Any, server: str) -> None:
    visit = Visit(phone_dark, server + "index.html")
    seen = set()
    for _ in range(3):
        visit.page.locator("button.theme-switch-button:visible").first.click()
        seen.add(visit.page.evaluate("document.documentElement.dataset.theme"))
    visit.page.close()
    assert seen == {"light", "dark"} and not visit.problems
