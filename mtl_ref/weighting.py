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
        given: object = weights  # whatever the annotation promises
        if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
            raise TypeError(f"weights must be a list or a dictionary by task, found {weights!r}: write one.")
        self.names = tuple(weights) if isinstance(weights, Mapping) else None
        named = dict(weights.items() if isinstance(weights, Mapping) else enumerate(weights))
        for name, value in named.items():
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                what = f"the weight of task {name!r} must be a finite number of at least 0"
                raise ValueError(f"{what}, found {value!r}: correct it.")
        values = [float(value) for value in named.values()]
        if not any(values):
            raise ValueError(f"all weights are zero, found {values}: give one task a positive weight.")
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
