"""Rows as dictionaries to arrays, fast: the door through which a service's requests come in."""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .features import Features, tokenize

Arrays = dict[str, NDArray[Any]]
_EXACT = 2**53  # beyond it a float no longer tells neighbouring integers apart


class RowReader:
    """What ``Features.transform`` does to a table, for rows that come as dictionaries.

    A table of one row costs a hundred times as much to build and take apart as the row itself. The arrays are
    equal, bit for bit, to those of the table.

    Args:
        path: What ``Features.save`` wrote.
        dtype: Float type of the numbers.

    Attributes:
        columns: The columns that a row must have.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, see ``Features.load``.
    """

    def __init__(self, path: str | os.PathLike[str], dtype: np.dtype[Any] | str) -> None:
        Features.load(path)  # refuses what it did not write
        saved = json.loads(Path(path).read_bytes())
        settings = saved["settings"]
        names = settings["categorical"] + settings["numeric"] + settings["text"]
        self.columns: list[str] = list(dict.fromkeys(names))
        self.dtype, self.length, self.text = np.dtype(dtype), settings["text_length"], settings["text"]
        self.ids = [
            (column, {text: place for place, text in enumerate(texts, 1)})
            for column, texts in zip(settings["categorical"], saved["ids"], strict=True)
        ]
        self.numeric: list[str] = settings["numeric"]
        scales = [(mean, scale, flagged) for mean, scale, flagged in saved["scales"]]
        self.mean = np.array([mean for mean, _, _ in scales])
        self.scale = np.array([scale for _, scale, _ in scales])
        self.flagged = np.array([flagged for _, _, flagged in scales], bool)
        self.log = [place for place, column in enumerate(self.numeric) if column in settings["log"]]
        self.words = {word: place for place, word in enumerate(saved["words"], 2)}

    def read(self, rows: Sequence[Mapping[str, Any]]) -> Arrays:
        """Turn rows into arrays.

        Args:
            rows: A value by column; None where missing. Other keys are ignored.

        Returns:
            What ``Features.transform`` returns, as NumPy arrays.

        Raises:
            KeyError: If a column is missing; names row and column.
            TypeError: If an id or a text has a type that cannot be read.
            ValueError: If a number is not finite, or too far from training.
        """
        x: Arrays = {}
        try:
            if self.ids:
                codes = [
                    ids.get(value, 0) if type(value := row[column]) is str else _place(value, column, ids)
                    for row in rows
                    for column, ids in self.ids
                ]
                x["categorical"] = np.array(codes, np.int64).reshape(len(rows), len(self.ids))
            if self.numeric:
                x["numeric"] = self._scaled(rows)
            if self.text:
                x["text"] = np.zeros((len(rows), self.length), np.int64)
                for line, row in zip(x["text"], rows, strict=True):
                    joined = "\n".join([_text(row[column], column) for column in self.text])
                    places = [self.words.get(word, 1) for word in tokenize(joined)[: self.length]]
                    line[: len(places)] = places
        except KeyError as error:
            column = error.args[0]
            place = next(n for n, entry in enumerate(rows) if column not in entry)
            raise KeyError(
                f"row {place} lacks column {column!r}: give it, None where it is missing."
            ) from None
        return x

    def _scaled(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
        found = [
            value if type(value := row[column]) is float else _number(value, column)
            for row in rows
            for column in self.numeric
        ]
        values = np.array(found, np.float64).reshape(len(rows), len(self.numeric))
        if np.isinf(values).any():
            raise self._too_far(rows, np.isinf(values))
        for place in self.log:  # as Features does, value by value
            tail = [math.copysign(math.log1p(abs(value)), value) for value in values[:, place].tolist()]
            values[:, place] = tail
        missing = np.isnan(values)
        with np.errstate(over="ignore"):  # reported below, with the column
            scaled = (values - self.mean) / np.where(self.scale == 0, 1.0, self.scale)
            scaled = np.where(missing | (self.scale == 0), 0.0, scaled)
            numeric = np.concatenate([scaled, missing[:, self.flagged]], 1).astype(self.dtype)
        if not np.isfinite(numeric).all():
            raise self._too_far(rows, ~np.isfinite(numeric))
        return numeric

    def _too_far(self, rows: Sequence[Mapping[str, Any]], wrong: NDArray[np.bool_]) -> ValueError:
        row, place = np.argwhere(wrong)[0].tolist()
        column = self.numeric[place]
        found = f"{rows[row][column]!r} in row {row}"
        return ValueError(f"column {column!r} holds {found}, too far from training: correct or clip it")


def _place(value: Any, column: str, ids: Mapping[str, int]) -> int:
    """Position of an id; 0 where it is unknown or missing. See ``Features`` for what counts as one id."""
    if type(value) is int:  # first, because asking for abstract classes takes longer than all the rest
        return ids.get(str(value), 0)
    if isinstance(value, str):
        return ids.get(value, 0)
    if _missing(value):
        return 0
    if isinstance(value, numbers.Integral | np.bool_):  # bool is Integral
        return ids.get(str(int(value)), 0)
    if isinstance(value, numbers.Real):
        number = float(value)
        if abs(number) >= _EXACT:
            problem = "a float that may have lost digits: read ids as text or integers"
            raise ValueError(f"column {column!r} holds the id {number!r}, {problem}")
        return ids.get(str(int(number)) if number.is_integer() else repr(number), 0)
    raise TypeError(f"column {column!r} holds the id {value!r} ({type(value).__name__}): turn it into text")


def _number(value: Any, column: str) -> float:
    """A number as float; NaN where missing, infinite where it is too large."""
    if _missing(value):
        return math.nan
    if type(value) is not int and not isinstance(value, numbers.Real | np.bool_):
        raise ValueError(f"column {column!r} holds {value!r} ({type(value).__name__}): turn it into a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _text(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if _missing(value):
        return ""
    raise TypeError(f"column {column!r} holds {value!r} ({type(value).__name__}): turn it into text")


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
