"""Which alarm rings? Ten worlds, three cases: nothing changes, tastes drift, a feed breaks.

A net with two heads (click, purchase after a click) is trained on days 0-13. Days 14-19 are the reference,
days 21-26 (the same weekdays, before the gift season) are monitored. ``still`` is a world without drift,
``drifting`` the same world with the drift dial at 2, ``broken feed`` is ``still`` in which, on the monitored
days, the competitor's price is missing in three rows of ten. Four alarms decide once a day:

* the population stability index (PSI) of any feature, or of the predicted click, is above 0.2;
* a Kolmogorov-Smirnov test of any numeric feature, or of the predicted click, has p < 0.01;
* the mean predicted click differs from the reference by z-test at 1 %, rows counted as independent;
* clicks observed over expected, in any category, differ from the reference's ratio at 1 % (Bonferroni).

The last rows are those of purchases whose labels come late: observed over expected of the clicks of days
25-27 as read at the end of day 27, as it stands, and with the expectation multiplied by the share of
purchases that a click of that age has had time for. Run:

    python benchmarks/drift_monitors.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from study import PIPELINE, Rows, Study

from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.market import CATEGORICAL, NUMERIC, Dials, World
from mtl_ref.models import SharedEncoder
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, targets
from mtl_ref.training import cosine, fit, predict

IDS = [name for name in CATEGORICAL if name not in ("visitor_id", "region")]
WATCHED = [name for name in IDS if name not in ("item_id", "seller_id", "brand", "weekday")]
MODELS = ("still", "drifting", "broken feed")
Array = np.ndarray


def psi(before: Array, after: Array) -> float:
    """Population stability index of two histograms of counts (K,); half a row is added to each bin."""
    p, q = (before + 0.5) / (before + 0.5).sum(), (after + 0.5) / (after + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def histograms(before: pd.Series, after: pd.Series) -> tuple[Array, Array]:
    """Counts in the tenths of the earlier values, or by level; the last bin holds what is missing."""
    if pd.api.types.is_numeric_dtype(before):
        edges = np.unique(np.nanquantile(before, np.arange(1, 10) / 10))
        bins = [np.where(np.isnan(v), len(edges) + 1, np.searchsorted(edges, v)) for v in (before, after)]
        size = len(edges) + 2
    else:
        levels = pd.Index(before.unique())
        bins = [np.where((at := levels.get_indexer(v)) < 0, len(levels), at) for v in (before, after)]
        size = len(levels) + 1
    first, second = (np.bincount(b, minlength=size).astype(float) for b in bins)
    return first, second


def alarms(reference: pd.DataFrame, day: pd.DataFrame) -> dict[str, float]:
    """Which of the alarms ring on one day; ``p`` is the predicted click."""
    numbers = [*NUMERIC, "p"]
    largest = max(psi(*histograms(reference[name], day[name])) for name in [*WATCHED, *numbers])
    tests = [stats.ks_2samp(reference[n].dropna(), day[n].dropna(), method="asymp").pvalue for n in numbers]
    spread = np.hypot(*(part["p"].std() / len(part) ** 0.5 for part in (reference, day)))
    moved = abs(day["p"].mean() - reference["p"].mean()) / spread
    sums = [part.groupby("category", observed=False)[["click", "p"]].sum() for part in (reference, day)]
    ratio = [np.log(s["click"] / s["p"]) for s in sums]
    z = (ratio[1] - ratio[0]) / np.sqrt(sum(1 / s["click"] for s in sums))
    return {
        "PSI": float(largest > 0.2),
        "two-sample tests": float(min(tests) < 0.01),
        "mean prediction": float(moved > stats.norm.isf(0.005)),
        "observed / expected": float(z.abs().max() > stats.norm.isf(0.005 / len(z))),
    }


def unit(world: int, model: str) -> Rows:
    """Share of the six days on which each alarm rings; purchases by maturity."""
    setup(seed=world)
    shop = World(world, Dials(requests=3_000, drift=2.0 if model == "drifting" else 0.0))
    served = shop.serve(days=28)
    log = served.table()
    past, random = log[log["day"] < 14], np.random.default_rng(world)
    some = past[(past["click"] == 1) | (random.random(len(past)) < 0.25)]
    some = some.assign(stands_for=np.where(some["click"] == 1, 1.0, 4.0))
    tasks = [Binary("click", weight="stands_for").fit(some), Binary("purchase_given_click").fit(some)]
    features = Features(categorical=IDS, numeric=NUMERIC, min_count=5).fit(some)
    net = SharedEncoder(TabularEncoder(features.sizes, 8, (64, 32)), tasks, (16,))
    settings: dict[str, Any] = {"epochs": 3, "learning_rate": 2e-3, "schedule": cosine, "seed": world}
    fit(net, tasks, (features.transform(some), *targets(tasks, some)), **settings)
    later = log[log["day"] >= 14].copy()
    if model == "broken feed":
        hit = (later["day"] >= 21) & (random.random(len(later)) < 0.3)
        later["competitor_price"] = later["competitor_price"].mask(hit)
    found = predict(net, tasks, features.transform(later))
    later = later.assign(p=found["click"], buy=found["purchase_given_click"])
    reference = later[later["day"] <= 19]
    days = pd.DataFrame([alarms(reference, later[later["day"] == day]) for day in range(21, 27)])
    rows: Rows = [{"task": name, "metric": "days", "value": float(v)} for name, v in days.mean().items()]
    return rows + maturity(served, log, later)


def maturity(served: Any, log: pd.DataFrame, later: pd.DataFrame) -> Rows:
    """Observed over expected purchases of days 25-27, read at the end of day 27."""
    bought = served.events[served.events["kind"] == "purchase"]
    clicked_at = log.set_index("impression_id")["time"]
    wait = bought["visible_at"].to_numpy() - clicked_at.loc[bought["impression_id"]].to_numpy()
    old = clicked_at.loc[bought["impression_id"]].to_numpy() < 14  # two weeks later all have come
    seen = set(bought["impression_id"][bought["visible_at"] <= 28])
    clicks = later[(later["click"] == 1) & (later["day"] != 20)]
    young = (clicks["day"] >= 25).to_numpy()
    y = clicks["impression_id"].isin(seen).to_numpy()
    share = np.searchsorted(np.sort(wait[old]), 28 - clicks["time"].to_numpy()) / old.sum()
    level = y[~young].sum() / (clicks["buy"].to_numpy() * share)[~young].sum()  # of the model, before
    expected = clicks["buy"].to_numpy() * level
    values = {"as it stands": y[young].sum() / expected[young].sum()}
    values["with the share that has come"] = y[young].sum() / (expected * share)[young].sum()
    return [{"task": f"purchases {name}", "metric": "ratio", "value": float(v)} for name, v in values.items()]


STUDY = Study(
    name="drift_monitors",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=(*PIPELINE, "shop", "market"),
    trainings=10 * 3,
    hours=0.1,
)

if __name__ == "__main__":
    STUDY.main()
