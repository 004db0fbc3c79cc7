"""Runs notebooks and stores their outputs, so that a second run leaves no difference.

    python tools/run_notebooks.py                        run every notebook, store its outputs
    python tools/run_notebooks.py chapters/x/y.ipynb     run one
    python tools/run_notebooks.py --check                run, store nothing, fail if an output would change
    python tools/run_notebooks.py --times                also write the page of seconds per chapter

A notebook runs in its own folder, in a fresh kernel, on one thread. A notebook whose declared data
(``mtl.data`` of its metadata) are not there is skipped by name; ``MTL_REQUIRE_DATA=1`` makes that an error.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import io
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMES_PAGE = ROOT / "chapters" / "appendix" / "notebook-times.md"
BUDGET = 60  # seconds a notebook
TIMEOUT = 300  # seconds a cell, before it is given up
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
}
KEPT_NOTEBOOK_METADATA = ("mtl", "mystnb", "title")
KEPT_CELL_METADATA = ("jupyter", "mtl", "mystnb", "tags")
KEPT_OUTPUT_METADATA = ("height", "width")


class NotebookError(RuntimeError):
    """A notebook that must not be stored as it is."""


@dataclass
class Result:
    """What came of one notebook: ``state`` is same, changed, skipped or failed."""

    path: Path
    state: str
    seconds: float = 0.0
    detail: list[str] = field(default_factory=list)


def name_of(path: Path) -> str:
    """The path as a reader of the repository writes it."""
    return path.resolve().relative_to(ROOT).as_posix() if path.resolve().is_relative_to(ROOT) else path.name


def find_notebooks(folder: Path = ROOT / "chapters") -> list[Path]:
    """All notebooks below ``folder``, in the order of the book (``_toc.yml``), others last, by name."""
    notebooks = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    toc = ROOT / "_toc.yml"
    names = re.findall(r"(?:file|root):\s*(\S+)", toc.read_text("utf-8")) if toc.exists() else []
    order = {name.removesuffix(".ipynb"): rank for rank, name in enumerate(names)}
    return sorted(notebooks, key=lambda p: order.get(name_of(p).removesuffix(".ipynb"), len(order)))


def declared_data(notebook: dict[str, Any]) -> list[str]:
    """The data sets which a notebook says it reads."""
    return list(notebook.get("metadata", {}).get("mtl", {}).get("data", []))


def missing_data(path: Path) -> list[str]:
    """The declared data sets of a notebook that cannot be read now, without a download."""
    declared = declared_data(json.loads(path.read_text("utf-8")))
    if not declared:
        return []
    from mtl_ref import datasets

    return [name for name in declared if not datasets.available(name)]


def skip_summary(skipped: dict[str, list[str]]) -> str:
    """One line that names each skipped notebook and what it needs; '' if none was skipped."""
    if not skipped:
        return ""
    named = "; ".join(f"{name} needs data: {', '.join(data)}" for name, data in skipped.items())
    return f"SKIPPED notebooks ({len(skipped)}): {named}"


def pixels(png: str) -> tuple[tuple[int, int], bytes] | None:
    """Size and RGBA bytes of a base64 PNG, None if it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    except (UnidentifiedImageError, ValueError):
        return None
    return image.size, image.tobytes()


def keep_equal_images(new: Any, old: Any, pixels_matter: bool = True) -> None:
    """Where a new PNG shows the very same pixels as the stored one, keep the stored bytes.

    Compressors choose other bytes for the same pixels on other CPUs. With ``pixels_matter=False`` every
    stored PNG is kept (the SVG beside it still tells a changed figure).
    """
    stored = {cell.get("id"): cell.get("outputs", []) for cell in old.get("cells", [])}
    for cell in new.cells:
        for fresh, before in zip(cell.get("outputs", []), stored.get(cell.id, []), strict=False):
            png, old_png = (o.get("data", {}).get("image/png") for o in (fresh, before))
            old_png = "".join(old_png) if isinstance(old_png, list) else old_png
            if not png or not old_png or png == old_png:
                continue
            if not pixels_matter or ((shown := pixels(png)) and shown == pixels(old_png)):
                fresh["data"]["image/png"] = old_png


