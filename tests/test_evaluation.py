"""Evaluation: coverage of intervals, fairness of splits, signs of gains, and what the probe finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtl_ref import evaluation, metrics
from mtl_ref.evaluation import Interval
from mtl_ref.tasks import Binary, Regression

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
NEVER = 1e-4  # chance at which a test on simulated data may fail for the seed chosen; all seeds are fixed


def within_chance(hits, trials, probability):
    """Whether a count of hits agrees with a binomial probability."""
    return stats.binomtest(int(hits), trials, probability).pvalue > NEVER


def mean_metric(values):
    return float(np.mean(values))


# Tables by task


def scores(rows):
    """A table as ``evaluate`` makes it, from (task, metric, value, higher_is_better)."""
    table = pd.DataFrame(rows, columns=["task", "metric", "value", "higher_is_better"])
    return table.assign(main=True, rows=100)


def shop():
    rng = np.random.default_rng(0)
    y = {"purchase": (rng.random(200) < 0.3).astype(float), "rating": rng.normal(4, 1, 200)}
    y["rating"][::2] = np.nan
    return y, {"purchase": rng.random(200), "rating": rng.normal(4, 1, 200)}


def test_evaluate_names_value_direction_and_rows_of_every_metric():
    y, predictions = shop()
    table = evaluation.evaluate([Binary("purchase"), Regression("rating")], y, predictions)
    assert list(table.columns) == ["task", "metric", "value", "higher_is_better", "main", "rows"]
    assert table[table["main"]].set_index("task")["metric"].to_dict() == {"purchase": "auc", "rating": "rmse"}
    by_name = table.set_index(["task", "metric"])
    assert by_name.loc[("purchase", "auc"), "value"] == metrics.auc(y["purchase"], predictions["purchase"])
    assert by_name.loc[("rating", "rmse"), "value"] == metrics.rmse(y["rating"], predictions["rating"])
    assert by_name.loc[("rating", "rmse"), "rows"] == 100 and by_name.loc[("purchase", "auc"), "rows"] == 200
    for metric, higher in [("auc", True), ("log_loss", False), ("calibration_error", False), ("f1", True)]:
        assert by_name.loc[("purchase", metric), "higher_is_better"] == higher
    assert table["higher_is_better"].notna().all(), "a metric of the package lacks a direction"


@dataclass
class Stub:
    """A task from elsewhere: whatever names its metrics."""

    name: str = "delay"
    main: str = "days"
    higher_is_better: bool = False

    def metrics(self, target, prediction, weights=None):
        return {"days": metrics.mae(target, prediction, weights), "novelty": 1.0}


def test_weights_reach_the_metrics_and_unknown_directions_stay_open():
    table = evaluation.evaluate([Stub()], {"delay": [0, 0]}, {"delay": [1, 3]}, {"delay": [3, 1]})
    assert list(table["value"]) == [1.5, 1.0]
    assert table.loc[0, "higher_is_better"] == False  # noqa: E712
    assert table.loc[1, "higher_is_better"] is pd.NA
    unweighted = evaluation.evaluate([Stub()], {"delay": [0, 0]}, {"delay": [1, 3]}, {"other": [3, 1]})
    assert unweighted.loc[0, "value"] == 2


def test_evaluate_names_the_task_that_lacks_something():
    with pytest.raises(KeyError, match="predictions lack task 'delay'"):
        evaluation.evaluate([Stub()], {"delay": [0]}, {})
    with pytest.raises(KeyError, match="targets lack task 'delay'"):
        evaluation.evaluate([Stub()], {}, {})
    with pytest.raises(ValueError, match="2 targets, 1 predictions"):
        evaluation.evaluate([Stub()], {"delay": [0, 1]}, {"delay": [0]})


CONTROL = scores([("click", "auc", 0.6, True), ("rating", "rmse", 0.8, False)])


def test_no_gain_over_oneself():
    assert evaluation.relative_gain(CONTROL, CONTROL) == 0


def test_gain_by_hand():
    model = scores([("rating", "rmse", 0.72, False), ("click", "auc", 0.61, True)])
    gains = evaluation.relative_gains(model, CONTROL)
    assert gains.to_dict() == pytest.approx({"rating": 0.1, "click": 0.1})
    assert evaluation.relative_gain(model, CONTROL) == pytest.approx(0.1)


@PROPERTY
@given(st.floats(0.001, 0.05), st.sampled_from([("click", "auc", 0.7), ("rating", "accuracy", 0.7)]))
def test_the_sign_follows_the_direction(step, base):
    gains = []
    for higher in (True, False):
        control = scores([(*base, higher)])
        for sign in (1, -1):
            model = scores([(base[0], base[1], base[2] + sign * step, higher)])
            gains.append(evaluation.relative_gain(model, control))
    assert gains == pytest.approx([gains[0], -gains[0], -gains[0], gains[0]])
    assert gains[0] > 0


def test_gain_does_not_depend_on_the_unit_of_an_error():
    for unit in (1, 100):
        control, model = (scores([("price", "rmse", unit * v, False)]) for v in (2.0, 1.9))
        assert evaluation.relative_gain(model, control) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "row", [("click", "auc", 0.505, True), ("click", "auc", 0.4, True), ("n", "f1", 0.0, True)]
)
def test_a_control_at_chance_is_refused(row):
    with pytest.raises(ValueError, match="at chance level"):
        evaluation.relative_gain(scores([(*row[:2], 0.7, True)]), scores([row]))


def test_a_perfect_control_and_missing_values_are_refused():
    for model, control in [(0.1, 0.0), (np.nan, 0.1), (0.1, np.nan)]:
        with pytest.raises(ValueError, match="a value is missing or the control"):
            evaluation.relative_gain(*(scores([("rating", "rmse", v, False)]) for v in (model, control)))


def test_tables_of_different_tasks_are_refused():
    for other in (CONTROL.iloc[:1], CONTROL.iloc[:0], CONTROL.assign(metric="f1")):
        with pytest.raises(ValueError, match="different tasks"):
            evaluation.relative_gain(CONTROL, other)


# Splits


def log(rows=1000, seed=0):
    rng = np.random.default_rng(seed)
    day = rng.integers(0, 100, rows)
    return pd.DataFrame(
        {"visitor": rng.integers(0, 120, rows), "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(day, "D")}
    ).assign(label=(rng.random(rows) < 0.05).astype(int), value=rng.random(rows), row=np.arange(rows))


@pytest.mark.parametrize(
    "options", [{}, {"time": "day"}, {"groups": "visitor"}, {"groups": ["visitor", "day"]}]
)
def test_parts_hold_every_row_once_in_its_old_order(options):
    table = log()
    parts = evaluation.split(table, (0.7, 0.2, 0.1), **options)
    assert sorted(np.concatenate([p["row"] for p in parts])) == list(range(1000))
    assert all(p["row"].is_monotonic_increasing and (p.index == p["row"]).all() for p in parts)
    assert [len(p) / 1000 for p in parts] == pytest.approx([0.7, 0.2, 0.1], abs=0.02)


def test_random_parts_have_exactly_their_share():
    assert [len(p) for p in evaluation.split(log())] == [800, 100, 100]


@PROPERTY
@given(st.integers(0, 10_000), st.integers(2, 300))
def test_groups_never_straddle(seed, groups):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"visitor": rng.integers(0, groups, 400), "row": range(400)})
    try:
        parts = evaluation.split(table, (0.6, 0.4), groups="visitor", seed=seed)
    except ValueError:
        assert groups < 5, "only a few large groups may leave a part empty"
        return
    assert not set(parts[0]["visitor"]) & set(parts[1]["visitor"])


def test_duplicates_stay_together_even_where_a_value_is_missing():
    table = pd.DataFrame(
        {"text": ["soft", None, "soft", None, "red"] * 20, "age": [30, 40, 30, 40, np.nan] * 20}
    )
    train, test = evaluation.split(table, (0.5, 0.5), groups=["text", "age"])
    both = train.merge(test, on=["text", "age"])  # pandas matches missing with missing
    assert both.empty and len(train) + len(test) == 100


def test_the_past_lies_before_the_future():
    train, validation, test = evaluation.split(log(), time="day")
    assert train["day"].max() < validation["day"].min() and validation["day"].max() < test["day"].min()


def test_the_seed_decides_alone():
    for options in ({}, {"groups": "visitor"}):
        first, again, other = (evaluation.split(log(), seed=seed, **options)[1] for seed in (1, 1, 2))
        pd.testing.assert_frame_equal(first, again)
        assert list(first["row"]) != list(other["row"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fractions": (0.5, 0.4)}, ValueError, "sum to one"),
        ({"fractions": (1.2, -0.2)}, ValueError, "sum to one"),
        ({"time": "day", "groups": "visitor"}, ValueError, "not both"),
        ({"time": "noon"}, KeyError, "no column 'noon'"),
        ({"groups": ["visitor", "noon"]}, KeyError, "no column 'noon'"),
        ({"fractions": (0.9999, 0.0001)}, ValueError, "too few rows"),
    ],
)
def test_impossible_splits_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluation.split(log(), **arguments)


def test_a_missing_time_is_refused():
    table = log()
    table.loc[3, "day"] = pd.NaT
    with pytest.raises(ValueError, match="lacks a time in 1 rows"):
        evaluation.split(table, time="day")


# Cross-validation


@pytest.mark.parametrize("options", [{}, {"groups": "visitor"}, {"strata": "label"}])
def test_folds_test_every_row_once_on_rows_not_trained_on(options):
    table, tested = log(), []

    def run(train, test, fold):
        assert not set(train["row"]) & set(test["row"]) and len(train) + len(test) == 1000
        if "groups" in options:
            assert not set(train["visitor"]) & set(test["visitor"])
        tested.extend(test["row"])
        return {"positives": test["label"].sum(), "rows": len(test)}

    result = evaluation.cross_validate(run, table, 4, **options)
    assert sorted(tested) == list(range(1000))
    assert list(result["fold"]) == [0, 1, 2, 3] and list(result.columns) == ["fold", "positives", "rows"]
    if "strata" in options:
        assert result["positives"].max() - result["positives"].min() <= 1
    if "groups" not in options:
        assert set(result["rows"]) == {250}


def test_groups_of_one_stratum_are_spread_evenly():
    table = pd.DataFrame(
        {"visitor": np.repeat(np.arange(40), 5), "kind": np.repeat(np.arange(40) % 10 == 0, 5)}
    )
    result = evaluation.cross_validate(
        lambda train, test, fold: pd.Series({"share": test["kind"].mean()}), table, 4, "visitor", "kind"
    )
    assert (result["share"] == 0.1).all()


def test_tables_are_stacked_by_fold():
    y, predictions = shop()

    def run(train, test, fold):
        return evaluation.evaluate([Regression("rating")], y, predictions)

    result = evaluation.cross_validate(run, log(), 3)
    assert list(result["fold"].unique()) == [0, 1, 2] and set(result["metric"]) == {"rmse", "mae"}


def test_folds_depend_on_the_seed_and_must_be_possible():
    def run(train, test, fold):
        return {"first": test["row"].iloc[0]}

    table = log()
    first, again, other = (evaluation.cross_validate(run, table, 5, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    for folds, options in [(1, {}), (1001, {}), (200, {"groups": "visitor"})]:
        with pytest.raises(ValueError, match="folds of"):
            evaluation.cross_validate(run, table, folds, **options)


# Intervals


def test_replicate_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    for level in (0.8, 0.95):
        found = [evaluation.replicate_interval(rng.normal(3, 2, 5), level) for _ in range(1000)]
        assert within_chance(sum(i.low <= 3 <= i.high for i in found), 1000, level)


def test_replicate_interval_agrees_with_scipy():
    values = np.random.default_rng(1).random(7)
    low, high = stats.t.interval(0.9, 6, values.mean(), stats.sem(values))
    found = evaluation.replicate_interval(values, 0.9)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((values.mean(), low, high, 7))


def test_shared_training_rows_widen_the_interval():
    values = [0.70, 0.72, 0.69, 0.74, 0.71]
    plain = evaluation.replicate_interval(values)
    corrected = evaluation.replicate_interval(values, test_per_train=1 / 4)
    ratio = (corrected.high - corrected.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt((1 / 5 + 1 / 4) / (1 / 5)))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_an_interval_needs_two_values(values):
    with pytest.raises(ValueError, match="at least two finite values"):
        evaluation.replicate_interval(values)


def test_bootstrap_intervals_cover_the_truth():
    rng = np.random.default_rng(2)
    found = [
        evaluation.bootstrap_interval(mean_metric, rng.normal(1, 1, 60), repeats=150, seed=i)
        for i in range(200)
    ]
    covered = sum(i.low <= 1 <= i.high for i in found)
    # The percentile interval of a mean over 60 rows covers a little less than it says.
    assert within_chance(covered, 200, 0.94)


def clustered(seed=0, clusters=60, size=20):
    """Rows whose noise is shared within a visitor."""
    rng = np.random.default_rng(seed)
    visitor = np.repeat(np.arange(clusters), size)
    return rng.normal(size=clusters)[visitor] + 0.3 * rng.normal(size=clusters * size), visitor


def test_clusters_widen_the_interval_to_what_covers():
    hits = {"rows": 0, "clusters": 0}
    for seed in range(120):
        values, visitor = clustered(seed)
        for kind, ids in (("rows", None), ("clusters", visitor)):
            interval = evaluation.bootstrap_interval(
                mean_metric, values, clusters=ids, repeats=100, seed=seed
            )
            hits[kind] += interval.low <= 0 <= interval.high
            assert interval.n == (len(values) if ids is None else 60)
    assert hits["rows"] / 120 < 0.6 and within_chance(hits["clusters"], 120, 0.93)


def test_clusters_of_one_row_are_rows():
    values = clustered()[0]
    ids = [f"row {i}" for i in range(len(values))]
    assert evaluation.bootstrap_interval(mean_metric, values, repeats=50) == evaluation.bootstrap_interval(
        mean_metric, values, clusters=ids, repeats=50
    )


def test_resampled_clusters_are_whole():
    visitor = np.random.default_rng(3).integers(0, 30, 500)
    size = np.bincount(visitor, minlength=30)
    drawn = []

    def count(ids):
        times = np.bincount(ids, minlength=30)
        assert (times % np.maximum(size, 1) == 0).all()
        drawn.append((times / np.maximum(size, 1)).sum())
        return 0.0

    evaluation.bootstrap_interval(count, visitor, clusters=visitor, repeats=20)
    assert set(drawn) == {float((size > 0).sum())}


def test_bootstrap_of_the_auc_is_deterministic_and_contains_the_estimate():
    rng = np.random.default_rng(4)
    score = rng.random(300)
    target = (rng.random(300) < score).astype(float)
    first, again, other = (
        evaluation.bootstrap_interval(metrics.auc, target, score, repeats=100, seed=s) for s in (0, 0, 1)
    )
    assert first == again != other
    assert first.low < first.mean == metrics.auc(target, score) < first.high


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(5)
    target, noise = rng.normal(size=400), rng.normal(size=400)
    first, second = target + noise, target + noise + 0.1 * rng.normal(size=400)  # both err on the same rows
    paired = evaluation.bootstrap_difference(metrics.rmse, target, first, second, repeats=200)
    assert paired.mean == metrics.rmse(target, first) - metrics.rmse(target, second)
    single = evaluation.bootstrap_interval(metrics.rmse, target, first, repeats=200)
    assert paired.high - paired.low < 0.3 * (single.high - single.low)
    same = evaluation.bootstrap_difference(metrics.rmse, target, first, first, repeats=20)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    swapped = evaluation.bootstrap_difference(metrics.rmse, target, second, first, repeats=200)
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))


def test_impossible_bootstraps_are_refused():
    for arrays, clusters in [(([1], [1, 2]), None), (([],), None), (([1, 2],), [1]), (([1, 2],), [1, None])]:
        with pytest.raises(ValueError, match="give one per row"):
            evaluation.bootstrap_interval(mean_metric, *arrays, clusters=clusters)
    with pytest.raises(ValueError, match="undefined on"):
        evaluation.bootstrap_interval(metrics.auc, [0, 0, 0, 1], [1, 2, 3, 4], repeats=100)


# Pairs


def test_paired_difference_by_hand():
    found = evaluation.paired_difference([3, 4, 6], [1, 2, 3])
    assert found.mean == pytest.approx(7 / 3) and found.n == 3
    assert found.p_value == 2 / 8  # only the two extreme swaps are as large
    assert evaluation.paired_difference([1, 2], [1, 2]).p_value == 1


def test_paired_difference_is_antisymmetric():
    rng = np.random.default_rng(6)
    a, b = rng.random(9), rng.random(9)
    forth, back = evaluation.paired_difference(a, b), evaluation.paired_difference(b, a)
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert forth.p_value == back.p_value


@pytest.mark.parametrize("pairs", [6, 8])
def test_the_exact_p_value_is_uniform_where_nothing_differs(pairs):
    rng = np.random.default_rng(7)
    found = [evaluation.paired_difference(rng.random(pairs), rng.random(pairs)).p_value for _ in range(800)]
    for step in (1, 2, 5, 2**pairs // 4):
        level = 2 * step / 2**pairs
        assert within_chance((np.array(found) <= level + 1e-12).sum(), 800, level)


def test_many_pairs_use_random_swaps_that_agree_with_the_exact_ones():
    rng = np.random.default_rng(8)
    a, b = rng.normal(0.5, 1, 16), rng.normal(0, 1, 16)
    exact = evaluation.paired_difference(a, b).p_value
    longer = evaluation.paired_difference(np.r_[a, 0], np.r_[b, 0])  # an equal pair changes no sum
    assert longer.n == 17 and abs(longer.p_value - exact) < 4 * np.sqrt(exact / 9_999)
    assert longer == evaluation.paired_difference(np.r_[a, 0], np.r_[b, 0])
    assert evaluation.paired_difference(np.arange(40) + 9.0, np.arange(40)).p_value == 1 / 10_000


def test_pairs_need_partners():
    with pytest.raises(ValueError, match="equal lengths"):
        evaluation.paired_difference([1, 2, 3], [1, 2])


def test_verdicts():
    assert evaluation.verdict(Interval(1, 0.5, 1.5, 9)) == "higher"
    assert evaluation.verdict(Interval(-1, -1.5, -0.5, 9)) == "lower"
    assert evaluation.verdict(Interval(1, -0.5, 2.5, 9)) == "cannot be told apart"
    assert evaluation.verdict(Interval(0, 0, 0, 9)) == "cannot be told apart"


def test_an_interval_prints_as_many_digits_as_it_supports():
    assert str(Interval(0.71234, 0.70, 0.72468, 10)) == "0.712 [0.700, 0.725]"
    assert str(Interval(71.234, 69, 73.468, 10)) == "71.2 [69.0, 73.5]"
    assert str(Interval(1234.5, 1100, 1369, 10)) == "1234 [1100, 1369]"
    assert str(Interval(0.5, 0.5, 0.5, 2)) == "0.5000 [0.5000, 0.5000]"
    assert str(Interval(-0.001, -0.1, 0.1, 2)) == "0.00 [-0.10, 0.10]"
    assert f"{Interval(0.71234, 0.70, 0.72468, 10):.1%}" == "71.2% [70.0%, 72.5%]"


# The probe


def leaky(rows=2000, seed=0, rate=0.1):
    """A label with honest features, and some that know it."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + honest)))).astype(int)
    table = pd.DataFrame({"label": label, "honest": honest, "noise": rng.random(rows)})
    table["colour"] = rng.choice(["red", "blue", "tea"], rows)
    table["order_id"] = [f"order {i}" for i in rng.permutation(rows)]
    table["number"] = rng.permutation(rows)
    table["copy"] = label
    table["shifted_copy"] = label * -3.0 + 0.1 * rng.random(rows)
    table["status"] = np.where(label == 1, "delivered", rng.choice(["open", "cancelled"], rows))
    table["delivered_at"] = pd.Series(
        pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.random(rows), "D")
    ).where(label == 1)
    table["note"] = pd.Series(rng.choice(["late", "early"], rows), dtype="string").where(label == 1)
    table["price"] = np.where(label == 1, np.nan, rng.random(rows))
    table["gaps"] = np.where(rng.random(rows) < 0.3, np.inf, rng.random(rows))
    return table


