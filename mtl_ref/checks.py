"""What every step refuses in the same words: one sentence with the name, what was found and what to do."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]
Rows = dict[str, NDArray[Any]]  # by column


# One value


def whole(name: str, value: object, thing: str) -> None:
    """Refuse what is no whole number from one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(
            f"{name} must be a whole number from 1, found {value!r}: ask for at least one {thing}."
        )


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse what is none of the known words."""
    if value not in list(known):
        words = " or ".join(map(repr, known))
        raise ValueError(f"{name} must be {words}, found {value!r}: choose one.")


def kind(name: str, value: object, expected: type) -> None:
    """Refuse an object of another class; None is the default."""
    if value is not None and not isinstance(value, expected):
        found = f"{name} must be {expected.__name__}, found {type(value).__name__}"
        raise TypeError(f"{found}: build one with {expected.__name__}(...).")


def positive(name: str, value: Any, least: int = 1) -> int:
    """The whole number, or a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, found {value!r}: correct it.")
    return int(value)


def between(name: str, value: object, low: float, high: float) -> None:
    """Refuse what is no number between two others."""
    if not isinstance(value, (int, float, np.number)) or not low < value < high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, found {value!r}: correct it.")


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Refuse panels without names."""
    if not isinstance(value, Mapping):
        found = f"found {type(value).__name__}"
        raise ValueError(f"{name} must be a dictionary with a name per panel, {found}: name each.")
    return value


# Arrays


def array(name: str, values: ArrayLike) -> Array:
    """Numbers as float64, NaN where missing; nothing is guessed from dates or complex numbers."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu().numpy()
        if np.iscomplexobj(values) or getattr(getattr(values, "dtype", None), "kind", "f") in "mM":
            raise TypeError("found complex numbers or dates")  # of which numpy would make something
        if isinstance(values, pd.Series):
            return values.to_numpy(dtype="float64", na_value=np.nan)
        return np.asarray(values, dtype="float64")
    except (TypeError, ValueError, OverflowError) as error:
        problem = str(error).rstrip(".").splitlines()[0]
        raise ValueError(f"the {name} must be numbers, one per row ({problem}): convert it.") from error


def at_least_1d(values: Any) -> NDArray[Any]:
    """An array of at least one dimension, whatever its type."""
    return np.atleast_1d(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)