def emptied(notebook: dict[str, Any], stem: str) -> dict[str, Any]:
    """A notebook without outputs, every cell with an id of its own: the same start, whatever is stored."""
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    ids: set[str] = set()
    for index, cell in enumerate(notebook["cells"]):
        if not cell.get("id") or cell["id"] in ids:  # nbformat would give it a random one
            cell["id"] = f"{stem}-{index:02d}"
        ids.add(cell["id"])
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    return notebook


def normalise(notebook: Any) -> Any:
    """Drop what changes from run to run or from machine to machine; refuse what must not be stored.

    Args:
        notebook: An executed notebook (changed in place).

    Returns:
        The notebook.

    Raises:
        NotebookError: A cell wrote to stderr, or shows an error without the tag `raises-exception`.
    """
    import nbformat

    kept = {key: notebook.metadata[key] for key in KEPT_NOTEBOOK_METADATA if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({**kept, **NOTEBOOK_METADATA})
    count = 0
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {k: cell.metadata[k] for k in KEPT_CELL_METADATA if k in cell.metadata}
        )
        cell.source = "\n".join(line.rstrip() for line in cell.source.split("\n")).rstrip()
        if cell.cell_type == "code":
            count += bool(cell.source)
            cell.execution_count = count if cell.source else None
            cell.outputs = normalise_outputs(cell, count)
    return notebook


def normalise_outputs(cell: Any, count: int) -> list[Any]:
    """The outputs of a code cell, streams merged, without volatile metadata."""
    outputs: list[Any] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                raise NotebookError(f"cell {cell.id} writes to stderr: {output.text.strip()[:300]}")
            if outputs and outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
                continue
        if output.output_type == "execute_result":
            output.execution_count = count
        if output.output_type == "error":  # a traceback holds machine paths and terminal colours
            if "raises-exception" not in cell.metadata.get("tags", []):  # a figure that cannot be drawn, say
                raise NotebookError(f"cell {cell.id} shows an error: {output.ename}: {output.evalue}")
            output.traceback = [f"{output.ename}: {output.evalue}"]
        if "metadata" in output:
            output.metadata = {
                kind: sizes
                for kind, values in output.metadata.items()
                if isinstance(values, dict)
                and (sizes := {k: v for k, v in values.items() if k in KEPT_OUTPUT_METADATA})
            }
        outputs.append(output)
    return outputs