LEAKS = {"copy", "shifted_copy", "status", "delivered_at", "note", "price"}


@pytest.mark.parametrize("seed", range(3))
def test_the_probe_names_the_leaks_and_nothing_else(seed):
    table = leaky(seed=seed)
    found = evaluation.leakage_probe(table, [c for c in table if c != "label"], "label")
    assert set(found.loc[found["suspicious"], "feature"]) == LEAKS
    assert list(found.columns) == ["feature", "metric", "score", "threshold", "suspicious"]
    assert found["score"].is_monotonic_decreasing and set(found["metric"]) == {"auc"}
    score = found.set_index("feature")["score"]
    assert score[list(LEAKS)].min() > 0.99
    assert 0.6 < score["honest"] < 0.85
    assert score[["noise", "order_id", "number", "colour", "gaps"]].sub(0.5).abs().max() < 0.07


def test_the_probe_finds_a_copy_of_a_number():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"spend": rng.gamma(2, 10, 1000)})
    table["in_cents"] = (100 * table["spend"]).round()
    table["band"] = pd.cut(table["spend"], 40).astype(str)
    table["honest"] = table["spend"] + 30 * rng.normal(size=1000)
    table["receipt"] = [f"receipt {i}" for i in range(1000)]
    table.loc[::50, "spend"] = np.nan
    found = evaluation.leakage_probe(table, ["honest", "receipt", "in_cents", "band"], "spend").set_index(
        "feature"
    )
    assert found["suspicious"].to_dict() == {
        "in_cents": True,
        "band": True,
        "honest": False,
        "receipt": False,
    }
    assert set(found["metric"]) == {"r2"} and found.loc["receipt", "score"] < 0.01


