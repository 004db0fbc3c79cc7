"""Stored studies: made by the code that is here, complete, and recomputed at random."""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mtl_ref import datasets

ROOT = Path(__file__).resolve().parent.parent
STUDIES = (
    *("shop_two_tasks", "reviews_two_tasks", "late_labels", "score_fusion", "drift_monitors"),
    *("lazy_rows", "learning_weights", "gradnorm_toy"),
)


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop(request.param, None)
    return importlib.import_module(request.param).STUDY


def test_the_stored_rows_come_from_this_code(study) -> None:
    about = json.loads(study.csv.with_suffix(".json").read_text())
    assert about["code"] == study.code_hash(), f"stale: run `{about['command']}` (or its `confirm 5`)"


def test_every_declared_unit_is_stored_once(study) -> None:
    rows = pd.read_csv(study.csv)
    assert not rows.duplicated(["replicate", "model", "task", "metric"]).any()
    units = set(map(tuple, rows[["replicate", "model"]].drop_duplicates().to_numpy().tolist()))
    assert units == {(replicate, model) for replicate in range(study.replicates) for model in study.models}
    counts = rows[rows["metric"] != "parameters"].groupby(["task", "metric"]).size()
    assert (counts == len(units)).all()
    measured = rows[~rows["metric"].isin(["parameters", "precision", "f1"])]
    assert np.isfinite(measured["value"]).all()


def test_a_unit_chosen_at_random_gives_the_stored_rows_again(study) -> None:
    missing = [name for name in study.data if not datasets.available(name)]
    if missing:
        pytest.skip(f"needs data: {', '.join(missing)}")
    replicate = random.SystemRandom().randrange(study.replicates)
    model = random.SystemRandom().choice([m for m in study.models if m not in ("constant", "oracle")])
    both = study.recompute(replicate, model)
    # Another CPU rounds elsewhere; over a few hundred float64 steps that stays below a thousandth.
    close = np.isclose(both["stored"], both["again"], rtol=1e-3, atol=1e-6, equal_nan=True)
    assert close.all(), f"replicate {replicate}, {model}:\n{both[~close]}"


def test_a_unit_does_not_depend_on_what_ran_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the float width nor the generators that others left behind reach a unit."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    make = importlib.import_module("study").Study

    def unit(replicate: int, model: str) -> list[dict[str, object]]:
        drawn = torch.rand(()) + np.random.random()  # before any call of ``setup`` of its own
        return [{"task": "any", "metric": "any", "value": float(drawn)}]

    study = make("any", unit, ("one",), 2, (), 2, 0.1)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(99)
    first, other = study.compute(0, "one"), study.compute(1, "one")
    assert study.compute(0, "one").equals(first) and not other.equals(first)
    assert torch.get_default_dtype() == torch.float64
