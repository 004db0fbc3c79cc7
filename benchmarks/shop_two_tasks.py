"""Rating and purchase on Mulberry Lane: ten worlds, seven models, eight trials for each model that is tuned.

Rows are the clicked impressions of 28 days (label: purchase) and the rated orders of the same days (label:
rating); no row has both labels. Days 0-17 train, 18-20 validate, 21-27 test. The score that chooses among
trials is the mean over the model's tasks of the explained share on the validation days: 1 - loss / loss of
the constant. Run:

    python benchmarks/shop_two_tasks.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import OneHotEncoder
from study import PIPELINE, Rows, Study, choose

from mtl_ref.encoders import TabularEncoder
from mtl_ref.evaluation import evaluate
from mtl_ref.features import Features
from mtl_ref.market import CATEGORICAL, NUMERIC, Dials, World
from mtl_ref.models import SharedEncoder, SingleTask, count_parameters
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, Regression, targets
from mtl_ref.training import fit, predict
from mtl_ref.weighting import FixedWeights

IDS = [name for name in CATEGORICAL if name != "visitor_id"]  # 20,000 visitors, most with a single click
LEVELS = [name for name in IDS if name != "item_id"]  # what the trees and the linear model can hold
NUMBERS = list(NUMERIC)
MODELS = ("constant", "linear", "trees", "single", "shared, equal weights", "shared, tuned weights", "oracle")
NETS = list(
    product((1e-3, 3e-3), (0.0, 0.3), (4, 16))
)  # learning rate, dropout, numbers per id: eight trials
TUNED = list(product((0.1, 0.3, 1.0, 3.0), (0.0, 0.3)))  # lambda of the rating, dropout: eight trials
Prediction = dict[str, np.ndarray]


@lru_cache(maxsize=1)
def data(world: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training, validation and test rows of one world."""
    shop = World(world, Dials(requests=4_000))
    clicks = shop.serve(days=28).table().query("click == 1")
    clicks = clicks.assign(purchase=clicks["purchase_given_click"], rating=np.nan)
    orders = shop.orders(60_000).query("day < 28").assign(purchase=np.nan)
    truth = ["true_rating", "true_purchase_given_click"]
    columns = [*dict.fromkeys([*IDS, *NUMBERS, "day", "purchase", "rating", *truth])]
    rows = pd.concat([clicks[columns], orders[columns]], ignore_index=True)
    return tuple(rows[rows["day"].between(*days)] for days in ((0, 17), (18, 20), (21, 27)))


def score(tasks: list[Any], train: pd.DataFrame, part: pd.DataFrame, found: Prediction) -> float:
    """Mean explained share over the tasks that were predicted."""
    shares = []
    for task in tasks:
        if task.name not in found:
            continue
        y, base = part[task.name].to_numpy(), train[task.name].mean()
        keep = ~np.isnan(y)
        y, p = y[keep], found[task.name][keep]
        if task.name == "rating":
            shares.append(1 - np.mean((y - p) ** 2) / np.mean((y - base) ** 2))
        else:
            shares.append(1 - _log_loss(y, p) / _log_loss(y, np.full(len(y), base)))
    return float(np.mean(shares))


def _log_loss(y: np.ndarray, p: np.ndarray) -> float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def classical(model: str, train: pd.DataFrame, parts: list[pd.DataFrame], task: str) -> Prediction:
    """A linear model or boosted trees for one task, the best of eight trials."""
    rows = train[train[task].notna()]
    if model == "linear":
        one_hot = OneHotEncoder(handle_unknown="ignore", min_frequency=5).fit(rows[IDS])
        scale = Features(numeric=NUMBERS).fit(rows)

        def design(table: pd.DataFrame) -> Any:
            from scipy.sparse import csr_matrix, hstack

            return hstack(
                [one_hot.transform(table[IDS]), csr_matrix(scale.transform(table)["numeric"].numpy())]
            ).tocsr()

        trials: list[Any] = np.logspace(-3, 0.5, 8).tolist()

        def make(trial: Any) -> Any:
            if task == "rating":
                return Ridge(alpha=1 / trial, random_state=0)
            return LogisticRegression(C=trial / 3, max_iter=500)
    else:
        codes = {name: pd.Index(rows[name].unique()) for name in LEVELS}

        def design(table: pd.DataFrame) -> Any:
            ids = {name: index.get_indexer(table[name]) for name, index in codes.items()}
            known = {name: np.where(code < 0, np.nan, code) for name, code in ids.items()}
            return pd.DataFrame(known | {name: table[name].to_numpy() for name in NUMBERS}).to_numpy()

        trials = list(product((0.03, 0.1), (7, 31), (50, 150)))

        def make(trial: Any) -> Any:
            kind = HistGradientBoostingRegressor if task == "rating" else HistGradientBoostingClassifier
            rate, leaves, rounds = trial
            levels = [True] * len(LEVELS) + [False] * len(NUMBERS)
            options = {"early_stopping": False, "random_state": 0, "categorical_features": levels}
            return kind(learning_rate=rate, max_leaf_nodes=leaves, max_iter=rounds, **options)

    made = [design(part) for part in parts]
    tasks = [Regression("rating"), Binary("purchase")]

    def attempt(trial: Any) -> tuple[float, Any]:
        fitted = make(trial).fit(design(rows), rows[task])
        found = [fitted.predict(x) if task == "rating" else fitted.predict_proba(x)[:, 1] for x in made]
        return score(tasks, train, parts[0], {task: found[0]}), found

    return {task: choose(trials, attempt)[1][1]}


