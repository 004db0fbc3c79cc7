"""Metrics over whole sets: plain functions of arrays.

Every function takes numpy arrays, tensors or pandas Series with one entry per row. It compares a target with
a prediction in natural units: a probability, a class, a mean. Four rules hold throughout:

- a row whose target is NaN was not observed and is dropped, and so is a row of weight zero;
- a weight of two counts like the same row twice;
- a metric that is undefined on a set (no rows, one class for the AUC) is ``nan``, so that tables by segment
  have a gap there instead of an invented number;
- bad input (unequal lengths, a missing prediction, a target other than 0 or 1) raises ``ValueError``.

A metric over a set is in general not the mean of the metric over its batches: collect the predictions first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

from . import checks

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Weights = ArrayLike | None


def accuracy(
    target: ArrayLike, prediction: ArrayLike, weights: Weights = None, threshold: float = 0.5
) -> float:
    """Share of rows whose predicted class is the true one.

    Args:
        target: (N,) class indices, NaN where missing.
        prediction: (N,) class indices, or probabilities of class 1; or (N, K) class probabilities (the
            largest wins, the first of equal ones).
        weights: (N,) row weights.
        threshold: a probability from here on counts as class 1.

    Returns:
        A value in [0, 1]; ``nan`` without rows.
    """
    y, p, w, _ = _clean(target, prediction, weights)
    return _mean(_classes(p, threshold) == y, w)


def precision(
    target: ArrayLike, prediction: ArrayLike, weights: Weights = None, threshold: float = 0.5
) -> float:
    """Share of true positives among the rows predicted positive.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) probabilities, or 0 and 1.
        weights: (N,) row weights.
        threshold: a probability from here on counts as positive.

    Returns:
        A value in [0, 1]; ``nan`` if no row is predicted positive.
    """
    checks.between("threshold", threshold, -np.inf, np.inf)
    y, p, w, _ = _binary(target, prediction, weights)
    return _mean(y[p >= threshold], w[p >= threshold])


def recall(
    target: ArrayLike, prediction: ArrayLike, weights: Weights = None, threshold: float = 0.5
) -> float:
    """Share of the positive rows that are predicted positive.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) probabilities, or 0 and 1.
        weights: (N,) row weights.
        threshold: a probability from here on counts as positive.

    Returns:
        A value in [0, 1]; ``nan`` if no row is positive.
    """
    checks.between("threshold", threshold, -np.inf, np.inf)
    y, p, w, _ = _binary(target, prediction, weights)
    return _mean(p[y == 1] >= threshold, w[y == 1])


def f1(target: ArrayLike, prediction: ArrayLike, weights: Weights = None, threshold: float = 0.5) -> float:
    """Harmonic mean of precision and recall; for several classes its mean over classes (macro F1).

    Args:
        target: (N,) class indices, NaN where missing.
        prediction: (N,) 0/1 classes or probabilities of class 1: F1 of class 1. Or (N, K) class
            probabilities: macro F1 over the classes that occur in the target or among the predicted classes.
        weights: (N,) row weights.
        threshold: a probability from here on counts as class 1.

    Returns:
        A value in [0, 1], zero where no positive is found; ``nan`` if there is no positive, neither true nor
        predicted.
    """
    y, p, w, _ = _clean(target, prediction, weights)
    if not len(y):
        return float("nan")
    guess = _classes(p, threshold)
    if p.ndim == 1:
        return float(sklearn_metrics.f1_score(y == 1, guess == 1, sample_weight=w, zero_division=np.nan))
    options = {"average": "macro", "zero_division": np.nan}
    return float(sklearn_metrics.f1_score(y, guess, sample_weight=w, **options))


def auc(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Area under the ROC curve: P(a random positive scores above a random negative), ties count one half.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) scores on any scale; only their order counts.
        weights: (N,) row weights; a pair counts with the product of its two.

    Returns:
        A value in [0, 1]; ``nan`` if only one class is present.
    """
    y, score, w, _ = _binary(target, prediction, weights, probability=False)
    if len(np.unique(y)) < 2:
        return float("nan")
    return float(sklearn_metrics.roc_auc_score(y, score, sample_weight=w))