def changed_cells(old: str, new: str, limit: int = 12) -> list[str]:
    """The first lines that differ between two notebook files."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "stored", "this run", n=0, lineterm="")
    shown = [line[:160] for line in lines if line[:2] not in ("--", "++", "@@")]
    return shown[:limit] + ([f"... {len(shown) - limit} more lines"] if len(shown) > limit else [])


def kernel_seconds() -> float:
    """Processor seconds of the kernels that have ended, 0 where the system does not tell."""
    times = os.times()
    return times.children_user + times.children_system


def run(path: Path, check: bool = False, pixels_matter: bool = True) -> Result:
    """Run one notebook; store its outputs, or with ``check`` only compare them with the stored ones.

    Args:
        path: The notebook.
        check: Store nothing.
        pixels_matter: Whether a PNG with other pixels counts as a change.

    Returns:
        What came of it; errors of the notebook are a result, too.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        missing = missing_data(path)
        if missing and os.environ.get("MTL_REQUIRE_DATA") == "1":
            raise NotebookError(f"needs data: {', '.join(missing)}")
        if missing:
            return Result(path, "skipped", detail=missing)
        old = path.read_text("utf-8")
        notebook = nbformat.reads(json.dumps(emptied(json.loads(old), path.stem)), 4)
        started, busy = time.perf_counter(), kernel_seconds()
        NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.resolve().parent)}},
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
        ).execute()
        seconds = time.perf_counter() - started
        busy = kernel_seconds() - busy or seconds
        normalise(notebook)
    except (NotebookError, CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return Result(path, "failed", 0.0, str(error).strip().splitlines()[-30:])
    keep_equal_images(notebook, json.loads(old), pixels_matter)
    new = nbformat.writes(notebook, indent=1) + "\n"
    if not check and min(seconds, busy) > BUDGET:  # a machine that others use, too, is not held against it
        return Result(path, "failed", seconds, [f"not stored: a notebook may take {BUDGET} s"])
    if new == old:
        return Result(path, "same", seconds)
    if not check:
        path.write_text(new, "utf-8")
    return Result(path, "changed", seconds, changed_cells(old, new) if check else [])


def times_page(results: list[Result], machine: str) -> str:
    """The generated page of seconds per chapter."""
    rows = []
    for result in results:
        cells = json.loads(result.path.read_text("utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        title = next(
            (line[2:].strip() for line in text.splitlines() if line.startswith("# ")), result.path.stem
        )
        link = os.path.relpath(result.path, TIMES_PAGE.parent).replace(os.sep, "/")
        n_code = sum(c["cell_type"] == "code" for c in cells)
        rows.append(f"| [{title}]({link}) | {n_code} | {result.seconds:.0f} |")
    return "\n".join(
        [
            "# Seconds per chapter",
            "",
            "How long each notebook takes to run from its first cell to its last, kernel start included.",
            f"The budget is {BUDGET} seconds a notebook; a notebook over it cannot be stored.",
            "",
            f"Measured on {machine}, one notebook at a time, one thread, no GPU. The page is generated by",
            "`python tools/run_notebooks.py --times`. The tests do not compare it: machines differ.",
            "",
            "| Chapter | Code cells | Seconds |",
            "|:--|--:|--:|",
            *rows,
            f"| **All {len(results)}** | | **{sum(r.seconds for r in results):.0f}** |",
            "",
        ]
    )


def report(results: list[Result], check: bool) -> int:
    """Print what came of each notebook; 1 if the run must count as failed."""
    for result in results:
        print(f"{result.state:>8}  {result.seconds:5.1f} s  {name_of(result.path)}")
        if result.state != "skipped":
            print("".join(f"            {line}\n" for line in result.detail), end="")
    by_state = {
        state: [r for r in results if r.state == state] for state in ("same", "changed", "failed", "skipped")
    }
    print(", ".join(f"{len(found)} {state}" for state, found in by_state.items() if found) or "no notebooks")
    summary = skip_summary({name_of(r.path): r.detail for r in by_state["skipped"]})
    if summary:
        print(summary)
    if check and by_state["changed"]:
        print("Outputs differ from the stored ones: `make notebooks`, then look at the difference.")
    return int(bool(by_state["failed"]) or (check and bool(by_state["changed"])))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in chapters/")
    parser.add_argument("--check", action="store_true", help="store nothing; fail if an output would change")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument(
        "--times", action="store_true", help=f"write {name_of(TIMES_PAGE)} (all notebooks, one at a time)"
    )
    parser.add_argument(
        "--machine", default=f"{os.cpu_count()} virtual cores", help="the machine, in words, for --times"
    )
    options = parser.parse_args(arguments)
    if options.times and (options.notebooks or options.jobs != 1 or options.check):
        parser.error("--times runs all notebooks, one at a time: give no notebook, no -j and no --check")
    os.environ.update({variable: "1" for variable in ONE_THREAD})
    os.environ.pop("MPLBACKEND", None)  # it would replace the notebook's own figures
    sys.path.insert(0, str(ROOT))
    notebooks = options.notebooks or find_notebooks()
    absent = [str(path) for path in notebooks if not path.is_file()]
    if absent:
        parser.error(f"no such notebook: {', '.join(absent)}")
    with ProcessPoolExecutor(max_workers=options.jobs) as pool:
        results = list(pool.map(run, notebooks, [options.check] * len(notebooks)))
    if options.times and not any(r.state in ("failed", "skipped") for r in results):
        TIMES_PAGE.parent.mkdir(parents=True, exist_ok=True)
        TIMES_PAGE.write_text(times_page(results, options.machine), "utf-8")
    return report(results, options.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
