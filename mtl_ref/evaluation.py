"""Results you can defend: tables by task, fair splits, intervals, paired tests, and a probe for leaks.

The functions work on arrays and tables and do not care which model made the predictions. Whatever draws
random numbers takes a ``seed`` and gives the same result for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import r2_score

from . import checks, folding
from .metrics import auc
from .tasks import Task, check_names

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Columns = str | Sequence[str]

# Which way is better; and what a model scores that knows nothing, where that is not zero.
_HIGHER = dict.fromkeys(["accuracy", "precision", "recall", "f1", "auc", "grouped_auc", "kappa", "r2"], True)
_LOWER = ["rmse", "mae", "log_loss", "nll", "brier", "calibration_error", "poisson_deviance"]
_HIGHER |= dict.fromkeys(_LOWER, False)
_CHANCE = {"auc": 0.5, "grouped_auc": 0.5}


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; prints as ``0.712 [0.690, 0.734]``.

    Args:
        mean: the estimate.
        low: lower end.
        high: upper end.
        n: number of replicates, rows or clusters behind it.
        p_value: of the paired test, where one was made.
    """

    mean: float
    low: float
    high: float
    n: int
    p_value: float | None = None

    def __format__(self, spec: str) -> str:
        """Format all three alike; by default so that the half width has 4 to 35 units of the last digit."""
        half = (self.high - self.low) / 2
        digits = int(np.clip(-np.floor(np.log10(half / 3.55)), 0, 9)) if 0 < half < np.inf else 4
        spec = spec or f"z.{digits}f"  # z: no minus before zero
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        """The estimate with the digits that its interval supports."""
        return format(self, "")


def evaluate(
    tasks: Sequence[Task],
    y: Mapping[str, ArrayLike],
    predictions: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None = None,
) -> pd.DataFrame:
    """Measure every task on a whole set.

    Args:
        tasks: the tasks; each names its own metrics.
        y: targets (N,) by task, NaN where not observed.
        predictions: in natural units, (N,) or (N, K) by task, as ``predict`` of ``mtl_ref.training`` returns
            them.
        weights: row weights (N,) for the tasks named here; their ``metrics`` must take them as third
            argument.

    Returns:
        One row per task and metric: ``task``, ``metric``, ``value``, ``higher_is_better`` (missing for a
        metric whose direction is not known), ``main`` (is it the task's main metric) and ``rows`` (observed
        labels).

    Raises:
        KeyError: if targets or predictions lack a task.
        ValueError: if they cannot be measured; names the task.
    """
    check_names(tasks)
    rows = []
    for task in tasks:
        for source, what in ((y, "targets"), (predictions, "predictions")):
            if task.name not in source:
                raise KeyError(f"the {what} lack task {task.name!r}, found {sorted(source)}: add them.")
        measure: Callable[..., dict[str, float]] = task.metrics
        try:
            target = checks.array("target", y[task.name])
            prediction = checks.array("prediction", predictions[task.name])
            if target.ndim != 1 or prediction.shape[:1] != target.shape:
                found = f"{target.size} targets, {len(np.atleast_1d(prediction))} predictions"
                raise ValueError(f"found {found}: give one of each per row.")
            weighted = weights is not None and task.name in weights
            extra = [checks.array("weights", weights[task.name])] if weights and weighted else []
            observed, measured = int((~np.isnan(target)).sum()), measure(target, prediction, *extra)
        except ValueError as error:
            raise ValueError(f"task {task.name!r}: {error}") from error
        for metric, value in measured.items():
            main = metric == task.main
            higher = task.higher_is_better if main else _HIGHER.get(metric)
            rows.append((task.name, metric, value, higher, main, observed))
    table = pd.DataFrame(rows, columns=["task", "metric", "value", "higher_is_better", "main", "rows"])
    return table.astype({"higher_is_better": "boolean"})