def auc_by_group(
    target: ArrayLike, prediction: ArrayLike, groups: ArrayLike, weights: Weights = None
) -> pd.DataFrame:
    """AUC inside each group (a visitor, a request), for all groups at once.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) scores on any scale.
        groups: (N,) group ids of any type, none missing.
        weights: (N,) row weights.

    Returns:
        A table with one row a group, sorted by id: ``group``, ``rows`` (sum of weights), ``positives`` (the
        same of the positives) and ``auc``, ``nan`` where the group holds one class.
        ``table["auc"].isna().sum()`` counts these.
    """
    y, score, w, keep = _binary(target, prediction, weights, probability=False)
    code, ids = _codes(groups, keep)
    runs = _runs(score, code)
    positive, negative = runs.sums(w * y), runs.sums(w * (1 - y))
    positives, negatives = _total(code, w * y, len(ids)), _total(code, w * (1 - y), len(ids))
    # Negatives up to the end of the group less those up to the end of the run: those that score lower.
    lower = np.cumsum(negatives)[runs.group] - np.cumsum(negative)
    won = _total(runs.group, positive * (lower + negative / 2), len(ids))
    with np.errstate(invalid="ignore"):
        value = won / (positives * negatives)
    return pd.DataFrame({"group": ids, "rows": positives + negatives, "positives": positives, "auc": value})


def grouped_auc(
    target: ArrayLike,
    prediction: ArrayLike,
    groups: ArrayLike,
    weights: Weights = None,
    by: str = "impressions",
) -> float:
    """Mean AUC inside groups: how well rows of the *same* visitor or request are ordered.

    Unlike the AUC over all rows it earns nothing for telling keen visitors from idle ones. Groups with one
    class have no AUC and are skipped; ``auc_by_group`` counts them. Source: Zhou et al. 2018 (Deep Interest
    Network), its metric of experiments.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) scores on any scale.
        groups: (N,) group ids of any type, none missing.
        weights: (N,) row weights.
        by: what a group counts with: its ``"impressions"``, its ``"positives"``, or ``"groups"`` for one
            each.

    Returns:
        A value in [0, 1]; ``nan`` if every group holds one class.
    """
    if by not in ("impressions", "positives", "groups"):
        raise ValueError(
            f"by must be one of three words, found {by!r}: choose 'impressions', 'positives' or 'groups'."
        )
    table = auc_by_group(target, prediction, groups, weights).dropna(subset="auc")
    mass = None if by == "groups" else table["rows" if by == "impressions" else by].to_numpy(dtype=float)
    return _mean(table["auc"].to_numpy(dtype=float), mass)


