"""Several predictions, one order: expected value, product of powers, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
Weight = float | str | Sequence[float]  # a number, a column of the table, or one number per row
Function = Callable[[pd.DataFrame], Any]


def rank(
    predictions: pd.DataFrame,
    table: pd.DataFrame | None = None,
    *,
    value: Mapping[str, Weight] | None = None,
    powers: Mapping[str, float] | None = None,
    function: Function | None = None,
    groups: str | None = None,
    k: int | None = None,
) -> pd.DataFrame:
    """Put rows in one order under several objectives, within each group.

    Give one of three formulas, see ``combine``. Equal scores keep the order in which the rows came.

    Args:
        predictions: (N, columns), such as ``Bundle.predict`` gives.
        table: The same N rows with prices, margins and groups; the predictions themselves by default.
        value: Expected value: the sum of weight times prediction.
        powers: Product of powers: the product of prediction to the power of its exponent.
        function: Of the table with the predictions (they win where names agree); returns (N,) scores.
        groups: Column whose rows are ranked among themselves, such as a request; all rows by default.
        k: Rows to keep per group; all by default.

    Returns:
        ``rank`` (1 is first) and ``score``, after the group if any: the rows of ``predictions`` in their new
        order, with their index; groups stand in order of first appearance.

    Raises:
        KeyError: If an objective is not predicted, or a column of weights or groups is missing.
        ValueError: If not exactly one formula is given, the tables differ in their rows, a weight or a
            score is not finite, a group is missing, or ``k`` is below one.
    """
    table = predictions if table is None else table
    if not predictions.index.equals(table.index):
        raise ValueError(
            f"predictions ({len(predictions)} rows) and table ({len(table)}) differ in their index."
        )
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, found {k}.")
    score = combine(predictions, table, value=value, powers=powers, function=function)
    group = np.zeros(len(table), dtype=np.intp)
    if groups is not None:
        if groups not in table.columns:
            raise KeyError(f"groups: column {groups!r} is not in the table, found {list(table.columns)}.")
        group = np.asarray(pd.factorize(table[groups])[0])
        if (group < 0).any():
            raise ValueError(
                f"groups: column {groups!r} lacks a value in row {int(np.argmin(group))}: fill it."
            )
    order = np.lexsort((-score, group))  # stable
    sizes = np.bincount(group) if len(group) else group
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    kept = place <= (len(order) if k is None else k)
    ranked = pd.DataFrame({"rank": place, "score": score[order]}, table.index[order])[kept]
    if groups is not None:
        ranked.insert(0, groups, table[groups].to_numpy()[order][kept])
    return ranked


def combine(
    predictions: Mapping[str, Any] | pd.DataFrame,
    table: Mapping[str, Any] | pd.DataFrame,
    *,
    value: Mapping[str, Weight] | None = None,
    powers: Mapping[str, float] | None = None,
    function: Function | None = None,
) -> Array:
    """Combine several predictions into one score per row.

    ``value={"bought": "margin", "returned": -4.0}`` is the expected value, margin x P(bought) - 4 x
    P(returned), in the unit of the weights. ``powers={"clicked": 1.0, "bought": 0.5}`` is the product
    P(clicked) x P(bought) ** 0.5, which needs no prices and whose order does not change when one factor is
    rescaled. ``function`` is anything else.

    Args:
        predictions: Arrays (N,) by column.
        table: The same rows, with the columns that weights name.
        value: Weight by prediction: a number, a column of ``table``, or (N,) numbers.
        powers: Exponent by prediction.
        function: See ``rank``.

    Returns:
        (N,) float64, finite.

    Raises:
        KeyError: If an objective is not predicted, or a column of weights is missing; it is named.
        ValueError: If not exactly one formula is given, or an objective cannot be combined; it is named.
    """
    if sum(formula is not None for formula in (value, powers, function)) != 1:
        raise ValueError("give exactly one of value, powers and function: they are different orders.")
    if function is not None:
        both = pd.DataFrame(dict(table) | dict(predictions))
        score = np.asarray(function(both), dtype=np.float64)
        if score.shape != (len(both),):
            raise ValueError(f"the function must give ({len(both)},) scores, found {score.shape}.")
        return _finite(score, "the score of the function")
    terms = value if value is not None else powers
    if not terms:
        raise ValueError("no objective is named: give at least one prediction with its weight or exponent.")
    parts = []
    for name, weight in terms.items():
        if name not in predictions:
            raise KeyError(
                f"objective {name!r} is not predicted, found {list(predictions)}: name one of these."
            )
        found = np.asarray(predictions[name], dtype=np.float64)
        if powers is None:
            parts.append(_finite(found * _weights(name, weight, table, len(found)), f"objective {name!r}"))
        else:
            exponent = _weights(name, weight, {}, len(found))
            with np.errstate(all="ignore"):  # reported with the objective's name
                parts.append(_finite(found**exponent, f"objective {name!r} to the power of {weight}"))
    with np.errstate(all="ignore"):
        joined = np.sum(parts, 0) if powers is None else np.prod(parts, 0)
    return _finite(joined, "the combined score")


def _weights(name: str, weight: Weight, table: Mapping[str, Any] | pd.DataFrame, rows: int) -> Array:
    """The weight of an objective for each row."""
    if isinstance(weight, str) and weight not in table:
        raise KeyError(
            f"objective {name!r}: its weight {weight!r} is no column, found {list(table)[:12]}: name one."
        )
    found = f"objective {name!r}: its weight" + (f" {weight!r}" if isinstance(weight, str) else "")
    try:
        numbers = np.asarray(table[weight] if isinstance(weight, str) else weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{found} is not made of numbers ({error}): give a number per row.") from error
    if numbers.shape not in ((), (rows,)):
        raise ValueError(f"{found} must be one number or ({rows},) numbers, found shape {numbers.shape}.")
    return _finite(np.broadcast_to(numbers, (rows,)), found)


def _finite(values: Array, what: str) -> Array:
    if len(wrong := np.flatnonzero(~np.isfinite(values))):
        raise ValueError(f"{what} is {values[wrong[0]]} in row {int(wrong[0])}: it must be a finite number.")
    return values