def relative_gains(table: pd.DataFrame, control: pd.DataFrame, smallest: float = 0.01) -> pd.Series:
    """Relative gain of each task over its control, in its main metric; positive is better.

    (M − B) / (B − Z) where higher is better, (B − M) / B where lower is better: M the model's metric, B the
    control's, Z the value of a model that knows nothing (0.5 for an AUC, else 0). An AUC that rises from 0.60
    to 0.61 thus gains 10 %, not 1.7 %. The denominator must mean something: a control at chance level or an
    error of zero is refused.

    Args:
        table: result of ``evaluate`` for the model.
        control: the same for the single-task control, on the same rows.
        smallest: a control this close to Z, or below it, is refused (where higher is better).

    Returns:
        Gain by task, in the order of ``table``.

    Raises:
        ValueError: if the tables do not hold the same tasks, a value is missing, or a control is too close to
            chance.
    """
    for results in (table, control):
        checks.columns(results, "task", "metric", "value", "higher_is_better", "main")
    model, base = (t[t["main"].astype(bool)].set_index("task") for t in (table, control))
    if dict(model["metric"]) != dict(base["metric"]) or model.empty:
        found = f"{str(dict(model['metric']))[:80]} and {str(dict(base['metric']))[:80]}"
        raise ValueError(f"the tables hold different tasks, found {found}: evaluate both alike.")
    model["value"], base["value"] = (
        checks.array("value", model["value"]),
        checks.array("value", base["value"]),
    )
    base, higher = base.loc[model.index], model["higher_is_better"].astype(bool)
    room = base["value"] - model["metric"].map(_CHANCE).fillna(0.0)
    wrong = ~(room > higher * smallest) | model["value"].isna()
    if wrong.any():
        names = list(model.index[wrong])
        problem = f"no relative gain for {names}, where a value is missing or the control is at chance level"
        raise ValueError(f"{problem}: compare the metrics themselves.")
    gain = (model["value"] - base["value"]) * np.where(higher, 1.0, -1.0) / room
    return gain.rename("relative_gain")


def relative_gain(table: pd.DataFrame, control: pd.DataFrame, smallest: float = 0.01) -> float:
    """Δm: mean over tasks of the relative gain over the single-task control; 0.02 is 2 % better.

    After Vandenhende et al. 2022, who take it from Maninis et al. 2019, with two conventions of
    our own: an AUC counts from 0.5, and a control near chance is refused. Each task counts alike, so one easy
    task can hide a loss in another: show ``relative_gains`` beside it.

    Args:
        table: result of ``evaluate`` for the model.
        control: the same for the single-task control, on the same rows.
        smallest: see ``relative_gains``.

    Returns:
        The mean gain.

    Raises:
        ValueError: see ``relative_gains``.
    """
    return float(relative_gains(table, control, smallest).mean())


def split(
    table: pd.DataFrame,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    time: str | None = None,
    groups: Columns | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, ...]:
    """Split a table at random, by time or by group.

    Args:
        table: the rows; each part keeps their order and index.
        fractions: share of rows of each part; they sum to one.
        time: column to sort by: the first part is the oldest. Rows of the same time stay together.
        groups: column or columns: rows that agree in all of them stay together, be it a visitor's rows or
            duplicates. Rows with a missing value agree with each other. Which groups go where is random.
        seed: of the random order.

    Returns:
        One table per fraction. A part differs from its fraction by at most the size of one group.

    Raises:
        KeyError: if the table lacks a column.
        ValueError: if the fractions do not sum to one, a part stays empty, a time is missing, or both ways
            are asked for.
    """
    shares = checks.array("fractions", fractions)
    if shares.ndim != 1 or not (shares > 0).all() or not abs(shares.sum() - 1) < 1e-9:
        raise ValueError(f"fractions must be positive and sum to one, found {fractions}: correct them.")
    if time is not None and groups is not None:
        raise ValueError("split by time or by groups, not both: a group may lie on both sides of a date.")
    code = folding.codes(table, groups if time is None else time)
    if time is not None and table[time].isna().any():
        raise ValueError(f"column {time!r} lacks a time in {table[time].isna().sum()} rows: drop them first.")
    size = np.bincount(code)
    order = np.arange(len(size)) if time is not None else np.random.default_rng(seed).permutation(len(size))
    middle = np.empty(len(size))
    middle[order] = (np.cumsum(size[order]) - size[order] / 2) / max(len(table), 1)
    part = np.searchsorted(np.cumsum(fractions)[:-1], middle, side="right")[code]
    parts = tuple(table[part == i] for i in range(len(fractions)))
    if any(p.empty for p in parts):
        found = f"found parts of {[len(p) for p in parts]} rows"
        raise ValueError(f"there are too few rows or groups for {len(parts)} parts, {found}: ask for fewer.")
    return parts


