"""Features: the same row gives the same tensors, and nothing but training rows is learnt from."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_ref.features import Features, tokenize
from mtl_ref.moments import Moments

pytestmark = pytest.mark.filterwarnings("error")

quick = settings(max_examples=20, deadline=None, database=None, derandomize=True)

ids = st.one_of(
    st.none(),
    st.text("ab1.0 '\ud800", max_size=3),
    st.integers(-3, 3),
    st.booleans(),
    st.floats(-2, 2),
    st.just(np.nan),
)
amounts = st.one_of(st.none(), st.integers(-5, 5), st.booleans(), st.floats(-1e6, 1e6))
words = st.one_of(st.none(), st.text("abc A'’-é\n5", max_size=12))
rows = st.fixed_dictionaries({"item": ids, "price": amounts, "spend": amounts, "title": words, "text": words})


def as_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(records, dtype=object)
    table.loc[0, ["price", "spend"]] = 1  # else a column may hold nothing at all, which is refused
    return table


tables = st.lists(rows, min_size=1, max_size=12).map(as_table)


def new_features(**changes: Any) -> Features:
    arguments = dict(
        categorical=["item"], numeric=["price", "spend"], text=["title", "text"], text_length=6, log=["spend"]
    )
    return Features(**(arguments | changes))  # type: ignore[arg-type]


def assert_equal(x: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert x.keys() == other.keys()
    for key in x:
        assert x[key].dtype == other[key].dtype and torch.equal(x[key], other[key]), key


def picked(x: dict[str, torch.Tensor], positions: Any) -> dict[str, torch.Tensor]:
    return {key: tensor[positions] for key, tensor in x.items()}


@pytest.fixture(params=[torch.float32, torch.float64])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Either float type as torch's default."""
    torch.set_default_dtype(request.param)
    return request.param


shop = pd.DataFrame(
    {
        "item": ["scarf", "scarf", "coat", None, "tea"],
        "price": [20.0, 30.0, np.nan, 40.0, 50.0],
        "spend": [0, 1, 10, 100, 1000],
        "title": ["It's warm", None, "Warm, WARM!", "", "tea"],
        "text": ["so warm", "not", pd.NA, "", "a b c d e f g"],
    }
)


# What the tensors are


