"""Rows that do not fit in memory: features written once as Parquet shards, read as mini-batches.

Three steps, each reading a part at a time; only the labels of all rows are held once, for the tasks to start
from::

    features = Features(...).fit(shards.tables("raw"))
    labels = pd.concat(shards.tables("raw", columns=["rating", "purchase"]))
    tasks = [Regression("rating").fit(labels), Binary("purchase").fit(labels)]
    shards.write("train", shards.tables("raw"), features, tasks)
    fit(model, tasks, shards.Shards("train"))
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batches import Batch
from .features import Features
from .parquet import GROUP, Arrays, inspect_file, read_group, write_file
from .parquet import tables as tables  # raw tables in, shards out: one module to name
from .tasks import Task, targets

FORMAT = "mtl_ref shards"
VERSION = 1

_LIST = "shards.json"


def write(
    folder: str | os.PathLike[str],
    parts: pd.DataFrame | Iterable[pd.DataFrame],
    features: Features,
    tasks: Sequence[Task],
    rows_per_shard: int = 1_000_000,
) -> None:
    """Transform raw rows and write them as shards, which do not depend on how the rows were cut into parts.

    A shard, ``part-00000.parquet`` and so on, holds ``x.<input>``, ``y.<task>`` (NaN: not observed) and
    ``w.<task>``; ids take 4 bytes, numbers those of torch's default dtype. ``shards.json`` lists the shards,
    ``features.json`` are the features. The folder appears whole or not at all; older shards at the same
    place are replaced only when the new ones are complete.

    Training shuffles row groups, and rows within a window only (``Shards``): rows that come sorted, by
    customer or label, should be shuffled before.

    Args:
        folder: Where to write; its parent must exist.
        parts: One raw table, or the parts of one, which are read once, one at a time.
        features: Fitted on training rows.
        tasks: Their targets and row weights are written too.
        rows_per_shard: Rows in a shard; the last one may be smaller.

    Raises:
        FileExistsError: If the folder exists and holds something else.
        KeyError: If a table lacks a column.
        ValueError: If there are no rows, or a value cannot be read.
    """
    target = Path(folder)
    if target.exists() and not (target / _LIST).exists():
        raise FileExistsError(f"{target} exists and holds no shards: choose another folder or remove it.")
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, found {rows_per_shard}.")
    about = _about(features, tasks)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        fresh, old = Path(scratch, "new"), Path(scratch, "old")
        fresh.mkdir()
        rows: dict[str, int] = {}
        groups = _cut(_transformed(parts, features, tasks), rows_per_shard)
        for shard, members in itertools.groupby(groups, lambda member: member[0]):
            name = f"part-{shard:05d}.parquet"
            rows[name] = write_file(fresh / name, (group for _, group in members), about)
        if not rows:
            raise ValueError(f"there are no rows to write to {target}: read tables that have some.")
        features.save(fresh / "features.json")
        (fresh / _LIST).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
        shutil.rmtree(old, ignore_errors=True)


class _Group(NamedTuple):
    """Where a row group is."""

    path: Path
    number: int
    rows: int


class Shards:
    """Mini-batches over a folder of shards; memory holds one window of rows, however many there are.

    The same interface as ``Batches``: iterating gives the rest of an epoch. The row groups of all shards
    (16,384 rows each) follow one another in an order that is a function of (seed, epoch). This stream is cut
    into windows, and the rows of a window are permuted by (seed, epoch, window). No batch crosses a window,
    so that a position is three numbers, ``state_dict()``, and a loop that was cut off continues with the
    very next batch after reading one window.

    Rows of one row group thus meet in one or two windows: rows that were written sorted, by customer or
    label, give batches that are less mixed than those of a table in memory.

    Args:
        folder: Written by ``write``.
        batch_size: Rows per batch; the last batch of an epoch may be smaller.
        shuffle: Permute row groups and rows anew every epoch; otherwise keep the order of writing.
        seed: Seed of the permutations.
        window_rows: Rows in a window, a multiple of ``batch_size``.
        part: Rank r and number of ranks R: of every batch, this rank gets rows r, r + R, r + 2 R, ...
        expect: Features and tasks that the shards must have been written with, to be sure.

    Attributes:
        n_rows: Rows of all shards.
        names: Names of the targets.
        epoch: Epochs that were finished.
        offset: Rows of the current epoch that were handed out, to all ranks together.

    Raises:
        FileNotFoundError: If there are no shards, or one is missing.
        ValueError: If a shard is damaged, or was written by something else or with other features, tasks or
            columns than the others; or sizes do not fit each other.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        batch_size: int = 1024,
        shuffle: bool = True,
        seed: int = 0,
        window_rows: int = 65_536,
        part: tuple[int, int] = (0, 1),
        expect: tuple[Features, Sequence[Task]] | None = None,
    ) -> None:
        if batch_size < 1 or window_rows < 1 or window_rows % batch_size:
            raise ValueError(f"window_rows ({window_rows}) must be a multiple of batch_size ({batch_size}).")
        if not 0 <= part[0] < part[1]:
            raise ValueError(f"part must be a rank below the number of ranks, found {part}.")
        self.folder = Path(folder)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.window_rows, self.part = window_rows, part
        about, rows = _listed(self.folder)
        if expect is not None:
            _compare(self.folder / _LIST, about, _about(*expect))
        self._groups: list[_Group] = []
        for name, count in rows.items():
            path = self.folder / name
            contents = inspect_file(path)
            found = contents.about | {"columns": contents.columns, "rows": sum(contents.groups)}
            about.setdefault("columns", contents.columns)  # the first shard sets them
            _compare(path, found, about | {"rows": count})
            self._groups += [_Group(path, number, n) for number, n in enumerate(contents.groups)]
        self.names = [column[2:] for column in about["columns"] if column.startswith("y.")]
        self.n_rows = sum(rows.values())
        self.epoch = 0
        self.offset = 0
        self._device = torch.device("cpu")
        self._decoded: tuple[_Group | None, Arrays] = (None, {})  # a row group may belong to two windows

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.n_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch, then move to the next one."""
        stream = self._stream(self.shuffle)
        while self.offset < self.n_rows:
            number = self.offset // self.window_rows
            first = number * self.window_rows
            window = self._window(stream, first)
            n = min(self.window_rows, self.n_rows - first)
            mix = self._generator(number + 1)
            places = (torch.randperm(n, generator=mix) if self.shuffle else torch.arange(n)).to(self._device)
            while first <= self.offset < first + n:
                start = self.offset - first
                stop = min(start + self.batch_size, n)
                self.offset = first + stop  # before the yield: the position is that of the batch to come
                yield _gathered(window, places[start:stop][self.part[0] :: self.part[1]])
        self.epoch, self.offset = self.epoch + 1, 0

    def sample(self) -> Batch:
        """Return the first rows as they were written, at most one window; the position stays."""
        window = self._window(self._stream(shuffle=False), 0)
        n = min(self.window_rows, self.n_rows)
        return _gathered(window, torch.arange(n, device=self._device))

    def to(self, device: torch.device | str) -> Shards:
        """Return the same batches, at the same position, on ``device``; a window moves there at a time."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        return moved

    def in_order(self) -> Shards:
        """Return all rows in the order of writing, whatever was handed out so far."""
        whole = copy.copy(self)
        whole.shuffle, whole.epoch, whole.offset, whole.part = False, 0, 0, (0, 1)
        return whole

    def state_dict(self) -> dict[str, int]:
        """Return the position: seed, epoch, rows handed out in it, and what tells the windows."""
        position = {"seed": self.seed, "epoch": self.epoch, "offset": self.offset}
        return position | {"n_rows": self.n_rows, "window_rows": self.window_rows}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a position.

        Args:
            state: What ``state_dict()`` returned.

        Raises:
            ValueError: If the position belongs to another number of rows or other windows.
        """
        found = (state["n_rows"], state.get("window_rows"))
        if found != (self.n_rows, self.window_rows):
            here = f"{self.n_rows} rows in windows of {self.window_rows}"
            raise ValueError(f"the position is of {found[0]} rows in windows of {found[1]}, not of {here}.")
        self.seed, self.epoch, self.offset = state["seed"], state["epoch"], state["offset"]

    def _generator(self, number: int) -> torch.Generator:
        seed = (self.seed * 1_000_003 + self.epoch) * 1_000_003 + number
        return torch.Generator().manual_seed(seed % 2**63)

    def _stream(self, shuffle: bool) -> tuple[list[_Group], NDArray[np.int64]]:
        """All row groups in the order of this epoch, and how many rows there are up to the end of each."""
        groups = self._groups
        if shuffle:
            order = torch.randperm(len(groups), generator=self._generator(0))
            groups = [groups[place] for place in order.tolist()]
        return groups, np.cumsum([group.rows for group in groups])

    def _window(self, stream: tuple[list[_Group], NDArray[np.int64]], first: int) -> Batch:
        """The window that starts at row ``first`` of the stream; only its own row groups are decoded."""
        groups, ends = stream
        last = min(first + self.window_rows, self.n_rows)
        pieces: list[Arrays] = []
        for place in range(int(np.searchsorted(ends, first, "right")), len(groups)):
            begin = int(ends[place]) - groups[place].rows
            if begin >= last:
                break
            if self._decoded[0] != groups[place]:
                self._decoded = (groups[place], read_group(groups[place].path, groups[place].number))
            inside = slice(max(first - begin, 0), last - begin)
            pieces.append({name: array[inside] for name, array in self._decoded[1].items()})
        parts: dict[str, dict[str, Tensor]] = {"x": {}, "y": {}, "w": {}}
        for column, array in _joined(pieces).items():
            tensor = torch.from_numpy(array)
            dtype = torch.get_default_dtype() if tensor.is_floating_point() else tensor.dtype
            parts[column[0]][column[2:]] = tensor.to(self._device, dtype)
        return Batch(**parts)


def _gathered(window: Batch, rows: Tensor) -> Batch:
    """Some rows of a window; ids become int64, as ``Features.transform`` gives them, only now."""

    def take(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        chosen = {key: tensor.index_select(0, rows) for key, tensor in part.items()}
        return {key: t if t.is_floating_point() else t.long() for key, t in chosen.items()}

    return Batch(*map(take, window))


def _about(features: Features, tasks: Sequence[Task]) -> dict[str, Any]:
    """What tells shards of one kind from others: a fingerprint of the features, and what targets mean."""
    with tempfile.TemporaryDirectory() as scratch:
        features.save(Path(scratch, "features.json"))
        fingerprint = hashlib.sha256(Path(scratch, "features.json").read_bytes()).hexdigest()[:16]
    kinds = {}
    for task in tasks:
        labels = getattr(task, "classes", getattr(task, "levels", ()))  # stored as positions among these
        kinds[task.name] = " ".join([type(task).__name__, task.column, *map(str, labels)])
    return {"format": FORMAT, "version": VERSION, "features": fingerprint, "tasks": kinds}


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            problem = f"{path} has {key} {found.get(key)!r} instead of {value!r}"
            raise ValueError(f"{problem}: put the right file there or write the folder again.")


def _listed(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read and check the list of shards: what they are, and rows by file name."""
    path = folder / _LIST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no shards ({_LIST} is missing): write them with shards.write."
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        rows = {name: int(count) for name, count in about.pop("rows").items()}
        if not rows or any(Path(name).name != name for name in rows):
            raise ValueError("it does not list shards")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): write the folder again.") from error
    _compare(path, about, {"format": FORMAT, "version": VERSION})
    if strangers := sorted({file.name for file in folder.glob("*.parquet")} - set(rows)):
        raise ValueError(f"{folder / strangers[0]} is not listed in {_LIST}: take it out of the folder.")
    return about, rows