def test_a_visitor_known_from_training_leaks_only_where_folds_split_visitors():
    rng = np.random.default_rng(2)
    visitor = rng.integers(0, 100, 2000)
    table = pd.DataFrame({"visitor": visitor.astype(str), "buyer": (rng.random(100) < 0.4)[visitor]})
    across = evaluation.leakage_probe(table, ["visitor"], "buyer").loc[0]
    within = evaluation.leakage_probe(table, ["visitor"], "buyer", groups="visitor").loc[0]
    assert across["suspicious"] and across["score"] == 1
    assert not within["suspicious"] and within["score"] == pytest.approx(0.5)


def test_the_probe_draws_rows_from_a_long_table_and_keeps_to_its_threshold():
    table = leaky()
    short = evaluation.leakage_probe(table, ["honest", "copy"], "label", threshold=0.6, rows=800)
    assert short["suspicious"].all() and (short["threshold"] == 0.6).all()
    again = evaluation.leakage_probe(table, ["honest", "copy"], "label", threshold=0.6, rows=800)
    pd.testing.assert_frame_equal(short, again)


def test_the_probe_refuses_what_it_cannot_score():
    table = leaky(100)
    with pytest.raises(KeyError, match="no column 'margin'"):
        evaluation.leakage_probe(table, ["margin"], "label")
    with pytest.raises(KeyError, match="no column 'sold'"):
        evaluation.leakage_probe(table, ["honest"], "sold")
    for label in ("colour", "constant"):
        with pytest.raises(ValueError, match="must hold numbers, at least two"):
            evaluation.leakage_probe(table.assign(constant=1), ["honest"], label)


# Claims


def test_a_claim_that_holds_says_so(capsys):
    evaluation.claim("sharing helps purchase", np.bool_(True), "AUC +0.012")
    assert capsys.readouterr().out == "Claim holds: sharing helps purchase (AUC +0.012)\n"


def test_a_claim_that_fails_stops_with_both_texts():
    with pytest.raises(AssertionError, match=r"sharing helps purchase \(AUC -0.012\)"):
        evaluation.claim("sharing helps purchase", False, "AUC -0.012")


@pytest.mark.parametrize("holds", ["yes", 1, None, np.array([True]), pd.Series([True])])
def test_a_claim_needs_a_truth_value(holds):
    with pytest.raises(TypeError, match="True or False"):
        evaluation.claim("sharing helps", holds, "")