def test_by_hand(dtype: torch.dtype) -> None:
    x = new_features().fit_transform(shop)
    assert x["categorical"].tolist() == [
        [1],
        [1],
        [2],
        [0],
        [3],
    ]  # frequent first, then by name; missing is 0
    price = (np.array([20, 30, 35, 40, 50]) - 35) / np.sqrt(125)
    spend = np.log1p(shop["spend"])
    spend = (spend - spend.mean()) / spend.std(ddof=0)
    expected = np.stack([price, spend, [0, 0, 1, 0, 0]], axis=1)
    torch.testing.assert_close(x["numeric"], torch.tensor(expected, dtype=dtype))
    # warm 4 times; then a, b, c, d, e, it's, not, so, tea once each (tea, a, b, c, d, e: the rest is cut off)
    assert x["text"].tolist() == [
        [8, 2, 10, 2, 0, 0],
        [9, 0, 0, 0, 0, 0],
        [2, 2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [11, 3, 4, 5, 6, 7],
    ]


def test_sizes_bound_the_tensors() -> None:
    features = new_features().fit(shop)
    assert features.sizes == {"categorical": [4], "numeric": 3, "text": 12}
    assert Features(numeric=["price"]).fit(shop).sizes == {"categorical": [], "numeric": 2, "text": 0}
    assert [*Features(numeric=["price"]).fit_transform(shop)] == ["numeric"]
    assert [*Features(categorical=["item"]).fit_transform(shop)] == ["categorical"]
    assert [*Features(text=["title"]).fit_transform(shop)] == ["text"]


@quick
@given(train=tables, other=tables)
def test_shapes_and_ranges(train: pd.DataFrame, other: pd.DataFrame) -> None:
    features = new_features().fit(train)
    x, sizes = features.transform(other), features.sizes
    assert x["categorical"].shape == (len(other), 1) and x["categorical"].dtype == torch.int64
    assert x["numeric"].shape == (len(other), sizes["numeric"])
    assert x["text"].shape == (len(other), 6) and x["text"].dtype == torch.int64
    assert 0 <= x["categorical"].min() and x["categorical"].max() < sizes["categorical"][0]
    assert 0 <= x["text"].min() and x["text"].max() < sizes["text"]
    assert x["numeric"].isfinite().all() and x["numeric"].dtype == torch.get_default_dtype()
    padding = x["text"] == 0
    assert (padding[:, :-1] <= padding[:, 1:]).all()  # padding only after the words


def test_no_rows_to_transform() -> None:
    x = new_features().fit(shop).transform(shop.iloc[:0])
    assert [tuple(x[key].shape) for key in ("categorical", "numeric", "text")] == [(0, 1), (0, 3), (0, 6)]


# The same row always gives the same tensors


@quick
@given(train=tables, other=tables, data=st.data())
def test_a_row_does_not_depend_on_its_batch(
    train: pd.DataFrame, other: pd.DataFrame, data: st.DataObject
) -> None:
    features = new_features().fit(train)
    x = features.transform(other)
    positions = data.draw(st.lists(st.integers(0, len(other) - 1), min_size=1, max_size=8))
    assert_equal(features.transform(other.iloc[positions]), picked(x, positions))
    row = [other.iloc[positions[0]].to_dict()]
    try:
        alone = pd.DataFrame(row)  # pandas chooses other column types for one row
    except UnicodeEncodeError:  # its own text type cannot hold half of a surrogate pair
        alone = pd.DataFrame(row, dtype=object)
    assert_equal(features.transform(alone), picked(x, positions[:1]))


@quick
@given(train=tables, seed=st.integers(0, 100))
def test_the_order_of_training_rows_does_not_matter(train: pd.DataFrame, seed: int) -> None:
    features = new_features().fit(train)
    assert new_features().fit(train.sample(frac=1, random_state=seed))._state() == features._state()


def cut(table: pd.DataFrame, places: list[int]) -> list[pd.DataFrame]:
    """The rows in parts, some of which may be empty."""
    edges = [0, *sorted(place % (len(table) + 1) for place in places), len(table)]
    return [table.iloc[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]


@quick
@given(train=tables, places=st.lists(st.integers(0, 12), max_size=5), seed=st.integers(0, 100))
def test_how_the_training_rows_are_cut_does_not_matter(
    train: pd.DataFrame, places: list[int], seed: int
) -> None:
    whole = new_features(min_count=2).fit(train)._state()
    shuffled = train.sample(frac=1, random_state=seed)
    for parts in (cut(train, places), iter(cut(shuffled, places)), (part for part in [train])):
        state = new_features(min_count=2).fit(parts)._state()
        assert state | {"scales": None} == whole | {"scales": None}
        for found, expected in zip(state["scales"], whole["scales"], strict=True):
            assert found[2] == expected[2]
            assert found[:2] == pytest.approx(expected[:2], rel=1e-9, abs=1e-9)
            assert (found[1] == 0) == (expected[1] == 0)


@quick
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda v: np.ptp(v) > 1e-3),
    places=st.lists(st.integers(0, 30), max_size=8),
    unit=st.sampled_from([1e-290, 1.0, 1e290]),
    shift=st.sampled_from([0.0, 1e6]),
)
def test_the_scale_of_parts_is_that_of_the_whole(
    values: list[float], places: list[int], unit: float, shift: float
) -> None:
    numbers = (np.array(values) + shift) * unit
    moments = Moments()
    for part in np.split(numbers, sorted(place % (len(values) + 1) for place in places)):
        moments = moments.merged(Moments.of(part))
    mean, deviation = moments.scale("price")
    rounding = 1e-12 * np.abs(numbers).max()
    assert abs(mean - np.mean(numbers / unit) * unit) <= rounding
    assert abs(deviation - np.std(numbers / unit) * unit) <= rounding


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], ValueError, "needs training rows"),
        ([shop.iloc[:0], shop.iloc[:0]], ValueError, "needs training rows"),
        ([shop, shop.drop(columns="price")], KeyError, "column 'price' is not in the table"),
        ([shop, shop.assign(spend=np.inf)], ValueError, "column 'spend' holds inf"),
        ([shop.assign(price=1e301), shop], ValueError, "column 'price' holds numbers too large"),
        ([shop.assign(price=np.nan)] * 2, ValueError, "column 'price' has no value in the training rows"),
        ([shop, {"item": ["scarf"]}], TypeError, "reads a pandas DataFrame, found dict"),
        ("shop.parquet", TypeError, "reads a pandas DataFrame, found str"),
        (None, TypeError, "reads a pandas DataFrame, found NoneType"),
    ],
)
def test_mistakes_in_parts(parts: Any, error: type[Exception], message: str) -> None:
    features = new_features().fit(shop)
    learnt = copy.deepcopy(features._state())
    with pytest.raises(error, match=message):
        features.fit(parts)
    assert features._state() == learnt