def cross_validate(
    run: Callable[[pd.DataFrame, pd.DataFrame, int], Any],
    table: pd.DataFrame,
    folds: int = 5,
    groups: Columns | None = None,
    strata: Columns | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Train and test on each fold in turn.

    Folds share most of their training rows, so their results are not independent replicates: pass
    ``test_per_train=1 / (folds - 1)`` to ``replicate_interval``.

    Args:
        run: ``run(train_table, test_table, fold)`` returns a dict or Series of values, or a table (of
            ``evaluate``).
        table: the rows.
        folds: number of folds.
        groups: column or columns: rows that agree in all of them fall into the same fold.
        strata: column or columns whose values are spread evenly over the folds.
        seed: of the random folds.

    Returns:
        One row per fold (or per fold and row of the returned table), with the fold in column ``fold``.

    Raises:
        KeyError: if the table lacks a column.
        ValueError: if there are fewer rows or groups than folds.
    """
    results = []
    for fold, (train, test) in enumerate(folding.deal(table, folds, groups, strata, seed)):
        result = run(table.iloc[train], table.iloc[test], fold)
        if not isinstance(result, (pd.DataFrame, pd.Series, Mapping)):
            found = f"found {type(result).__name__}"
            raise TypeError(
                f"run must return a dict, a Series or a table, {found}: return {{'name': value}}."
            )
        frame = result.copy() if isinstance(result, pd.DataFrame) else pd.DataFrame([dict(result)])
        frame.insert(0, "fold", fold)
        results.append(frame)
    return pd.concat(results, ignore_index=True)


def bootstrap_interval(
    metric: Callable[..., float],
    *arrays: ArrayLike,
    clusters: ArrayLike | None = None,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a metric on one test set: what another draw of its rows would give.

    Rows of one visitor or day resemble each other; give them as ``clusters``, and whole clusters are drawn
    with replacement. It does not see the noise of training: for that, replicate. Source: Efron and Tibshirani
    1993, chapter 13.

    Args:
        metric: function of the arrays, such as ``auc``.
        *arrays: (N, ...) each, resampled alike.
        clusters: (N,) cluster ids, none missing.
        repeats: number of resamples. One on which the metric is ``nan`` is left out.
        level: confidence level.
        seed: of the resamples.

    Returns:
        The metric on the set itself with its interval; ``n`` counts rows or clusters.

    Raises:
        ValueError: if the arrays differ in length, or the metric is undefined on more than 5 % of the
            resamples.
    """
    checks.whole("repeats", repeats, "resample")
    checks.between("level", level, 0, 1)
    data, cluster = (
        [checks.at_least_1d(a) for a in arrays],
        None if clusters is None else checks.at_least_1d(clusters),
    )
    shapes = [a.shape[:1] for a in data]
    ids = cluster if cluster is not None else np.arange(len(data[0]) if data else 0)
    if set(shapes) != {ids.shape} or not len(ids) or pd.isna(ids).any():
        found = f"arrays of {[n for (n,) in shapes]} rows and ids of shape {ids.shape}"
        raise ValueError(
            f"arrays and cluster ids differ in length or are missing, {found}: give one per row."
        )
    code = checks.groups("clusters", ids)[0]
    by_cluster, size = np.argsort(code, kind="stable"), np.bincount(code)
    start, n = np.cumsum(size) - size, len(size)
    rng, values = np.random.default_rng(seed), np.empty(repeats)
    for repeat in range(repeats):
        drawn = rng.integers(0, n, n)
        length = size[drawn]
        # A row's place in the sample, less where its cluster begins there, plus where it begins in the data.
        shift = np.repeat(start[drawn] - (np.cumsum(length) - length), length)
        rows = by_cluster[np.arange(len(shift)) + shift]
        values[repeat] = metric(*(a[rows] for a in data))
    if (lost := np.isnan(values).mean()) > 0.05:
        raise ValueError(f"the metric is undefined on {lost:.0%} of the resamples: measure it on more rows.")
    low, high = np.nanquantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(metric(*data)), float(low), float(high), n)


