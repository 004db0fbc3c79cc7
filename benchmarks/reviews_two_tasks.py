"""Rating and recommendation on the clothing reviews: ten splits by item, six models, four trials for each.

No item stands in two parts of a split (60 % train, 20 % validate, 20 % test). The score that chooses among
trials is the mean over the model's tasks of the explained share on the validation part: 1 - loss / loss of
the constant. Run:

    python benchmarks/reviews_two_tasks.py
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
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from study import PIPELINE, Rows, Study, choose

from mtl_ref.datasets import reviews
from mtl_ref.encoders import TabularEncoder
from mtl_ref.evaluation import evaluate, split
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder, SingleTask, count_parameters
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, Regression, targets
from mtl_ref.training import fit, predict
from mtl_ref.weighting import FixedWeights

MODELS = ("constant", "linear on TF-IDF", "trees", "single", "shared, equal weights", "shared, tuned weights")
TASKS = ("rating", "recommended")
ATTRIBUTES = ["division", "department", "class_name"]
LINEAR = {
    "rating": (1.0, 3.0, 10.0, 30.0),
    "recommended": (0.3, 1.0, 3.0, 10.0),
}  # alpha of Ridge, C of logistic
TREES = tuple(product((0.05, 0.15), (7, 31)))  # learning rate, leaves
NETS = tuple(product((0.2, 0.5), (32, 64)))  # dropout, numbers per token
LAMBDA = (0.1, 0.3, 1.0, 3.0)  # of the rating, at the middle of the other grid
Prediction = dict[str, np.ndarray]


@lru_cache(maxsize=1)
def data(replicate: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training, validation and test rows; items do not straddle the parts."""
    table = reviews()
    return split(table, (0.6, 0.2, 0.2), groups="item_id", seed=replicate)


def text(table: pd.DataFrame) -> list[str]:
    """Title and text as one string."""
    return (table["title"].fillna("") + " " + table["text"].fillna("")).tolist()


@lru_cache(maxsize=1)
def tfidf(replicate: int) -> list[Any]:
    """TF-IDF of words and word pairs, fitted on the training rows, for the three parts."""
    parts = data(replicate)
    vectors = TfidfVectorizer(min_df=3, ngram_range=(1, 2), sublinear_tf=True).fit(text(parts[0]))
    return [vectors.transform(text(part)) for part in parts]


@lru_cache(maxsize=1)
def dense(replicate: int) -> list[np.ndarray]:
    """What trees can hold: 60 directions of the TF-IDF, length of the text, age, attributes."""
    parts, vectors = data(replicate), tfidf(replicate)
    directions = TruncatedSVD(60, random_state=0).fit(vectors[0])
    known = {name: pd.Index(parts[0][name].dropna().unique()) for name in ATTRIBUTES}
    made = []
    for part, x in zip(parts, vectors, strict=True):
        ids = np.column_stack([known[name].get_indexer(part[name]) for name in ATTRIBUTES])
        length = part["text"].fillna("").str.len().to_numpy(dtype=float)
        made.append(
            np.column_stack([directions.transform(x), length, part["age"], np.where(ids < 0, np.nan, ids)])
        )
    return made


@lru_cache(maxsize=1)
def tensors(replicate: int) -> tuple[dict[str, Any], list[dict[str, torch.Tensor]]]:
    """Text as token ids and attributes, fitted on the training rows, for the three parts."""
    parts = data(replicate)
    features = Features(
        categorical=ATTRIBUTES, numeric=["age"], text=["title", "text"], min_count=3, text_length=128
    )
    features.fit(parts[0])
    return features.sizes, [features.transform(part) for part in parts]


def score(tasks: list[Any], train: pd.DataFrame, part: pd.DataFrame, found: Prediction) -> float:
    """Mean explained share over the tasks that were predicted."""
    shares = []
    for task in tasks:
        y, base = part[task.name].to_numpy(dtype=float), train[task.name].mean()
        p = found[task.name]
        if task.name == "rating":
            shares.append(1 - np.mean((y - p) ** 2) / np.mean((y - base) ** 2))
        else:
            shares.append(1 - _log_loss(y, p) / _log_loss(y, np.full(len(y), base)))
    return float(np.mean(shares))