def groups(name: str, values: NDArray[Any], sort: bool = False) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Number the distinct ids of rows, and the ids."""
    try:
        return pd.factorize(values, sort=sort)
    except TypeError as error:  # a list, or ids that have no common order
        raise TypeError(f"{name} holds something that is no id ({error}): turn the ids into text.") from error


def drawable(name: str, values: Any) -> Array:
    """Numbers (N,), NaN where missing; not all missing and none infinite."""
    numbers = np.atleast_1d(array(name, values)).ravel()
    if len(numbers) and (np.isnan(numbers).all() or np.isinf(numbers).any()):
        raise ValueError(f"the {name} must hold finite numbers to draw, found {numbers[0]:g}: correct it.")
    return numbers


def by_row(name: str, values: Any) -> NDArray[Any]:
    """Numbers (N,), or a ValueError that shows the first entry that is none."""
    found = np.asarray(values.detach() if isinstance(values, Tensor) else values)
    wrong = [v for v in found.ravel() if not isinstance(v, Real)] if found.dtype.kind not in "iuf" else []
    if wrong or found.ndim != 1:
        shown = f"{str(wrong[0])[:40]!r}" if wrong else f"shape {found.shape}"
        raise ValueError(f"{name} must be one number per row, found {shown}: correct it.")
    return found if found.dtype.kind in "iuf" else found.astype(np.float64)


def known_ids(name: str, values: Any, known: int) -> NDArray[np.int64]:
    """Ids (N,) that are row numbers of a table of the shop; numpy would count negative ones from its end."""
    ids = by_row(name, values)
    wrong = ids[~((ids >= 0) & (ids < known) & (ids % 1 == 0))]
    if wrong.size:
        problem = f"{name} must be a whole number from 0 to {known - 1}, found {wrong[0]:g}"
        raise ValueError(f"{problem}: take ids from the tables of the shop.")
    return ids.astype(np.int64)


def finite(name: str, values: Any, least: float = -np.inf) -> NDArray[Any]:
    """Numbers (N,) that are finite and not too small."""
    numbers = by_row(name, values)
    wrong = numbers[~((numbers >= least) & np.isfinite(numbers))]
    if wrong.size:
        problem = f"{name} must be a finite number of at least {least:g}, found {wrong[0]:g}"
        raise ValueError(f"{problem}: correct it.")
    return numbers


def scores(returned: Any, rows: int) -> Array:
    """What a policy returned, as finite numbers (rows,)."""
    try:
        found = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # texts; a tensor with a gradient
        shown = f"found {type(returned).__name__} ({str(error).splitlines()[0]})"
        raise ValueError(f"a policy must return finite scores, {shown}: return numbers.") from error
    if found.shape != (rows,) or not np.isfinite(found).all():
        wrong = np.count_nonzero(~np.isfinite(found))
        shown = f"found shape {found.shape} with {wrong} missing or infinite"
        raise ValueError(f"a policy must return {rows} finite scores, {shown}: score every row.")
    return found


def ranked_scores(values: Any) -> NDArray[Any]:
    """Scores (R, C), of which none is missing or +inf."""
    found = np.asarray(values.detach() if isinstance(values, Tensor) else values)
    numeric = found.dtype.kind in "iuf"
    if found.ndim != 2 or not numeric or np.isnan(found).any() or (found == np.inf).any():
        shown = f"found shape {found.shape} of {found.dtype}"
        raise ValueError(f"scores must be (R, C) numbers, none missing or +inf, {shown}: correct them.")
    return found


def items_and_days(item: Any, day: Any, items: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Items (N,) of the shop and as many days."""
    known, days = known_ids("item_id", item, items), finite("day", day)
    if len(known) != len(days):
        found = f"{len(known)} items and {len(days)} days"
        raise ValueError(f"prices needs a day for each item, found {found}: give as many.")
    return known, days


def categorical(column: pd.Series[Any]) -> None:
    """Refuse a column without levels."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        raise TypeError(f"column {column.name!r} must be categorical, found {column.dtype}: convert it.")


# Tables


def columns(table: Any, *names: str) -> None:
    """Refuse what is no table, or lacks a column, or has it twice."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"the table must be a DataFrame, found {type(table).__name__}: build one of it.")
    for name in names:
        copies = int((table.columns == name).sum())
        if not copies:
            found = f"found {list(table.columns)[:12]}"
            raise KeyError(f"the table has no column {name!r}, {found}: add it or name another.")
        if copies > 1:
            raise ValueError(f"the table has {copies} columns named {name!r}: keep one.")


def candidates(table: Any, visitors: int, items: int, surfaces: Sequence[str]) -> Rows:
    """Columns of rows whose truth is asked for; ``surface`` stays to be encoded."""
    least = {"day": -np.inf, "hour": 0, "price_shown": 0.01, "competitor_price": 0.01, "slot": 1}
    columns(table, "visitor_id", "item_id", "surface", *[name for name in least if name != "slot"])
    slotted = table if "slot" in table else table.assign(slot=1.0)
    columns(slotted, "slot")
    strange = table["surface"][~table["surface"].isin(surfaces)]
    if len(strange):
        problem = f"column 'surface' holds {strange.iloc[0]!r}, which is none of {tuple(surfaces)}"
        raise ValueError(f"{problem}: name one of these.")
    rows = {"visitor_id": known_ids("visitor_id", table["visitor_id"], visitors)}
    rows["item_id"] = known_ids("item_id", table["item_id"], items)
    return rows | {name: finite(name, slotted[name], low) for name, low in least.items()}


