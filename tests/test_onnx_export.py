"""The graph predicts what the model predicts, for any rows; a row as a dictionary is read as in a table."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtl_ref import onnx_export, serving
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.onnx_export import Session, export
from mtl_ref.rows import RowReader
from mtl_ref.tasks import Binary, Count, Multiclass, Ordinal, Regression

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

COLUMNS = {"categorical": ["item", "shop"], "numeric": ["age", "spent"], "text": ["title", "note"]}


def table(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "item": rng.choice(["scarf", "coat", "tin"], n),
            "shop": rng.integers(0, 9, n),
            "age": rng.normal(40, 9, n),
            "spent": rng.gamma(0.5, 100, n),
            "title": rng.choice(["a warm red scarf", "tea tin", ""], n),
            "note": rng.choice(["too small", "it's lovely", ""], n),
            "price": rng.gamma(2, 33.3, n),
            "bought": rng.integers(0, 2, n),
            "stars": rng.integers(1, 6, n),
            "kept": rng.integers(0, 2, n),
            "kind": rng.choice(["x", "y", "z"], n),
            "visits": rng.poisson(1, n),
        }
    )
    rows.loc[rows.index % 7 == 3, "age"] = np.nan
    return rows


def made(columns=COLUMNS, only: str = ""):
    """A model of every kind of task, with weights large enough to tell rows apart, features and tasks."""
    torch.manual_seed(0)
    rows = table()
    features = Features(**columns, text_length=6, log=[c for c in columns.get("numeric", []) if c == "spent"])
    features.fit(rows)
    tasks = [
        Regression("price").fit(rows),
        Regression("spread", column="price", variance=True).fit(rows),
        Binary("bought").fit(rows),
        Ordinal("stars").fit(rows),
        Ordinal("kept", levels=(0, 1)).fit(rows),
        Multiclass("kind", classes=("x", "y", "z")).fit(rows),
        Count("visits").fit(rows),
        Count("never", column="visits", zero_inflated=True).fit(rows),
    ]
    tasks = [task for task in tasks if only in ("", task.name)]

    def encoder() -> TabularEncoder:
        return TabularEncoder(features.sizes, 4, (8,))

    model = SharedEncoder(encoder(), tasks) if len(tasks) > 1 else SingleTask(encoder, tasks)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return model.eval(), features, tasks


def bundle_at(folder, *arguments, dtype=torch.float64, **keywords):
    torch.set_default_dtype(dtype)
    serving.save(folder, *made(*arguments, **keywords))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A bundle with its graph, in both float types."""
    before = torch.get_default_dtype()
    folders = {}
    for dtype in (torch.float32, torch.float64):
        folders[dtype] = bundle_at(tmp_path_factory.mktemp("shop") / "bundle", dtype=dtype)
        export(folders[dtype])
    torch.set_default_dtype(before)
    return folders


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Equal columns: to 1e-6, prices to 1e-6 of the mean price, which is added to each."""
    assert list(found) == list(expected) and found.index.equals(expected.index)
    assert (found.dtypes == expected.dtypes).all()
    for column in expected:
        scale = {"price": 67, "spread_mean": 67, "spread_variance": 67**2}.get(column, 1)
        assert np.allclose(found[column], expected[column], rtol=1e-6, atol=1e-6 * scale), column


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_notebook_and_session_predict_the_same(exported, dtype, rows) -> None:
    new = table(rows, seed=rows)
    new.loc[new.index % 5 == 0, ["item", "title", "note"]] = ["never seen", "", None]
    new.loc[new.index % 9 == 4, ["shop", "spent"]] = np.nan
    torch.set_default_dtype(torch.float32)  # the reader's default must not matter
    bundle, session = serving.load(exported[dtype]), Session(exported[dtype])
    expected = bundle.predict(new)
    assert_same(session.predict(new), expected)
    assert_same(pd.DataFrame(session.score(new.to_dict("records")), new.index), expected)
    assert expected["bought"].nunique() > min(rows, 10) / 2
    if dtype == torch.float64:
        assert np.allclose(session.predict(new), expected, rtol=1e-9, atol=1e-12)


def test_no_rows_give_all_columns(exported) -> None:
    session = Session(exported[torch.float64])
    bundle = serving.load(exported[torch.float64])
    assert_same(session.predict(table()[:0]), bundle.predict(table()[:0]))
    assert all(values.shape == (0,) for values in session.score([]).values())


def test_a_long_table_is_scored_in_parts(exported) -> None:
    session, new = Session(exported[torch.float64]), table(100)
    pd.testing.assert_frame_equal(session.predict(new, batch_size=7), session.predict(new), rtol=1e-12)


def test_other_text_lengths_give_what_the_model_gives(exported) -> None:
    session, bundle = Session(exported[torch.float64]), serving.load(exported[torch.float64])
    x = session.encode(table(5).to_dict("records"))
    for length in (1, 2, 4, 40):
        text = np.zeros((5, length), np.int64)
        text[:, : min(length, 6)] = x["text"][:, :length]
        expected = bundle.model({k: torch.from_numpy(v) for k, v in (x | {"text": text}).items()})
        found = session.run(x | {"text": text})["bought"]
        assert np.allclose(found, torch.sigmoid(expected["bought"]).detach(), rtol=0, atol=1e-12)


def test_the_graph_has_free_sizes_and_neither_loops_nor_branches(exported) -> None:
    import onnx

    graph = onnx.load(exported[torch.float64] / "model.onnx").graph
    shapes = {node.name: node.type.tensor_type.shape.dim for node in graph.input}
    assert all(dims[0].dim_param for dims in shapes.values()) and shapes["text"][1].dim_param
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in graph.node}


def test_export_says_nothing_and_writes_one_file(tmp_path, capfd, recwarn) -> None:
    torch.set_default_dtype(torch.float64)
    _, features, tasks = made(columns={"categorical": ["item"]})
    alike = [task for task in tasks if task.width == 1]  # their heads are computed together
    model = SharedEncoder(TabularEncoder(features.sizes, 4, (8,)), alike)
    serving.save(tmp_path / "b", model, features, alike)
    assert export(tmp_path / "b") == tmp_path / "b" / "model.onnx"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "") and not recwarn.list
    files = {"config.json", "features.json", "model.onnx", "weights.pt"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == files
    assert_same(Session(tmp_path / "b").predict(table(9)), serving.load(tmp_path / "b").predict(table(9)))


class Own(nn.Module):
    """A taker's own model, which may do what a graph cannot."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.weight = way, nn.Parameter(torch.ones(3))

    def forward(self, x):
        z = x["numeric"] @ self.weight[:, None]
        if self.way == "reads":
            z = z + 1.0 if (z > 0).all() else z
        elif self.way == "loops":
            z = torch.cond((z > 0).all(), lambda z: z + 1.0, lambda z: z - 1.0, (z,))
        elif self.way == "forgets" and torch.compiler.is_compiling():
            z = z + 1e-3
        return {"bought": z[:, 0], "extra": torch.cat([z, z], 1)}


