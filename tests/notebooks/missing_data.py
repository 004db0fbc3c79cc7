"""A pytest plugin: a notebook whose declared data are missing is skipped by name instead of failing.

``-p tests.notebooks.missing_data`` puts it beside nbval; ``MTL_REQUIRE_DATA=1`` makes the skip a failure.
The summary ends with one line that names each skipped notebook and counts them.
"""

from __future__ import annotations

import os

import pytest

from tools.run_notebooks import missing_data, name_of, skip_summary

NEEDS = "needs data: "


class MissingData(pytest.Item):
    """Stands for a notebook that cannot run here."""

    def runtest(self):
        if os.environ.get("MTL_REQUIRE_DATA") == "1":
            pytest.fail(f"{name_of(self.path)} {self.name}", pytrace=False)
        pytest.skip(self.name)

    def reportinfo(self):
        return self.path, None, name_of(self.path)


class SkippedNotebook(pytest.File):
    """Takes the place of nbval's collector."""

    def collect(self):
        yield MissingData.from_parent(self, name=NEEDS + ", ".join(missing_data(self.path)))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collectors = yield
    if collectors and file_path.suffix == ".ipynb" and missing_data(file_path):
        return [SkippedNotebook.from_parent(parent, path=file_path)]
    return collectors


def pytest_terminal_summary(terminalreporter):
    skipped = {}
    for report in terminalreporter.stats.get("skipped", []):
        notebook, _, name = report.nodeid.partition("::")
        if name.startswith(NEEDS):
            skipped[notebook] = name.removeprefix(NEEDS).split(", ")
    if skipped:
        terminalreporter.write_line(skip_summary(skipped))