def _transformed(
    parts: pd.DataFrame | Iterable[pd.DataFrame], features: Features, tasks: Sequence[Task]
) -> Iterator[Arrays]:
    """Columns of a shard, for at most one row group of rows at a time."""
    frames: Any = parts if isinstance(parts, Iterable) and not isinstance(parts, pd.DataFrame) else [parts]
    for frame in frames:
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"shards.write reads DataFrames, found {type(frame).__name__}: build one of it.")
        for start in range(0, len(frame), GROUP):
            rows = frame.iloc[start : start + GROUP]
            roles = zip("xyw", (features.transform(rows), *targets(tasks, rows)), strict=True)
            yield {
                f"{role}.{key}": (tensor if tensor.is_floating_point() else tensor.int()).numpy()
                for role, tensors in roles
                for key, tensor in tensors.items()
            }


def _cut(pieces: Iterable[Arrays], rows_per_shard: int) -> Iterator[tuple[int, Arrays]]:
    """Cut a stream of rows anew into row groups, each with the number of its shard."""
    held: list[Arrays] = []
    rows, shard, room = 0, 0, rows_per_shard
    for piece in pieces:
        held.append(piece)
        rows += _rows(piece)
        while rows >= (size := min(GROUP, room)):
            whole = _joined(held)
            yield shard, {name: array[:size] for name, array in whole.items()}
            held = [{name: array[size:] for name, array in whole.items()}]
            rows, room = rows - size, room - size
            if not room:
                shard, room = shard + 1, rows_per_shard
    if rows:
        yield shard, _joined(held)


def _joined(pieces: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _rows(piece: Arrays) -> int:
    return len(next(iter(piece.values())))
