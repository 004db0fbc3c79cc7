"""Adam for models with embedding tables: dense, with one gradient buffer kept per table; or lazy, by row.

In both, the backward pass ends at the rows that a batch reads (``EmbeddingTable.tape``).

- **Dense** (the default) is Adam as published (Kingma and Ba, 2015): every row of a table moves at every
  step, because its moments decay even where its gradient is zero. It costs time in proportion to the table.
- **Lazy** is another algorithm. A row moves only when a batch reads it; in between its moments are frozen,
  weight decay does not reach it, and clipping looks at the rows that were read. Its bias correction counts
  all steps, not those of the row. It costs time in proportion to the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .encoders import EmbeddingTable
from .ranks import Ranks

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Adam:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW`` computes it, in one call per step.

    The same kernel and the same numbers, without the 0.3 ms that the class takes in every step to sort what
    does not change between steps: half of the time of the update itself for a small model.

    Args:
        groups: Each with ``params`` and ``weight_decay``.
        learning_rate: Step size, kept as ``lr`` in every group.
        betas: Decay of the two moments.
        epsilon: Added to the root of the second moment.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.param_groups = [group | {"lr": learning_rate} for group in groups]
        self.betas, self.epsilon = betas, epsilon
        # The kernel wants lists of one dtype and device: those of each group, apart.
        self.parts: list[tuple[dict[str, Any], list[Tensor], list[Tensor], list[Tensor], Tensor]] = []
        for group in self.param_groups:
            kinds = dict.fromkeys((p.dtype, p.device) for p in group["params"])
            for kind in kinds:
                own = [p for p in group["params"] if (p.dtype, p.device) == kind]
                mean, square = ([torch.zeros_like(p, requires_grad=False) for p in own] for _ in range(2))
                self.parts.append((group, own, mean, square, torch.zeros(len(own), device=kind[1])))

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group, own, mean, square, steps in self.parts:
            counts = list(steps.unbind())
            moved = [k for k, parameter in enumerate(own) if parameter.grad is not None]
            if not moved:
                continue
            if len(moved) == len(own):
                steps += 1
            else:
                own, mean, square, counts = (
                    [entries[k] for k in moved] for entries in (own, mean, square, counts)
                )
                for count in counts:
                    count += 1
            with torch.no_grad():
                torch._fused_adamw_(
                    own,
                    [parameter.grad for parameter in own if parameter.grad is not None],
                    mean,
                    square,
                    [],
                    counts,
                    lr=group["lr"],
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    weight_decay=group["weight_decay"],
                    eps=self.epsilon,
                    amsgrad=False,
                    maximize=False,
                )

    def state_dict(self) -> dict[str, Any]:
        """Return rates, moments and counts."""
        return {"lr": [g["lr"] for g in self.param_groups], "parts": [list(part[2:]) for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for group, rate in zip(self.param_groups, state["lr"], strict=True):
            group["lr"] = rate
        for own, (means, squares, steps) in zip(self.parts, state["parts"], strict=True):
            pairs = zip([*own[2], *own[3], own[4]], [*means, *squares, steps], strict=True)
            for kept, stored in pairs:
                kept.copy_(stored)


class LazyRowAdam:
    """Adam that touches only the rows of a table that a batch reads.

    Args:
        tables: Their weights are changed in place.
        betas: Decay of the two moments.
        epsilon: Added to the root of the second moment.
    """

    def __init__(
        self,
        tables: list[EmbeddingTable],
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.tables, self.betas, self.epsilon = tables, betas, epsilon
        self.steps = 0
        # Both moments of a row side by side: one place in memory to visit instead of two.
        self.moments = [torch.zeros(len(t.weight), 2, t.embedding_dim).to(t.weight) for t in tables]
        self.rows: list[tuple[Tensor, Tensor]] = []  # per table: distinct ids (U,), their gradients (U, D)

    def collect(self, ranks: Ranks) -> None:
        """Read the tapes: sum the gradients of each row, over its occurrences and over the ranks."""
        self.rows = []
        for table in self.tables:
            parts = [(ids, vectors.grad) for ids, vectors in table.tape or [] if vectors.grad is not None]
            empty = table.weight.new_zeros(0, table.embedding_dim)
            ids = torch.cat([torch.zeros(0, dtype=torch.long, device=empty.device), *(i for i, _ in parts)])
            gradient = torch.cat([empty, *(g for _, g in parts if g is not None)])
            if ranks.world > 1:
                everywhere = ranks.gather((ids, gradient))
                ids, gradient = (torch.cat(part) for part in zip(*everywhere, strict=True))
            distinct, position = torch.unique(ids, return_inverse=True)
            total = gradient.new_zeros(len(distinct), table.embedding_dim).index_add_(0, position, gradient)
            self.rows.append((distinct, total))

    def step(self, learning_rate: float) -> None:
        """Move the rows that were read (Kingma and Ba, 2015, algorithm 1, on these rows only)."""
        self.steps += 1
        first, second = self.betas
        correct_first, correct_second = 1 - first**self.steps, 1 - second**self.steps
        for table, moments, (ids, gradient) in zip(self.tables, self.moments, self.rows, strict=True):
            rows = moments.index_select(0, ids)  # (U, 2, D)
            mean, square = rows.unbind(1)
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            moments.index_copy_(0, ids, rows)
            scale = square.div(correct_second).sqrt_().add_(self.epsilon)
            table.weight.data.index_add_(0, ids, mean / scale, alpha=-learning_rate / correct_first)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the moments of all tables."""
        return {"steps": self.steps, "moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.steps = state["steps"]
        for own, stored in zip(self.moments, state["moments"], strict=True):
            own.copy_(stored)


class Optimiser:
    """What ``fit`` steps with: AdamW (or the caller's optimiser), and the tables' rows beside it.

    Inside ``with``, tables hand out rows as leaves of the graph, and each has one gradient buffer that is
    kept and cleared. A fresh gradient as large as a table, as autograd makes it, costs more than the rest of
    the step: its memory must be asked of the system and filled with zeros every time.

    Args:
        model: The model to train.
        rule: The weighting rule; its parameters are trained too, without weight decay.
        make: Builds another optimiser for all parameters.
        learning_rate: Step size.
        weight_decay: Decoupled weight decay of the model's parameters (Loshchilov and Hutter, 2019).
        by_row: Whether tables hand out rows; not where gradients are asked for at the parameters.
        lazy_rows: Whether tables are trained by ``LazyRowAdam``.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: nn.Module,
        make: Make | None,
        learning_rate: float,
        weight_decay: float,
        by_row: bool,
        lazy_rows: bool,
    ) -> None:
        tables = [m for m in model.modules() if isinstance(m, EmbeddingTable) and m.weight.requires_grad]
        self.tables = tables if by_row else []
        by_rows = {id(table.weight) for table in self.tables}
        own = [p for p in model.parameters() if p.requires_grad]
        rules = list(rule.parameters())
        self.plain = [p for p in own if id(p) not in by_rows]
        self.lazy = LazyRowAdam(self.tables) if lazy_rows else None
        dense = self.plain if lazy_rows else own
        self.trained = [*dense, *rules]
        self.dense: Any
        if make is not None:
            self.dense = make(self.trained)
        else:
            groups: list[dict[str, Any]] = [{"params": dense, "weight_decay": weight_decay}]
            if rules:
                groups.append({"params": rules, "weight_decay": 0.0})  # decay would drag lambda towards one
            self.dense = Adam(groups, learning_rate)
        self._rates = [group["lr"] for group in self.dense.param_groups]
        self._loose = [p for p in self.trained if id(p) not in by_rows]
        self._dirty: list[tuple[Tensor, Tensor | None]] = []  # buffers, and where they are not zero

    def __enter__(self) -> Optimiser:
        for table in self.tables:
            table.tape = []
            if self.lazy is None:
                table.weight.grad = torch.zeros_like(table.weight)
        return self

    def __exit__(self, *_: object) -> None:
        for table in self.tables:
            table.tape, table.weight.grad = None, None
        for parameter in self.trained:
            parameter.grad = None

    @property
    def learning_rate(self) -> float:
        """Step size of the last step."""
        rate: float = self.dense.param_groups[0]["lr"]
        return rate

    def set_rate(self, factor: float) -> None:
        """Multiply the step sizes that the run began with."""
        for group, rate in zip(self.dense.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def zero(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._loose:
            parameter.grad = None
        for buffer, ids in self._dirty:
            if ids is None or 16 * len(ids) > len(buffer):  # in a row, memory is cleared 16 times as fast
                buffer.zero_()
            else:  # a large table: only where something was added
                buffer.index_fill_(0, ids, 0.0)
        self._dirty.clear()
        for table in self.tables:
            table.tape = []

    def collect(self, ranks: Ranks) -> None:
        """Complete the gradients after the backward pass: rows into tables, then sums over the ranks."""
        if self.lazy is not None:
            self.lazy.collect(ranks)
        else:
            for table in self.tables:
                buffer = table.weight.grad
                for ids, vectors in table.tape or []:
                    if vectors.grad is not None and buffer is not None:
                        buffer.index_add_(0, ids, vectors.grad)
                        self._dirty.append((buffer, ids if ranks.world == 1 else None))
            ranks.sum_gradients([t.weight for t in self.tables if isinstance(t.weight, nn.Parameter)])
        ranks.sum_gradients(self.plain)  # the rule's own gradients are those of all ranks already

    def clip(self, largest: float) -> None:
        """Scale the whole gradient so that its Euclidean norm is at most ``largest``."""
        if self.lazy is None:
            nn.utils.clip_grad_norm_(self.trained, largest)
            return
        gradients = [p.grad for p in self.trained if p.grad is not None]
        gradients += [gradient for _, gradient in self.lazy.rows]
        norm = nn.utils.get_total_norm(gradients)
        for gradient in gradients:
            gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))

    def step(self) -> None:
        """Move the parameters."""
        self.dense.step()
        if self.lazy is not None:
            self.lazy.step(self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimisers."""
        return {"dense": self.dense.state_dict(), "lazy": self.lazy.state_dict() if self.lazy else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.dense.load_state_dict(state["dense"])
        if self.lazy is not None:
            self.lazy.load_state_dict(state["lazy"])