def network(model: str, train: pd.DataFrame, parts: list[pd.DataFrame], seed: int) -> tuple[Prediction, Any]:
    """One shared encoder, or one encoder per task; the best of eight trials."""
    tasks = [Regression("rating").fit(train), Binary("purchase").fit(train)]
    features = Features(categorical=IDS, numeric=NUMBERS).fit(train)
    x, y = features.transform(train), targets(tasks, train)[0]
    held_out = [features.transform(part) for part in parts]
    validation = (held_out[0], targets(tasks, parts[0])[0])

    def attempt(used: list[Any], rate: float, dropout: float, width: int, weight: float) -> tuple[float, Any]:
        torch.manual_seed(seed)

        def encoder() -> TabularEncoder:
            return TabularEncoder(features.sizes, width, (64, 32), dropout)

        alone = len(used) == 1
        net = SingleTask(encoder, used, (16,)) if alone else SharedEncoder(encoder(), used, (16,))
        rows = ~torch.isnan(y[used[0].name]) if alone else slice(None)
        mine = (
            {key: value[rows] for key, value in x.items()},
            {key: value[rows] for key, value in y.items()},
        )
        fit(
            net,
            used,
            mine,
            validation,
            epochs=8,
            batch_size=512,
            learning_rate=rate,
            weighting=None if alone else FixedWeights([weight, 1.0]),
            patience=2,
            monitor=used[0].name if alone else "loss",
            seed=seed,
        )
        found = [predict(net, used, part) for part in held_out]
        return score(used, train, parts[0], found[0]), (found[1], count_parameters(net))

    if model == "single":
        chosen = [choose(NETS, lambda t, task=task: attempt([task], *t, 1.0))[1] for task in tasks]
        return chosen[0][0] | chosen[1][0], chosen[0][1] + chosen[1][1]
    if model == "shared, equal weights":
        return choose(NETS, lambda t: attempt(tasks, *t, 1.0))[1]
    return choose(TUNED, lambda t: attempt(tasks, 1e-3, t[1], 8, t[0]))[1]


def unit(world: int, model: str) -> Rows:
    """Test metrics of one model in one world."""
    setup(seed=world)
    train, validation, test = data(world)
    tasks = [Regression("rating"), Binary("purchase")]
    parameters = np.nan
    if model == "oracle":
        found = {
            "rating": test["true_rating"].to_numpy(),
            "purchase": test["true_purchase_given_click"].to_numpy(),
        }
    elif model == "constant":
        found = {task.name: np.full(len(test), train[task.name].mean()) for task in tasks}
    elif model in ("linear", "trees"):
        found = classical(model, train, [validation, test], "rating")
        found |= classical(model, train, [validation, test], "purchase")
    else:
        found, parameters = network(model, train, [validation, test], seed=world)
    y = {task.name: test[task.name].to_numpy() for task in tasks}
    table = evaluate(tasks, y, found)
    rows: Rows = table[["task", "metric", "value"]].to_dict("records")
    extra = [("both", "parameters", parameters)]
    extra += [(task.name, "explained", score([task], train, test, found)) for task in tasks]
    return rows + [dict(zip(("task", "metric", "value"), row, strict=True)) for row in extra]


STUDY = Study(
    name="shop_two_tasks",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=(*PIPELINE, "market", "shop"),
    trainings=10 * 8 * (2 + 2 + 2 + 1 + 1),
    hours=2.0,
)

if __name__ == "__main__":
    STUDY.main()