def test_a_model_of_ones_own_keeps_its_extra_outputs(tmp_path) -> None:
    torch.set_default_dtype(torch.float32)
    _, features, tasks = made(columns={"numeric": ["age", "spent"]}, only="bought")
    serving.save(tmp_path / "b", Own("plain"), features, tasks)
    export(tmp_path / "b", Own("plain"))
    found = Session(tmp_path / "b").predict(table(5))
    assert_same(found, serving.load(tmp_path / "b", Own("plain")).predict(table(5)))
    assert list(found) == ["bought", "extra_0", "extra_1"]


@pytest.mark.parametrize(
    "way,dtype,message",
    [
        ("reads", torch.float32, "Own cannot be exported to ONNX"),
        ("loops", torch.float32, "its graph needs If"),
        (
            "forgets",
            torch.float32,
            "predicts another 'bought' than the model on 1000 rows: nothing was written",
        ),
    ],
)
def test_what_a_graph_cannot_hold_is_refused_and_nothing_written(tmp_path, way, dtype, message) -> None:
    torch.set_default_dtype(dtype)
    _, features, tasks = made(columns={"numeric": ["age", "spent"]}, only="bought")
    serving.save(tmp_path / "b", Own(way), features, tasks)
    with pytest.raises(ValueError, match=message) as caught:
        export(tmp_path / "b", Own(way))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b" / "model.onnx").exists() and len(list((tmp_path / "b").iterdir())) == 3


def test_weights_too_large_for_one_file_are_refused(exported, monkeypatch) -> None:
    monkeypatch.setattr(onnx_export, "_LARGEST", 1000)
    with pytest.raises(ValueError, match="GB of weights"):
        export(exported[torch.float32])


