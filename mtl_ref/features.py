"""Tables to tensors: ids to integers, numbers to one scale, texts to tokens.

Everything a transformation needs is learnt from the training rows and saved as JSON, so that the same row
gives the same tensors in training, in evaluation and in production, whatever the other rows of its batch
are.
"""

import json
import math
import numbers
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import checks
from .moments import Moments

_FORMAT = "mtl_ref.features 1"  # name and version of the saved form
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_EXACT = 2**53  # beyond it a float no longer tells neighbouring integers apart


class _Scale(NamedTuple):
    """What the training rows say about a numeric column; ``scale`` 0 means that it is constant."""

    mean: float
    scale: float
    flagged: bool


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words.

    A word is a run of letters and digits of any alphabet, with single apostrophes inside: ``It's 5'8"
    tall!`` gives ``it's``, ``5'8``, ``tall``. A typographic apostrophe counts as a plain one; everything
    else separates. Writing without blanks between words, such as Chinese, is not segmented.

    Args:
        text: Any text.

    Returns:
        Its words in order.
    """
    if not isinstance(text, str):
        raise TypeError(f"tokenize reads text, found {text!r} ({type(text).__name__}): turn it into text.")
    return _WORD.findall(text.lower().replace("\u2019", "'"))


class Features:
    """Index ids, scale numbers and index words, as learnt from training rows only.

    **Categorical.** Each column has its own ids 1, 2, ... in the order of their training frequency (ties: by
    name). Bucket 0 is shared by unknown ids, ids seen fewer than ``min_count`` times, and missing ones
    (None, NaN, ``<NA>``, the empty text). Ids are compared as text, numbers by their value: 1, 1.0, True and
    ``"1"`` are one id, so that an integer column which pandas turned into floats still matches; the text
    ``"1.0"`` is another id. A float of 2**53 or more is refused, because it may have lost digits.

    **Numeric.** Each column is shifted and divided so that the observed training values have mean 0 and
    (population) standard deviation 1; ``log`` names columns with a heavy tail, of which sign(v) * log(1 +
    abs(v)) is scaled. A missing value becomes 0, the training mean. Columns with missing training values get
    a second, unscaled 0/1 column (1: missing), placed after all scaled columns; in the others a value missing
    later is 0 without a mark, because the width must not change. A column that was constant in training stays
    0, whatever it holds later.

    **Text.** The columns of a row are joined in the given order, split by ``tokenize``, cut after
    ``text_length`` words and padded to exactly that length, so that a row does not depend on its batch. Word
    ids count from 2 in the order of their training frequency (ties: alphabetical); 0 is padding, 1 any other
    word. Words seen fewer than ``min_count`` times are unknown, and at most ``max_tokens`` are kept. A row
    without words is all padding.

    Args:
        categorical: Columns of ids.
        numeric: Columns of numbers or booleans.
        text: Columns of text.
        min_count: Number of training occurrences below which an id or a word counts as unknown.
        max_tokens: Largest number of words in the vocabulary, without padding and unknown.
        text_length: Number L of token ids in a row.
        log: Those numeric columns whose logarithm is scaled.

    Raises:
        TypeError: If columns are not given as a sequence of names.
        ValueError: If there is no column, one is named twice in a list, ``log`` names one that is not
            numeric, or a count is out of range.
    """

    def __init__(
        self,
        categorical: Sequence[str] = (),
        numeric: Sequence[str] = (),
        text: Sequence[str] = (),
        min_count: int = 1,
        max_tokens: int = 20_000,
        text_length: int = 128,
        log: Sequence[str] = (),
    ) -> None:
        """Name the columns; nothing is learnt yet."""
        self.categorical = checks.column_names("categorical", categorical)
        self.numeric = checks.column_names("numeric", numeric)
        self.text = checks.column_names("text", text)
        self.log = checks.column_names("log", log)
        self.min_count = checks.count("min_count", min_count)
        self.max_tokens = checks.count("max_tokens", max_tokens)
        self.text_length = checks.count("text_length", text_length, 65_536)
        if not self.categorical + self.numeric + self.text:
            raise ValueError(
                "Features needs at least one categorical, numeric or text column, found none: name one."
            )
        if foreign := [column for column in self.log if column not in self.numeric]:
            raise ValueError(f"column {foreign[0]!r} is named in log but not in numeric: add it there.")
        self._ids: dict[str, dict[str, int]] = {}
        self._scales: dict[str, _Scale] = {}
        self._words: dict[str, int] = {}
        self._fitted = False

    @property
    def sizes(self) -> dict[str, Any]:
        """What an encoder must know, as ``{"categorical": [n_1, ..., n_C], "numeric": D, "text": V}``.

        Each n counts bucket 0, D the flags of missing values, V padding and unknown (0 without text columns).
        """
        self._check_fitted()
        return {
            "categorical": [len(self._ids[column]) + 1 for column in self.categorical],
            "numeric": len(self.numeric) + sum(scale.flagged for scale in self._scales.values()),
            "text": len(self._words) + 2 if self.text else 0,
        }

    def fit(self, table: pd.DataFrame | Iterable[pd.DataFrame]) -> "Features":
        """Learn ids, scales and words from training rows. The order of the rows does not matter.

        A table larger than memory is given in parts, which are read once, one at a time; memory grows with
        the number of different ids and words, not with the rows. How the table is cut does not matter: ids
        and words are the same, scales to rounding.

        Args:
            table: The training rows, and no others: one table, or its parts (``shards.tables`` reads them
                from Parquet files).

        Returns:
            This object.

        Raises:
            TypeError: If the table is no DataFrame, or an id or a text has a type that cannot be read.
            KeyError: If a column is missing.
            ValueError: If there are no rows, a column occurs twice, or a numeric column holds something that
                is not a finite number, or nothing at all.
        """
        columns = self.categorical + self.numeric + self.text
        ids = {column: Counter[str]() for column in self.categorical}
        moments = {column: Moments() for column in self.numeric}
        words, rows = Counter[str](), 0
        one = isinstance(table, (pd.DataFrame, Mapping)) or not isinstance(table, Iterable)
        parts: Any = [table] if one else table
        for part in parts:
            checks.feature_columns(part, columns)
            rows += len(part)
            for column in self.categorical:
                _count_ids(part, column, ids[column])
            for column in self.numeric:
                values = _read_numbers(part, column, column in self.log)
                moments[column] = moments[column].merged(Moments.of(values))
            words.update(word for row in self._tokens(part) for word in row)
        if not rows:
            raise ValueError(
                "Features.fit needs training rows, found an empty table: give it the training part."
            )
        scales = {name: _Scale(*m.scale(name), m.seen < rows) for name, m in moments.items()}
        self._ids = {name: _numbered(_kept(seen, self.min_count), 1) for name, seen in ids.items()}
        self._words = _numbered(_kept(words, self.min_count)[: self.max_tokens], 2)
        self._scales = scales
        self._fitted = True
        return self

    def transform(self, table: pd.DataFrame) -> dict[str, Tensor]:
        """Turn rows into tensors, each row by itself.

        Args:
            table: B rows with the columns named at the start; others are ignored, B may be 0.

        Returns:
            A dictionary with those of three tensors for which there are columns. ``"categorical"`` (B, C) is
            int64, 0 = unknown or missing; ``"numeric"`` (B, D) has torch's default dtype; ``"text"`` (B, L)
            is int64, 0 = padding, 1 = unknown.

        Raises:
            RuntimeError: If ``fit`` was not called before.
            TypeError: If the table is no DataFrame, or an id or a text has a type that cannot be read.
            KeyError: If a column is missing.
            ValueError: If a column occurs twice, or a numeric column holds something that is not a finite
                number.
        """
        self._check_fitted()
        checks.feature_columns(table, self.categorical + self.numeric + self.text)
        x: dict[str, Tensor] = {}
        if self.categorical:
            indices = [_index_ids(table, column, self._ids[column]) for column in self.categorical]
            x["categorical"] = torch.from_numpy(np.stack(indices, axis=1))
        if self.numeric:
            x["numeric"] = self._scaled(table)
        if self.text:
            x["text"] = torch.from_numpy(self._indexed_text(table))
        return x

    def fit_transform(self, table: pd.DataFrame) -> dict[str, Tensor]:
        """Learn from training rows and return their tensors: ``fit(table).transform(table)``."""
        return self.fit(table).transform(table)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file, which is replaced at once or not at all.

        Args:
            path: The file; its folder must exist.

        Raises:
            RuntimeError: If ``fit`` was not called before.
            OSError: If the file cannot be written.
        """
        state = self._state()
        state |= {"checksum": checks.checksum(state)}  # a flipped bit in a number would otherwise go unseen
        text = json.dumps(state, allow_nan=False, indent=1) + "\n"
        path = Path(path)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(text, encoding="ascii")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Features":
        """Read what ``save`` wrote; the tensors, and the bytes of a further ``save``, are the same.

        Args:
            path: The file.

        Returns:
            Fitted features.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is cut short, inconsistent, or written by something else or a newer version.
        """
        data = Path(path).read_bytes()
        try:
            state = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON file or was cut short ({error}): save it again.") from error
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        if found != _FORMAT:
            raise ValueError(f"{path} holds {found!r}, not {_FORMAT!r}: update mtl_ref or save it again.")
        try:
            features = cls(**{name: state["settings"][name] for name in _SETTINGS})
            ids = [_numbered(column_ids, 1) for column_ids in state["ids"]]
            features._ids = dict(zip(features.categorical, ids, strict=True))
            scales = [_valid_scale(*scale) for scale in state["scales"]]
            features._scales = dict(zip(features.numeric, scales, strict=True))
            features._words = _numbered(state["words"], 2)
            features._fitted = True
            written = {name: entry for name, entry in state.items() if name != "checksum"}
            if json.dumps(features._state()) != json.dumps(written):
                raise ValueError("it has entries that save does not write")
            if state.get("checksum") != checks.checksum(written):
                raise ValueError("its checksum is another")
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ValueError(f"{path} is damaged ({error}): save it again.") from error
        return features

    def _state(self) -> dict[str, Any]:
        """What a file holds."""
        self._check_fitted()
        return {
            "format": _FORMAT,
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "ids": [list(self._ids[column]) for column in self.categorical],
            "scales": [list(self._scales[column]) for column in self.numeric],
            "words": list(self._words),
        }

    def _check_fitted(self) -> None:
        if not self._fitted:
            raise RuntimeError("these Features know no training rows yet: call fit or load first.")

    def _scaled(self, table: pd.DataFrame) -> Tensor:
        columns, flags = [], []
        for column in self.numeric:
            values = _read_numbers(table, column, column in self.log)
            mean, scale, flagged = self._scales[column]
            missing = np.isnan(values)
            with np.errstate(over="ignore"):  # reported below, with the row
                columns.append(np.where(missing | (scale == 0), 0.0, (values - mean) / (scale or 1.0)))
            if flagged:
                flags.append(missing.astype(np.float64))
        numeric = torch.from_numpy(np.stack(columns + flags, axis=1)).to(torch.get_default_dtype())
        if wrong := (~torch.isfinite(numeric)).nonzero().tolist():
            row, column = wrong[0][0], self.numeric[wrong[0][1]]
            found = f"{table[column].iloc[row]} in row {row}"
            raise ValueError(f"column {column!r} holds {found}, too far from training: correct or clip it.")
        return numeric

    def _tokens(self, table: pd.DataFrame) -> Iterable[list[str]]:
        """The words of each row, cut to the text length."""
        columns = [_read_texts(column, table[column]) for column in self.text]
        return (tokenize("\n".join(texts))[: self.text_length] for texts in zip(*columns, strict=True))

    def _indexed_text(self, table: pd.DataFrame) -> NDArray[np.int64]:
        rows = [[self._words.get(word, 1) for word in row] for row in self._tokens(table)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        result = np.zeros((len(rows), self.text_length), np.int64)
        result[np.arange(self.text_length) < lengths[:, None]] = [word for row in rows for word in row]
        return result


_SETTINGS = ("categorical", "numeric", "text", "min_count", "max_tokens", "text_length", "log")


def _id_text(column: str, value: object) -> str:
    """The text by which an id is known: numbers by value, so that 1, 1.0 and ``"1"`` are one id."""
    if isinstance(value, str):
        return value
    if isinstance(value, (numbers.Integral, np.bool_)):  # bool is Integral
        return str(int(value))
    if isinstance(value, numbers.Real):
        number = float(value)
        if abs(number) >= _EXACT:
            problem = "a float that may have lost digits: read ids as text or integers."
            raise ValueError(f"column {column!r} holds the id {number!r}, {problem}")
        return str(int(number)) if number.is_integer() else repr(number)
    raise TypeError(f"column {column!r} holds the id {value!r} ({type(value).__name__}): turn it into text.")


def _distinct(table: pd.DataFrame, column: str) -> tuple[NDArray[np.intp], list[str]]:
    """Position of each row's id in a list of distinct ids (-1 where missing), and that list as text."""
    try:
        codes, distinct = pd.factorize(table[column])
    except TypeError as error:
        raise TypeError(
            f"column {column!r} holds something that is no id ({error}): turn it into text."
        ) from error
    return codes, [_id_text(column, value) for value in distinct.tolist()]


def _count_ids(table: pd.DataFrame, column: str, occurrences: Counter[str]) -> None:
    """Add a table's ids to those counted before."""
    codes, texts = _distinct(table, column)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts)).tolist()
    for text, count in zip(texts, counts, strict=True):
        occurrences[text] += count
    del occurrences[""]  # a table written to CSV and read again has empty texts for missing ones


