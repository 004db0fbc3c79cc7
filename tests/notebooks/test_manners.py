"""Every notebook keeps to the house's manners; the check is tried on notebooks with one fault each."""

from __future__ import annotations

import copy
import json

import pytest

from tests.notebooks.manners import faults
from tools.run_notebooks import find_notebooks, name_of


@pytest.mark.parametrize("path", find_notebooks(), ids=name_of)
def test_notebook_keeps_to_the_manners(path):
    assert faults(path) == []


def markdown(text):
    return {"cell_type": "markdown", "id": f"m{abs(hash(text))}", "metadata": {}, "source": text}


def code(source, count, output="", tags=()):
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code",
        "id": f"c{count}",
        "metadata": metadata,
        "source": source,
        "execution_count": count,
        "outputs": outputs,
    }


GOOD = {
    "metadata": {"mtl": {"minutes": 5, "seconds": 2, "data": []}},
    "nbformat": 4,
    "nbformat_minor": 5,
    "cells": [
        markdown("# Title"),
        code("from mtl_ref.reproducible import setup\nsetup()", 1),
        code(
            "claim('two exceeds one', 2 > 1, 'by 1')", 2, "Claim holds: two exceeds one (by 1)\n", ["claim"]
        ),
        markdown("## Summary\n\n```{exercise} A\n:label: a\n```\n\n```{solution} a\n```"),
    ],
}


def change(path, value):
    """A copy of the good notebook with the entry at ``path`` replaced."""
    notebook = copy.deepcopy(GOOD)
    place = notebook
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return notebook


BAD = {
    "mtl.minutes is missing": change(("metadata", "mtl"), {"seconds": 2, "data": []}),
    "mtl.seconds is 61": change(("metadata", "mtl", "seconds"), 61),
    "mtl.data names nothing_known": change(("metadata", "mtl", "data"), ["nothing_known"]),
    "exactly one title": change(("cells", 0, "source"), "no title"),
    "does not call setup": change(("cells", 1, "source"), "import torch"),
    "not lower-case": change(("cells", 2, "metadata", "tags"), ["claim", "Hide-Input"]),
    "excused from the comparison": change(("cells", 2, "metadata", "tags"), ["claim", "nbval-ignore-output"]),
    "belong together": change(("cells", 2, "metadata", "tags"), []),
    "has no claim": change(("cells", 2), code("print(1)", 2, "1\n")),
    "not run from top to bottom": change(("cells", 2, "execution_count"), 7),
    "has no outputs": change(("cells", 2, "outputs"), []),
    "a cell has 26 lines": change(("cells", 2, "source"), "claim(\n" + "1\n" * 25),
    "the median cell has 9 lines": change(("cells", 1, "source"), "setup()\n" * 17),
    "a line of 111 characters": change(("cells", 1, "source"), "setup() # " + "x" * 101),
    "shows a machine path": change(("cells", 2, "outputs", 0, "text"), "/home/someone/book\n"),
    "the text holds a machine path": change(("cells", 0, "source"), "# Title\n\nin /root/book"),
    "shows a warning": change(("cells", 2, "outputs", 0, "text"), "UserWarning: mind\n"),
    "traceback or address": change(("cells", 2, "outputs", 0, "text"), "<object at 0x7f00aa11bb22>\n"),
    "writes to stderr": change(("cells", 2, "outputs", 0, "name"), "stderr"),
    "ends in an error": change(("cells", 2, "outputs", 0, "output_type"), "error"),
    "no exercise": change(("cells", 3, "source"), "## Summary"),
    "no heading 'Summary'": change(("cells", 3, "source"), "```{exercise} A\n```\n\n```{solution} a\n```"),
    "id of their own": change(("cells", 1, "id"), "c2"),
}


def write(notebook, tmp_path):
    path = tmp_path / "9-part" / "chapter.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(notebook), "utf-8")
    return path


def test_a_good_notebook_has_no_fault(tmp_path):
    assert faults(write(GOOD, tmp_path)) == []


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_found(fault, tmp_path):
    assert any(fault in line for line in faults(write(BAD[fault], tmp_path))), faults(
        tmp_path / "9-part" / "chapter.ipynb"
    )
