"""From tensors to shuffled mini-batches: one permutation an epoch, one gather a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Batch(NamedTuple):
    """Some rows: inputs ``x``, targets ``y`` (NaN: label not observed), row weights ``w``."""

    x: Tensors
    y: Tensors
    w: Tensors

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return Batch(*({key: value.to(device) for key, value in part.items()} for part in self))


class Source(Protocol):
    """What ``fit`` asks of its data; ``Batches`` and ``Shards`` have it.

    ``part`` is (rank, ranks): of every batch, a rank gets the rows rank, rank + ranks, ..., so that batch
    k holds the same rows however many processes share it. ``n_rows`` counts the rows of an epoch.
    """

    batch_size: int
    shuffle: bool
    seed: int
    epoch: int
    part: tuple[int, int]

    @property
    def n_rows(self) -> int:
        """Rows in an epoch."""
        ...

    @property
    def names(self) -> list[str]:
        """Tasks that have targets."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def to(self, device: torch.device | str) -> Source:
        """Return the same batches on ``device``."""
        ...

    def sample(self) -> Batch:
        """Some rows to look at before training."""
        ...

    def in_order(self) -> Source:
        """Return all rows in their order, once, for evaluation."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Return the position."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a position."""
        ...


class Batches:
    """Mini-batches over tensors that fit in memory.

    Iterating gives one epoch. The order of epoch e is a function of (seed, e) alone, so a position is two
    numbers, ``state_dict()``, and a loop that was cut off continues with the very next batch.

    A per-row loader calls Python once a row; this one gathers a whole batch from contiguous tensors.

    Args:
        x: Inputs, each (N, ...).
        y: Targets by task name, each (N,), NaN where the label was not observed.
        w: Row weights by task name, each (N,); tasks without an entry weigh every row alike.
        batch_size: Rows per batch; the last batch of an epoch may be smaller.
        shuffle: Permute the rows anew every epoch; otherwise keep their order.
        seed: Seed of the permutations.

    Raises:
        ValueError: If there are no rows, or the tensors disagree about their number.
    """

    def __init__(
        self,
        x: Mapping[str, Tensor],
        y: Mapping[str, Tensor],
        w: Mapping[str, Tensor] | None = None,
        batch_size: int = 1024,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"batch_size must be a whole number of at least 1, found {batch_size!r}: correct it."
            )
        rows = {}
        for part, tensors in (("x", x), ("y", y), ("w", w or {})):
            if not isinstance(tensors, Mapping):
                raise TypeError(
                    f"{part} must be a dictionary of tensors, found {type(tensors).__name__}: name them."
                )
            for key, tensor in tensors.items():
                rows[f"{part}[{key!r}]"] = _rows_of(f"{part}[{key!r}]", tensor, flat=part != "x")
        parts = (dict(x), {key: _floats(t) for key, t in y.items()}, dict(w or {}))
        if not parts[0]:
            raise ValueError("x holds no tensor: name at least one categorical, numeric or text column.")
        if len(set(rows.values())) != 1:
            raise ValueError(f"x, y and w must have the same number of rows, found {rows}: cut them alike.")
        if unknown := set(parts[2]) - set(parts[1]):
            raise ValueError(
                f"w has weights for {sorted(unknown)}, y has {sorted(parts[1])}: use one set of names."
            )
        for key, weight in parts[2].items():
            used = weight[~torch.isnan(parts[1][key])]
            if not bool(((used >= 0) & torch.isfinite(used)).all()):
                raise ValueError(f"w[{key!r}] holds a negative, missing or infinite weight: correct it.")
        self._n_rows = next(iter(rows.values()))
        if self.n_rows == 0:
            raise ValueError("x has no rows, nothing to train or predict on: give at least one.")
        self.data = Batch(*({key: t.contiguous() for key, t in part.items()} for part in parts))
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch = 0
        self.offset = 0  # rows of the current epoch that were handed out
        self.part = (0, 1)  # this process, and how many share every batch

    @property
    def n_rows(self) -> int:
        """Rows in an epoch."""
        return self._n_rows

    @property
    def names(self) -> list[str]:
        """Tasks that have targets."""
        return list(self.data.y)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.n_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch, then move to the next one."""
        order = self._order() if self.shuffle else None
        rank, ranks = self.part
        while self.offset < self.n_rows:
            start, stop = self.offset, min(self.offset + self.batch_size, self.n_rows)
            self.offset = stop  # before the yield: the position is that of the batch to come
            rows = slice(start + rank, stop, ranks)
            yield self._rows(rows if order is None else order[rows])
        self.epoch, self.offset = self.epoch + 1, 0

    def to(self, device: torch.device | str) -> Batches:
        """Return the same batches, at the same position, with all rows on ``device``."""
        x, y, w = self.data.to(device)
        moved = Batches(x, y, w, self.batch_size, self.shuffle, self.seed)
        moved.load_state_dict(self.state_dict())
        moved.part = self.part
        return moved

    def sample(self) -> Batch:
        """Return all rows."""
        return self.data

    def in_order(self) -> Batches:
        """Return the same rows from the first to the last, whatever was handed out so far."""
        return Batches(*self.data, self.batch_size, shuffle=False)

    def state_dict(self) -> dict[str, int]:
        """Return the position: seed, epoch, and rows handed out in it."""
        return {"seed": self.seed, "epoch": self.epoch, "offset": self.offset, "n_rows": self.n_rows}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a position.

        Args:
            state: What ``state_dict()`` returned.

        Raises:
            ValueError: If the position belongs to a table with another number of rows.
        """
        fits = all(isinstance(state.get(key), int) for key in ("seed", "epoch", "offset", "n_rows"))
        if not fits or state["n_rows"] != self.n_rows:
            found = f"found {dict(state)}, these batches have {self.n_rows} rows"
            raise ValueError(f"the position is not of these batches, {found}: use the data of that run.")
        if state["epoch"] < 0 or not 0 <= state["offset"] <= self.n_rows:
            raise ValueError(
                f"the position {dict(state)} is outside of the table: use the one that was saved."
            )
        self.seed, self.epoch, self.offset = state["seed"], state["epoch"], state["offset"]

    def _order(self) -> Tensor:
        # On the CPU whatever the device, so that every machine walks the rows in the same order.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.n_rows, generator=generator).to(next(iter(self.data.x.values())).device)

    def _rows(self, rows: slice | Tensor) -> Batch:
        def take(part: Tensors) -> Tensors:
            # index_select copies rows in one call; a slice is a view and copies nothing
            return {
                k: t[rows] if isinstance(rows, slice) else t.index_select(0, rows) for k, t in part.items()
            }

        return Batch(*map(take, self.data))


def _rows_of(name: str, tensor: Tensor, flat: bool) -> int:
    """Number of rows of a tensor; targets and weights have one number in each."""
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        found = "a single number" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(
            f"{name} must be a tensor with one entry per row, found {found}: use torch.as_tensor."
        )
    if flat and tensor.ndim != 1:
        raise ValueError(f"{name} must be (N,), found {tuple(tensor.shape)}: squeeze it.")
    return len(tensor)


def _floats(target: Tensor) -> Tensor:
    return target if target.is_floating_point() else target.to(torch.get_default_dtype())