def to_draw(table: Any, names: Sequence[str], numeric: Sequence[str] = ()) -> None:
    """Refuse a table without rows or one of the columns, or with text where a number is drawn."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"the table must be a DataFrame, found {type(table).__name__}: build one of it.")
    if table.empty or any(list(table.columns).count(name) != 1 for name in names):
        found = f"found {len(table)} rows and {list(table)[:12]}"
        raise ValueError(f"the table needs rows and the columns {list(names)}, {found}: give each once.")
    for name in numeric:
        if not pd.api.types.is_numeric_dtype(table[name]):
            found = f"found {str(table[name].iloc[0])[:40]!r} ({table[name].dtype})"
            raise ValueError(f"column {name!r} must hold numbers to draw, {found}: correct it.")
        drawable(f"column {name!r}", table[name])
    for name in set(names) - set(numeric):
        if not all(isinstance(value, Hashable) for value in table[name]):
            raise ValueError(f"column {name!r} must name the rows, found a list or the like: use text.")


def column_names(role: str, columns: Sequence[str]) -> list[str]:
    """Check a list of column names; a single text would otherwise be read as a list of letters."""
    listed = isinstance(columns, Iterable) and not isinstance(columns, str)
    names = list(columns) if listed else []
    if not listed or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{role} must be a list of column names, found {columns!r}: write a list of texts.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"column {repeated[0]!r} is named twice in {role}: name it once.")
    return names


def count(name: str, value: int, largest: int = 2**31) -> int:
    """A whole number in a range."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ValueError(f"{name} must be a whole number from 1 to {largest}, found {value!r}: correct it.")
    return value


def feature_columns(table: Any, columns: Sequence[str]) -> None:
    """Refuse what is no table, or lacks a feature's column, or has it twice."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"Features reads a pandas DataFrame, found {type(table).__name__}: build one of it.")
    occurrences = Counter(table.columns)
    for column in columns:
        if not occurrences[column]:
            found = f"whose columns are {list(table.columns)[:12]}"
            raise KeyError(f"column {column!r} is not in the table, {found}: add or rename it.")
        if occurrences[column] > 1:
            raise ValueError(f"column {column!r} is {occurrences[column]} times in the table: keep one.")


# Tasks


def tasks(values: Any) -> None:
    """Refuse what is no list of tasks, no task at all, and two tasks of one name."""
    if not isinstance(values, Sequence) or not all(hasattr(task, "name") for task in values):
        found = f"{str(values)[:60]!r} ({type(values).__name__})"
        raise TypeError(f"tasks must be a list of tasks, found {found}: write [Binary('click'), ...].")
    names = [task.name for task in values]
    if not names or len(set(names)) != len(names):
        problem = f"there must be at least one task, each with a name of its own, found {names}"
        raise ValueError(f"{problem}: rename or add one.")


def representable(column: str, role: str, read: Array, made: Tensor) -> None:
    """Refuse labels that the float type cannot hold."""
    if torch.isinf(made).any():  # 1e39 has no float32
        problem = f"column {column!r}, {role}, holds {np.nanmax(np.abs(read)):g}"
        raise ValueError(f"{problem}, too large for {made.dtype}: use another unit.")


def spread(task: str, column: str, seen: Tensor, moments: float) -> None:
    """Refuse labels whose mean or standard deviation is infinite."""
    if not math.isfinite(moments):
        problem = f"column {column!r}, the target of task {task!r}, holds numbers too large to be scaled"
        raise ValueError(f"{problem}, up to {seen.abs().max():g}: use another unit.")


def name(value: Any) -> None:
    """Refuse a task's name that is no plain word."""
    if not isinstance(value, str) or not value.isidentifier():
        problem = f"a task's name must be a plain word (letters, digits, _), found {value!r}"
        raise ValueError(f"{problem}: rename it.")


def start(task: str, initial: Sequence[float], width: int) -> tuple[float, ...]:
    """A start as wide as a task's output, or none; finite."""
    numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in initial)
    if len(initial) not in (0, width) or not numbers:
        problem = f"task {task!r} starts from {width} finite numbers, found {initial}"
        raise ValueError(f"{problem}: take those that fit finds.")
    return tuple(initial)


