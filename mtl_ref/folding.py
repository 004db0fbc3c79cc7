"""Rows by group, groups dealt to folds, a feature's score over folds: the inside of ``evaluation``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

from . import checks

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Columns = str | Sequence[str]


def codes(table: pd.DataFrame, columns: Columns | None) -> Index:
    """Number the distinct values of a column (of columns together) in sorted order, or every row; (N,)."""
    names = [] if columns is None else [columns] if isinstance(columns, str) else list(columns)
    checks.columns(table, *names)
    if columns is None:
        return np.arange(len(table))
    try:
        return np.asarray(table.groupby(names, dropna=False, observed=True).ngroup(), dtype=np.intp)
    except TypeError as error:  # a list cannot be compared with another
        raise TypeError(
            f"columns {names} hold what cannot be grouped ({error}): turn it into text."
        ) from error


def deal(
    table: pd.DataFrame, folds: int, groups: Columns | None, strata: Columns | None, seed: int
) -> list[tuple[Index, Index]]:
    """Rows to train and to test on, by fold: groups in random order, sorted by stratum, dealt like cards."""
    checks.whole("folds", folds, "fold")
    group = codes(table, groups)
    _, first = np.unique(group, return_index=True)  # a group has the stratum of its first row
    order = np.random.default_rng(seed).permutation(len(first))
    if not 2 <= folds <= len(order):
        found = f"found {folds} folds of {len(order)} rows or groups"
        raise ValueError(f"a fold needs a row or group of its own, {found}: choose from 2 to their number.")
    if strata is not None:
        order = order[np.argsort(codes(table, strata)[first][order], kind="stable")]
    fold = np.empty(len(order), dtype=np.intp)
    fold[order] = np.arange(len(order)) % folds
    return [(np.flatnonzero(fold[group] != k), np.flatnonzero(fold[group] == k)) for k in range(folds)]


def probe(
    column: pd.Series, y: Array, parts: list[tuple[Index, Index]], measure: Callable[..., float], seed: int
) -> float:
    """How well one feature alone predicts labels it has not seen; mean over folds."""
    column = column.astype("int64").where(column.notna()) if column.dtype.kind in "mM" else column
    try:
        code, scores = pd.factorize(column, use_na_sentinel=False)[0], []
    except TypeError as error:
        raise TypeError(f"column {column.name!r} holds no values ({error}): turn it into text.") from error
    numeric, limit = (
        pd.api.types.is_numeric_dtype(column),
        np.finfo(np.float32).max,
    )  # a tree's largest number
    values = column.to_numpy(dtype=float, na_value=np.nan).clip(-limit, limit)[:, None] if numeric else code
    for train, test in parts:
        if numeric:
            tree = DecisionTreeRegressor(max_depth=4, min_samples_leaf=5, random_state=seed)
            guess = tree.fit(values[train], y[train]).predict(values[test])
        else:
            total, rows = (np.bincount(code[train], w, code.max() + 1) for w in (y[train], None))
            guess = ((total + y[train].mean()) / (rows + 1))[code[test]]  # drawn to the mean by one row
        scores.append(measure(y[test], guess))
    return float(np.mean(scores))
