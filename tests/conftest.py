"""What all tests share: those that need data or a browser are skipped by name where these are missing.

``MTL_REQUIRE_DATA=1`` and ``MTL_REQUIRE_BROWSER=1`` turn these skips into failures.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser_path() -> str | None:
    """The Chromium that the browser tests drive: MTL_BROWSER, or the first on the path."""
    named = os.environ.get("MTL_BROWSER")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


def skip_or_fail(reason: str, required_by: str) -> None:
    """Skip, or fail where the environment variable ``required_by`` is 1."""
    if os.environ.get(required_by) == "1":
        pytest.fail(f"{reason} ({required_by}=1)", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("data"):
        from mtl_ref import datasets

        missing = [name for name in mark.args if not datasets.available(name)]
        if missing:
            skip_or_fail(f"needs data: {', '.join(missing)}", "MTL_REQUIRE_DATA")
    if item.get_closest_marker("browser") and browser_path() is None:
        skip_or_fail("needs a browser: Chromium", "MTL_REQUIRE_BROWSER")


def pytest_terminal_summary(terminalreporter) -> None:
    """Name the tests that were skipped for want of data or a browser."""
    wanting: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if reason.startswith("needs "):
            wanting.setdefault(reason, []).append(report.nodeid.removeprefix("tests/"))
    for reason, names in wanting.items():
        terminalreporter.write_line(f"SKIPPED tests ({len(names)}) {reason}: {'; '.join(names)}")


@pytest.fixture(autouse=True)
def one_thread_and_same_dtype():
    """Each test starts on one thread with float32 defaults, whatever the one before it set."""
    threads, dtype, deterministic = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def browser() -> str:
    """Path of the browser of a test marked ``browser``."""
    return browser_path() or ""