@quick
@given(train=tables, test=tables, changed=tables)
def test_test_rows_are_never_seen(train: pd.DataFrame, test: pd.DataFrame, changed: pd.DataFrame) -> None:
    before = train.copy(deep=True)
    features = new_features()
    first = features.fit_transform(train)
    learnt = copy.deepcopy(features._state())
    for unseen in (test, changed):
        features.transform(unseen)
        assert features._state() == learnt
        assert_equal(features.transform(train), first)
        both = pd.concat([train, unseen], ignore_index=True)
        assert new_features().fit(both.iloc[: len(train)])._state() == learnt
    pd.testing.assert_frame_equal(train, before)  # the table is left as it was


@pytest.mark.parametrize("kind", ["category", "string", "object", "str"])
def test_types_of_text_columns_do_not_matter(kind: str) -> None:
    features = new_features().fit(shop)
    other = shop.astype({"item": kind, "title": kind, "text": kind})
    missing = shop[["item", "title", "text"]].isna()
    other[missing.columns] = other[missing.columns].mask(missing)  # astype(str) writes "None"
    assert_equal(features.transform(other), features.transform(shop))
    assert new_features().fit(other)._state() == features._state()


@pytest.mark.parametrize("kind", ["Float64", "float32", "object", "category"])
def test_types_of_number_columns_do_not_matter(kind: str) -> None:
    features = new_features().fit(shop)
    other = shop.astype({"price": kind, "spend": kind})
    assert_equal(features.transform(other), features.transform(shop))
    assert new_features().fit(other)._state() == features._state()


# Ids


@pytest.mark.parametrize("same", [1, 1.0, "1", True, np.int32(1), np.float32(1), np.bool_(True)])
def test_numbers_are_the_same_id_by_their_value(same: object) -> None:
    features = Features(categorical=["item"]).fit(pd.DataFrame({"item": ["1", "1", "2"]}))
    assert features.transform(pd.DataFrame({"item": [same]}))["categorical"].tolist() == [[1]]
    assert features.transform(pd.DataFrame({"item": pd.Series([same, "x"], dtype=object)}))[
        "categorical"
    ].tolist() == [[1], [0]]
    other = Features(categorical=["item"]).fit(pd.DataFrame({"item": [same]}))
    assert other._state()["ids"] == [["1"]]


def test_integers_that_pandas_turned_into_floats_are_the_same_ids() -> None:
    features = Features(categorical=["item"]).fit(pd.DataFrame({"item": [7, 8, 8, 9]}))
    joined = pd.DataFrame({"item": [9, None, 8, 7, 10]})
    assert joined["item"].dtype == "float64"
    assert features.transform(joined)["categorical"].ravel().tolist() == [3, 0, 1, 2, 0]


@pytest.mark.parametrize("other", ["1.0", "01", " 1", "True", 1.5, -1, "١"])
def test_other_texts_are_other_ids(other: object) -> None:
    features = Features(categorical=["item"]).fit(pd.DataFrame({"item": [1]}))
    assert features.transform(pd.DataFrame({"item": [other]}))["categorical"].tolist() == [[0]]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, ""])
def test_missing_ids_are_bucket_0_and_never_learnt(missing: object) -> None:
    table = pd.DataFrame({"item": pd.Series([missing, missing, "a"], dtype=object)})
    features = Features(categorical=["item"]).fit(table)
    assert features.transform(table)["categorical"].tolist() == [[0], [0], [1]]
    assert features.sizes["categorical"] == [2]


@quick
@given(
    train=st.lists(st.sampled_from("abcd"), min_size=1),
    other=st.lists(st.sampled_from("abcdxyz"), min_size=1),
)
def test_unknown_and_rare_ids_are_bucket_0(train: list[str], other: list[str]) -> None:
    features = Features(categorical=["item"], min_count=2).fit(pd.DataFrame({"item": train}))
    index = features.transform(pd.DataFrame({"item": other}))["categorical"].ravel().tolist()
    assert [place > 0 for place in index] == [train.count(item) >= 2 for item in other]


