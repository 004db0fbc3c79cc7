"""From tensors to shuffled mini-batches: one permutation an epoch, one gather a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

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
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
        parts = (dict(x), dict(y), dict(w or {}))
        rows = {
            f"{part}[{key!r}]": len(t) for part, d in zip("xyw", parts, strict=True) for key, t in d.items()
        }
        if not parts[0]:
            raise ValueError("x holds no tensor: name at least one categorical, numeric or text column.")
        if len(set(rows.values())) != 1:
            raise ValueError(f"x, y and w must have the same number of rows, found {rows}.")
        unknown = set(parts[2]) - set(parts[1])
        if unknown:
            raise ValueError(
                f"w holds weights for {sorted(unknown)}, which are not among the tasks {sorted(parts[1])}."
            )
        self.n_rows = next(iter(rows.values()))
        if self.n_rows == 0:
            raise ValueError("x has no rows: nothing to train or predict on.")
        self.data = Batch(*({key: t.contiguous() for key, t in part.items()} for part in parts))
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch = 0
        self.offset = 0  # rows of the current epoch that were handed out

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.n_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch, then move to the next one."""
        order = self._order() if self.shuffle else None
        while self.offset < self.n_rows:
            start, stop = self.offset, min(self.offset + self.batch_size, self.n_rows)
            self.offset = stop  # before the yield: the position is that of the batch to come
            yield self._rows(slice(start, stop) if order is None else order[start:stop])
        self.epoch, self.offset = self.epoch + 1, 0

    def to(self, device: torch.device | str) -> Batches:
        """Return the same batches, at the same position, with all rows on ``device``."""
        x, y, w = self.data.to(device)
        moved = Batches(x, y, w, self.batch_size, self.shuffle, self.seed)
        moved.load_state_dict(self.state_dict())
        return moved

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
        if state["n_rows"] != self.n_rows:
            raise ValueError(f"the position is of {state['n_rows']} rows, these batches have {self.n_rows}.")
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
