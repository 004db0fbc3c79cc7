"""What every notebook of the book keeps to, as one function from a notebook to its faults."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

LONGEST_CELL, MEDIAN_CELL, WIDEST_LINE = 25, 8, 110
NBVAL_TAGS = {"nbval-ignore-output", "nbval-skip", "nbval-check-output"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt)/|[A-Z]:\\\\?Users|site-packages")
TROUBLE = re.compile(r"Traceback \(most recent|\b\w*Warning:|0x[0-9a-f]{6,}")


def text_of(value: str | list[str]) -> str:
    """A notebook's multi-line string: one string or a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def outputs_of(cell: dict[str, Any]) -> str:
    """Everything readable that a cell shows (images left out)."""
    parts = []
    for output in cell["outputs"]:
        parts.append(text_of(output.get("text", "")))
        parts += output.get("traceback", [])
        parts += [text_of(v) for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return "\n".join(parts)


def code_lines(cell: dict[str, Any]) -> int:
    """Lines of a cell that are not blank."""
    return sum(bool(line.strip()) for line in text_of(cell["source"]).splitlines())


def is_chapter(path: Path) -> bool:
    """Chapters proper stand in the numbered part folders; front matter and appendix need no exercises."""
    return path.parent.name[:1].isdigit()


def faults(path: Path) -> list[str]:
    """All faults of the notebook at ``path``, each a sentence; [] for a good one."""
    notebook = json.loads(path.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    prose = "\n".join(text_of(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    found = [*metadata_faults(notebook), *code_faults(code), *output_faults(code)]
    if MACHINE_PATH.search(prose):
        found.append(f"the text holds a machine path: {MACHINE_PATH.search(prose).group(0)}")
    headings = re.findall(r"^(#+) (.+)$", re.sub(r"```.*?```", "", prose, flags=re.S), re.M)
    if [len(marks) for marks, _ in headings].count(1) != 1:
        found.append("needs exactly one title (a line that starts with '# ')")
    if is_chapter(path):
        tags = [tag for cell in code for tag in cell["metadata"].get("tags", [])]
        if "claim" not in tags:
            found.append("has no claim (a cell tagged `claim` that calls claim(...))")
        if "{exercise" not in prose or "{solution" not in prose:
            found.append("has no exercise with a solution")
        if not any("summary" in title.lower() for _, title in headings):
            found.append("has no heading 'Summary'")
    return found


def metadata_faults(notebook: dict[str, Any]) -> list[str]:
    """Faults of the notebook's own description."""
    header = notebook["metadata"].get("mtl", {})
    found = [
        f"metadata mtl.{name} is missing" for name in ("minutes", "seconds", "data") if name not in header
    ]
    if not 0 < header.get("minutes", 1) <= 90:
        found.append(f"metadata mtl.minutes is {header['minutes']}, expected 1 to 90")
    if not 0 < header.get("seconds", 1) <= 60:
        found.append(f"metadata mtl.seconds is {header['seconds']}, expected 1 to 60")
    if header.get("data"):
        from mtl_ref import datasets

        unknown = [name for name in header["data"] if not callable(getattr(datasets, name, None))]
        found += [f"metadata mtl.data names {name}, which mtl_ref.datasets does not have" for name in unknown]
    ids = [cell.get("id") for cell in notebook["cells"]]
    if None in ids or len(set(ids)) < len(ids):
        found.append("has cells without an id of their own: run `make notebooks`")
    return found


def code_faults(code: list[dict[str, Any]]) -> list[str]:
    """Faults of the code cells' text and tags."""
    found = []
    lengths = [code_lines(cell) for cell in code if code_lines(cell)]
    if not lengths:
        return ["has no code"]
    if max(lengths) > LONGEST_CELL:
        found.append(f"a cell has {max(lengths)} lines, at most {LONGEST_CELL}")
    if statistics.median(lengths) > MEDIAN_CELL:
        found.append(f"the median cell has {statistics.median(lengths):g} lines, at most {MEDIAN_CELL}")
    if not re.search(r"\bsetup\(", text_of(code[0]["source"])):
        found.append("the first code cell does not call setup()")
    for cell in code:
        source, tags = text_of(cell["source"]), cell["metadata"].get("tags", [])
        widest = max((len(line) for line in source.splitlines()), default=0)
        if widest > WIDEST_LINE:
            found.append(f"cell {cell.get('id')}: a line of {widest} characters, at most {WIDEST_LINE}")
        found += [f"cell {cell.get('id')}: tag {tag} is not lower-case" for tag in tags if tag != tag.lower()]
        if NBVAL_TAGS & set(tags) or re.search(r"^\s*#\s*NBVAL_", source, re.M):
            found.append(f"cell {cell.get('id')}: its output is excused from the comparison")
        if ("claim" in tags) != bool(re.search(r"^claim\(", source, re.M)):
            found.append(f"cell {cell.get('id')}: a call of claim() and the tag `claim` belong together")
    return found


def output_faults(code: list[dict[str, Any]]) -> list[str]:
    """Faults of what is stored: not run, out of order, warnings, addresses, machine paths."""
    found = []
    run = [cell for cell in code if code_lines(cell)]
    if [cell["execution_count"] for cell in run] != list(range(1, len(run) + 1)):
        found.append("was not run from top to bottom: run `make notebooks`")
    if not any(cell["outputs"] for cell in code):
        found.append("has no outputs")
    for cell in code:
        shown, name = outputs_of(cell), f"cell {cell.get('id')}"
        if any(output.get("name") == "stderr" for output in cell["outputs"]):
            found.append(f"{name}: writes to stderr")
        if any(o["output_type"] == "error" for o in cell["outputs"]) and "raises-exception" not in cell[
            "metadata"
        ].get("tags", []):
            found.append(f"{name}: ends in an error")
        for pattern, what in ((MACHINE_PATH, "a machine path"), (TROUBLE, "a warning, traceback or address")):
            if match := pattern.search(shown):
                found.append(f"{name}: shows {what}: {match.group(0)}")
    return found
