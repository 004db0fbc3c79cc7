"""Reading label columns: what was observed, as a likelihood needs it, or an error that names the column."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
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
        TypeError: If the table is no DataFrame.
        KeyError: If the table lacks it.
        ValueError: If the table has it twice.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{role} is read from a DataFrame, found {type(table).__name__}: build one of it.")
    copies = int((table.columns == column).sum())
    if copies == 0:
        found = f"the table has no column {column!r}, {role}; it has {list(table.columns)[:12]}"
        raise KeyError(f"{found}: add it or name another.")
    if copies > 1:
        raise ValueError(f"the table has {copies} columns named {column!r}, {role}: keep one.")
    return table[column]


def numbers(column: pd.Series, role: str) -> Array:
    """Read observed labels as finite floats."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        for value in column.to_list():  # text and dates are refused rather than guessed at
            if not isinstance(value, (Real, np.bool_)):
                found = f"{str(value)[:40]!r} ({type(value).__name__})"
                problem = f"column {column.name!r}, {role}, must hold numbers, found {found}"
                raise ValueError(f"{problem}: turn it into a number.")
    try:
        values = column.to_numpy(dtype=np.float64)
    except OverflowError:  # a whole number with hundreds of digits
        values = np.array([np.inf])
    infinite = values[np.isinf(values)]
    _refuse(infinite, column, role, "holds the infinite value {}: correct it or leave it empty.")
    return values


def yes_or_no(column: pd.Series, role: str) -> Array:
    """Read observed labels that are 0 or 1."""
    values = numbers(column, role)
    _refuse(values[(values != 0) & (values != 1)], column, role, "must hold 0 and 1, found {}: recode it.")
    return values


def counts(column: pd.Series, role: str) -> Array:
    """Read observed labels that are 0, 1, 2, ..."""
    values = numbers(column, role)
    wrong = values[(values < 0) | (values != np.round(values))]
    _refuse(wrong, column, role, "must hold counts 0, 1, 2, ..., found {}: correct it or use Regression.")
    return values


def positions(column: pd.Series, role: str, known: Sequence[Any], kind: str) -> Array:
    """Read observed labels as their positions among the ``known`` ones (``kind``: classes or levels)."""
    try:
        found = pd.Index(known, dtype=object).get_indexer(column.astype(object))
    except TypeError as error:  # a list or another thing that cannot be looked up
        problem = f"column {column.name!r}, {role}, holds something that is no label ({error})"
        raise TypeError(f"{problem}: turn it into text or numbers.") from error
    position = np.asarray(found, dtype=np.float64)
    strange = column[position < 0].to_list()
    _refuse(
        strange,
        column,
        role,
        f"holds {{!r}}, which is not among the {kind} {list(known)[:12]}: correct or add it.",
    )
    return position


def row_weights(table: pd.DataFrame, column: str, role: str, observed: NDArray[np.bool_]) -> Array:
    """Read row weights, (N,): finite and not negative where the label is observed, 0 elsewhere."""
    found = find_column(table, column, role)
    values = np.full(len(found), np.nan)
    values[found.notna()] = numbers(found[found.notna()], role)
    used = values[observed]
    wrong = used[~(used >= 0)]
    rule = "must be finite and not negative wherever the label is observed, found {}: correct it."
    _refuse(wrong, found, role, rule)
    return np.where(observed, values, 0.0)


def _refuse(wrong: Sequence[Any] | Array, column: pd.Series, role: str, message: str) -> None:
    if len(wrong):
        first = wrong[0]
        shown = f"{first:g}" if isinstance(first, float) and "!r" not in message else first
        raise ValueError(f"column {column.name!r}, {role}, {message.format(shown)}")