@pytest.mark.parametrize(
    "damage,error,message",
    [
        (lambda f: (f / "model.onnx").unlink(), FileNotFoundError, "holds no model.onnx: write it with"),
        (lambda f: (f / "weights.pt").unlink(), FileNotFoundError, "weights.pt is missing"),
        (lambda f: (f / "weights.pt").write_bytes(b"other"), ValueError, "made from other files"),
        (
            lambda f: (f / "model.onnx").write_bytes(b"PK rubbish"),
            ValueError,
            "onnxruntime cannot run the graph",
        ),
        (lambda f: (f / "features.json").write_text("{"), ValueError, "is no JSON file or was cut short"),
    ],
)
def test_a_session_refuses_a_folder_that_is_not_of_one_piece(
    exported, tmp_path, damage, error, message
) -> None:
    folder = shutil.copytree(exported[torch.float32], tmp_path / "copy")
    damage(folder)
    with pytest.raises(error, match=message):
        Session(folder)


def test_saving_new_weights_takes_the_old_graph_away(exported, tmp_path) -> None:
    folder = shutil.copytree(exported[torch.float64], tmp_path / "copy")
    bundle = serving.load(folder)
    serving.save(folder, bundle.model, bundle.features, bundle.tasks)
    with pytest.raises(FileNotFoundError, match="holds no model.onnx"):
        Session(folder)
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        export(tmp_path)


# --- Rows as dictionaries ---------------------------------------------------------------------------------


def reader(tmp_path, dtype) -> tuple[Features, RowReader]:
    torch.set_default_dtype(dtype)
    _, features, _ = made(only="bought")
    features.save(tmp_path / "features.json")
    return features, RowReader(tmp_path / "features.json", str(dtype).removeprefix("torch."))


ids = st.one_of(
    st.sampled_from(["scarf", "coat", "", "é", "1", "1.0"]),
    st.integers(-3, 10),
    st.floats(-3, 10),
    st.booleans(),
    st.none(),
    st.just(math.nan),
)
values = st.one_of(st.floats(-1e6, 1e6), st.integers(-(10**15), 10**15), st.booleans(), st.none())
words = st.one_of(
    st.none(), st.text(max_size=12), st.sampled_from(["a warm red scarf", "it\u2019s lovely tea"])
)
row = st.fixed_dictionaries(
    {"item": ids, "shop": ids, "age": values, "spent": values, "title": words, "note": words}
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    before = torch.get_default_dtype()
    pairs = {
        dtype: reader(tmp_path_factory.mktemp("rows"), dtype) for dtype in (torch.float32, torch.float64)
    }
    torch.set_default_dtype(before)
    return pairs


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=4), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_row_is_read_as_in_a_table_bit_for_bit(readers, rows, dtype) -> None:
    features, fast = readers[dtype]
    frame = pd.DataFrame({name: pd.Series([r[name] for r in rows], dtype=object) for name in rows[0]})
    with serving.default_dtype(dtype):
        expected = features.transform(frame)
    found = fast.read(rows)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.numpy().dtype and np.array_equal(found[name], tensor.numpy()), name


def test_values_of_numpy_and_pandas_are_read_too(readers) -> None:
    features, fast = readers[torch.float64]
    plain = dict(item="1", shop=3, age=40.0, spent=1, title="tea", note=None)
    strange = dict(
        item=np.bool_(True), shop=np.float32(3), age=np.float32(40), spent=np.int8(1), title=np.str_("tea")
    )
    found = fast.read([strange | {"note": pd.NA}, plain])
    assert all((values[0] == values[1]).all() for values in found.values())


@pytest.mark.parametrize(
    "change,error",
    [
        ({"item": 2.0**53}, ValueError),
        ({"item": ("a",)}, TypeError),
        ({"item": 1j}, TypeError),
        ({"age": "forty"}, ValueError),
        ({"age": math.inf}, ValueError),
        ({"age": 10**400}, ValueError),
        ({"age": 1e300}, ValueError),
        ({"title": 5}, TypeError),
    ],
)
def test_what_a_table_refuses_a_row_refuses_by_column(readers, change, error) -> None:
    good = dict(item="1", shop=3, age=40.0, spent=1, title="tea", note="")
    with pytest.raises(error, match=f"column '{next(iter(change))}' holds"):
        readers[torch.float32][1].read([good, good | change])


def test_a_missing_column_is_named_with_its_row(readers) -> None:
    good = dict(item="1", shop=3, age=40.0, spent=1, title="tea", note="")
    for column in good:
        short = {key: value for key, value in good.items() if key != column}
        with pytest.raises(KeyError, match=f"row 1 lacks column '{column}'"):
            readers[torch.float64][1].read([good, short, good])


def test_the_graph_is_named_after_its_bundle(exported) -> None:
    first, second = (Session(folder).version for folder in exported.values())
    assert first != second and len(first) == 12
    assert json.loads((exported[torch.float32] / "config.json").read_text())["dtype"] == "float32"
