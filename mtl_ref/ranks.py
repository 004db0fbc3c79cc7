"""Several processes, one training: sums over all of them, and an error instead of a wait without end.

``torchrun --nproc-per-node 2 train.py`` starts a script twice; each process is a rank. ``fit`` joins them:
each rank computes its rows of every batch, sums are taken over all ranks, and all make the same step.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(seconds=20)  # until a rank that does not answer counts as dead


class Ranks:
    """This process among those that train together; alone, every sum is the value itself.

    Args:
        rank: Number of this process, from 0.
        world: Number of processes.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        # A group of our own: its patience does not depend on how the caller set up the default one.
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if world > 1 else None

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks of tensors of one shape; every rank gets the same bits."""
        if self.world == 1:
            return values
        total = values.detach().clone()
        self._ask(lambda: dist.all_reduce(total, group=self._group))
        return total

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all ranks, in one message."""
        if self.world == 1 or not parameters:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        total = self.sum(torch.cat([grad.flatten() for grad in grads]))
        start = 0
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.copy_(total[start : start + grad.numel()].view_as(grad))
            start += grad.numel()

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        self._ask(lambda: dist.all_gather_object(values, value, group=self._group))
        return values

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the values of rank 0, in place."""
        for tensor in tensors if self.world > 1 else ():
            self._ask(lambda tensor=tensor: dist.broadcast(tensor, src=0, group=self._group))  # type: ignore[misc]

    def first(self, value: T) -> T:
        """Return what rank 0 has."""
        return self.gather(value)[0]

    def agree(self, facts: dict[str, Any]) -> None:
        """Refuse to start where ranks see different data or settings.

        Raises:
            ValueError: On every rank; names the first fact that differs, and all its values.
        """
        everywhere = self.gather(facts)
        for name in facts:
            values = [other.get(name) for other in everywhere]
            if len({repr(value) for value in values}) > 1:  # as text: NaN is not equal to itself
                advice = "give every rank the same data and settings."
                raise ValueError(f"the ranks disagree about {name}, found {values}: {advice}")

    def _ask(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            raise RuntimeError(
                f"another rank stopped answering rank {self.rank} of {self.world} "
                f"({str(error).splitlines()[0][:120]}): look at its output, then start all again with "
                "resume=True."
            ) from error


def _leave() -> None:
    """End the groups' threads before the interpreter ends: else it may abort after all work is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def join() -> Ranks:
    """Find the other processes: those of an initialised process group, or those that ``torchrun`` started."""
    if not dist.is_available():
        return Ranks()
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        dist.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()
