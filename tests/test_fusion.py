"""Several objectives give one order: equal to brute force, deterministic, and refused by name."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_ref.fusion import combine, rank


def by_hand(rows, score, groups, k):
    """Sort each request's rows on their own, as one would on paper."""
    result = []
    for group in dict.fromkeys(groups):
        members = [n for n in range(len(rows)) if groups[n] == group]
        members.sort(key=lambda n: (-score[n], n))
        result += [(rows[n], place, score[n]) for place, n in enumerate(members[:k], 1)]
    return result


grid = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(grid, grid, grid, st.sampled_from("abc")), min_size=1, max_size=12), st.data())
def test_expected_value_and_powers_equal_a_sort_by_hand(drawn, data) -> None:
    k = data.draw(st.one_of(st.none(), st.integers(1, 4)))
    index = data.draw(st.permutations(range(100, 100 + len(drawn))))
    table = pd.DataFrame(drawn, columns=["click", "buy", "margin", "request"], index=index)
    predictions = table[["click", "buy"]]
    worth = [0.5 * c + m * b for c, b, m, _ in drawn]
    product = [c**2.0 * b**0.5 for c, b, _, _ in drawn]
    groups = table["request"].tolist()
    for formula, score in (
        ({"value": {"click": 0.5, "buy": "margin"}}, worth),
        ({"powers": {"click": 2.0, "buy": 0.5}}, product),
        ({"function": lambda t: 0.5 * t["click"] + t["margin"] * t["buy"]}, worth),
    ):
        found = rank(predictions, table, groups="request", k=k, **formula)
        expected = by_hand(index, score, groups, k)
        assert list(found.index) == [row for row, _, _ in expected]
        assert found["rank"].tolist() == [place for _, place, _ in expected]
        assert np.allclose(found["score"], [s for _, _, s in expected], rtol=1e-15)


def table() -> pd.DataFrame:
    return pd.DataFrame({"click": [0.2, 0.1, 0.2], "margin": [1.0, 9.0, 1.0], "request": ["x", "x", None]})


def test_equal_scores_keep_their_order_and_k_cuts() -> None:
    same = pd.DataFrame({"p": [0.5] * 5}, index=list("edcba"))
    found = rank(same, value={"p": 3.0}, k=3)
    assert list(found.index) == ["e", "d", "c"] and found["rank"].tolist() == [1, 2, 3]
    assert rank(same[:0], value={"p": 1.0}).empty


def test_a_power_of_a_rescaled_factor_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    p = pd.DataFrame({"a": rng.random(50), "b": rng.random(50)})
    order = rank(p, powers={"a": 1.0, "b": 0.7}).index
    assert list(rank(p.assign(a=7 * p["a"]), powers={"a": 1.0, "b": 0.7}).index) == list(order)


def test_a_weight_is_a_number_a_column_or_one_number_per_row() -> None:
    columns = {"click": np.array([0.2, 0.1]), "buy": np.array([0.0, 0.5])}
    assert combine(columns, {}, value={"click": 2.0, "buy": [1.0, 4.0]}).tolist() == [0.4, 0.2 + 2.0]
    assert combine(columns, {"m": [3.0, 4.0]}, value={"buy": "m"}).tolist() == [0.0, 2.0]
    assert math.isclose(combine(columns, {}, powers={"click": -1.0})[0], 5.0)


@pytest.mark.parametrize(
    "formula,error,message",
    [
        ({}, ValueError, "exactly one of value, powers and function"),
        ({"value": {"click": 1.0}, "powers": {"click": 1.0}}, ValueError, "exactly one"),
        ({"value": {}}, ValueError, "no objective is named"),
        ({"value": {"buy": 1.0}}, KeyError, "objective 'buy' is not predicted"),
        ({"value": {"click": "price"}}, KeyError, "objective 'click': its weight 'price' is no column"),
        (
            {"value": {"click": "request"}},
            ValueError,
            "objective 'click': its weight 'request' is not made of",
        ),
        ({"value": {"click": math.nan}}, ValueError, "objective 'click': its weight is nan"),
        ({"value": {"click": [1.0, 2.0]}}, ValueError, r"one number or \(3,\) numbers, found shape \(2,\)"),
        ({"powers": {"click": "margin"}}, KeyError, "objective 'click': its weight 'margin' is no column"),
        (
            {"powers": {"click": -400.0}},
            ValueError,
            "objective 'click' to the power of -400.0 is inf in row 1",
        ),
        ({"function": lambda t: t["click"] / 0}, ValueError, "the score of the function is inf in row 0"),
        ({"function": lambda t: 1.0}, ValueError, r"must give \(3,\) scores, found \(\)"),
        ({"value": {"click": 1.0}, "groups": "request"}, ValueError, "'request' lacks a value in row 2"),
        ({"value": {"click": 1.0}, "groups": "visit"}, KeyError, "'visit' is not in the table"),
        ({"value": {"click": 1.0}, "k": 0}, ValueError, "k must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(formula, error, message) -> None:
    predictions = table()[["click"]]
    with pytest.raises(error, match=message):
        rank(predictions, table(), **formula)


def test_tables_of_other_rows_and_sums_that_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in their index"):
        rank(table()[["click"]], table()[:2], value={"click": 1.0})
    big = pd.DataFrame({"a": [1e308, 1.0], "b": [1e308, 1.0]})
    with pytest.raises(ValueError, match="the combined score is inf in row 0"):
        rank(big, value={"a": 1.0, "b": 1.0})