def _index_ids(table: pd.DataFrame, column: str, ids: dict[str, int]) -> NDArray[np.int64]:
    codes, texts = _distinct(table, column)
    places = np.array([*(ids.get(text, 0) for text in texts), 0], np.int64)
    return places[codes]  # code -1, missing, reads the last entry


def _kept(occurrences: Counter[str], min_count: int) -> list[str]:
    """What occurs often enough: frequent first, ties by text, whatever the order of the rows."""
    kept = (text for text, count in occurrences.items() if count >= min_count)
    return sorted(kept, key=lambda text: (-occurrences[text], text))


def _read_numbers(table: pd.DataFrame, column: str, log: bool) -> NDArray[np.float64]:
    """A column as float64, NaN where missing; text is refused rather than guessed at."""
    series = table[column]
    if not pd.api.types.is_numeric_dtype(series) or pd.api.types.is_complex_dtype(series):
        for value in series[series.notna().to_numpy()].tolist():
            if not isinstance(value, (numbers.Real, np.bool_)):
                kind = type(value).__name__
                raise ValueError(f"column {column!r} holds {value!r} ({kind}): turn it into a number.")
        series = series.astype(object)
    try:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError as error:
        problem = f"column {column!r} holds a whole number too large for a float"
        raise ValueError(f"{problem}: correct it or leave it empty.") from error
    if (infinite := np.flatnonzero(np.isinf(values))).size:
        row = int(infinite[0])
        raise ValueError(f"column {column!r} holds {values[row]} in row {row}: correct it or leave it empty.")
    if log:  # not np.log1p, whose last digit depends on the CPU's vector instructions
        tail = np.fromiter(map(math.log1p, np.abs(values).tolist()), np.float64, len(values))
        values = np.copysign(tail, values)
    return values


def _read_texts(column: str, series: "pd.Series[Any]") -> list[str]:
    texts = series.astype(object).where(series.notna(), "").tolist()
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"column {column!r} holds {text!r} ({type(text).__name__}): turn it into text.")
    return texts


def _valid_scale(mean: float, scale: float, flagged: bool) -> _Scale:
    """Check a saved scale."""
    if not isinstance(flagged, bool) or not math.isfinite(mean) or not 0 <= scale < math.inf:
        raise ValueError(f"{[mean, scale, flagged]} is no scale")
    return _Scale(float(mean), float(scale), flagged)


def _numbered(entries: list[str], start: int) -> dict[str, int]:
    """Number saved ids or words in their order."""
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError("its ids and words are not all text")
    return {entry: place for place, entry in enumerate(entries, start)}
