"""The long comparison: what a unit is made of, and a study whose work two processes share."""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from mtl_ref import datasets

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "data" / "results" / "fair_comparison.csv"
stored_only = pytest.mark.skipif(not STORED.exists(), reason="the study has not been run")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("study")


@pytest.fixture
def fair(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("fair_comparison", None)
    return importlib.import_module("fair_comparison")


# A small study in parts


def small(study: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, calls: list | None = None):
    def unit(replicate: int, model: str) -> list[dict[str, object]]:
        if calls is not None:
            calls.append((replicate, model))
        return [{"task": "any", "metric": "any", "value": float(torch.rand(()))}]

    monkeypatch.setattr(study, "RESULTS", folder)
    monkeypatch.setattr(study.Study, "code_hash", lambda self: "hash")
    return study.Study("small", unit, ("one", "two"), 4, (), 8, 0.1)


def test_parts_merge_into_what_one_process_stores(study, tmp_path, monkeypatch) -> None:
    whole = small(study, tmp_path / "whole", monkeypatch).run()
    shared = small(study, tmp_path / "parts", monkeypatch)
    shared.run(part=(1, 2))
    with pytest.raises(SystemExit, match="4 units are missing"):
        shared.merge()
    assert not shared.csv.exists()
    shared.run(part=(0, 2))
    pd.testing.assert_frame_equal(shared.merge(), whole, check_exact=False, rtol=1e-7)
    files = {path.name for path in (tmp_path / "parts").iterdir()}
    assert files == {"small.csv", "small.json"}
    assert (tmp_path / "parts" / "small.csv").read_text() == (tmp_path / "whole" / "small.csv").read_text()
    assert json.loads((tmp_path / "parts" / "small.json").read_text())["code"] == "hash"


def test_a_part_that_was_cut_off_goes_on_where_it_was(study, tmp_path, monkeypatch) -> None:
    calls: list = []
    shared = small(study, tmp_path, monkeypatch, calls)
    shared.run(replicates=[0], part=(0, 2))
    assert shared.run(part=(0, 2))["replicate"].unique().tolist() == [0, 2]
    assert calls == [(0, "one"), (0, "two"), (2, "one"), (2, "two")]


def test_a_part_of_other_code_is_neither_continued_nor_merged(study, tmp_path, monkeypatch) -> None:
    calls: list = []
    shared = small(study, tmp_path, monkeypatch, calls)
    shared.run(part=(0, 1))
    monkeypatch.setattr(study.Study, "code_hash", lambda self: "other")
    with pytest.raises(SystemExit, match="other code"):
        shared.merge()
    shared.run(part=(0, 1))
    assert len(calls) == 16 and len(shared.merge()) == 8


# What a unit is made of


def test_every_method_is_made_and_its_trials_are_as_many_as_declared(fair) -> None:
    tasks = [fair.Regression("rating"), fair.Binary("bought")]
    for method in fair.METHODS:
        knobs = fair.knobs_of(method)
        options = fair.settings_of(method, tasks, 0.01, knobs[0], 0)
        assert ("weighting" in options) != ("balancing" in options)
        assert len(knobs) < fair.TRIALS and len(fair.RATES) >= fair.TRIALS
    assert 1.0 in fair.knobs_of("tuned fixed")  # equal weights are among them
    for method in fair.METHODS:
        trials, made = fair.search(method), []
        pair = next(trials)
        while pair is not None:
            made.append(pair)
            best = made[min(4, len(made) - 1)]
            try:
                pair = trials.send(best)
            except StopIteration:
                pair = None
        assert len(made) == fair.TRIALS == len({(round(r, 9), str(k)) for r, k in made})
        if method == "tuned fixed":  # back to lambda at the best rate, between the values of the grid
            rate, knob = made[4]
            assert [r for r, _ in made[-2:]] == [rate, rate]
            np.testing.assert_allclose([k / knob for _, k in made[-2:]], [10**-0.5, 10**0.5])


def test_the_rules_own_learning_rate_reaches_its_parameter_alone(fair) -> None:
    tasks = [fair.Regression("rating"), fair.Binary("bought")]
    options = fair.settings_of("uncertainty", tasks, 0.01, 10.0, 0)
    model, rule = torch.nn.Linear(2, 1), options["weighting"]
    optimiser = options["optimizer"]([*model.parameters(), *rule.parameters()])
    own = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert own[id(rule.log_variance)] == pytest.approx(0.1)
    assert all(own[id(p)] == pytest.approx(0.01) for p in model.parameters())


def test_a_scaled_loss_is_the_same_task(fair) -> None:
    rows = pd.DataFrame({"rating": [1.0, 4.0, 5.0]})
    plain = fair.Regression("rating").fit(rows)
    scaled = fair.ScaledRegression(
        "rating", "", None, plain.initial, plain.location, plain.scale, False, 100.0
    )
    output, target = torch.tensor([0.3, -1.0, 0.0]), plain.target(rows)
    torch.testing.assert_close(scaled.row_loss(output, target), 100 * plain.row_loss(output, target))
    torch.testing.assert_close(scaled.link(output), plain.link(output))


def test_corrected_odds_undo_a_kept_share(fair) -> None:
    p, kept = 0.03, 0.1  # of the negatives
    biased = p / (p + (1 - p) * kept)
    assert fair.corrected(biased, np.log(kept)) == pytest.approx(p)


def test_judging_by_the_truth_is_judging_by_many_draws_of_it(fair) -> None:
    random_numbers = np.random.default_rng(0)
    truth, p = random_numbers.random((2, 50))
    part = pd.DataFrame({"bought": 0.0, "chance": truth})
    train = pd.DataFrame({"bought": [0.0, 1.0]})
    task = fair.Binary("bought")
    by = fair.judged(task, train, part, "chance")
    draws = (random_numbers.random((20_000, 50)) < truth).astype(float)
    drawn = fair.surprise(task, draws.ravel(), np.tile(p, 20_000), np.ones(draws.size))
    assert fair.surprise(task, by.y, p[by.rows], by.w) == pytest.approx(drawn, rel=5e-3)
    assert by.base == pytest.approx(np.log(2))


def test_looking_at_the_gradients_leaves_the_training_as_it_is(fair) -> None:
    fair.setup(seed=0)
    tasks = [fair.Regression("rating"), fair.Binary("bought")]
    sizes = {"categorical": [5, 7], "numeric": 2}
    x = {"categorical": torch.randint(5, (400, 2)), "numeric": torch.randn(400, 2)}
    y = {"rating": torch.randn(400), "bought": (torch.rand(400) < 0.5).double()}

    def weights(watched: bool, method: str) -> torch.Tensor:
        torch.manual_seed(0)
        net = fair.SharedEncoder(fair.TabularEncoder(sizes, 2, (8, 4), 0.2), tasks, (4,))
        watch = fair.Watch(net, tasks, (x, y, {}), method, 0.5)
        options = fair.settings_of(method, tasks, 0.01, 0.5, 0)
        schedule = watch if watched else fair.cosine
        fair.fit(net, tasks, (x, y), epochs=3, batch_size=100, schedule=schedule, seed=0, **options)
        assert len(watch.cosines) == 3 * watched and len(watch.agreement) == 3 * (watched and "z" in method)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    for method in ("equal", "UPGrad", "MGDA at z"):
        torch.testing.assert_close(weights(True, method), weights(False, method), rtol=0, atol=0)


def test_a_method_of_which_every_trial_fails_is_the_constant(fair, monkeypatch) -> None:
    fair.setup(seed=0)
    task = fair.Binary("bought")
    table = pd.DataFrame({"bought": [0.0, 1.0, 1.0]})
    by = {"bought": fair.judged(task, table, table)}
    d = fair.Data([task], {}, ({}, {}, {}), {}, {"numeric": torch.zeros(3, 1)}, by, by, {})

    def fails(*_: object) -> None:
        raise ValueError("no direction improves every task")

    monkeypatch.setattr(fair, "attempt", fails)
    rows = pd.DataFrame(fair.tuned("reviews", d, "Nash-MTL", 0, {"bought": np.full(3, 2 / 3)}))
    values = rows.set_index(["task", "metric"])["value"]
    assert values["training", "failed"] == fair.TRIALS
    assert values["bought", "explained"] == pytest.approx(0, abs=1e-12)


# The stored study


@stored_only
def test_the_stored_rows_come_from_this_code_and_are_complete(fair) -> None:
    study = fair.STUDY
    about = json.loads(study.csv.with_suffix(".json").read_text())
    assert about["code"] == study.code_hash(), f"stale: run `{about['command']}` (or its `confirm 5`)"
    rows = pd.read_csv(study.csv)
    assert not rows.duplicated(["replicate", "model", "task", "metric"]).any()
    units = set(map(tuple, rows[["replicate", "model"]].drop_duplicates().to_numpy().tolist()))
    assert units == {(replicate, model) for replicate in range(study.replicates) for model in study.models}
    assert np.isfinite(rows["value"]).all()
    rows["setting"] = rows["model"].str.split(" | ", regex=False).str[0]
    tested = rows[~rows["task"].isin(["training", "page"]) & (rows["metric"] != "rate")]
    counts = tested.groupby(["setting", "model", "task", "metric"]).size()
    assert (counts == study.replicates).all()


@stored_only
def test_a_unit_chosen_at_random_gives_the_stored_rows_again(fair) -> None:
    study = fair.STUDY
    missing = [name for name in study.data if not datasets.available(name)]
    if missing:
        pytest.skip(f"needs data: {', '.join(missing)}")
    replicate = random.SystemRandom().randrange(study.replicates)
    model = random.SystemRandom().choice([m for m in study.models if not m.endswith(("constant", "oracle"))])
    both = study.recompute(replicate, model)
    # Another CPU rounds elsewhere; over a hundred float64 steps that stays below a thousandth.
    close = np.isclose(both["stored"], both["again"], rtol=1e-3, atol=1e-5)
    assert close.all(), f"replicate {replicate}, {model}:\n{both[~close]}"
