"""A bundle scores a raw row as in training, appears whole or not at all, and runs nothing when read."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mtl_ref import serving
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.tasks import Binary, Count, Multiclass, Ordinal, Regression, targets
from mtl_ref.training import fit, predict


def table(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "item": rng.choice(["scarf", "coat", "tin"], n),
            "age": rng.normal(40, 9, n),
            "text": rng.choice(["a warm red scarf", "too small", "", "lovely tea, lovely tin"], n),
            "price": rng.gamma(2, 10, n),
            "bought": rng.integers(0, 2, n),
            "stars": rng.integers(1, 6, n),
            "kind": rng.choice(["x", "y", "z"], n),
            "visits": rng.poisson(1, n),
        }
    )


def trained(model=SharedEncoder, dtype=torch.float64):
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    rows = table()
    features = Features(categorical=["item"], numeric=["age"], text=["text"]).fit(rows)
    tasks = [
        Regression("price", variance=True).fit(rows),
        Binary("bought").fit(rows),
        Ordinal("stars").fit(rows),
        Multiclass("kind", classes=("x", "y", "z")).fit(rows),
        Count("visits").fit(rows),
    ]

    def make() -> TabularEncoder:
        return TabularEncoder(features.sizes, 4, (8,))

    net = (
        SingleTask(make, tasks)
        if model is SingleTask
        else SharedEncoder(make(), tasks, stop_gradient=["kind"])
    )
    y, _ = targets(tasks, rows)
    fit(net, tasks, (features.transform(rows), y), epochs=2)
    return net, features, tasks


@pytest.mark.parametrize("model", [SharedEncoder, SingleTask])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_scores_the_same_in_training_and_from_the_bundle(tmp_path, model, dtype) -> None:
    net, features, tasks = trained(model, dtype)
    serving.save(tmp_path / "shop", net, features, tasks)
    new = table(seed=1)
    expected = predict(net, tasks, features.transform(new))
    torch.set_default_dtype(torch.float32)  # the reader's default must not matter
    bundle = serving.load(tmp_path / "shop")
    found = bundle.predict(new)
    assert np.array_equal(found["bought"], expected["bought"]) and list(found.index) == list(new.index)
    assert np.array_equal(found[["price_mean", "price_variance"]], expected["price"])
    assert np.array_equal(found[["stars_1", "stars_2", "stars_3", "stars_4", "stars_5"]], expected["stars"])
    assert np.array_equal(found[["kind_x", "kind_y", "kind_z"]], expected["kind"])
    assert bundle.tasks == tuple(tasks)


def test_rows_may_come_alone_and_in_any_order(tmp_path) -> None:
    net, features, tasks = trained()
    bundle = serving.Bundle(net, features, tuple(tasks))
    new = table(seed=2)
    whole = bundle.predict(new)
    shuffled = new.sample(frac=1, random_state=0)
    assert np.allclose(bundle.predict(shuffled), whole.loc[shuffled.index], rtol=1e-12)
    assert np.allclose(bundle.predict(new.iloc[[7]]), whole.iloc[[7]], rtol=1e-12)
    assert len(bundle.predict(new.iloc[:0])) == 0
    strange = new.iloc[[0]].assign(item="never seen", text="qwertz")
    assert np.isfinite(bundle.predict(strange)).all(axis=None)


def test_a_bundle_ranks_raw_rows_by_what_it_predicts() -> None:
    bundle = serving.Bundle(*trained())
    new = table(seed=3).assign(margin=2.5, request=np.repeat(["r", "q", "s"], 20))
    scored = bundle.predict(new)
    found = bundle.rank(new, value={"bought": "margin", "stars_1": -1.0}, groups="request", k=4)
    assert found.groupby("request").size().tolist() == [4, 4, 4] and set(found["rank"]) == {1, 2, 3, 4}
    expected = 2.5 * scored["bought"] - scored["stars_1"]
    assert np.allclose(found["score"], expected[found.index])
    best = expected.groupby(new["request"]).max()
    assert np.allclose(
        found[found["rank"] == 1].set_index("request")["score"].sort_index(), best.sort_index()
    )
    powers = bundle.rank(new, powers={"bought": 1.0, "visits": 0.5})
    assert np.allclose(powers["score"], (scored["bought"] * scored["visits"] ** 0.5)[powers.index])


def test_no_rows_give_no_predictions_but_all_columns() -> None:
    bundle = serving.Bundle(*trained())
    new = table(3)
    assert list(bundle.predict(new[:0])) == list(bundle.predict(new)) and bundle.predict(new[:0]).empty
    with pytest.raises(KeyError, match="age"):
        bundle.predict(new[:0].drop(columns="age"))


def test_two_predictions_of_one_name_are_refused() -> None:
    tasks = [Multiclass("kind", classes=("x", "y")), Binary("kind_x")]
    natural = {"kind": torch.zeros(2, 2), "kind_x": torch.zeros(2)}
    with pytest.raises(ValueError, match="two predictions would be called 'kind_x'"):
        serving.split(tasks, natural)


def test_saving_twice_replaces_and_a_failed_save_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    net, features, tasks = trained()
    serving.save(tmp_path / "shop", net, features, tasks)
    before = {path.name: path.read_bytes() for path in (tmp_path / "shop").iterdir()}

    def breaks(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(OSError, match="disk full"):
        serving.save(tmp_path / "shop", net, features, tasks)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shop").iterdir()} == before
    monkeypatch.undo()
    serving.save(tmp_path / "shop", net, features, tasks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]


def test_a_foreign_folder_is_not_overwritten(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(FileExistsError, match="is not a bundle"):
        serving.save(tmp_path / "photos", *trained())
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"meow"


class Own(nn.Module):
    """A taker's own model."""

    def __init__(self, tasks) -> None:
        super().__init__()
        self.inner = SharedEncoder(
            TabularEncoder({"categorical": [4], "numeric": 1, "text": 12}, 2, (4,)), tasks
        )

    def encode(self, x):
        return self.inner.encode(x)

    def decode(self, encoded):
        return self.inner.decode(encoded) | {"extra": self.inner.decode(encoded)["kind"]}

    def forward(self, x):
        return self.decode(self.encode(x))


