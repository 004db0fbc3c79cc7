"""Skips the site tests by name where the built site, Playwright or a browser is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import SITE, chromium, launch, pages, serve


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that asks for ``page_name`` runs once for each page of the built site."""
    if "page_name" in metafunc.fixturenames:
        found = pages(SITE) if SITE.exists() else []
        metafunc.parametrize(
            "page_name", found or [pytest.param("", marks=pytest.mark.skip(reason="no built site"))]
        )


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").exists():
        pytest.skip(f"no built site at {SITE}: run `make book`")
    return SITE


@pytest.fixture(scope="session")
def browser(site: Path) -> Iterator[Any]:
    """One Chromium for the whole session."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright: pip install playwright")
    if chromium() is None:
        pytest.skip("no browser: install chromium, or set CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """The address of a local server of the site."""
    with serve(site) as address:
        yield address