def scaling(task: str, location: Any, scale: Any) -> None:
    """Refuse a location that is not finite and a scale that is not positive."""
    numeric = all(isinstance(value, (int, float)) for value in (location, scale))
    if not numeric or not math.isfinite(location) or not 0 < scale < math.inf:
        problem = f"task {task!r} has location {location!r} and scale {scale!r}"
        raise ValueError(f"{problem}, no finite number and positive number: take those that fit finds.")


def classes(task: str, values: Any) -> tuple[Any, ...]:
    """At least two different classes."""
    listed = isinstance(values, (list, tuple)) and all(isinstance(value, Hashable) for value in values)
    if not listed or len(set(values)) < 2 or len(set(values)) != len(values):
        problem = f"task {task!r} needs at least two different classes, found {values!r}"
        raise ValueError(f"{problem}: list each once.")
    return tuple(values)


def levels(task: str, values: Any) -> tuple[float, ...]:
    """At least two numbers in rising order."""
    listed = isinstance(values, (list, tuple)) and all(isinstance(value, Real) for value in values)
    rising = listed and all(a < b for a, b in pairwise(values))
    if not rising or len(values) < 2 or not all(map(math.isfinite, values)):
        problem = f"task {task!r} needs at least two levels in rising order, found {values!r}"
        raise ValueError(f"{problem}: list numbers from low to high.")
    return tuple(values)


def codes(task: str, target: Any, highest: float | None) -> None:
    """Refuse encoded labels other than 0, 1, ..., ``highest``; other than finite ones where that is None."""
    if not isinstance(target, Tensor):
        raise TypeError(f"task {task!r} reads a tensor, found {type(target)}: use torch.as_tensor.")
    wrong = torch.isinf(target)
    if highest is not None:
        wrong = wrong | (target < 0) | (target > highest) | (target % 1 > 0)  # NaN is none of these
    if wrong.any():
        kind = "finite numbers" if highest is None else f"whole numbers from 0 to {highest:g}"
        problem = f"task {task!r} reads {kind}, found {target[wrong][0].item():g}"
        raise ValueError(f"{problem}: encode its labels with tasks.targets.")


def natural(target: Array, prediction: Array, width: int) -> None:
    """Refuse predictions that are not (N,), or (N, width) where there are several numbers per row."""
    expected = (len(target), width) if width else (len(target),)
    if prediction.shape != expected:
        problem = f"predictions in natural units are {expected}, found {prediction.shape}"
        raise ValueError(f"{problem}: pass what predict returns.")


def loss_inputs(task: str, width: int, predictions: Mapping[str, Any], target: Any, weight: Any) -> None:
    """Refuse what a loss cannot read: no entry for the task, no tensor, another shape."""
    if task not in predictions:
        problem = f"the predictions lack task {task!r}, found {sorted(predictions)}"
        raise KeyError(f"{problem}: build the model with this task.")
    output = predictions[task]
    for what, value in (("output", output), ("target", target), ("weight", weight)):
        if not isinstance(value, Tensor) and (value is not None or what != "weight"):
            problem = f"task {task!r}: the {what} must be a tensor, found {type(value).__name__}"
            raise TypeError(f"{problem}: convert it with torch.as_tensor.")
    if target.ndim != 1 or output.shape != (len(target), width)[: 1 + (width > 1)]:
        expected = "(B,)" if width == 1 else f"(B, {width})"
        problem = f"the output must be {expected}, found {tuple(output.shape)}"
        problem += f" for a target of {tuple(target.shape)}"
        raise ValueError(f"task {task!r}: {problem}: give one entry per row.")
    if weight is not None and weight.shape != target.shape:  # else it would be broadcast
        problem = f"the weight must be {tuple(target.shape)}, found {tuple(weight.shape)}"
        raise ValueError(f"task {task!r}: {problem}: give one entry per row.")


# Files


def checksum(state: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, without its entry ``checksum``."""
    rest = {name: entry for name, entry in state.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()