def test_a_model_of_ones_own_is_loaded_into(tmp_path) -> None:
    _, features, tasks = trained()
    net = Own(tasks)
    net.inner.encoder = TabularEncoder(features.sizes, 2, (4,))
    serving.save(tmp_path / "own", net, features, tasks)
    with pytest.raises(ValueError, match="describes no model of this package .*'Own'.*pass the model itself"):
        serving.load(tmp_path / "own")
    other = Own(tasks)
    other.inner.encoder = TabularEncoder(features.sizes, 2, (4,))
    found = serving.load(tmp_path / "own", other).predict(table(seed=3))
    assert {"extra_0", "extra_1", "extra_2"} <= set(found)


def damage_config(folder, **change) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


@pytest.mark.parametrize(
    "damage,error,message",
    [
        (lambda f: (f / "weights.pt").unlink(), FileNotFoundError, "weights.pt is missing"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "cannot be read as a bundle"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "cannot be read as a bundle"),
        (lambda f: damage_config(f, version=99), ValueError, "version 99"),
        (lambda f: damage_config(f, dtype="int8"), ValueError, "cannot be read as a bundle"),
        (lambda f: damage_config(f, tasks=[{"kind": "os.system"}]), ValueError, "cannot be read as a bundle"),
        (
            lambda f: (f / "weights.pt").write_bytes(b"PK\x03\x04rubbish"),
            ValueError,
            "does not hold the weights",
        ),
        (
            lambda f: (f / "weights.pt").write_bytes((f / "weights.pt").read_bytes()[:900]),
            ValueError,
            "weights",
        ),
        (lambda f: torch.save({"foreign": torch.zeros(2)}, f / "weights.pt"), ValueError, "does not hold"),
    ],
)
def test_a_damaged_bundle_is_refused_by_file(tmp_path, damage, error, message) -> None:
    serving.save(tmp_path / "shop", *trained())
    damage(tmp_path / "shop")
    with pytest.raises(error, match=message):
        serving.load(tmp_path / "shop")


class Bomb:
    def __reduce__(self):
        return (open, ("bomb.txt", "w"))


def test_hostile_weights_are_not_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    serving.save(tmp_path / "shop", *trained())
    torch.save({"encoder": Bomb()}, tmp_path / "shop" / "weights.pt")
    with pytest.raises(ValueError, match="does not hold the weights"):
        serving.load(tmp_path / "shop")
    assert not (tmp_path / "bomb.txt").exists()
    assert pickle.dumps(Bomb())  # it would run if it were unpickled
