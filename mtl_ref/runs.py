"""Where a training stands, and how it is written down and taken up again."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoints
from .batches import Source
from .optimisers import Optimiser
from .ranks import Ranks
from .steps import Losses, generators, set_generators


class Run:
    """Where a training stands: all that a checkpoint holds."""

    PLAIN = (
        "epoch",
        "steps",
        "in_epoch",
        "combined",
        "history",
        "best",
        "best_epoch",
        "best_state",
        "stopped",
    )
    TENSORS = ("sums", "seen", "weights")

    def __init__(
        self,
        model: nn.Module,
        rule: nn.Module,
        balancing: nn.Module | None,
        optimiser: Optimiser,
        batches: Source,
        seed: int,
        names: list[str],
        keep_best: bool,
    ) -> None:
        self.parts: dict[str, Any] = {
            "model": model,
            "rule": rule,
            "optimiser": optimiser,
            "batches": batches,
        }
        self.parts |= {"balancing": balancing} if balancing is not None else {}
        self.draws = torch.Generator().manual_seed(seed)  # for balancing rules that are random
        self.names, self.device = names, next(model.parameters()).device
        self.epoch, self.steps, self.best, self.best_epoch, self.stopped = 1, 0, math.inf, 0, False
        self.best_state = copy.deepcopy(model.state_dict()) if keep_best else None
        self.history: list[dict[str, Any]] = []
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.in_epoch, self.combined = 0, 0.0
        self.sums, self.seen, self.weights = (
            torch.zeros(len(self.names), dtype=torch.float64, device=self.device) for _ in range(3)
        )

    def count(self, losses: Losses, combined: float) -> None:
        """Add a batch to the epoch's sums."""
        self.combined += combined
        self.sums += losses.sums
        self.seen += losses.seen
        # The mean over the epoch: what the epoch's steps applied; a running one leaves a constant as it is.
        self.weights = self.weights + (losses.weights - self.weights) / self.in_epoch

    def row(self, means: Tensor) -> dict[str, Any]:
        """What the history says about the training part of this epoch."""
        rate = self.parts["optimiser"].learning_rate
        row = {"epoch": self.epoch, "learning_rate": rate, "train_loss": self.combined / self.in_epoch}
        row |= {f"train_{name}": mean for name, mean in zip(self.names, means.tolist(), strict=True)}
        return row | {f"weight_{n}": w for n, w in zip(self.names, self.weights.tolist(), strict=True)}

    def end_epoch(self, row: dict[str, Any], score: float | None, patience: int) -> None:
        """Store the epoch's row; keep the best weights; decide whether to stop."""
        self.history.append(row)
        if score is not None and score < self.best:
            self.best, self.best_epoch = score, self.epoch
            self.best_state = copy.deepcopy(self.parts["model"].state_dict())
        elif score is not None:
            self.stopped = self.epoch - self.best_epoch >= patience
        self.epoch += 1
        self._start_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain data."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {name: getattr(self, name) for name in (*self.PLAIN, *self.TENSORS)}
        return state | {"draws": self.draws.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for name in self.PLAIN:
            setattr(self, name, state[name])
        for name in self.TENSORS:
            setattr(self, name, state[name].to(self.device))
        self.draws.set_state(state["draws"])


def checkpoint(run: Run, folder: str | os.PathLike[str], settings: dict[str, Any], group: Ranks) -> None:
    """Write where the run stands; dropout's generators are those of all ranks."""
    everywhere = group.gather(generators(run.device))
    if group.rank == 0:
        state = run.state_dict() | {"settings": settings, "generators": everywhere}
        checkpoints.save(folder, run.steps, state)
    group.first(0)  # nobody goes on before it is written


def resume(
    run: Run,
    folder: str | os.PathLike[str],
    settings: dict[str, Any],
    wanted: bool,
    group: Ranks,
) -> bool:
    """Continue from the newest whole checkpoint, if there is one."""
    if not wanted:
        if checkpoints.found(folder):
            raise ValueError(
                f"{folder} holds checkpoints: continue with resume=True, or name another folder."
            )
        return False
    state = checkpoints.newest(folder)
    group.agree({"the checkpoint in " + str(folder): None if state is None else state["steps"]})
    if state is None:
        return False
    other = {name: state["settings"].get(name) for name in settings}
    if wrong := [name for name in settings if settings[name] != other[name]]:
        raise ValueError(
            f"the checkpoint in {folder} is of another run: its {wrong[0]} is {other[wrong[0]]}, not "
            f"{settings[wrong[0]]}: use the same settings, or another folder."
        )
    run.load_state_dict(state)
    if group.rank < len(state["generators"]):
        set_generators(state["generators"][group.rank], run.device)
    return True


def digest(batches: Source) -> str:
    """A short sum over the first rows, to see whether two processes have the same data."""
    sample = batches.sample()
    tensors = [part[name][:1000] for part in sample for name in sorted(part)]
    content = b"".join(tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()[:12]
