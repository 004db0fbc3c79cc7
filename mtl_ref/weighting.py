"""Rules that combine the task losses into one: L = sum of lambda_i L_i, and who chooses lambda.

A weighting rule is an ``nn.Module`` with ``forward(losses (T,)) -> scalar``. It may have parameters of its
own (they join the optimiser), ``after_step(losses)`` and ``after_epoch(means)``. ``weights`` (T,) holds the
lambda last applied, in the order of the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FixedWeights(nn.Module):
    """L = sum of lambda_i L_i with lambda chosen beforehand.

    Args:
        weights: lambda_i in the order of the tasks, or by task name (``fit`` then checks the names).

    Raises:
        ValueError: If a weight is negative or not finite, or all are zero.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float] | Mapping[str, float]) -> None:
        super().__init__()
        self.names = tuple(weights) if isinstance(weights, Mapping) else None
        values = [float(v) for v in (weights.values() if isinstance(weights, Mapping) else weights)]
        if not values or any(not math.isfinite(v) or v < 0 for v in values) or not any(values):
            raise ValueError(f"weights must be finite, not negative and not all zero, found {values}.")
        self.register_buffer("weights", torch.tensor(values))

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar.

        Raises:
            ValueError: If there are not as many losses as weights.
        """
        if losses.shape != self.weights.shape:
            raise ValueError(
                f"{len(self.weights)} weights for {losses.numel()} tasks: give one weight per task."
            )
        return (self.weights.to(losses.dtype) * losses).sum()
