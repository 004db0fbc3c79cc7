"""Counts of a running service in Prometheus' text format: load, errors, and what shows drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .rows import Arrays

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
_Samples = list[tuple[str, dict[str, Any], float]]  # suffix of the name, labels, value


class Metrics:
    """What a service counts. One event loop writes it, so it needs no lock.

    Two signs of drift need no labels: the mean prediction, which moves when the visitors or the goods do, and
    the share of ids that the model has never seen, which grows with the age of the model.

    Args:
        predictions: Names of the predictions.
        categorical: Names of the columns of ids.
    """

    def __init__(self, predictions: Sequence[str], categorical: Sequence[str]) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, list[float]] = {}  # by endpoint: a count per bucket, one above all, the sum
        self.rows = 0
        self.sums = dict.fromkeys(predictions, 0.0)
        self.unknown = dict.fromkeys(categorical, 0)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests[endpoint, status] += 1
        buckets = self.seconds.setdefault(endpoint, [0.0] * (len(_BUCKETS) + 2))
        buckets[next((n for n, bound in enumerate(_BUCKETS) if seconds <= bound), len(_BUCKETS))] += 1
        buckets[-1] += seconds

    def scored(self, x: Arrays, found: Arrays, rows: int) -> None:
        """Count encoded rows and their predictions, all finite."""
        if self.unknown:
            for column, unknown in zip(self.unknown, (x["categorical"] == 0).sum(0).tolist(), strict=True):
                self.unknown[column] += unknown
        for name, values in found.items():
            self.sums[name] += float(values.sum())
        self.rows += rows

    def text(self) -> str:
        """All metrics in the text format, version 0.0.4."""
        asked: _Samples = [
            ("", {"endpoint": endpoint, "status": status}, n)
            for (endpoint, status), n in sorted(self.requests.items())
        ]
        timed: _Samples = []
        for endpoint, buckets in sorted(self.seconds.items()):
            for bound, below in zip((*_BUCKETS, "+Inf"), np.cumsum(buckets[:-1]).tolist(), strict=True):
                timed.append(("_bucket", {"endpoint": endpoint, "le": bound}, below))
            timed.append(("_sum", {"endpoint": endpoint}, buckets[-1]))
            timed.append(("_count", {"endpoint": endpoint}, sum(buckets[:-1])))
        sums: _Samples = [("", {"prediction": name}, total) for name, total in self.sums.items()]
        unseen: _Samples = [("", {"column": column}, n) for column, n in self.unknown.items()]
        failed = [sample for sample in asked if sample[1]["status"] >= 400]
        families: list[tuple[str, str, str, _Samples]] = [
            ("mtl_requests_total", "counter", "Requests by endpoint and status.", asked),
            ("mtl_errors_total", "counter", "Requests answered with a status of 400 or above.", failed),
            ("mtl_request_seconds", "histogram", "Time from the head of a request to its answer.", timed),
            ("mtl_rows_total", "counter", "Rows scored.", [("", {}, self.rows)]),
            ("mtl_prediction_sum_total", "counter", "Sum of the predictions.", sums),
            ("mtl_prediction_mean", "gauge", "Mean prediction since the start.", self._per_row(sums)),
            ("mtl_unknown_ids_total", "counter", "Ids unknown to the model, or missing.", unseen),
            ("mtl_unknown_id_share", "gauge", "Share of such ids since the start.", self._per_row(unseen)),
        ]
        lines = []
        for name, kind, told, samples in families:
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
            for suffix, labels, value in samples:
                written = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
                lines.append(
                    f"{name}{suffix}{{{written}}} {value:.12g}" if labels else f"{name} {value:.12g}"
                )
        return "\n".join(lines) + "\n"

    def _per_row(self, samples: _Samples) -> _Samples:
        return [(suffix, labels, value / max(self.rows, 1)) for suffix, labels, value in samples]


def _escaped(label: Any) -> str:
    return str(label).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