def log_loss(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Mean negative log-likelihood in nats, of a Bernoulli or of a categorical distribution.

    Args:
        target: (N,) class indices, NaN where missing.
        prediction: (N,) probabilities of class 1, or (N, K) class probabilities whose rows sum to one. They
            are kept 2.2e-16 away from 0 and 1, so that one certain error costs 36 nats and not infinity.
        weights: (N,) row weights.

    Returns:
        A value ≥ 0; ``nan`` without rows.
    """
    y, p, w, _ = _clean(target, prediction, weights)
    if p.ndim == 1:
        y, p, w, _ = _binary(y, p, w)
        p = np.stack([1 - p, p], axis=1)
    _unit(p)
    if not len(y):
        return float("nan")
    if (off := np.abs(p.sum(axis=1) - 1)).max() > 1e-4:
        problem = (
            f"class probabilities do not sum to one in row {off.argmax()}, but to {p[off.argmax()].sum():g}"
        )
        raise ValueError(f"{problem}: apply the task's link first.")
    p = p / p.sum(axis=1, keepdims=True)  # float32 sums differ from one by more than scikit-learn accepts
    return float(sklearn_metrics.log_loss(y, p, labels=range(p.shape[1]), sample_weight=w))


def brier(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Brier score: mean squared distance between probability and outcome.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) probabilities of class 1.
        weights: (N,) row weights.

    Returns:
        A value in [0, 1]; ``nan`` without rows.
    """
    y, p, w, _ = _binary(target, prediction, weights)
    return _mean((p - y) ** 2, w)


def calibration_curve(
    target: ArrayLike, prediction: ArrayLike, weights: Weights = None, bins: int = 10, level: float = 0.95
) -> pd.DataFrame:
    """Predicted probability against observed rate, in bins of equal mass.

    Rows are sorted by prediction and cut into ``bins`` parts of equal weight. Equal predictions stay together
    (in the part in which the middle of their run lies), so the result does not depend on the order of the
    rows; with few distinct predictions there are fewer bins. The interval is Wilson's for a proportion, with
    the effective number of rows (Σw)² / Σw²: a weight is not a new observation.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) probabilities of class 1.
        weights: (N,) row weights.
        bins: number of bins at most.
        level: confidence level of the interval.

    Returns:
        A table with one row a bin: ``predicted`` and ``observed`` (means), ``low``, ``high`` (interval of the
        observed rate), ``rows`` (their number) and ``weight`` (the sum of their weights).
    """
    checks.whole("bins", bins, "bin")
    checks.between("level", level, 0, 1)
    y, p, w, _ = _binary(target, prediction, weights)
    _, run = np.unique(p, return_inverse=True)
    mass = np.bincount(run, w)
    middle = (np.cumsum(mass) - mass / 2) / max(mass.sum(), np.finfo(float).tiny)
    bin_of_run = np.minimum((middle * bins).astype(int), bins - 1)
    _, index = np.unique(bin_of_run[run], return_inverse=True)
    weight = np.bincount(index, w)
    predicted, observed = np.bincount(index, w * p) / weight, np.bincount(index, w * y) / weight
    n, z = weight**2 / np.bincount(index, w**2), norm.ppf(0.5 + level / 2)
    centre = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = np.minimum(centre - half, observed), np.maximum(centre + half, observed)
    columns = {"predicted": predicted, "observed": observed, "low": low.clip(0), "high": high.clip(max=1)}
    return pd.DataFrame(columns | {"rows": np.bincount(index), "weight": weight})


def calibration_error(
    target: ArrayLike, prediction: ArrayLike, weights: Weights = None, bins: int = 10
) -> float:
    """Expected calibration error: mean distance of predicted probability and observed rate, bin by bin.

    The bins are those of ``calibration_curve``, of equal mass. Even a perfectly calibrated model has an
    error, of up to about ``0.8 * sqrt(rate * (1 - rate) * bins / rows)``: compare with that before you worry.
    Source: Guo et al. 2017, there with bins of equal width, which the rare events of a shop leave nearly
    empty.

    Args:
        target: (N,) 0 or 1, NaN where missing.
        prediction: (N,) probabilities of class 1.
        weights: (N,) row weights.
        bins: number of bins at most.

    Returns:
        A value in [0, 1]; ``nan`` without rows.
    """
    curve = calibration_curve(target, prediction, weights, bins)
    distance = (curve["predicted"] - curve["observed"]).abs().to_numpy(dtype=float)
    return _mean(distance, curve["weight"].to_numpy(dtype=float))


def rmse(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Root of the mean squared error, in the unit of the target.

    Args:
        target: (N,) numbers, NaN where missing.
        prediction: (N,) predicted means.
        weights: (N,) row weights.

    Returns:
        A value ≥ 0; ``nan`` without rows.
    """
    y, p, w, _ = _clean(target, prediction, weights, columns=False)
    if len(y) and max(np.abs(y).max(), np.abs(p).max()) > 1e150:
        found = f"{max(y.max(), p.max(), key=abs):g}"
        raise ValueError(f"target or prediction is too large to be squared, found {found}: use another unit.")
    return float(sklearn_metrics.root_mean_squared_error(y, p, sample_weight=w)) if len(y) else float("nan")


def mae(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Mean absolute error, in the unit of the target.

    Args:
        target: (N,) numbers, NaN where missing.
        prediction: (N,) predictions.
        weights: (N,) row weights.

    Returns:
        A value ≥ 0; ``nan`` without rows.
    """
    y, p, w, _ = _clean(target, prediction, weights, columns=False)
    return float(sklearn_metrics.mean_absolute_error(y, p, sample_weight=w)) if len(y) else float("nan")


def poisson_deviance(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Mean Poisson deviance 2 (y log(y / μ) − y + μ): zero for a perfect prediction.

    Args:
        target: (N,) counts, NaN where missing.
        prediction: (N,) predicted means μ > 0.
        weights: (N,) row weights.

    Returns:
        A value ≥ 0; ``nan`` without rows.
    """
    y, p, w, _ = _clean(target, prediction, weights, columns=False)
    if (y < 0).any() or (p <= 0).any():
        found = f"found {y.min():g} and {p.min():g}"
        raise ValueError(
            f"the Poisson deviance needs counts ≥ 0 and predicted means > 0, {found}: clip them."
        )
    return float(sklearn_metrics.mean_poisson_deviance(y, p, sample_weight=w)) if len(y) else float("nan")


def quadratic_weighted_kappa(target: ArrayLike, prediction: ArrayLike, weights: Weights = None) -> float:
    """Agreement of ordered levels beyond chance, an error costing its squared distance (Cohen 1968).

    Args:
        target: (N,) integer levels, NaN where missing.
        prediction: (N,) predicted integer levels.
        weights: (N,) row weights.

    Returns:
        1 for full agreement, 0 for chance, at least −1; ``nan`` if target and prediction show one and the
        same level only.
    """
    y, p, w, _ = _clean(target, prediction, weights, columns=False)
    both = np.concatenate([y, p])
    if (both % 1).any():
        found = both[both % 1 != 0][0]
        raise ValueError(
            f"kappa compares integer levels, found {found:g}: round, or predict the likeliest level."
        )
    if len(both) and both.max() - both.min() > 1000:  # its table of levels would fill the memory
        found = f"found {both.min():g} to {both.max():g}"
        raise ValueError(
            f"kappa compares at most 1001 integer levels, {found}: pass the positions of levels."
        )
    seen = both.astype(int)
    if len(np.unique(seen)) < 2:
        return float("nan")
    # All levels in between are named: the distance of 2 and 5 is three also where nobody gave 3 or 4.
    levels = np.arange(seen.min(), seen.max() + 1)
    return float(sklearn_metrics.cohen_kappa_score(y, p, labels=levels, weights="quadratic", sample_weight=w))


def ndcg_at_k(target: ArrayLike, prediction: ArrayLike, groups: ArrayLike, k: int) -> float:
    """Normalised discounted cumulative gain of the first k places, mean over groups.

    The gain of a row is its target (for an exponential gain pass ``2**target - 1``), its discount 1 / log2(1
    + place). Rows of equal score share their places: the result is the expectation under random order among
    them. Groups without any gain have no ideal order and are skipped. Source: Järvelin and Kekäläinen 2002.

    Args:
        target: (N,) gains ≥ 0, NaN where not judged.
        prediction: (N,) scores on any scale.
        groups: (N,) group ids of any type, none missing.
        k: number of places.

    Returns:
        A value in [0, 1]; ``nan`` if no group has a gain.
    """
    gain, score, code, ids = _judged(target, prediction, groups, k)
    # (k + 1,): the discounts of the first 0, 1, ..., k places, added up.
    discount = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]

    def gains(order_by: Array) -> Array:
        runs = _runs(order_by, code)
        share = discount[np.minimum(runs.place + runs.size, k)] - discount[np.minimum(runs.place, k)]
        return _total(runs.group, runs.sums(gain) * share / runs.size, len(ids))

    ideal = gains(gain)
    return _mean(gains(score)[ideal > 0] / ideal[ideal > 0])


def recall_at_k(target: ArrayLike, prediction: ArrayLike, groups: ArrayLike, k: int) -> float:
    """Share of a group's relevant rows that are among its first k, mean over groups.

    Rows of equal score share their places: the result is the expectation under random order among them.
    Groups without a relevant row are skipped.

    Args:
        target: (N,) above zero where relevant, NaN where not judged.
        prediction: (N,) scores on any scale.
        groups: (N,) group ids of any type, none missing.
        k: number of places.

    Returns:
        A value in [0, 1]; ``nan`` if no group has a relevant row.
    """
    gain, score, code, ids = _judged(target, prediction, groups, k)
    runs = _runs(score, code)
    relevant = runs.sums((gain > 0).astype(float))
    total = _total(runs.group, relevant, len(ids))
    shown = np.clip(k - runs.place, 0, runs.size) / runs.size
    found = _total(runs.group, relevant * shown, len(ids))
    return _mean(found[total > 0] / total[total > 0])


class _Runs(NamedTuple):
    """Rows sorted by group and descending score, cut into runs of equal score."""

    order: Index  # (N,) the sorted rows
    start: Index  # (R,) where each run starts in that order
    group: Index  # (R,) the run's group
    place: Index  # (R,) rows of the group that score higher
    size: Index  # (R,) rows in the run

    def sums(self, values: Array) -> Array:
        """(N,) values of the rows, summed over each run."""
        return np.asarray(np.add.reduceat(values[self.order], self.start) if len(values) else values)


def _runs(score: Array, code: Index) -> _Runs:
    order = np.lexsort((-score, code))
    group, score = code[order], score[order]
    change = (np.diff(group) != 0) | (np.diff(score) != 0)
    start = np.flatnonzero(np.r_[True, change][: len(group)])
    place = start - np.searchsorted(group, group[start])
    return _Runs(order, start, group[start], place, np.diff(start, append=len(group)))


def _total(group: Index, values: Array, groups: int) -> Array:
    """Sum of values by group, zero where a group has none; (groups,)."""
    return np.asarray(np.bincount(group, values, groups), dtype=float)


def _codes(groups: ArrayLike, keep: NDArray[np.bool_]) -> tuple[Index, NDArray[np.generic]]:
    values = groups.detach().cpu().numpy() if isinstance(groups, torch.Tensor) else np.asarray(groups)
    if values.shape != keep.shape:
        raise ValueError(f"groups has shape {values.shape}, the target {keep.shape}: give one id per row.")
    code, ids = checks.groups("groups", values[keep], sort=True)
    if (code < 0).any():
        raise ValueError(f"groups lacks an id in {(code < 0).sum()} rows: drop them or give them ids.")
    return code, ids


def _judged(
    target: ArrayLike, prediction: ArrayLike, groups: ArrayLike, k: int
) -> tuple[Array, Array, Index, NDArray[np.generic]]:
    checks.whole("k", k, "place")
    gain, score, _, keep = _clean(target, prediction, None, columns=False)
    if (gain < 0).any():
        raise ValueError(f"a gain is below zero, found {gain.min():g}: shift or clip the target.")
    return gain, score, *_codes(groups, keep)


def _clean(
    target: ArrayLike, prediction: ArrayLike, weights: Weights, columns: bool = True
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Observed targets (M,), predictions (M,) or (M, K), weights (M,) and which of the N rows they are."""
    y, p = checks.array("target", target), checks.array("prediction", prediction)
    w = np.ones(y.shape) if weights is None else checks.array("weights", weights)
    narrow = p.ndim > 1 and p.shape[1] < 2  # (N, 1): one class is none
    if y.ndim != 1 or p.shape[:1] != y.shape or w.shape != y.shape or p.ndim > 1 + columns or narrow:
        raise ValueError(
            f"target {y.shape}, prediction {p.shape} and weights {w.shape} differ: give one entry per row"
            f"{' (or, predicted, a column per class)' if columns else ''}."
        )
    if not (w >= 0).all() or np.isinf(w).any():
        found = w[~((w >= 0) & np.isfinite(w))][0]
        raise ValueError(f"a weight is negative, missing or infinite, found {found:g}: correct it.")
    keep = ~np.isnan(y) & (w > 0)
    y, p, w = y[keep], p[keep], w[keep]
    if np.isinf(y).any() or not np.isfinite(p).all():
        problem = "the target is infinite, or the prediction missing or infinite, in a labelled row"
        raise ValueError(f"{problem}: give each such row a finite number.")
    if p.ndim > 1 and not np.isin(y, np.arange(p.shape[1])).all():
        found = y[~np.isin(y, np.arange(p.shape[1]))][0]
        problem = f"the target must be a class index from 0 to {p.shape[1] - 1}, found {found:g}"
        raise ValueError(f"{problem}: number the classes like the prediction's columns.")
    return y, p, w, keep


def _binary(
    target: ArrayLike, prediction: ArrayLike, weights: Weights, probability: bool = True
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    y, p, w, keep = _clean(target, prediction, weights, columns=False)
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"the target must be 0 or 1, found {np.setdiff1d(y, (0, 1))[0]:g}: recode it.")
    if probability:
        _unit(p)
    return y, p, w, keep


def _unit(p: Array) -> None:
    if ((p < 0) | (p > 1)).any():
        raise ValueError(
            f"probabilities are found from {p.min():g} to {p.max():g}: apply the task's link first."
        )


def _classes(p: Array, threshold: float) -> Array:
    checks.between("threshold", threshold, -np.inf, np.inf)
    if p.ndim > 1:
        return np.asarray(p.argmax(axis=1), dtype=float)
    if ((p >= 0) & (p <= 1)).all():
        return np.asarray(p >= threshold, dtype=float)
    if (p % 1).any():
        problem = f"the prediction is neither probabilities nor classes, found {p.min():g} to {p.max():g}"
        raise ValueError(f"{problem}: apply the task's link first.")
    return p


def _mean(values: Array | NDArray[np.bool_], weights: Array | None = None) -> float:
    return float(np.average(values, weights=weights)) if len(values) else float("nan")
