"""Bad input is refused with one sentence, or does what the table says; nothing is left changed.

The table of cases is ``bad_input_cases``; the appendix page is made from it by ``tools/make_errors_page.py``.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))  # the table stands beside the tests

import bad_input_cases as table

ROOT = Path(__file__).parents[1]

# What a sentence ends with: an instruction. The first word after its last colon.
IMPERATIVES = """
add apply ask build call change check choose clip compare compute connect convert correct count
cut define delete drop encode evaluate export give keep leave list look make measure name number pass predict
put read recode remove rename return round run save score send shift square squeeze start take train
transform turn unset update use wait write
""".split()

LONGEST = 300  # characters, addresses and checksums not counted


def short(sentence: str) -> str:
    """The sentence without what nobody reads: addresses, checksums, and Python's own words in brackets."""
    return re.sub(r"https?://\S+|\b[0-9a-f]{64}\b", "...", sentence)


def instruction(sentence: str) -> str:
    """The first word after the last colon."""
    return sentence.rpartition(": ")[2].split()[0].strip(",;.").lower()


def check_sentence(sentence: str) -> None:
    """One sentence, with a full stop, that ends with what to do."""
    assert "\n" not in sentence and len(short(sentence)) <= LONGEST
    assert sentence.endswith(".") and not sentence.endswith("..")
    assert not re.search(r"[a-z)]\. [A-Z]", sentence), "more than one sentence"
    assert instruction(sentence) in IMPERATIVES, f"no instruction at the end: {sentence}"


