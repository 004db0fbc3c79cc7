"""Rules that choose lambda, where one task is noisy and earns the money: ten worlds, thirteen models.

A row is a rated order. Two labels: its rating, noisy, from which the shop decides whether to send help (2
euros for each star below four; pays where the forecast is below four), and its price, nearly known from the
list price (each euro by which the forecast misses costs a cent). Days 0-55 train, 56-62 choose, 63-83 test. A
rule has two trials (learning rates), tuned fixed weights ten (five lambda of the rating by two rates); the
purse of the days that choose, counted with labels, decides. The test purse is counted with the true mean
rating. Width, epochs and batch were fixed on world 0, which is none of the ten. Run:

    python benchmarks/learning_weights.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from study import PIPELINE, Rows, Study, choose
from torch import nn

from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.market import Dials, World
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Regression, targets
from mtl_ref.training import fit, predict
from mtl_ref.weighting import DWA, FAMO, GLS, RLW, STCH, FixedWeights, GradNorm, UncertaintyWeights

WORDS = ["segment", "loyalty", "age_band", "device", "category", "colour", "pattern", "surface"]
NUMBERS = ["past_orders", "review_score", "hour", "log_list_price"]
DAYS = {"train": (0, 55), "choose": (56, 62), "test": (63, 83)}
RATES = (3e-3, 1e-2)
WEIGHTS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # lambda of the rating, of the tuned model
RULES: dict[str, Callable[[Sequence[Any]], nn.Module]] = {
    "equal": lambda tasks: FixedWeights([1.0, 1.0]),
    "uncertainty": UncertaintyWeights,
    "GLS": GLS,
    "FAMO": FAMO,
    "STCH, logarithms": lambda tasks: STCH(tasks, warm_up=1),
    "STCH": STCH,
    "DWA": DWA,
    "RLW": RLW,
    "GradNorm": GradNorm,
}
Prediction = dict[str, np.ndarray]


def orders(world: int) -> dict[str, pd.DataFrame]:
    """Training, choosing and test rows of one world."""
    table = World(world, Dials(requests=1_000)).orders(20_000)
    prices = {"price": np.log(table["price_shown"]), "log_list_price": np.log(table["list_price"])}
    table = table.assign(**prices)
    return {part: table[table["day"].between(*days)] for part, days in DAYS.items()}


def purse(found: Prediction, table: pd.DataFrame, stars: str) -> float:
    """Euros per 1,000 orders; ``stars`` names the column that help is counted by."""
    help_ = np.where(found["rating"] < 4, 2 * (4 - table[stars].to_numpy()), 0.0)
    misses = np.abs(np.exp(found["price"]) - table["price_shown"].to_numpy())
    return float(1000 * (help_ - 0.01 * misses).mean())


@lru_cache(maxsize=1)
def data(world: int) -> tuple[Any, ...]:
    """Rows, tasks, features and inputs of one world."""
    setup(seed=0)
    parts = orders(world)
    tasks = [Regression("rating").fit(parts["train"]), Regression("price").fit(parts["train"])]
    features = Features(WORDS, NUMBERS).fit(parts["train"])
    inputs = {part: features.transform(table) for part, table in parts.items()}
    return parts, tasks, features, inputs, targets(tasks, parts["train"])[0]


def train(world: int, rule: nn.Module | None, rate: float) -> tuple[dict[str, Prediction], pd.DataFrame]:
    """Train once (without a rule: an encoder for each task); predictions by part, and the history."""
    parts, tasks, features, inputs, labels = data(world)
    torch.manual_seed(world)

    def encoder() -> TabularEncoder:
        return TabularEncoder(features.sizes, 4, (32,))

    net = SingleTask(encoder, tasks, ()) if rule is None else SharedEncoder(encoder(), tasks, ())
    options = {"epochs": 10, "batch_size": 256, "learning_rate": rate, "seed": world}
    history = fit(net, tasks, (inputs["train"], labels), weighting=rule, **options)
    return {part: predict(net, tasks, inputs[part]) for part in ("choose", "test")}, history


def unit(replicate: int, model: str) -> Rows:
    """Test errors and purse of one model in one world."""
    world = 300 + replicate
    parts, tasks, *_ = data(world)
    past, test = parts["train"], parts["test"]

    def attempt(trial: tuple[Any, float]) -> tuple[float, Prediction]:
        make, rate = trial
        found, _ = train(world, make and make(tasks), rate)
        return purse(found["choose"], parts["choose"], "rating"), found["test"]

    if model == "constant":
        found = {name: np.full(len(test), past[name].mean()) for name in ("rating", "price")}
    elif model == "oracle":
        found = {"rating": test["true_rating"].to_numpy(), "price": test["price"].to_numpy()}
    else:
        makes: list[Any] = [None if model == "single" else RULES.get(model)]
        if model == "tuned":
            makes = [lambda tasks, weight=weight: FixedWeights([weight, 1.0]) for weight in WEIGHTS]
        found = choose(list(product(makes, RATES)), attempt)[1]
    rating = np.sqrt(np.mean((found["rating"] - test["true_rating"].to_numpy()) ** 2))
    price = np.mean(np.abs(np.exp(found["price"]) - test["price_shown"].to_numpy()))
    return [
        {"task": "rating", "metric": "distance to the truth", "value": float(rating)},
        {"task": "price", "metric": "mean miss in euros", "value": float(price)},
        {"task": "both", "metric": "purse", "value": purse(found, test, "true_rating")},
    ]


STUDY = Study(
    name="learning_weights",
    unit=unit,
    models=("constant", "single", "tuned", *RULES, "oracle"),
    replicates=10,
    code=(*PIPELINE, "shop", "market"),
    trainings=10 * 2 * (1 + len(WEIGHTS) + len(RULES)),
    hours=0.2,
)

if __name__ == "__main__":
    STUDY.main()
