"""Metrics: mathematical properties, and agreement with independent implementations."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mtl_ref import metrics


def simulate(seed=0, rows=400, groups=30, levels=None):
    """Scores in [0, 1] that predict 0/1 targets, in groups; ``levels`` makes ties."""
    rng = np.random.default_rng(seed)
    score = rng.random(rows)
    if levels:
        score = np.round(score * levels) / levels
    target = (rng.random(rows) < 0.1 + 0.6 * score).astype(float)
    return target, score, rng.integers(0, groups, rows), rng.integers(0, 4, rows).astype(float)


def pair_count(target, score, weights=None):
    """AUC by its definition: every positive against every negative."""
    weights = np.ones(len(target)) if weights is None else weights
    positive, negative = target == 1, target == 0
    wins = (score[positive][:, None] > score[negative]) + 0.5 * (score[positive][:, None] == score[negative])
    pairs = weights[positive][:, None] * weights[negative]
    return (wins * pairs).sum() / pairs.sum() if pairs.size and pairs.sum() else np.nan


BINARY = [
    metrics.accuracy,
    metrics.precision,
    metrics.recall,
    metrics.f1,
    metrics.auc,
    metrics.log_loss,
    metrics.brier,
    metrics.calibration_error,
]
NUMERIC = [metrics.rmse, metrics.mae, metrics.poisson_deviance]
WEIGHTED = [*BINARY, *NUMERIC]
PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
finite = st.integers(-1_000_000, 1_000_000).map(lambda i: i / 1000)
binary_sets = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=40)


# Rules for all metrics


@pytest.mark.parametrize("metric", WEIGHTED)
def test_a_weight_of_two_is_a_row_twice_and_zero_is_no_row(metric):
    target, score, _, weights = simulate(levels=20)
    score = score.clip(0.01, 0.99)
    twice = np.repeat(np.arange(len(target)), weights.astype(int))
    assert metric(target, score, weights) == pytest.approx(metric(target[twice], score[twice]), rel=1e-12)


@pytest.mark.parametrize("metric", WEIGHTED)
def test_missing_targets_are_dropped(metric):
    target, score, _, weights = simulate()
    score = score.clip(0.01, 0.99)
    missing = target.copy()
    missing[::3] = np.nan
    gaps = score.copy()
    gaps[::3] = np.nan  # what the model says there does not matter
    seen = ~np.isnan(missing)
    assert metric(missing, gaps, weights) == metric(target[seen], score[seen], weights[seen])


@pytest.mark.parametrize("metric", WEIGHTED)
def test_order_of_rows_does_not_matter(metric):
    target, score, _, weights = simulate(levels=20)
    score = score.clip(0.01, 0.99)
    order = np.random.default_rng(1).permutation(len(target))
    shuffled = metric(target[order], score[order], weights[order])
    assert shuffled == pytest.approx(metric(target, score, weights), rel=1e-12)


@pytest.mark.parametrize("metric", WEIGHTED)
def test_no_rows_have_no_value(metric):
    assert np.isnan(metric([], []))
    assert np.isnan(metric([np.nan, 1.0], [0.5, 0.5], [1.0, 0.0]))


@pytest.mark.parametrize("metric", WEIGHTED)
def test_arrays_tensors_and_series_agree(metric):
    target, score, _, _ = simulate()
    score = score.clip(0.01, 0.99)
    expected = metric(target, score)
    tensors = metric(torch.tensor(target), torch.tensor(score, requires_grad=True))
    series = metric(pd.Series(target, dtype="Int64"), pd.Series(score, index=np.arange(len(score))[::-1]))
    assert metric(target.tolist(), score.tolist()) == expected
    assert tensors == expected and series == expected


def test_missing_marks_of_pandas_count_as_missing():
    target = pd.Series([1, 0, None, 1], dtype="Int64")
    assert metrics.accuracy(target, [1, 1, 0, 1]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        (metrics.rmse, ([[1.0], [2.0]], [1.0, 2.0]), "one entry per row"),
        (metrics.rmse, ([1.0, 2.0], [[1.0], [2.0]]), "one entry per row"),
        (metrics.rmse, ([1.0, 2.0], [1.0]), "one entry per row"),
        (metrics.rmse, ([1.0], [1.0], [1.0, 2.0]), "one entry per row"),
        (metrics.rmse, (["a"], [1.0]), "target must be numbers"),
        (metrics.rmse, (pd.Series(["a"]), [1.0]), "target must be numbers"),
        (metrics.rmse, ([1.0], [np.nan]), "missing or infinite"),
        (metrics.rmse, ([np.inf], [1.0]), "infinite"),
        (metrics.rmse, ([1.0], [1.0], [-1.0]), "weight is negative"),
        (metrics.rmse, ([1.0], [1.0], [np.nan]), "weight is negative, missing"),
        (metrics.auc, ([0.0, 2.0], [0.1, 0.2]), "must be 0 or 1, found 2"),
        (metrics.brier, ([0.0, 1.0], [0.1, 3.0]), "apply the task's link"),
        (metrics.log_loss, ([0.0, 1.0], [-0.1, 0.5]), "apply the task's link"),
        (metrics.log_loss, ([0.0, 1.0], [[0.5, 0.4], [0.5, 0.5]]), "sum to one"),
        (metrics.log_loss, ([0.0, 2.0], [[0.5, 0.5], [0.5, 0.5]]), "class index from 0 to 1"),
        (metrics.accuracy, ([0.0, 1.0], [1.7, -0.3]), "neither probabilities nor classes"),
        (metrics.calibration_curve, ([0.0, 1.0], [0.1, 0.3], None, 0), "at least one bin"),
        (metrics.poisson_deviance, ([1.0], [0.0]), "counts ≥ 0"),
        (metrics.poisson_deviance, ([-1.0], [1.0]), "counts ≥ 0"),
        (metrics.quadratic_weighted_kappa, ([1.0, 2.0], [1.5, 2.0]), "integer levels"),
        (metrics.grouped_auc, ([1.0, 0.0], [1.0, 0.0], [1]), "one id per row"),
        (metrics.grouped_auc, ([1.0, 0.0], [1.0, 0.0], [1, None]), "lacks an id in 1 rows"),
        (metrics.grouped_auc, ([1.0, 0.0], [1.0, 0.0], [1, 1], None, "clicks"), "choose 'impressions'"),
        (metrics.ndcg_at_k, ([1.0, 0.0], [1.0, 0.0], [1, 1], 0), "at least one place"),
        (metrics.recall_at_k, ([-1.0, 0.0], [1.0, 0.0], [1, 1], 1), "below zero"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric(*arguments)


# Classes


def test_classification_agrees_with_scikit_learn():
    target, score, _, weights = simulate()
    guess = score >= 0.4
    for own, reference in [
        (metrics.accuracy, sk.accuracy_score),
        (metrics.precision, sk.precision_score),
        (metrics.recall, sk.recall_score),
        (metrics.f1, sk.f1_score),
    ]:
        assert own(target, score, weights, 0.4) == pytest.approx(
            reference(target, guess, sample_weight=weights)
        )
    assert metrics.brier(target, score, weights) == pytest.approx(
        sk.brier_score_loss(target, score, sample_weight=weights)
    )


def test_f1_is_the_harmonic_mean():
    target, score, _, _ = simulate()
    p, r = metrics.precision(target, score), metrics.recall(target, score)
    assert metrics.f1(target, score) == pytest.approx(2 * p * r / (p + r))


def test_undefined_rates_are_nan_and_empty_handed_ones_zero():
    assert np.isnan(metrics.precision([0, 1], [0.1, 0.2]))
    assert np.isnan(metrics.recall([0, 0], [0.1, 0.9]))
    assert np.isnan(metrics.f1([0, 0], [0, 0]))
    assert metrics.f1([0, 1], [0, 0]) == 0
    assert metrics.precision([0, 1], [0.9, 0.1]) == 0


def test_several_classes():
    rng = np.random.default_rng(2)
    target, probability = rng.integers(0, 4, 300), rng.dirichlet(np.ones(4), 300)
    guess, weights = probability.argmax(axis=1), rng.random(300)
    assert (
        metrics.accuracy(target, probability) == metrics.accuracy(target, guess) == np.mean(target == guess)
    )
    assert metrics.f1(target, probability, weights) == pytest.approx(
        sk.f1_score(target, guess, average="macro", sample_weight=weights)
    )
    expected = np.average(-np.log(probability[np.arange(300), target]), weights=weights)
    assert metrics.log_loss(target, probability, weights) == pytest.approx(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # float32 rows do not sum to one exactly
        narrow = metrics.log_loss(target, probability.astype(np.float32), weights)
    assert narrow == pytest.approx(expected, rel=1e-5)


def test_log_loss_of_one_probability_is_that_of_two_classes():
    target, score, _, _ = simulate()
    both = np.stack([1 - score, score], axis=1)
    assert metrics.log_loss(target, score) == pytest.approx(metrics.log_loss(target, both))
    assert metrics.log_loss([1.0], [0.0]) == pytest.approx(36.04, abs=0.01)


def test_log_loss_is_smallest_at_the_rate():
    target = simulate()[0]
    constants = np.linspace(0.05, 0.95, 19)
    losses = [metrics.log_loss(target, np.full(len(target), c)) for c in constants]
    assert abs(constants[np.argmin(losses)] - target.mean()) <= 0.05


# AUC


@PROPERTY
@given(binary_sets)
def test_auc_counts_pairs(rows):
    target, score = np.array(rows, dtype=float).T
    assert metrics.auc(target, score) == pytest.approx(pair_count(target, score), nan_ok=True)


@PROPERTY
@given(binary_sets)
def test_auc_of_negated_scores_is_one_minus(rows):
    target, score = np.array(rows, dtype=float).T
    assert metrics.auc(target, -score) == pytest.approx(1 - metrics.auc(target, score), nan_ok=True)


@PROPERTY
@given(binary_sets, st.sampled_from([np.exp, np.arctan, lambda s: 3 * s - 7, lambda s: s**3]))
def test_auc_is_invariant_under_monotone_maps(rows, monotone):
    target, score = np.array(rows, dtype=float).T
    assert metrics.auc(target, monotone(score)) == pytest.approx(metrics.auc(target, score), nan_ok=True)


def test_auc_landmarks():
    assert metrics.auc([0, 0, 1, 1], [1, 2, 3, 4]) == 1
    assert metrics.auc([0, 1, 0, 1], [1, 1, 1, 1]) == 0.5
    assert np.isnan(metrics.auc([1, 1], [0.1, 0.2]))


# Groups


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_by_group_counts_pairs_in_each_group(levels, weighted):
    target, score, groups, weights = simulate(groups=80, levels=levels)
    weights = weights if weighted else None
    table = metrics.auc_by_group(target, score, groups, weights)
    used = np.ones(len(target), bool) if weights is None else weights > 0
    assert list(table["group"]) == sorted(set(groups[used]))
    for row in table.itertuples():
        inside = (groups == row.group) & used
        mass = inside.astype(float) if weights is None else weights * inside
        expected = pair_count(target[inside], score[inside], None if weights is None else weights[inside])
        assert row.auc == pytest.approx(expected, nan_ok=True)
        assert (row.rows, row.positives) == pytest.approx((mass.sum(), (mass * target).sum()))
    assert table["auc"].isna().any(), "the simulation should hold groups of one class"
    known = table.dropna()
    for by, mass in [("impressions", known["rows"]), ("positives", known["positives"]), ("groups", None)]:
        expected = np.average(known["auc"], weights=mass)
        assert metrics.grouped_auc(target, score, groups, weights, by) == pytest.approx(expected)


@PROPERTY
@given(binary_sets)
def test_grouped_auc_of_one_group_is_the_auc(rows):
    target, score = np.array(rows, dtype=float).T
    one = np.zeros(len(target))
    assert metrics.grouped_auc(target, score, one) == pytest.approx(metrics.auc(target, score), nan_ok=True)


def test_grouped_auc_ignores_what_is_constant_within_a_group():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 50, 5000)
    appetite = rng.random(50)[groups]  # keen and idle visitors
    target = (rng.random(5000) < appetite).astype(float)
    assert metrics.auc(target, appetite) > 0.8
    assert metrics.grouped_auc(target, appetite, groups) == 0.5
    shifted = rng.random(5000) + 100 * groups
    assert metrics.grouped_auc(target, shifted, groups) == pytest.approx(
        metrics.grouped_auc(target, shifted - 100 * groups, groups)
    )


def test_group_ids_may_be_of_any_type():
    target, score, groups, _ = simulate()
    expected = metrics.grouped_auc(target, score, groups)
    for ids in (
        groups.astype(str),
        pd.Series(groups, dtype="category"),
        torch.tensor(groups),
        groups.tolist(),
    ):
        assert metrics.grouped_auc(target, score, ids) == pytest.approx(expected)


def test_groups_of_one_class_everywhere_have_no_value():
    assert np.isnan(metrics.grouped_auc([1, 1, 0], [1, 2, 3], [0, 0, 1]))
    assert np.isnan(metrics.ndcg_at_k([0, 0], [1, 2], [0, 0], 2))
    assert np.isnan(metrics.recall_at_k([0, 0], [1, 2], [0, 0], 2))
    assert np.isnan(metrics.grouped_auc([], [], []))
    assert np.isnan(metrics.ndcg_at_k([np.nan], [1], ["a"], 2))


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_ndcg_agrees_with_scikit_learn_group_by_group(k, levels):
    _, score, groups, _ = simulate(levels=levels)
    gain = np.random.default_rng(4).poisson(0.5, len(score)).astype(float)
    expected = []
    for group in np.unique(groups):
        inside = groups == group
        if gain[inside].any() and inside.sum() > 1:
            expected.append(sk.ndcg_score([gain[inside]], [score[inside]], k=k))
    assert metrics.ndcg_at_k(gain, score, groups, k) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("k", [1, 4])
def test_ties_count_with_their_expectation_under_random_order(k):
    target, score, groups, _ = simulate(rows=60, groups=6, levels=2)
    rng = np.random.default_rng(5)
    found = []
    for _ in range(600):
        broken = score + 1e-6 * rng.random(len(score))
        found.append([f(target, broken, groups, k) for f in (metrics.ndcg_at_k, metrics.recall_at_k)])
    error = np.std(found, axis=0) / np.sqrt(len(found))
    expected = [f(target, score, groups, k) for f in (metrics.ndcg_at_k, metrics.recall_at_k)]
    assert (np.abs(np.mean(found, axis=0) - expected) < 4 * error).all()


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_at_k_by_hand(k):
    target, score, groups, _ = simulate()
    expected = []
    for group in np.unique(groups):
        relevant = target[groups == group][np.argsort(-score[groups == group])]
        if relevant.any():
            expected.append(relevant[:k].sum() / relevant.sum())
    assert metrics.recall_at_k(target, score, groups, k) == pytest.approx(np.mean(expected))


def test_ranking_metrics_grow_with_k_and_are_one_for_the_ideal_order():
    target, score, groups, _ = simulate()
    recalls = [metrics.recall_at_k(target, score, groups, k) for k in range(1, 40)]
    assert (np.diff(recalls) >= -1e-12).all() and recalls[-1] == 1
    assert metrics.ndcg_at_k(target, target, groups, 5) == pytest.approx(1)


def test_a_million_rows_in_a_hundred_thousand_groups_take_about_a_second():
    rng = np.random.default_rng(6)
    groups, score = rng.integers(0, 100_000, 1_000_000), rng.random(1_000_000)
    target = (rng.random(1_000_000) < 0.2 * score).astype(float)
    started = time.process_time()
    metrics.grouped_auc(target, score, groups)
    assert time.process_time() - started < 5  # about 0.6 s; the margin is for busy machines


# Calibration


def calibrated(seed, rows=4000):
    rng = np.random.default_rng(seed)
    probability = rng.beta(1, 12, rows)
    return (rng.random(rows) < probability).astype(float), probability


def test_calibrated_predictions_have_the_error_that_chance_alone_gives():
    errors, expected = [], []
    for seed in range(100):
        target, probability = calibrated(seed)
        errors.append(metrics.calibration_error(target, probability))
        variance = np.sort(probability * (1 - probability)).reshape(10, 400).mean(axis=1)
        expected.append(np.sqrt(2 / np.pi * variance / 400).mean())
    rate = 1 / 13
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.05)
    assert np.mean(errors) < 0.8 * np.sqrt(rate * (1 - rate) * 10 / 4000)


def test_a_shift_shows_as_calibration_error():
    target, probability = calibrated(0)
    assert metrics.calibration_error(target, probability) < 0.02
    assert metrics.calibration_error(target, probability + 0.05) == pytest.approx(0.05, abs=0.015)
    assert metrics.auc(target, probability + 0.05) == metrics.auc(target, probability)


def test_calibration_intervals_cover_the_true_rate():
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        probability = np.repeat(np.linspace(0.05, 0.5, 10), 200)
        curve = metrics.calibration_curve(rng.random(2000) < probability, probability)
        covered.append((curve["low"] <= curve["predicted"]) & (curve["predicted"] <= curve["high"]))
    rate, trials = np.mean(covered), 1000
    assert abs(rate - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials)


def test_calibration_bins_hold_equal_mass_and_average_to_the_whole():
    target, probability = calibrated(1)
    curve = metrics.calibration_curve(target, probability, bins=8)
    assert list(curve["rows"]) == [500] * 8
    assert np.average(curve["observed"], weights=curve["weight"]) == pytest.approx(target.mean())
    assert np.average(curve["predicted"], weights=curve["weight"]) == pytest.approx(probability.mean())
    assert curve["predicted"].is_monotonic_increasing
    assert ((curve["low"] <= curve["observed"]) & (curve["observed"] <= curve["high"])).all()


def test_equal_predictions_share_a_bin():
    curve = metrics.calibration_curve([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5])
    assert len(curve) == 1 and curve.loc[0, "observed"] == 0.5
    assert metrics.calibration_error([0, 1, 1, 1], [0.5] * 4) == 0.25


def test_weights_do_not_pretend_to_be_rows_in_the_interval():
    target, probability = calibrated(2)
    plain = metrics.calibration_curve(target, probability)
    heavy = metrics.calibration_curve(target, probability, np.full(len(target), 100.0))
    pd.testing.assert_frame_equal(plain.drop(columns="weight"), heavy.drop(columns="weight"))


# Numbers, counts and levels


@PROPERTY
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30))
def test_mae_never_exceeds_rmse(pairs):
    target, prediction = np.array(pairs).T
    assert metrics.mae(target, prediction) <= metrics.rmse(target, prediction) * (1 + 1e-12)


@PROPERTY
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30), st.floats(0.1, 10), finite)
def test_errors_have_the_unit_of_the_target(pairs, scale, shift):
    target, prediction = np.array(pairs).T
    for metric in (metrics.rmse, metrics.mae):
        moved = metric(scale * target + shift, scale * prediction + shift)
        assert moved == pytest.approx(scale * metric(target, prediction), rel=1e-9, abs=1e-9)


def test_poisson_deviance_by_its_formula():
    rng = np.random.default_rng(7)
    mean = rng.gamma(2, 1, 500)
    count = rng.poisson(mean)
    term = np.where(count > 0, count * np.log(np.maximum(count, 1) / mean), 0) - count + mean
    assert metrics.poisson_deviance(count, mean) == pytest.approx(2 * term.mean())
    assert metrics.poisson_deviance(count, mean) < metrics.poisson_deviance(count, np.full(500, mean.mean()))
    assert metrics.poisson_deviance([1, 2, 3], [1, 2, 3]) == pytest.approx(0)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=30))
def test_kappa_has_a_closed_form(pairs):
    target, guess = np.array(pairs, dtype=float).T
    chance = target.var() + guess.var() + (target.mean() - guess.mean()) ** 2
    expected = 1 - np.mean((target - guess) ** 2) / chance if chance > 0 else np.nan
    assert metrics.quadratic_weighted_kappa(target, guess) == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_kappa_knows_the_distance_of_levels_nobody_used():
    near = metrics.quadratic_weighted_kappa([1, 1, 2, 2], [1, 2, 2, 2])
    far = metrics.quadratic_weighted_kappa([1, 1, 5, 5], [1, 5, 5, 5])
    assert near == pytest.approx(far), "kappa has no unit"
    skewed = metrics.quadratic_weighted_kappa([1, 2, 5, 5], [1, 5, 5, 5])
    assert skewed == pytest.approx(1 - (9 / 4) / (3.1875 + 3 + 0.75**2))
    assert metrics.quadratic_weighted_kappa([1, 2, 3], [1, 2, 3], [1, 2, 3]) == 1