def test_ids_of_two_columns_do_not_mix() -> None:
    table = pd.DataFrame({"brand": ["a", "b"], "shop": ["c", "c"]})
    features = Features(categorical=["brand", "shop"]).fit(table)
    assert features.transform(table[["shop", "brand"]])["categorical"].tolist() == [[1, 1], [2, 1]]
    assert features.transform(pd.DataFrame({"brand": ["c"], "shop": ["a"]}))["categorical"].tolist() == [
        [0, 0]
    ]


# Numbers


@quick
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20).filter(
        lambda values: np.ptp(values) > 1e-3
    ),
    missing=st.integers(0, 3),
)
def test_training_rows_have_mean_0_and_deviation_1(values: list[float], missing: int) -> None:
    torch.set_default_dtype(torch.float64)
    table = pd.DataFrame({"price": values + [math.nan] * missing})
    scaled = Features(numeric=["price"]).fit_transform(table)["numeric"][: len(values), 0]
    assert abs(scaled.mean()) < 1e-9 and abs(scaled.std(correction=0) - 1) < 1e-9


@quick
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20).filter(lambda values: np.ptp(values) > 1),
    factor=st.floats(0.01, 100) | st.floats(-100, -0.01),
    shift=st.floats(-100, 100),
)
def test_a_change_of_unit_changes_nothing(values: list[float], factor: float, shift: float) -> None:
    torch.set_default_dtype(torch.float64)
    table = pd.DataFrame({"price": values})
    scaled = Features(numeric=["price"]).fit_transform(table)["numeric"]
    other = Features(numeric=["price"]).fit_transform(factor * table + shift)["numeric"]
    torch.testing.assert_close(other, math.copysign(1, factor) * scaled, rtol=0, atol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7, 1e300])
def test_a_constant_column_stays_zero(constant: float) -> None:
    table = pd.DataFrame({"price": [constant] * 3})
    features = Features(numeric=["price"]).fit(table)
    assert features.transform(table)["numeric"].tolist() == [[0.0]] * 3
    assert features.transform(pd.DataFrame({"price": [5.0, None, -1e308]}))["numeric"].tolist() == [[0.0]] * 3


def test_missing_numbers_are_flagged_if_training_had_some() -> None:
    train = pd.DataFrame({"price": [1.0, 3.0, None], "age": [20, 40, 60]})
    features = Features(numeric=["age", "price"]).fit(train)
    served = features.transform(pd.DataFrame({"price": [None, 3.0], "age": [None, 40]}))["numeric"]
    assert features.sizes["numeric"] == 3
    assert served.tolist() == [[0, 0, 1], [0, 1, 0]]  # age, price, price is missing


def test_logarithm_keeps_the_sign_and_the_order() -> None:
    table = pd.DataFrame({"spend": [-100.0, -1.0, 0.0, 1.0, 100.0]})
    scaled = Features(numeric=["spend"], log=["spend"]).fit_transform(table)["numeric"].ravel()
    torch.testing.assert_close(scaled, -scaled.flip(0))
    assert (scaled.diff() > 0).all() and scaled[4] < 10 * scaled[3]


def test_tiny_and_large_numbers_are_scaled_alike() -> None:
    torch.set_default_dtype(torch.float64)
    for unit in (1e-290, 1.0, 1e290):
        scaled = Features(numeric=["price"]).fit_transform(
            pd.DataFrame({"price": [1 * unit, 2 * unit, 3 * unit]})
        )
        torch.testing.assert_close(scaled["numeric"].ravel(), torch.tensor([-(1.5**0.5), 0, 1.5**0.5]))


