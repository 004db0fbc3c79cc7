"""Mean and deviation of numbers that come in parts: one pass, and no part is kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Moments(NamedTuple):
    """What is known about the numbers seen so far; two parts merge (Chan, Golub and LeVeque, 1979).

    Args:
        seen: Number of observed numbers.
        mean: Their mean.
        deviation: Their population standard deviation.
        lowest: The smallest of them.
        highest: The largest of them.
    """

    seen: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Moments:
        """Measure one part, (N,) with NaN where missing. The order of its numbers does not matter."""
        observed = values[~np.isnan(values)]
        count = len(observed)
        if not count:
            return cls()
        lowest, highest = float(observed.min()), float(observed.max())
        if lowest == highest or max(-lowest, highest) > 1e300:  # beyond it sums overflow: see ``scale``
            return cls(count, lowest, 0.0, lowest, highest)
        mean = math.fsum(observed.tolist()) / count
        spread = float(np.abs(observed - mean).max())  # without it, squares may be 0 or infinite
        variance = math.fsum(np.square((observed - mean) / spread).tolist()) / count
        return cls(count, mean, spread * math.sqrt(variance), lowest, highest)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both parts together."""
        seen = self.seen + other.seen
        if not (self.seen and other.seen):
            return self if self.seen else other
        here, there = self.seen / seen, other.seen / seen
        step = other.mean - self.mean
        within = math.hypot(math.sqrt(here) * self.deviation, math.sqrt(there) * other.deviation)
        return Moments(
            seen,
            self.mean + step * there,
            math.hypot(within, math.sqrt(here * there) * step),
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    def scale(self, column: str) -> tuple[float, float]:
        """Return what to subtract and what to divide by; 0 instead of a deviation if all are one number.

        Raises:
            ValueError: If there was no number, or they are too large to be scaled; names the column.
        """
        if not self.seen:
            raise ValueError(f"column {column!r} has no value in the training rows: leave it out.")
        if self.lowest == self.highest:
            return self.lowest, 0.0
        if max(-self.lowest, self.highest) > 1e300:
            raise ValueError(f"column {column!r} holds numbers too large to be scaled: use another unit.")
        return self.mean, self.deviation
