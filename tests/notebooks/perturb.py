"""Runs a notebook up to its claims and asks of each whether it could fail.

A claim that no data could break says nothing. So a notebook is run once, in its own kernel; to a claim's
cell belongs a *change*: a line or two that spoil the data. They run in a copy of the notebook's variables,
then the claim runs there too and must raise AssertionError. The notebook's own variables stay as they are,
and the claim, run again there, still holds.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


@dataclass(frozen=True)
class Perturbation:
    """Data under which a claim is false.

    Attributes:
        notebook: Path from the repository's root.
        cell: Id of the claim's cell.
        change: Code that spoils the data. It must rebind names (``rating = rating.sample(frac=1)``), not
            change objects in place, for the copy of the variables is shallow.
        rerun: Ids of cells to run again between the change and the claim, in this order.
    """

    notebook: str
    cell: str
    change: str
    rerun: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Notebook, cell and change, as the tests show them."""
        return f"{Path(self.notebook).stem}:{self.cell} under `{self.change}`"


def source_of(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """Source of the code cell with this id.

    Raises:
        KeyError: There is none.
    """
    for cell in notebook.cells:
        if cell.id == cell_id and cell.cell_type == "code":
            return str(cell.source)
    raise KeyError(f"no code cell {cell_id} in the notebook: it has {[c.id for c in notebook.cells]}")


def probe(change: str, rerun: list[str], claim: str) -> str:
    """The cell that makes the change beside the notebook and expects the claim to fail."""
    return textwrap.dedent(
        f"""\
        _beside = dict(globals())
        for _source in {[change, *rerun]!r}:
            exec(_source, _beside)
        try:
            exec({claim!r}, _beside)
        except AssertionError as _error:
            del _beside
        else:
            raise RuntimeError("the claim held although the data were spoiled")
        """
    )


def outcomes(path: Path, perturbations: list[Perturbation], timeout: float = 300) -> dict[str, str]:
    """Run a notebook once and try its perturbations.

    Args:
        path: The notebook.
        perturbations: All of this notebook.
        timeout: Seconds a cell may take.

    Returns:
        For each perturbation's name '' if the claim held before and after and failed under the change, else
        what happened instead.
    """
    notebook = nbformat.read(path, 4)
    probes = {
        p.name: probe(p.change, [source_of(notebook, i) for i in p.rerun], source_of(notebook, p.cell))
        for p in perturbations
    }
    last = max(
        index for index, cell in enumerate(notebook.cells) if cell.id in {p.cell for p in perturbations}
    )
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    result: dict[str, str] = {}
    with client.setup_kernel():

        def run(source: str) -> str:
            """'' or the error with which the source ended."""
            notebook.cells.append(nbformat.v4.new_code_cell(source))
            try:
                client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
            except CellExecutionError as error:
                return f"{error.ename}: {error.evalue}"
            return ""

        for index, cell in enumerate(notebook.cells[: last + 1]):
            if cell.cell_type != "code":
                continue
            client.execute_cell(cell, index)
            for perturbation in (p for p in perturbations if p.cell == cell.id):
                trouble = run(probes[perturbation.name])
                after = run(cell.source)
                result[perturbation.name] = trouble or (
                    after and f"the change spoiled the notebook itself: {after}"
                )
    return result