# Text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 5'8\" tall!", ["it's", "5'8", "tall"]),
        ("It’s", ["it's"]),
        ("'quoted' rock 'n' roll dogs'", ["quoted", "rock", "n", "roll", "dogs"]),
        ("snake_case well-made e.g. 3.5", ["snake", "case", "well", "made", "e", "g", "3", "5"]),
        ("Café naïve ÉTÉ", ["café", "naïve", "été"]),
        ("桑巷 的红围巾", ["桑巷", "的红围巾"]),
        (" \n\t?!", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


def test_text_columns_are_joined_in_the_given_order_and_never_glued() -> None:
    table = pd.DataFrame({"title": ["red", None], "text": ["scarf", "scarf"]})
    features = Features(text=["title", "text"], text_length=3).fit(table)
    assert features.transform(table)["text"].tolist() == [[3, 2, 0], [2, 0, 0]]
    other = Features(text=["text", "title"], text_length=3).fit(table)
    assert other.transform(table)["text"].tolist() == [[2, 3, 0], [2, 0, 0]]


def test_vocabulary_is_bounded_and_unknown_words_are_1() -> None:
    table = pd.DataFrame({"text": ["b b c c a a d"]})
    features = Features(text=["text"], max_tokens=2, text_length=8).fit(table)
    assert features.sizes["text"] == 4  # padding, unknown, a, b: ties by the alphabet
    assert features.transform(table)["text"].tolist() == [[3, 3, 1, 1, 2, 2, 1, 0]]
    rare = Features(text=["text"], min_count=2, text_length=8).fit(table)
    assert rare.transform(table)["text"].tolist() == [[3, 3, 4, 4, 2, 2, 1, 0]]


# Save and load


@quick
@given(train=tables, other=tables)
def test_load_gives_the_same_tensors_and_bytes(
    tmp_path_factory: pytest.TempPathFactory, train: pd.DataFrame, other: pd.DataFrame
) -> None:
    path = tmp_path_factory.mktemp("features") / "features.json"
    features = new_features(min_count=1, max_tokens=3).fit(train)
    features.save(path)
    loaded = Features.load(path)
    assert_equal(loaded.transform(other), features.transform(other))
    assert loaded.sizes == features.sizes
    again = path.with_name("again.json")
    loaded.save(str(again))
    assert again.read_bytes() == path.read_bytes()
    assert sorted(os.listdir(path.parent)) == ["again.json", "features.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features.json"
    new_features().fit(shop).save(path)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Features(categorical=["item"]).fit(shop).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["features.json"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    new_features().fit(shop).save(path)
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cut short") as error:
            Features.load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def set_at(state: dict[str, Any], keys: list[Any], value: object) -> dict[str, Any]:
    place: Any = state
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return state


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["format"], "somebody.else 1", "holds 'somebody.else 1', not 'mtl_ref.features 1': update mtl_ref"),
        (
            ["format"],
            "mtl_ref.features 2",
            "holds 'mtl_ref.features 2', not 'mtl_ref.features 1': update mtl_ref",
        ),
        (["format"], None, "holds None"),
        (["settings"], None, "is damaged"),
        (["settings"], {}, "is damaged"),
        (["settings", "categorical"], "item", "is damaged"),
        (["settings", "categorical"], [["item"]], "is damaged"),
        (["settings", "categorical"], ["item", "item"], "is damaged"),
        (["settings", "categorical"], [], "is damaged"),
        (
            ["settings", "text_length"],
            10**12,
            "is damaged.*text_length must be a whole number from 1 to 65536",
        ),
        (["settings", "text_length"], 6.0, "is damaged"),
        (["settings", "log"], ["weight"], "is damaged"),
        (["settings", "more"], 1, "entries that save does not write"),
        (["more"], 1, "entries that save does not write"),
        (["ids"], None, "is damaged"),
        (["ids"], {"item": []}, "is damaged"),
        (["ids"], [["a"], ["b"]], "is damaged"),
        (["ids", 0], ["a", "a"], "entries that save does not write"),
        (["ids", 0], [1, 2], "not all text"),
        (["ids", 0], "ab", "entries that save does not write"),
        (["ids", 0], 7, "is damaged"),
        (["scales"], [], "is damaged"),
        (["scales", 0], [1.0, 2.0], "is damaged"),
        (["scales", 0], [1.0, -2.0, True], "is no scale"),
        (["scales", 0], [1.0, 2.0, 1], "is no scale"),
        (["scales", 0], ["1", 2.0, True], "is damaged"),
        (["scales", 0], [10**400, 2.0, True], "is damaged"),
        (["scales", 0], [1, 2.0, True], "entries that save does not write"),
        (["scales", 0], [math.nan, 2.0, True], "is no scale"),
        (["scales", 0], [1.0, math.inf, True], "is no scale"),
        (["words"], None, "is damaged"),
        (["words", 0], None, "not all text"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, keys: list[Any], value: object, message: str) -> None:
    path = tmp_path / "features.json"
    new_features().fit(shop).save(path)
    path.write_text(json.dumps(set_at(json.loads(path.read_text()), keys, value)))
    with pytest.raises(ValueError, match=message) as error:
        Features.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 200_000, b"{} {}"])
def test_foreign_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "features.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is no JSON file or was cut short"):
        Features.load(path)