def bootstrap_difference(
    metric: Callable[..., float],
    target: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike | None = None,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of metric(target, first) − metric(target, second), on the same resampled rows.

    Pairing takes out what both models share, the difficulty of the rows, so the interval is narrower than two
    separate ones suggest.

    Args:
        metric: ``metric(target, prediction)``.
        target: (N,).
        first: (N, ...) predictions of one model.
        second: the same of the other.
        clusters: see ``bootstrap_interval``; so are the rest.
        repeats: number of resamples.
        level: confidence level.
        seed: of the resamples.

    Returns:
        The difference with its interval.
    """

    def difference(t: Any, a: Any, b: Any) -> float:
        return metric(t, a) - metric(t, b)

    return bootstrap_interval(
        difference, target, first, second, clusters=clusters, repeats=repeats, level=level, seed=seed
    )


def replicate_interval(values: ArrayLike, level: float = 0.95, test_per_train: float = 0.0) -> Interval:
    """Student's t interval of the mean over replicates (new data, new initial weights, new order of rows).

    Args:
        values: (n,) one value per replicate, n ≥ 2.
        level: confidence level.
        test_per_train: test rows per training row where the values come from repeated splits of *one* data
            set, such as folds; widens the interval because they share rows (Nadeau and Bengio 2003, the
            corrected resampled t-test).

    Returns:
        The mean with its interval.

    Raises:
        ValueError: if there are fewer than two values or one is missing.
    """
    x = checks.array("values", values)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        found = f"found {str(x.tolist())[:60]}"
        raise ValueError(f"an interval needs at least two finite values in a row, {found}: add replicates.")
    checks.between("level", level, 0, 1)
    checks.between("test_per_train", test_per_train, -1e-9, np.inf)
    half = stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) * np.sqrt(1 / len(x) + test_per_train)
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), len(x))


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of a − b over replicates that belong together in pairs, with interval and sign-flip test.

    The interval is Student's t. The two-sided p-value is that of the permutation test that swaps a and b
    within pairs: the share of all 2ⁿ swaps with a mean difference at least as large; beyond 16 pairs, of
    10,000 random swaps. It cannot fall below 2 / 2ⁿ: with five pairs never below 0.06. Source: Fisher 1935,
    The Design of Experiments.

    Args:
        a: (n,) results of one method, n ≥ 2.
        b: (n,) results of the other in the same replicates.
        level: confidence level.
        seed: of the random swaps.

    Returns:
        The mean difference with interval and ``p_value``.

    Raises:
        ValueError: if the lengths differ, there are fewer than two pairs, or a value is missing.
    """
    first, second = checks.array("values", a), checks.array("values", b)
    if first.shape != second.shape:
        found = f"found {first.shape} and {second.shape}"
        raise ValueError(f"pairs need equal lengths, {found}: give both results of each replicate.")
    d = first - second
    interval, n = replicate_interval(d, level), d.size
    if n <= 16:
        sums = (1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)) @ d
    else:
        rng = np.random.default_rng(seed)  # the swap that was observed counts too
        sums = np.array([d.sum(), *(rng.choice([-1, 1], n) @ d for _ in range(9_999))])
    extreme = np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()  # equal sums may differ by rounding
    return replace(interval, p_value=float(extreme.mean()))


