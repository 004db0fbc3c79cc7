"""Shards: the rows of the table, each once an epoch, in an order that can be resumed, whatever breaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_ref import parquet, shards
from mtl_ref.batches import Batch, Batches, Source
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder
from mtl_ref.shards import Shards
from mtl_ref.tasks import Binary, Ordinal, Regression, targets
from mtl_ref.training import fit

pq = pytest.importorskip("pyarrow.parquet")

quick = settings(max_examples=20, deadline=None, database=None, derandomize=True)

N = 103
TASKS = [Regression("spend", weight="trust"), Binary("bought"), Ordinal("stars")]


def new_table(n: int = N) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    spend = np.arange(n) * 1.0  # tells the rows apart
    return pd.DataFrame(
        {
            "item": draw.choice(["scarf", "coat", "tea", None], n),
            "price": np.where(draw.random(n) < 0.2, np.nan, draw.normal(size=n)),
            "title": draw.choice(["red scarf", "wool coat", "tea tin", ""], n),
            "spend": spend,
            "trust": 1 + spend,
            "bought": np.where(draw.random(n) < 0.3, np.nan, draw.integers(0, 2, n)),
            "stars": draw.integers(1, 6, n),
        }
    )


def new_features() -> Features:
    return Features(["item"], ["price"], ["title"], text_length=3)


TABLE = new_table()


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of ten rows, so that a hundred rows meet every boundary; and float64."""
    monkeypatch.setattr(shards, "GROUP", 10)
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 rows in three shards of 40, 40 and 23, in row groups of ten."""
    path = tmp_path_factory.mktemp("shards") / "train"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUP", 10)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        shards.write(path, TABLE, new_features().fit(TABLE), TASKS, rows_per_shard=40)
        torch.set_default_dtype(before)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The same shards, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "train"))


def rows(batches: Iterator[Batch] | Source) -> list[list[float]]:
    """The rows of each batch, by number."""
    return [batch.y["spend"].tolist() for batch in batches]


def flat(batches: Iterator[Batch] | Source) -> list[float]:
    return [row for batch in rows(batches) for row in batch]


def assert_equal(one: Batch, other: Batch) -> None:
    for part, expected in zip(one, other, strict=True):
        assert part.keys() == expected.keys()
        for key in part:
            torch.testing.assert_close(part[key], expected[key], rtol=0, atol=0, equal_nan=True)


# The same rows as in memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows_per_shard", [7, 40, 1000])
def test_unshuffled_the_batches_are_those_of_the_table(
    tmp_path: Path, dtype: torch.dtype, rows_per_shard: int
) -> None:
    torch.set_default_dtype(dtype)
    features = new_features().fit(TABLE)
    shards.write(tmp_path / "train", TABLE, features, TASKS, rows_per_shard)
    memory = Batches(features.transform(TABLE), *targets(TASKS, TABLE), batch_size=8, shuffle=False)
    stream = Shards(tmp_path / "train", batch_size=8, shuffle=False, window_rows=24)
    assert len(stream) == len(memory) and stream.n_rows == memory.n_rows == N
    assert stream.names == memory.names == ["spend", "bought", "stars"]
    found = 0
    for one, other in zip(stream, memory, strict=True):
        assert_equal(one, other)
        assert one.x["numeric"].dtype == dtype and one.x["categorical"].dtype == torch.int64
        found += 1
    assert found == len(stream)
    whole = Batches(features.transform(TABLE), *targets(TASKS, TABLE), batch_size=24, shuffle=False)
    assert_equal(stream.sample(), next(iter(whole)))


def test_it_is_a_source_and_reads_another_default_dtype(folder: Path) -> None:
    source: Source = Shards(folder)
    torch.set_default_dtype(torch.float32)
    batch = source.sample()
    assert batch.x["numeric"].dtype == batch.y["spend"].dtype == batch.w["spend"].dtype == torch.float32


@quick
@given(cuts=st.lists(st.integers(0, N), max_size=6), size=st.integers(1, 50))
def test_shards_do_not_depend_on_how_the_table_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], size: int
) -> None:
    place = tmp_path_factory.mktemp("cut")
    edges = [0, *sorted(cuts), N]
    pieces = [TABLE.iloc[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    features = new_features().fit(TABLE)
    shards.write(place / "whole", TABLE, features, TASKS, size)
    shards.write(place / "parts", iter(pieces), features, TASKS, size)
    assert {p.name: p.read_bytes() for p in (place / "whole").iterdir()} == {
        p.name: p.read_bytes() for p in (place / "parts").iterdir()
    }
    counts = json.loads((place / "whole" / "shards.json").read_text())["rows"].values()
    assert sum(counts) == N and set([*counts][:-1]) <= {size}


def test_fit_gives_the_weights_of_training_in_memory(folder: Path) -> None:
    features = Features.load(folder / "features.json")
    weights = []
    memory = Batches(features.transform(TABLE), *targets(TASKS, TABLE), batch_size=8, shuffle=False)
    for batches in (memory, Shards(folder, 8, shuffle=False, window_rows=24)):
        torch.manual_seed(0)
        model = SharedEncoder(TabularEncoder(features.sizes), TASKS)
        history = fit(model, TASKS, batches, validation=batches, epochs=2)
        weights.append([*model.state_dict().values(), torch.from_numpy(history.to_numpy())])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


# Order


@quick
@given(batch=st.integers(1, 12), windows=st.integers(1, 12), seed=st.integers(-5, 2**40))
def test_an_epoch_is_a_permutation_in_windows_and_rows_stay_together(
    folder: Path, batch: int, windows: int, seed: int
) -> None:
    torch.set_default_dtype(torch.float64)
    stream = Shards(folder, batch, seed=seed, window_rows=batch * windows)
    price = new_features().fit_transform(TABLE)["numeric"]
    seen = list(stream)
    assert len(seen) == len(stream) and {len(b.y["spend"]) for b in seen[:-1]} <= {batch}
    order = [int(row) for b in seen for row in b.y["spend"].tolist()]
    assert sorted(order) == list(range(N))
    torch.testing.assert_close(torch.cat([b.x["numeric"] for b in seen]), price[order])
    assert torch.equal(torch.cat([b.w["spend"] for b in seen]), torch.tensor(order) + 1.0)
    # the stream visits the row groups whole, one after the other, and a window mixes its own rows only
    group = np.asarray(order) // 10
    for start in range(0, N, batch * windows):
        assert len(set(group[start : start + batch * windows])) <= 3 + batch * windows // 10
    assert stream.epoch == 1 and stream.offset == 0


def test_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    options: dict[str, Any] = {"batch_size": 8, "window_rows": 24}
    one, two = Shards(folder, seed=3, **options), Shards(folder, seed=3, **options)
    first, second = flat(one), flat(one)
    two.sample()
    assert first == flat(two) and first != second
    assert first != flat(Shards(folder, seed=4, **options))
    two.load_state_dict(two.state_dict() | {"epoch": 0})
    assert flat(two) == first
    firsts = [next(iter(Shards(folder, 3, seed=seed, window_rows=3))) for seed in range(60)]
    starts = {int(batch.y["spend"][0]) // 10 for batch in firsts}
    assert len(starts) > 8  # any of the eleven row groups may come first


@quick
@given(batch=st.integers(1, 12), windows=st.integers(1, 5), shuffle=st.booleans(), stop=st.floats(0, 1))
def test_a_saved_position_continues_with_the_next_batch(
    folder: Path, batch: int, windows: int, shuffle: bool, stop: float
) -> None:
    def new(seed: int) -> Shards:
        return Shards(folder, batch, shuffle, seed, batch * windows)

    def stream(batches: Shards) -> Iterator[list[float]]:
        while batches.epoch < 2:
            yield from rows(batches)

    def walk(batches: Shards) -> Iterator[list[float]]:
        while batches.epoch < 2:
            for one in batches:
                yield one.y["spend"].tolist()

    whole = list(stream(new(1)))
    cut, resumed = new(1), new(99)
    going = walk(cut)
    head = [next(going) for _ in range(int(stop * (len(whole) - 1)))]
    state = json.loads(json.dumps(cut.state_dict()))
    resumed.load_state_dict(state)
    assert head + list(walk(resumed)) == whole
    assert state.keys() == {"seed", "epoch", "offset", "n_rows", "window_rows"}


def test_resuming_reads_one_window_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def counted(path: Path, group: int) -> parquet.Arrays:
        decoded.append((path.name, group))
        return parquet.read_group(path, group)

    monkeypatch.setattr(shards, "read_group", counted)
    late = Shards(folder, 5, window_rows=20)
    late.load_state_dict(late.state_dict() | {"offset": 85})
    next(iter(late))
    assert len(decoded) <= 4  # twenty rows lie in at most four groups, two of which are the ends of shards
    decoded.clear()
    assert len(flat(Shards(folder, 5, window_rows=15))) == N
    assert len(decoded) == len(set(decoded)) == 11  # a group that two windows share is decoded once


@quick
@given(batch=st.integers(1, 12), ranks=st.integers(1, 5), dtype=st.sampled_from(["float32", "float64"]))
def test_the_parts_of_all_ranks_make_up_the_batch(folder: Path, batch: int, ranks: int, dtype: str) -> None:
    torch.set_default_dtype(getattr(torch, dtype))
    whole = rows(Shards(folder, batch, seed=5, window_rows=2 * batch))
    parts = [
        rows(Shards(folder, batch, seed=5, window_rows=2 * batch, part=(r, ranks))) for r in range(ranks)
    ]
    assert all(len(part) == len(whole) for part in parts)  # as many steps on every rank, empty ones too
    for number, expected in enumerate(whole):
        found = [0.0] * len(expected)
        for rank in range(ranks):
            found[rank::ranks] = parts[rank][number]
        assert found == expected


def test_moving_and_in_order_leave_the_position_alone(folder: Path) -> None:
    stream = Shards(folder, 8, window_rows=24)
    walk = iter(stream)
    next(walk)
    moved = stream.to("cpu")
    assert moved.state_dict() == stream.state_dict()
    assert flat(stream.in_order()) == list(range(N))
    assert next(iter(moved)).y["spend"].tolist() == next(walk).y["spend"].tolist()
    assert stream.offset == 16


def test_moving_moves_the_batches(folder: Path) -> None:
    batch = Shards(folder).to("meta").sample()
    assert {t.device.type for part in batch for t in part.values()} == {"meta"}


# Raw tables


def test_raw_tables_in_parts(tmp_path: Path) -> None:
    TABLE.iloc[:60].to_parquet(tmp_path / "a.parquet", row_group_size=25)
    TABLE.iloc[60:].to_parquet(tmp_path / "b.parquet")
    parts = list(shards.tables(tmp_path, rows=20))
    assert max(map(len, parts)) == 20
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), TABLE)
    only = pd.concat(shards.tables(str(tmp_path / "b.parquet"), ["stars", "item"]))
    assert only.to_dict("list")["stars"] == TABLE["stars"].tolist()[60:] and only.shape == (43, 2)
    streamed = new_features().fit(shards.tables(tmp_path, rows=20))
    whole = new_features().fit(TABLE)
    assert streamed.sizes == whole.sizes
    torch.testing.assert_close(streamed.transform(TABLE), whole.transform(TABLE))


@pytest.mark.parametrize(
    ("columns", "spoil", "error", "message"),
    [
        (["colour"], lambda p: None, KeyError, "a.parquet has no column 'colour'; it has .'item'"),
        (
            None,
            lambda p: p.write_bytes(b"id,price\n1,2\n"),
            ValueError,
            "a.parquet is damaged or no Parquet file",
        ),
        (None, lambda p: p.write_bytes(b""), ValueError, "a.parquet is damaged or no Parquet file"),
        (
            None,
            lambda p: p.write_bytes(p.read_bytes()[:-9]),
            ValueError,
            "a.parquet is damaged or no Parquet",
        ),
        (None, lambda p: p.unlink(), FileNotFoundError, "holds no .parquet file: give the folder"),
    ],
)
def test_raw_tables_that_cannot_be_read(
    tmp_path: Path, columns: list[str] | None, spoil: Callable[[Path], None], error: type, message: str
) -> None:
    TABLE.to_parquet(tmp_path / "a.parquet")
    spoil(tmp_path / "a.parquet")
    with pytest.raises(error, match=message) as caught:
        list(shards.tables(tmp_path, columns))
    assert "\n" not in str(caught.value)


def test_a_raw_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.parquet is missing"):
        list(shards.tables(tmp_path / "none.parquet"))


# Nothing half-written


def fail_late() -> Iterator[pd.DataFrame]:
    yield TABLE
    yield TABLE.assign(price="twelve")


def test_a_failed_write_leaves_the_old_shards(copied: Path) -> None:
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    with pytest.raises(ValueError, match="column 'price' holds 'twelve'"):
        shards.write(copied, fail_late(), new_features().fit(TABLE), TASKS, 40)
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before
    assert [p.name for p in copied.parent.iterdir()] == ["train"]
    with pytest.raises(ValueError, match="column 'price' holds 'twelve'"):
        shards.write(copied.parent / "new", fail_late(), new_features().fit(TABLE), TASKS, 40)
    assert [p.name for p in copied.parent.iterdir()] == ["train"]


def test_new_shards_replace_old_ones(copied: Path) -> None:
    shards.write(copied, TABLE.iloc[:30], new_features().fit(TABLE), TASKS)
    assert sorted(p.name for p in copied.iterdir()) == ["features.json", "part-00000.parquet", "shards.json"]
    assert flat(Shards(copied, shuffle=False)) == list(range(30))
    assert Features.load(copied / "features.json").sizes == new_features().fit(TABLE).sizes
    assert [p.name for p in copied.parent.iterdir()] == ["train"]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda p, f: shards.write(p / "new", TABLE.iloc[:0], f, TASKS), ValueError, "no rows to write"),
        (lambda p, f: shards.write(p / "new", [], f, TASKS), ValueError, "no rows to write"),
        (lambda p, f: shards.write(p / "new", [{"item": 1}], f, TASKS), TypeError, "DataFrames, found dict"),
        (lambda p, f: shards.write(p / "new", TABLE, f, TASKS, 0), ValueError, "rows_per_shard must be at"),
        (lambda p, f: shards.write(p, TABLE, f, TASKS), FileExistsError, "exists and holds no shards"),
        (
            lambda p, f: shards.write(p / "new", TABLE, new_features(), TASKS),
            RuntimeError,
            "call fit or load",
        ),
        (lambda p, f: shards.write(p / "new", TABLE.drop(columns="stars"), f, TASKS), KeyError, "'stars'"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, use: Callable[[Path, Features], None], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        use(tmp_path, new_features().fit(TABLE))
    assert not list(tmp_path.iterdir())


# One clear sentence for each broken folder


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def foreign(folder: Path, **changes: Any) -> None:
    """Put a shard of other features or tasks in the place of the second one."""
    table = TABLE.iloc[40:80]
    features = changes.get("features", new_features().fit(TABLE))
    shards.write(folder.parent / "other", table, features, changes.get("tasks", TASKS))
    shutil.copy(folder.parent / "other" / "part-00000.parquet", folder / "part-00001.parquet")


def spoil_list(folder: Path, **changes: Any) -> None:
    path = folder / "shards.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda p: (p / "shards.json").unlink(),
            FileNotFoundError,
            r"holds no shards \(shards.json is missing",
        ),
        (lambda p: shutil.rmtree(p), FileNotFoundError, "holds no shards"),
        (lambda p: (p / "shards.json").write_text('{"format": '), ValueError, "shards.json is damaged"),
        (lambda p: (p / "shards.json").write_text("[" * 100_000), ValueError, "shards.json is damaged"),
        (lambda p: (p / "shards.json").write_bytes(b"\xff"), ValueError, "shards.json is damaged"),
        (lambda p: (p / "shards.json").write_text("[1]"), ValueError, "shards.json is damaged"),
        (lambda p: spoil_list(p, rows={}), ValueError, "shards.json is damaged .it does not list shards"),
        (lambda p: spoil_list(p, rows={"../a": 1}), ValueError, "it does not list shards"),
        (lambda p: spoil_list(p, rows={"a": "many"}), ValueError, "shards.json is damaged"),
        (lambda p: spoil_list(p, format="a"), ValueError, "has format 'a' instead of 'mtl_ref shards'"),
        (lambda p: spoil_list(p, version=2), ValueError, "has version 2 instead of 1"),
        (lambda p: (p / "part-00001.parquet").unlink(), FileNotFoundError, "part-00001.parquet is missing"),
        (lambda p: (p / "part-00002.parquet").rename(p / "b.parquet"), ValueError, "b.parquet is not listed"),
        (lambda p: (p / "part-00001.parquet").write_bytes(b"PAR1"), ValueError, "part-00001.*is damaged"),
        (lambda p: TABLE.to_parquet(p / "part-00001.parquet"), ValueError, "part-00001.*has format None"),
        (
            lambda p: shutil.copy(p / "part-00002.parquet", p / "part-00001.parquet"),
            ValueError,
            "part-00001.parquet has rows 23 instead of 40",
        ),
        (
            lambda p: rewritten(p / "part-00001.parquet", lambda t: t.drop_columns("w.spend")),
            ValueError,
            "part-00001.parquet has columns .* instead of .*'w.spend'",
        ),
        (
            lambda p: rewritten(
                p / "part-00001.parquet", lambda t: t.set_column(2, "y.spend", t["y.spend"].cast("float32"))
            ),
            ValueError,
            "part-00001.parquet has columns",
        ),
        (
            lambda p: rewritten(
                p / "part-00001.parquet", lambda t: t.replace_schema_metadata({"mtl_ref": "["})
            ),
            ValueError,
            "part-00001.parquet has format None",
        ),
        (
            lambda p: foreign(p, features=new_features().fit(TABLE.iloc[:50])),
            ValueError,
            "part-00001.parquet has features '[0-9a-f]*' instead of '[0-9a-f]*'",
        ),
        (lambda p: foreign(p, tasks=TASKS[:2]), ValueError, "part-00001.parquet has tasks {'spend'"),
        (
            lambda p: foreign(p, tasks=[*TASKS[:2], Ordinal("stars", levels=(0, 1, 2, 3, 4, 5))]),
            ValueError,
            "has tasks .*'Ordinal stars 0 1 2 3 4 5'.* instead of .*'Ordinal stars 1 2 3 4 5'",
        ),
    ],
)
def test_broken_folders(
    copied: Path, spoil: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    spoil(copied)
    with pytest.raises(error, match=message) as caught:
        Shards(copied)
    assert str(copied) in str(caught.value) and "\n" not in str(caught.value)


def test_flipped_and_missing_bytes_are_found(copied: Path) -> None:
    path = copied / "part-00001.parquet"
    whole = path.read_bytes()
    wrong = 0
    for place in range(4, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            found = flat(Shards(copied, shuffle=False))
        except ValueError as error:
            assert "part-00001.parquet" in str(error) and "\n" not in str(error)
            wrong += 1
        else:  # a byte of the file's end that carries no meaning
            assert found == list(range(N))
    assert wrong > 10
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place])
        with pytest.raises(ValueError, match="part-00001.parquet is damaged"):
            Shards(copied)


def test_a_shard_that_disappears_while_training(copied: Path) -> None:
    stream = Shards(copied, 8, shuffle=False, window_rows=8)
    walk = iter(stream)
    next(walk)
    (copied / "part-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="part-00002.parquet is missing"):
        flat(walk)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"window_rows \(65536\) must be a multiple of batch_size \(0\)"),
        ({"batch_size": 100}, r"window_rows \(65536\) must be a multiple of batch_size \(100\)"),
        ({"window_rows": 0}, "must be a multiple"),
        ({"part": (2, 2)}, r"part must be a rank below the number of ranks, found \(2, 2\)"),
        ({"expect": (new_features().fit(TABLE.iloc[:50]), TASKS)}, "shards.json has features"),
        ({"expect": (new_features().fit(TABLE), [Binary("bought")])}, "shards.json has tasks"),
    ],
)
def test_mistakes_in_the_settings(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shards(folder, **options)


def test_what_was_expected_is_there(folder: Path) -> None:
    fitted = [task.fit(TABLE) for task in TASKS]  # what fit learns does not change the targets
    assert Shards(folder, expect=(new_features().fit(TABLE), fitted)).n_rows == N


@pytest.mark.parametrize("change", [{"n_rows": 7}, {"window_rows": 32}])
def test_a_position_of_other_rows(folder: Path, change: dict[str, int]) -> None:
    stream = Shards(folder)
    with pytest.raises(ValueError, match="the position is of .* rows in windows of .*, not of 103 rows"):
        stream.load_state_dict(stream.state_dict() | change)
    with pytest.raises(ValueError, match="in windows of None"):
        stream.load_state_dict({"seed": 0, "epoch": 0, "offset": 0, "n_rows": N})