@pytest.mark.parametrize("data", ["[]", "3", '"mtl_ref.features 1"', "null", "{}"])
def test_foreign_json_is_refused(tmp_path: Path, data: str) -> None:
    path = tmp_path / "features.json"
    path.write_text(data)
    with pytest.raises(ValueError, match="not 'mtl_ref.features 1': update mtl_ref or save it again"):
        Features.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="features.json"):
        Features.load(tmp_path / "features.json")


# One clear sentence for each mistake


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Features(), ValueError, "at least one"),
        (lambda: Features("item"), TypeError, "categorical must be a list of column names, found 'item'"),
        (lambda: Features(numeric=[1]), TypeError, "numeric must be a list of column names"),  # type: ignore[list-item]
        (lambda: Features(text=["a", "b", "a"]), ValueError, "column 'a' is named twice in text"),
        (lambda: Features(["a"], log=["b"]), ValueError, "column 'b' is named in log but not in numeric"),
        (lambda: Features(["a"], min_count=0), ValueError, "min_count must be a whole number from 1"),
        (lambda: Features(["a"], max_tokens=1.5), ValueError, "max_tokens must be"),  # type: ignore[arg-type]
        (lambda: Features(["a"], text_length=True), ValueError, "text_length must be"),
    ],
)
def test_mistakes_in_the_settings(make: Callable[[], Features], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_before_fit(tmp_path: Path) -> None:
    features = new_features()
    for use in (
        lambda: features.transform(shop),
        lambda: features.sizes,
        lambda: features.save(tmp_path / "f"),
    ):
        with pytest.raises(RuntimeError, match="call fit or load first"):
            use()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda table: table.to_dict(), TypeError, "reads a pandas DataFrame, found dict"),
        (lambda table: table.drop(columns="price"), KeyError, "column 'price' is not in the table"),
        (lambda table: table.drop(columns="text"), KeyError, "column 'text' is not in the table"),
        (
            lambda table: pd.concat([table, table[["item"]]], axis=1),
            ValueError,
            "column 'item' is 2 times in",
        ),
        (
            lambda table: table.assign(price=[1, 2, "3", 4, 5]),
            ValueError,
            r"column 'price' holds '3' \(str\)",
        ),
        (lambda table: table.assign(price=pd.Timestamp(0)), ValueError, "column 'price' holds Timestamp"),
        (lambda table: table.assign(price=1j), ValueError, "column 'price' holds 1j"),
        (
            lambda table: table.assign(spend=[1, 2, np.inf, 4, 5]),
            ValueError,
            "column 'spend' holds inf in row 2",
        ),
        (
            lambda table: table.assign(spend=[1, 2, 3, 4, -np.inf]),
            ValueError,
            "column 'spend' holds -inf in row 4",
        ),
        (
            lambda table: table.assign(item=[[1]] * 5),
            TypeError,
            "column 'item' holds something that is no id",
        ),
        (lambda table: table.assign(item=pd.Timestamp(0)), TypeError, "column 'item' holds the id Timestamp"),
        (
            lambda table: table.assign(item=2.0**53),
            ValueError,
            "column 'item' holds the id 9007199254740992.0",
        ),
        (lambda table: table.assign(item=np.inf), ValueError, "column 'item' holds the id inf"),
        (
            lambda table: table.assign(title=[1, "a", "b", "c", "d"]),
            TypeError,
            r"column 'title' holds 1 \(int\)",
        ),
    ],
)
def test_mistakes_in_a_table(
    change: Callable[[pd.DataFrame], pd.DataFrame], error: type[Exception], message: str
) -> None:
    features = new_features().fit(shop)
    learnt = copy.deepcopy(features._state())
    for use in (features.transform, features.fit):
        with pytest.raises(error, match=message):
            use(change(shop))
    assert features._state() == learnt  # a fit that fails leaves what was learnt before


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (shop.iloc[:0], "needs training rows"),
        (shop.assign(price=np.nan), "column 'price' has no value in the training rows"),
        (shop.assign(price=[1e301, 1, 2, 3, 4]), "column 'price' holds numbers too large"),
    ],
)
def test_tables_that_teach_nothing(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_features().fit(table)


def test_a_number_too_far_from_training(dtype: torch.dtype) -> None:
    features = Features(numeric=["age", "price"]).fit(pd.DataFrame({"age": [1, 2], "price": [1e-5, 2e-5]}))
    with pytest.raises(ValueError, match=r"column 'price' holds 1e\+308 in row 1, too far from training"):
        features.transform(pd.DataFrame({"age": [1, 2], "price": [0.0, 1e308]}))
