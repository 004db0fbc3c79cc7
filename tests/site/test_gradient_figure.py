"""The movable gradients of "Conflicting gradients": the script beside ``mtl_ref``, and its manners."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import ROOT
from test_in_browser import Visit

from mtl_ref.balancing import IMTLG, MGDA, AlignedMTL, CAGrad, GradVac, NashMTL, PCGrad, UPGrad

SCRIPT = ROOT / "_assets" / "gradient-figure.js"
PAGE = "chapters/5-balancing/conflicting-gradients.html"
ANGLES = (0, 25, 60, 90, 110, 150, 179, 180, 181, 235, 300)
LENGTHS = ((1, 1), (2, 0.7), (0.3, 3), (0.05, 3.5), (100, 0.02), (1.5, 0), (0, 2))
SETTINGS = ({"ball": 0.5, "target": 0.0}, {"ball": 0.9, "target": 0.6}, {"ball": 0.0, "target": -0.5})
NAMES = ("plain sum", "MGDA", "PCGrad", "UPGrad", "GradVac", "CAGrad", "IMTL-G", "Nash-MTL", "Aligned-MTL")


def pairs() -> list[list[list[float]]]:
    """Pairs of gradients: all angles (equal and exactly opposite ones too), lengths alike, apart and zero."""
    found = []
    for angle, (one, other), start in itertools.product(ANGLES, LENGTHS, (0, 70)):
        ends = ((one, np.deg2rad(start)), (other, np.deg2rad(start + angle)))
        first, second = ([length * np.cos(at), length * np.sin(at)] for length, at in ends)
        if angle in (0, 180):  # exactly parallel, not up to rounding
            second = [(1 if angle == 0 else -1) * other / one * v for v in first] if one else second
        found.append([first, second])
    return found + [[[2.0, 0.0], [-1.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]], [[1.0, -3.0], [-1.0, 3.0]]]


def package(name: str, gradients: np.ndarray, ball: float, target: float) -> np.ndarray | None:
    """The direction that ``mtl_ref`` finds; None where it says that there is none."""
    gram = torch.from_numpy(gradients @ gradients.T)
    if name == "plain sum":
        return gradients.sum(0)
    gradvac = GradVac(2)
    gradvac.targets.fill_(target)
    rules = {"MGDA": MGDA(), "PCGrad": PCGrad(), "UPGrad": UPGrad(), "GradVac": gradvac}
    rules |= {"CAGrad": CAGrad(ball), "IMTL-G": IMTLG(), "Nash-MTL": NashMTL(), "Aligned-MTL": AlignedMTL()}
    try:
        return rules[name](gram).numpy() @ gradients
    except ValueError:
        return None


@pytest.fixture(scope="module")
def figure(browser: Any, site: Path) -> Iterator[Any]:
    """The chapter on a phone in the dark theme, as a page from a file, without a network."""
    if not (site / PAGE).exists():
        pytest.skip(f"the site has no {PAGE}")
    context = browser.new_context(
        color_scheme="dark", viewport={"width": 390, "height": 844}, offline=True, reduced_motion="reduce"
    )
    visit = Visit(context, (site / PAGE).resolve().as_uri())
    yield visit
    context.close()


def state(page: Any) -> tuple[list[str], list[str]]:
    """What the two handles say of their place, and the cells of the table."""
    tips = page.locator(".mtl-gradients [role=slider]")
    places = [tip.get_attribute("aria-valuetext") for tip in tips.all()]
    return places, page.locator(".mtl-gradients td").all_inner_texts()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_script_has_the_directions_of_the_package(browser: Any, settings: dict[str, float]) -> None:
    page = browser.new_page()
    page.set_content("<p>no figure</p>")
    page.add_script_tag(path=str(SCRIPT))
    drawn = pairs()
    found = page.evaluate(
        "([pairs, settings]) => pairs.map(([g, h]) => mtlGradientFigure.directions(g, h, settings))",
        [drawn, settings],
    )
    page.close()
    compared = 0
    for gradients, answers in zip(drawn, found, strict=True):
        assert tuple(answers) == NAMES
        for name, answer in answers.items():
            expected = package(name, np.array(gradients), **settings)
            assert (answer is None) == (expected is None), (name, gradients)
            if expected is not None:
                gap = np.linalg.norm(np.array(answer["direction"]) - expected)
                floor = 1e-6 * np.linalg.norm(gradients, axis=1).max()  # where gradients cancel
                assert gap <= 1e-6 * max(np.linalg.norm(expected), floor), (name, gradients, gap)
                compared += 1
    assert compared > 1000


def test_the_figure_is_drawn_without_a_request_or_an_error(figure: Any) -> None:
    assert not figure.problems
    names = figure.page.locator(".mtl-gradients tbody th").all_inner_texts()
    assert [name.strip() for name in names] == list(NAMES)
    assert figure.page.locator(".mtl-gradients svg polygon").count() == len(NAMES) + 2


def test_arrow_keys_move_a_gradient_and_every_direction_follows(figure: Any) -> None:
    page = figure.page
    page.get_by_role("button", name="Equal lengths").click()
    before = state(page)
    assert before[0] == ["2.0 to the right, 0.0 up", "−1.2 to the right, 1.6 up"]
    page.locator(".mtl-gradients [role=slider]").first.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    after = state(page)
    assert after[0] == ["1.5 to the right, 0.1 up", before[0][1]]
    expected = package("MGDA", np.array([[1.5, 0.1], [-1.2, 1.6]]), 0.5, 0.0)
    row = page.locator(".mtl-gradients tbody tr", has_text="MGDA").locator("td").all_inner_texts()
    assert float(row[2]) == pytest.approx(np.linalg.norm(expected), abs=0.005)
    page.keyboard.press("Tab")  # the other handle is the next stop
    page.keyboard.press("ArrowRight")
    assert state(page)[0][1] == "−1.1 to the right, 1.6 up"


def test_a_gradient_is_drawn_along_with_the_pointer(figure: Any) -> None:
    page = figure.page
    page.get_by_role("button", name="Equal lengths").click()
    tip = page.locator(".mtl-gradients [role=slider]").first
    tip.scroll_into_view_if_needed()
    box = tip.locator("circle").first.bounding_box()
    assert min(box["width"], box["height"]) >= 24  # large enough for a finger
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 35, steps=4)
    page.mouse.up()
    right, up = (float(part.split()[0]) for part in str(tip.get_attribute("aria-valuetext")).split(","))
    assert right == 2.0 and 1.0 <= up <= 1.8


def test_settings_and_impossible_bargains_are_told(figure: Any) -> None:
    page = figure.page
    page.get_by_role("button", name="Opposite").click()
    assert "No solution: Nash-MTL" in page.locator(".mtl-gradients [aria-live]").inner_text()
    page.get_by_role("button", name="Conflict").click()
    before = page.locator(".mtl-gradients tbody tr", has_text="CAGrad").inner_text()
    page.get_by_label("CAGrad’s κ").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".mtl-gradients tbody tr", has_text="CAGrad").inner_text() != before


def test_it_fits_a_phone_and_follows_the_theme(figure: Any) -> None:
    page = figure.page
    for part in ("svg", "table", ".mtl-controls"):
        box = page.locator(f".mtl-gradients {part}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, part
    boxes = [text.bounding_box() for text in page.locator(".mtl-gradients svg text").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    fill = "() => getComputedStyle(document.querySelector('.mtl-gradients svg text')).fill"
    dark = page.evaluate(fill)
    page.evaluate("() => { document.documentElement.dataset.theme = 'light'; }")
    light = page.evaluate(fill)
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    assert dark != light
