"""What all tests share: those that need data or a browser are skipped by name where these are missing.

``MTL_REQUIRE_DATA=1`` and ``MTL_REQUIRE_BROWSER=1`` turn these skips into failures.
"""

from __future__ import annotations

import os
import re

import pytest
import torch

# The reasons of skips for want of something, and the variable that makes such a skip a failure.
WANTING = {
    re.compile(r"needs data: "): "MTL_REQUIRE_DATA",
    re.compile(r"no (browser|playwright|axe-playwright-python|built site)\b"): "MTL_REQUIRE_BROWSER",
}


def reason_of(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def required_by(reason: str) -> str | None:
    """The variable that forbids a skip with this reason; None if the skip is not for want of something."""
    return next((variable for pattern, variable in WANTING.items() if pattern.match(reason)), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``data`` where one of its data sets is missing."""
    for mark in item.iter_markers("data"):
        from mtl_ref import datasets

        missing = [name for name in mark.args if not datasets.available(name)]
        if missing:
            pytest.skip(f"needs data: {', '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Make a skip for want of data or a browser a failure where it is required."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        variable = required_by(reason_of(report))
        if variable and os.environ.get(variable) == "1":
            report.outcome, report.longrepr = "failed", f"{reason_of(report)} ({variable}=1)"
    return report


def pytest_terminal_summary(terminalreporter) -> None:
    """Name the tests that were skipped for want of data or a browser."""
    wanting: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        if required_by(reason_of(report)):
            wanting.setdefault(reason_of(report), []).append(report.nodeid.removeprefix("tests/"))
    for reason, names in wanting.items():
        terminalreporter.write_line(f"SKIPPED tests ({len(names)}) {reason}: {'; '.join(names)}")


@pytest.fixture(autouse=True)
def as_it_was():
    """Each test starts on one thread; dtype, threads and determinism are put back after it."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