def verdict(difference: Interval) -> str:
    """What an interval of a difference allows to say: "higher", "lower" or "cannot be told apart".

    Args:
        difference: from ``paired_difference`` or ``bootstrap_difference``.

    Returns:
        The verdict: "higher" where the whole interval lies above zero.
    """
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "cannot be told apart"


def leakage_probe(
    table: pd.DataFrame,
    features: Sequence[str],
    label: str,
    threshold: float | None = None,
    groups: Columns | None = None,
    folds: int = 5,
    rows: int = 20_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Name features that alone predict a label too well to be honest.

    Each feature alone predicts rows that it has not seen: a number or a time by a small decision tree, any
    other column by the mean label per value, so that an id with a value per row gains nothing (cast numeric
    ids to ``str``). Missing is a value too: a price that is missing exactly where nothing was bought is a
    leak. A high score is a question, not a proof: when is this value known?

    Args:
        table: the rows; those without a label are left out.
        features: columns to probe.
        label: column of numbers; with two distinct values it counts as yes/no and is scored by AUC, else by
            R².
        threshold: scores from here on are suspicious; by default 0.9 (AUC) or 0.8 (R²).
        groups: column or columns whose rows stay on one side of each fold; needed where a label repeats
            within a group.
        folds: number of folds.
        rows: number of rows to draw from a longer table.
        seed: of rows and folds.

    Returns:
        One row per feature, worst first: ``feature``, ``metric``, ``score`` (mean over folds), ``threshold``,
        ``suspicious``.

    Raises:
        KeyError: if the table lacks a column.
        ValueError: if the label is not numeric or constant.
    """
    if isinstance(features, str):
        raise TypeError(f"features must be a list of columns, found {features!r}: write [{features!r}].")
    checks.columns(table, *features, label)
    table = table[table[label].notna()]
    table = table.sample(rows, random_state=seed) if len(table) > rows else table
    if not pd.api.types.is_numeric_dtype(table[label]) or table[label].nunique() < 2:
        raise ValueError(f"label {label!r} must hold numbers, at least two different ones: encode it first.")
    if np.isinf(table[label].to_numpy(dtype=float)).any():
        raise ValueError(f"label {label!r} holds an infinite number: correct it or leave it empty.")
    y, binary = table[label].to_numpy(dtype=float), table[label].nunique() == 2
    y = (y == y.max()).astype(float) if binary else y
    limit = threshold if threshold is not None else 0.9 if binary else 0.8
    measure: Callable[..., float] = auc if binary else r2_score
    parts = folding.deal(table, folds, groups, label if binary else None, seed)
    scores = [folding.probe(table[name], y, parts, measure, seed) for name in features]
    found = pd.DataFrame({"feature": list(features), "metric": "auc" if binary else "r2", "score": scores})
    found["threshold"] = limit
    found["suspicious"] = found["score"] >= limit
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def claim(statement: str, holds: bool | np.bool_, evidence: str) -> None:
    """Assert a sentence of the text and print it with its evidence.

    Args:
        statement: the sentence.
        holds: whether the numbers bear it out.
        evidence: the numbers, with their margin.

    Raises:
        TypeError: if ``holds`` is not a truth value (a non-empty string would always hold).
        AssertionError: if it does not hold.
    """
    if not isinstance(holds, bool | np.bool_):
        raise TypeError(f"holds must be True or False, found {type(holds).__name__}: compare numbers first.")
    if not holds:
        raise AssertionError(f"Claim does not hold: {statement} ({evidence})")
    print(f"Claim holds: {statement} ({evidence})")
