"""The λ slider of "The weighted sum" in Chromium: by keyboard, without a kernel, as NumPy chooses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = "chapters/2-weighted-loss/weighted-sum.html"
WEIGHTS = [0.01, 0.2, 0.49, 0.5, 0.51, 0.77, 0.99]


@pytest.fixture(scope="module", params=["file in a wide window", "server on a phone"])
def page(request: pytest.FixtureRequest, browser: Any, site: Path, server: str) -> Iterator[Any]:
    """The chapter, with every request to another host on record."""
    if not (site / PAGE).exists():
        pytest.skip(f"no {PAGE} in the built site")
    phone = "phone" in request.param
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
    context = browser.new_context(viewport=size, offline=not phone)
    opened = context.new_page()
    opened.trouble = []
    opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
    opened.on("request", lambda asked: opened.trouble.append(asked.url) if foreign(asked.url) else None)
    opened.goto(server + PAGE if phone else (site / PAGE).resolve().as_uri())
    opened.wait_for_selector(".mtl-weight-slider input[type=range]")
    yield opened
    context.close()


def foreign(address: str) -> bool:
    """Whether a request leaves this machine."""
    return not address.startswith(("file:", "http://127.0.0.1", "data:", "blob:"))


def fronts(page: Any) -> list[dict[str, Any]]:
    """The points that the notebook's cell wrote into the page."""
    return json.loads(page.locator("#front-points").text_content())


def chosen(page: Any) -> list[int]:
    """The point that each panel shows."""
    return [
        int(n)
        for n in page.locator(".mtl-weight-slider figure").evaluate_all("f => f.map(e => e.dataset.point)")
    ]


def slide(page: Any, weight: float) -> None:
    """Move the slider as a reader's hand does."""
    page.locator(".mtl-weight-slider input").fill(str(weight))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_panel_shows_a_point_that_minimises_the_weighted_sum(page: Any, weight: float) -> None:
    slide(page, weight)
    found, given = chosen(page), fronts(page)
    assert len(found) == len(given) == 2
    for n, front in zip(found, given, strict=True):
        sums = np.array(front["points"]) @ [weight, 1 - weight]
        assert sums[n] <= sums.min() + 1e-9


def test_the_convex_front_is_walked_along_and_the_other_is_jumped_across(page: Any) -> None:
    visited: list[list[int]] = []
    for step in range(1, 100):
        slide(page, step / 100)
        visited.append(chosen(page))
    convex, concave = (set(column) for column in zip(*visited, strict=True))
    assert len(convex) > 20
    points = np.array(fronts(page)[1]["points"])
    middle = {n for n, (one, two) in enumerate(points) if min(one, two) > 0.1 * points.max()}
    assert len(middle) > 0.3 * len(points) and not middle & concave


def test_the_keyboard_moves_it_and_the_words_follow(page: Any) -> None:
    slide(page, 0.5)
    slider = page.locator(".mtl-weight-slider input")
    before = chosen(page)
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == pytest.approx(0.55)
    assert "0.55" in str(slider.get_attribute("aria-valuetext"))
    assert "0.55" in page.locator(".mtl-weight-slider output").text_content()
    assert chosen(page)[0] != before[0]
    page.keyboard.press("Home")
    assert float(slider.input_value()) == pytest.approx(0.01)


def test_the_dot_lies_on_the_line(page: Any) -> None:
    slide(page, 0.3)
    distances = page.locator(".mtl-weight-slider svg").evaluate_all(
        """all => all.map(svg => {
          const [dot, line] = ["circle", "line"].map(name => svg.querySelector(name));
          const [x, y] = ["cx", "cy"].map(name => Number(dot.getAttribute(name)));
          const [a, b, c, d] = ["x1", "y1", "x2", "y2"].map(name => Number(line.getAttribute(name)));
          return Math.abs((c - a) * (b - y) - (a - x) * (d - b)) / Math.hypot(c - a, d - b);
        })"""
    )
    assert len(distances) == 2 and max(distances) < 1e-6


def test_nothing_is_asked_of_another_host_and_nothing_is_wider_than_the_window(page: Any) -> None:
    assert page.trouble == []
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
