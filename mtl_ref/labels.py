"""Reading label columns: what was observed, as a likelihood needs it, or an error that names the column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


def find_column(table: pd.DataFrame, column: str, role: str) -> pd.Series:
    """Find a column by name.

    Args:
        table: The rows.
        column: Its name.
        role: What it is for, as the error says it: ``the target of task 'rating'``.

    Returns:
        The column.

    Raises:
        KeyError: If the table lacks it.
        ValueError: If the table has it twice.
    """
    copies = int((table.columns == column).sum())
    if copies == 0:
        raise KeyError(f"the table has no column {column!r}, {role}; it has {list(table.columns)[:12]}.")
    if copies > 1:
        raise ValueError(f"the table has {copies} columns named {column!r}, {role}: keep one.")
    return table[column]


def numbers(column: pd.Series, role: str) -> Array:
    """Read observed labels as finite floats."""
    try:
        values = column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        found = f"{column.iloc[0]!r} ({column.dtype})"
        raise ValueError(f"column {column.name!r}, {role}, must hold numbers, found {found}.") from None
    if not np.isfinite(values).all():
        raise ValueError(f"column {column.name!r}, {role}, holds an infinite value.")
    return values


def yes_or_no(column: pd.Series, role: str) -> Array:
    """Read observed labels that are 0 or 1."""
    values = numbers(column, role)
    _refuse(values[(values != 0) & (values != 1)], column, role, "must hold 0 and 1, found {}.")
    return values


def counts(column: pd.Series, role: str) -> Array:
    """Read observed labels that are 0, 1, 2, ..."""
    values = numbers(column, role)
    wrong = values[(values < 0) | (values != np.round(values))]
    _refuse(wrong, column, role, "must hold counts 0, 1, 2, ..., found {}.")
    return values


def positions(column: pd.Series, role: str, known: Sequence[Any], kind: str) -> Array:
    """Read observed labels as their positions among the ``known`` ones (``kind``: classes or levels)."""
    found = pd.Index(known, dtype=object).get_indexer(column.astype(object))
    position = np.asarray(found, dtype=np.float64)
    strange = column[position < 0].to_list()
    _refuse(strange, column, role, f"holds {{!r}}, which is not among the {kind} {list(known)}.")
    return position


def row_weights(table: pd.DataFrame, column: str, role: str, observed: NDArray[np.bool_]) -> Array:
    """Read row weights, (N,): finite and not negative where the label is observed, 0 elsewhere."""
    values = find_column(table, column, role).to_numpy(dtype=np.float64, na_value=np.nan)
    used = values[observed]
    if not (np.isfinite(used) & (used >= 0)).all():
        raise ValueError(
            f"column {column!r}, {role}, must be finite and not negative wherever the label is observed."
        )
    return np.where(observed, values, 0.0)


def _refuse(wrong: Sequence[Any] | Array, column: pd.Series, role: str, message: str) -> None:
    if len(wrong):
        first = wrong[0]
        shown = f"{first:g}" if isinstance(first, float) and "!r" not in message else first
        raise ValueError(f"column {column.name!r}, {role}, {message.format(shown)}")
