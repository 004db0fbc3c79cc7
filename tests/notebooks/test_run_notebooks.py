"""The runner stores the same bytes twice, tells a changed output, and skips a notebook by name."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys

import nbformat
import pytest
from PIL import Image

from tools import run_notebooks
from tools.run_notebooks import ROOT, NotebookError, emptied, keep_equal_images, missing_data, normalise, run


def notebook_at(path, *sources, **metadata):
    notebook = nbformat.v4.new_notebook(metadata={"mtl": metadata} if metadata else {})
    notebook.cells = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    nbformat.write(notebook, path)
    return path


def stored(path):
    return json.loads(path.read_text("utf-8"))


def test_a_second_run_leaves_the_same_bytes(tmp_path):
    path = notebook_at(
        tmp_path / "a.ipynb", "print(1)\nprint(2)", "import os; os.path.basename(os.getcwd())", minutes=3
    )
    assert run(path).state == "changed"
    first = path.read_bytes()
    assert run(path).state == "same"
    assert path.read_bytes() == first
    assert run(path, check=True).state == "same"
    assert stored(path)["metadata"]["mtl"] == {"minutes": 3}
    assert "".join(stored(path)["cells"][0]["outputs"][0]["text"]) == "1\n2\n"
    assert tmp_path.name in str(stored(path)["cells"][1]["outputs"])  # it runs in its own folder


def test_check_tells_a_changed_output_and_stores_nothing(tmp_path):
    path = notebook_at(tmp_path / "a.ipynb", "print(0.123)")
    run(path)
    path.write_text(path.read_text("utf-8").replace('"0.123', '"0.124'), "utf-8")
    before = path.read_bytes()
    result = run(path, check=True)
    assert result.state == "changed"
    assert any("0.124" in line for line in result.detail)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; print('mind', file=sys.stderr)", "writes to stderr"),
        ("assert 1 > 2, 'too small'", "too small"),
    ],
)
def test_what_must_not_be_stored_fails(tmp_path, source, message):
    path = notebook_at(tmp_path / "a.ipynb", source)
    before = path.read_bytes()
    result = run(path)
    assert result.state == "failed"
    assert message in "\n".join(result.detail)
    assert path.read_bytes() == before


def test_a_notebook_over_budget_is_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(run_notebooks, "BUDGET", 0.01)
    path = notebook_at(tmp_path / "a.ipynb", "print(1)")
    before = path.read_bytes()
    assert run(path).state == "failed"
    assert path.read_bytes() == before


def test_normal_form_keeps_tags_and_drops_what_is_volatile():
    cell = nbformat.v4.new_code_cell("1 + 1  \n\n", id="same")
    cell.metadata = nbformat.from_dict(
        {"tags": ["raises-exception"], "mystnb": {"x": 1}, "execution": {"time": "now"}}
    )
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="a"),
        nbformat.v4.new_output("stream", name="stdout", text="b"),
        nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=9),
        nbformat.v4.new_output(
            "display_data", {"image/png": ""}, metadata={"image/png": {"width": 3, "dpi": 9}}
        ),
        nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["\x1b[31m/somewhere/file.py"]),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {}
    normalise(notebook)
    assert dict(cell.metadata) == {"tags": ["raises-exception"], "mystnb": {"x": 1}}
    assert cell.source == "1 + 1"
    assert [o.output_type for o in cell.outputs] == ["stream", "execute_result", "display_data", "error"]
    assert cell.outputs[0].text == "ab"
    assert cell.outputs[1].execution_count == 1
    assert cell.outputs[2].metadata == {"image/png": {"width": 3}}
    assert cell.outputs[3].traceback == ["E: v"]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_every_cell_gets_an_id_that_stays():
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ""} for _ in range(3)]
    cells[0]["id"] = cells[1]["id"] = "one"
    notebook = emptied({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}, "stem")
    assert [cell["id"] for cell in notebook["cells"]] == ["one", "stem-01", "stem-02"]
    assert notebook["nbformat_minor"] == 5


def png(colour, level):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "png", compress_level=level)
    return base64.b64encode(file.getvalue()).decode()


def with_png(data):
    cell = nbformat.v4.new_code_cell(
        "", id="c", outputs=[nbformat.v4.new_output("display_data", {"image/png": data})]
    )
    return nbformat.v4.new_notebook(cells=[cell])


def test_a_png_of_the_same_pixels_keeps_its_stored_bytes():
    stored_png, same_pixels, other = png("red", 9), png("red", 0), png("blue", 9)
    assert stored_png != same_pixels
    for fresh, kept in ((same_pixels, stored_png), (other, other)):
        notebook = with_png(fresh)
        keep_equal_images(notebook, with_png(stored_png))
        assert notebook.cells[0].outputs[0].data["image/png"] == kept
    notebook = with_png(other)
    keep_equal_images(notebook, with_png(stored_png), pixels_matter=False)
    assert notebook.cells[0].outputs[0].data["image/png"] == stored_png


def test_warnings_and_errors_are_refused():
    cell = nbformat.v4.new_code_cell("x", id="c")
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="mind")]
    with pytest.raises(NotebookError, match="cell c writes to stderr: mind"):
        normalise(nbformat.v4.new_notebook(cells=[cell]))
    cell.outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no figure", traceback=[])]
    with pytest.raises(NotebookError, match="cell c shows an error: ValueError: no figure"):
        normalise(nbformat.v4.new_notebook(cells=[cell]))


@pytest.fixture
def needy(tmp_path, monkeypatch):
    """A notebook whose data are nowhere."""
    pytest.importorskip("mtl_ref.datasets")
    monkeypatch.delenv("MTL_REF_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.delenv("MTL_REQUIRE_DATA", raising=False)
    return notebook_at(tmp_path / "needy.ipynb", "print(1)", minutes=1, seconds=1, data=["reviews"])


def test_a_notebook_without_its_data_is_skipped_by_name(needy, monkeypatch, capsys):
    assert missing_data(needy) == ["reviews"]
    result = run(needy)
    assert (result.state, result.detail) == ("skipped", ["reviews"])
    assert run_notebooks.report([result], check=True) == 0
    assert "SKIPPED notebooks (1): needy.ipynb needs data: reviews" in capsys.readouterr().out
    monkeypatch.setenv("MTL_REQUIRE_DATA", "1")
    assert run(needy).state == "failed"


@pytest.mark.parametrize("required", ["", "1"])
def test_nbval_skips_it_by_name_or_fails(needy, required, monkeypatch):
    monkeypatch.setenv("MTL_REQUIRE_DATA", required)
    plugin = [
        "-p",
        "tests.notebooks.missing_data",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *plugin,
        "--nbval",
        "--nbval-current-env",
        str(needy.parent),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (1 if required else 0), done.stdout  # all skipped is no failure
    assert ("1 failed" if required else "needy.ipynb needs data: reviews") in done.stdout