@pytest.mark.parametrize("case", [case for case in table.CASES if case.error], ids=str)
def test_bad_input_is_refused_with_one_sentence_and_changes_nothing(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with table.scene(tmp_path / "scene") as names:
        exec(case.before, names)
        before = table.state(names)
        _, error = table.run(case, names)
        assert error is not None, "it was accepted"
        sentence = table.sentence(error, names["folder"])
        assert type(error).__name__ == case.error, f"{type(error).__name__}: {sentence}"
        for part in case.says:
            assert part in sentence
        check_sentence(sentence)
        assert table.state(names) == before or not case.keeps
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("case", [case for case in table.CASES if not case.error], ids=str)
def test_what_is_accepted_does_what_the_page_says(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with table.scene(tmp_path / "scene") as names:
        exec(case.before, names)
        result, error = table.run(case, names)
        assert error is None and case.then
        assert eval(case.check, names | {"result": result})


def test_the_table_covers_what_it_must() -> None:
    steps = Counter(case.step for case in table.CASES)
    assert len(table.CASES) >= 40 and all(count >= 3 for count in steps.values())
    assert len({case.what for case in table.CASES}) == len(table.CASES)
    assert max(len(case.code) for case in table.CASES) <= 100


def test_the_page_is_fresh() -> None:
    specification = importlib.util.spec_from_file_location("page", ROOT / "tools" / "make_errors_page.py")
    page = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(page)
    assert page.PAGE.read_text("utf-8") == page.text(), "stale: run python tools/make_errors_page.py"


# Any valid call, spoiled in any way

SPOILED_NUMBERS = [-1, 0, 1.5, float("nan"), float("inf"), "3", None, True, [1]]
SPOILED_ENTRIES = [
    np.nan,
    np.inf,
    -np.inf,
    None,
    "three",
    -7,
    1e300,
    [1],
    10**400,
    pd.Timestamp("2026-01-01"),
]
TYPES = ["object", "str", "float32", "complex128", "datetime64[ns]", "category", "bool", "Int64"]
ARRAYS = ["list", "tuple", "tensor", "leaf", "series", "object", "str", "complex", "float32", "bool", "set"]
SHAPES = [(-1, 1), (1, -1), (0,), (), (-1, 2)]

# Arguments that are spoiled.
REPLACED = """
table x y labels labels_too chances weights groups five count one level fractions square items days shown
output target better control drawn runs history curve
""".split()

# By name: what is called, and its arguments as the scene names them.
CALLS = {
    "Features.fit": "Features(['item'], ['price'], ['title'], log=['price']).fit(table)",
    "Features.transform": "features.transform(table)",
    "targets": "targets([Binary('click', weight='price'), Ordinal('stars'), Count('s', 'stars')], table)",
    "Regression.fit": "Regression('price').fit(table)",
    "Multiclass.fit": "Multiclass('item', classes=['red scarf', 'tea tin', 'wool coat']).fit(table)",
    "serving.Bundle.predict": "bundle.predict(table)",
    "serving.Bundle.rank": "bundle.rank(table, value={'click': 'price'}, groups='item')",
    "shards.write": "shards.write(folder / 'new', table, features, tasks)",
    "split by groups": "split(table, fractions, groups='item')",
    "split by time": "split(table, fractions, time='price')",
    "cross_validate": "cross_validate(lambda train, test, fold: {'rows': 1}, table, 3, groups='title')",
    "leakage_probe": "leakage_probe(table, ['price', 'item'], 'click', folds=3)",
    "World.truth": "world.truth(shown)",
    "World.prices": "world.prices(items, days)",
    "plackett_luce": "plackett_luce(square)",
    "relative_gains": "relative_gains(better, control)",
    "evaluate": "evaluate(tasks[:1], {'click': labels}, {'click': chances}, {'click': weights})",
    "evaluate levels": "evaluate(tasks[1:], {'stars': labels}, {'stars': five})",
    "accuracy": "accuracy(labels, chances, weights, level)",
    "accuracy of classes": "accuracy(labels, five)",
    "precision": "precision(labels, chances, weights, level)",
    "recall": "recall(labels, chances, weights, level)",
    "f1": "f1(labels, chances, weights, level)",
    "auc": "auc(labels, chances, weights)",
    "grouped_auc": "grouped_auc(labels, chances, groups, weights)",
    "log_loss": "log_loss(labels, chances, weights)",
    "log_loss of classes": "log_loss(labels, five)",
    "brier": "brier(labels, chances, weights)",
    "calibration_curve": "calibration_curve(labels, chances, weights, count, level)",
    "calibration_error": "calibration_error(labels, chances, weights, count)",
    "rmse": "rmse(labels, chances, weights)",
    "mae": "mae(labels, chances, weights)",
    "poisson_deviance": "poisson_deviance(labels, chances, weights)",
    "quadratic_weighted_kappa": "quadratic_weighted_kappa(labels, labels_too, weights)",
    "ndcg_at_k": "ndcg_at_k(labels, chances, groups, count)",
    "recall_at_k": "recall_at_k(labels, chances, groups, count)",
    "bootstrap_interval": "bootstrap_interval(mae, labels, chances, clusters=groups, repeats=9, level=level)",
    "replicate_interval": "replicate_interval(chances, level)",
    "paired_difference": "paired_difference(chances, weights, level)",
    "Task.loss": "tasks[0].loss({'click': output}, target, target)",
    "Task.check": "tasks[1].check(target)",
    "Batches": "[batch.x for batch in Batches(x, y, batch_size=count)]",
    "predict": "predict(model, tasks, x)",
    "fit": "fit(model, tasks, (x, y), epochs=1, progress=False)",
    "fit settings": "fit(model, tasks, (x, y), epochs=count, batch_size=count, clip=level, progress=False)",
    "FixedWeights": "FixedWeights({'click': count, 'stars': level})",
    "TabularEncoder": "TabularEncoder({'categorical': [count], 'numeric': count}, count, (count,), level)",
    "Dials": "Dials(noise=count, return_rate=level)",
    "learning_curves": "learning_curves(history)",
    "intervals": "intervals(drawn)",
    "replicates": "replicates(runs)",
    "calibration": "calibration({'click': curve})",
    "marginals": "marginals({'price': chances})",
    "setup": "setup(seed=count, threads=one)",
}


class Names(dict):
    """A dictionary that a failing test does not print."""

    def __repr__(self) -> str:
        return "valid"


def arguments(names: dict[str, Any]) -> dict[str, Any]:
    """Valid arguments beside those of the scene."""
    labels = np.array([0.0, 1.0, 1.0, 0.0, np.nan, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    names |= {"labels": labels, "labels_too": np.nan_to_num(labels), "chances": np.linspace(0.1, 0.9, 12)}
    names |= {"weights": np.linspace(1, 2, 12), "groups": np.arange(12) // 4, "five": np.full((12, 5), 0.2)}
    names |= {"count": 3, "one": 1, "level": 0.3, "fractions": (0.5, 0.5), "square": np.ones((3, 4))}
    names |= {"output": torch.zeros(12), "target": names["y"]["click"]}
    names |= {"items": np.arange(5), "days": np.arange(5), "shown": names["log"].table().head(20)}
    names |= {"better": table.scores(0.7), "control": table.scores(0.6), "bundle": names["bundle"]}
    drawn = pd.DataFrame({"model": ["a", "b"], "mean": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]})
    runs = pd.DataFrame({"model": ["a", "a", "b", "b"], "value": [0.1, 0.2, 0.3, 0.4]})
    history = pd.DataFrame({"epoch": [1, 2], "train_click": [0.6, 0.5], "validation_click": [0.7, 0.6]})
    curve = names["calibration_curve"](labels, names["chances"])
    return names | {"drawn": drawn, "runs": runs, "history": history, "curve": curve}


def spoil(draw: Any, value: Any) -> Any:
    """The same with one thing changed."""
    if isinstance(value, pd.DataFrame):
        return spoil_table(draw, value.copy())
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return spoil_array(draw, value)
    if isinstance(value, dict):
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.sampled_from(["drop", "rename", "spoil", "type"]))
        if kind == "type":
            return list(value.values())
        rest = {k: v for k, v in value.items() if k != key}
        return (
            rest | ({"stranger": value[key]} if kind == "rename" else {})
            if kind != "spoil"
            else rest | {key: spoil_array(draw, value[key])}
        )
    if isinstance(value, tuple):
        return draw(
            st.sampled_from(
                [(), (1.0,), (np.nan, 1.0), (0.5, -0.5), "ab", None, 0.5, (0.4, 0.4), (1e300, 0.1)]
            )
        )
    return draw(st.sampled_from(SPOILED_NUMBERS))


def spoil_table(draw: Any, rows: pd.DataFrame) -> Any:
    """A table with a column or a value changed; or no table."""
    column = draw(st.sampled_from(list(rows.columns)))
    kind = draw(st.sampled_from(["drop", "twice", "rename", "type", "entry", "whole", "rows", "no table"]))
    if kind == "drop":
        return rows.drop(columns=column)
    if kind == "twice":
        return pd.concat([rows, rows[[column]]], axis=1)
    if kind == "rename":
        return rows.rename(columns={column: draw(st.sampled_from(["", "stranger", 0, ("a", "b")]))})
    if kind == "type":
        try:
            return rows.astype({column: draw(st.sampled_from(TYPES))})
        except (TypeError, ValueError):
            return rows
    if kind in ("entry", "whole"):
        entry = draw(st.sampled_from(SPOILED_ENTRIES))
        changed = [entry] * len(rows) if kind == "whole" else rows[column].tolist()
        changed[0] = entry
        rows[column] = pd.Series(changed, rows.index, object).infer_objects()
        return rows
    if kind == "rows":
        return rows.iloc[: draw(st.sampled_from([0, 1]))]
    return draw(st.sampled_from([None, {}, [], "table", rows.to_dict("list"), rows[column]]))


def spoil_array(draw: Any, values: Any) -> Any:
    """An array or tensor in another type or shape, cut, or with an odd entry."""
    tensor = isinstance(values, torch.Tensor)
    array = values.detach().numpy().copy() if tensor else values.copy()
    kind = draw(st.sampled_from(["type", "shape", "entry", "length", "none"]))
    if kind == "shape":
        shape = draw(st.sampled_from(SHAPES))
        array = (
            array.ravel()[:0] if shape == (0,) else array.ravel()[0] if shape == () else array.reshape(shape)
        )
        return torch.as_tensor(array) if tensor else array
    if kind == "length":
        return values[: draw(st.sampled_from([0, 1, len(values) - 1]))]
    if kind == "entry":
        entry = draw(
            st.sampled_from(
                SPOILED_ENTRIES[:3] + SPOILED_ENTRIES[4:7] if not tensor else [np.nan, np.inf, -7, 99]
            )
        )
        if isinstance(entry, str):
            array = array.astype(object)
        elif not tensor or array.dtype.kind == "f":
            array = array.astype(float)
        with np.errstate(invalid="ignore"):
            array[0] = entry if array.dtype.kind in "fO" or np.isfinite(entry) else 0
        return torch.as_tensor(array) if tensor else array
    if kind == "none":
        return draw(st.sampled_from([None, 3.0, "values", {}]))
    return typed(draw(st.sampled_from(ARRAYS)), array)


def typed(name: str, array: np.ndarray) -> Any:
    """The same values in another type."""
    made = {
        "list": array.tolist,
        "tuple": lambda: tuple(array.tolist()),
        "tensor": lambda: torch.as_tensor(array),
        "leaf": lambda: torch.as_tensor(array.astype(float)).requires_grad_(),
        "series": lambda: pd.Series(array.tolist()),
        "set": lambda: set(array.ravel().tolist()),
    }
    return (
        made[name]() if name in made else array.astype({"complex": complex, "float32": "f4"}.get(name, name))
    )


def sound(result: Any) -> bool:
    """No infinity anywhere in a result."""
    if isinstance(result, dict):
        return all(map(sound, result.values()))
    if isinstance(result, (list, tuple)):
        return all(map(sound, result))
    if isinstance(result, pd.DataFrame):
        return sound(result.select_dtypes("float").to_numpy())
    if isinstance(result, (float, np.ndarray, torch.Tensor)):
        values = np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)
        return values.dtype.kind != "f" or not np.isinf(values).any()
    return True


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Any:
    """Arguments of all calls; each example copies what it needs."""
    with table.scene(tmp_path_factory.mktemp("valid")) as names:
        names["bundle"] = names["serving"].load(names["folder"] / "bundle")
        yield Names(arguments(names))


@pytest.mark.parametrize("name", CALLS)
def test_a_valid_call_works(name, valid) -> None:
    names = copy_of(valid, CALLS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sound(eval(CALLS[name], names))


def copy_of(valid: dict[str, Any], code: str) -> dict[str, Any]:
    """The names of the scene, those that the call uses copied where it could change them."""
    used = set(re.findall(r"\w+", code)) & {"model", "x", "y", "table", "tasks"}
    return valid | {name: copy.deepcopy(valid[name]) for name in used}


@pytest.mark.parametrize("name", CALLS)
@settings(
    max_examples=14,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # each example is small as it is
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_spoiled_call_works_or_says_what_is_wrong(name, valid, data) -> None:
    names = copy_of(valid, CALLS[name])
    used = re.findall(r"(?<!['.\w])\w+(?![\w=])", CALLS[name])
    word = data.draw(st.sampled_from([word for word in dict.fromkeys(used) if word in REPLACED]))
    names[word] = spoil(data.draw, names[word])
    weights = {key: value.clone() for key, value in names["model"].state_dict().items()}
    files = sorted(str(path) for path in names["folder"].rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = eval(CALLS[name], names)
        except (ValueError, TypeError, KeyError, FloatingPointError) as error:
            sentence = table.sentence(error, names["folder"])
            assert type(error) in (ValueError, TypeError, KeyError, FloatingPointError), repr(error)
            check_sentence(sentence)
            assert sorted(str(path) for path in names["folder"].rglob("*")) == files
            if type(error) is not FloatingPointError:
                assert all(torch.equal(value, weights[k]) for k, value in names["model"].state_dict().items())
        else:
            assert sound(result) or name.startswith("split")  # which hands out the rows as they are
            if name == "shards.write":
                names["shutil"].rmtree(names["folder"] / "new")
    assert json.dumps(names["features"]._state())  # still whole


# Files that were cut short or hold a flipped bit

KINDS = {  # what is damaged, and what is read then
    "features.json": lambda names: json.dumps(
        names["Features"].load(names["folder"] / "features.json")._state()
    ),
    "bundle/config.json": lambda names: loaded(names),
    "bundle/features.json": lambda names: loaded(names),
    "bundle/weights.pt": lambda names: loaded(names),
    "shards/part-00000.parquet": lambda names: rows_of(names),
    "shards/shards.json": lambda names: rows_of(names),
    "run/step-000000000002.checkpoint": lambda names: repr(
        names["checkpoints"].read(names["folder"] / "run/step-000000000002.checkpoint")
    ),
}


def loaded(names: dict[str, Any]) -> Any:
    """All that a bundle holds."""
    bundle = names["serving"].load(names["folder"] / "bundle")
    weights = {key: value.numpy().tobytes() for key, value in bundle.model.state_dict().items()}
    return repr(bundle.tasks), json.dumps(bundle.features._state()), weights


def rows_of(names: dict[str, Any]) -> Any:
    """All rows of the shards, in their order."""
    batches = names["Shards"](names["folder"] / "shards", shuffle=False)
    return [{k: v.numpy().tobytes() for part in batch for k, v in part.items()} for batch in batches]


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=14,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.one_of(st.none(), st.integers(0, 7)))
def test_a_damaged_file_is_refused_or_read_as_it_was(kind, valid, place, bit) -> None:
    path = valid["folder"] / kind
    whole = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = KINDS[kind](valid)
        at = int(place * len(whole))
        rest = b"" if bit is None else bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        path.write_bytes(whole[:at] + rest)
        try:
            assert KINDS[kind](valid) == expected
        except ValueError as error:
            sentence = table.sentence(error, valid["folder"])
            assert Path(kind).parts[0] in sentence
            check_sentence(sentence)
        finally:
            path.write_bytes(whole)