def _log_loss(y: np.ndarray, p: np.ndarray) -> float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def classical(model: str, replicate: int, task: Any) -> Prediction:
    """A linear model on TF-IDF, or boosted trees, for one task; the best of four trials."""
    train, validation, _ = data(replicate)
    parts = tfidf(replicate) if model == "linear on TF-IDF" else dense(replicate)
    rating = task.name == "rating"

    def make(trial: Any) -> Any:
        if model == "linear on TF-IDF":
            return Ridge(alpha=trial, random_state=0) if rating else LogisticRegression(C=trial, max_iter=500)
        kind = HistGradientBoostingRegressor if rating else HistGradientBoostingClassifier
        levels = [False] * 62 + [True] * len(ATTRIBUTES)
        options = {
            "early_stopping": False,
            "random_state": 0,
            "max_iter": 120,
            "categorical_features": levels,
        }
        return kind(learning_rate=trial[0], max_leaf_nodes=trial[1], **options)

    def attempt(trial: Any) -> tuple[float, Any]:
        fitted = make(trial).fit(parts[0], train[task.name])
        found = [fitted.predict(x) if rating else fitted.predict_proba(x)[:, 1] for x in parts[1:]]
        return score([task], train, validation, {task.name: found[0]}), found[1]

    trials = LINEAR[task.name] if model == "linear on TF-IDF" else TREES
    return {task.name: choose(trials, attempt)[1]}


def network(model: str, replicate: int) -> tuple[Prediction, int]:
    """One shared encoder, or one encoder per task; the best of four trials."""
    train, validation, _ = data(replicate)
    tasks = [Regression("rating").fit(train), Binary("recommended").fit(train)]
    sizes, (x, held_out, test) = tensors(replicate)
    y, y_held_out = targets(tasks, train)[0], targets(tasks, validation)[0]

    def attempt(used: list[Any], dropout: float, width: int, weight: float) -> tuple[float, Any]:
        torch.manual_seed(replicate)

        def encoder() -> TabularEncoder:
            return TabularEncoder(sizes, 8, (64,), dropout, text_embedding=width)

        alone = len(used) == 1
        net = SingleTask(encoder, used, (16,)) if alone else SharedEncoder(encoder(), used, (16,))
        fit(
            net,
            used,
            (x, y),
            (held_out, y_held_out),
            epochs=8,
            batch_size=256,
            learning_rate=2e-3,
            weighting=None if alone else FixedWeights([weight, 1.0]),
            patience=2,
            monitor="loss",
            seed=replicate,
        )
        found = predict(net, used, held_out)
        return score(used, train, validation, found), (predict(net, used, test), count_parameters(net))

    if model == "single":
        chosen = [choose(NETS, lambda t, task=task: attempt([task], *t, 1.0))[1] for task in tasks]
        return chosen[0][0] | chosen[1][0], chosen[0][1] + chosen[1][1]
    if model == "shared, equal weights":
        return choose(NETS, lambda t: attempt(tasks, *t, 1.0))[1]
    return choose(LAMBDA, lambda t: attempt(tasks, 0.5, 32, t))[1]


def unit(replicate: int, model: str) -> Rows:
    """Test metrics of one model on one split."""
    setup(seed=replicate)
    train, _, test = data(replicate)
    tasks = [Regression("rating"), Binary("recommended")]
    parameters: float = np.nan
    if model == "constant":
        found = {task.name: np.full(len(test), train[task.name].mean()) for task in tasks}
    elif model in ("linear on TF-IDF", "trees"):
        found = classical(model, replicate, tasks[0]) | classical(model, replicate, tasks[1])
    else:
        found, parameters = network(model, replicate)
    table = evaluate(tasks, {task.name: test[task.name].to_numpy(dtype=float) for task in tasks}, found)
    rows: Rows = table[["task", "metric", "value"]].to_dict("records")
    extra: list[tuple[str, str, float]] = [("both", "parameters", parameters)]
    extra += [(task.name, "explained", score([task], train, test, found)) for task in tasks]
    return rows + [dict(zip(("task", "metric", "value"), row, strict=True)) for row in extra]


STUDY = Study(
    name="reviews_two_tasks",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=(*PIPELINE, "datasets", "evaluation", "folding"),
    trainings=10 * 4 * (2 + 2 + 2 + 1 + 1),
    hours=2.0,
    data=("reviews",),
)

if __name__ == "__main__":
    STUDY.main()
