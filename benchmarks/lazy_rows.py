"""What lazy rows do to the test loss: the same training twice, dense Adam and lazy rows, in ten worlds.

A world has impressions with a click label (21 days, 200 requests a day; days from 16 are the test part) and
10,000 rated purchases with a return label (days from 63 are the test part). Weights at the start and batches
are the same for both. The learning rate (0.003), the width of a vector (8), the batch (512) and three epochs
were fixed before the first run and tuned for neither. ``constant`` predicts the training mean.
Run:

    python benchmarks/lazy_rows.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from study import PIPELINE, Rows, Study

from mtl_ref.batches import Batches
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.market import CATEGORICAL, NUMERIC, Dials, World
from mtl_ref.models import SharedEncoder
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, targets
from mtl_ref.training import fit

IDS, NUMBERS = list(CATEGORICAL), list(NUMERIC)
EPOCHS = 3


@lru_cache(maxsize=1)
def shop(seed: int) -> tuple[Any, ...]:
    """Features, tasks, training part and test part of one world."""
    setup(seed=0)
    world = World(seed, Dials(requests=200))
    shown, orders = world.serve(days=21).table(), world.orders(10_000)
    parts = [
        shown.assign(late=shown["day"] >= 16, returned=np.nan),
        orders.assign(late=orders["day"] >= 63, click=np.nan),
    ]
    keep = [*IDS, *NUMBERS, "late", "click", "returned"]
    rows = pd.concat([part[keep] for part in parts], ignore_index=True)
    train, test = rows[~rows["late"]], rows[rows["late"]]
    features = Features(IDS, NUMBERS).fit(train)
    tasks = [Binary("click").fit(train), Binary("return", column="returned").fit(train)]
    data = [(features.transform(part), targets(tasks, part)[0]) for part in (train, test)]
    return features, tasks, *data


def unit(world: int, model: str) -> Rows:
    """Test log-loss by task after every epoch."""
    seed = 100 + world
    features, tasks, train, test = shop(seed)
    losses = {}
    if model == "constant":
        for task in tasks:
            label, rate = test[1][task.name], train[1][task.name].nanmean()
            losses[task.name] = [
                task.loss({task.name: torch.full_like(label, rate).logit()}, label).item()
            ] * EPOCHS
    else:
        torch.manual_seed(seed)
        net = SharedEncoder(TabularEncoder(features.sizes, 8, (32, 16)), tasks, (8,))
        options = {"epochs": EPOCHS, "learning_rate": 3e-3, "validation": test}
        history = fit(net, tasks, Batches(*train, batch_size=512), lazy_rows=model == "lazy", **options)
        losses = {task.name: history[f"validation_{task.name}"].tolist() for task in tasks}
    return [
        {"task": name, "metric": f"log-loss after epoch {epoch}", "value": loss}
        for name, by_epoch in losses.items()
        for epoch, loss in enumerate(by_epoch, 1)
    ]


STUDY = Study(
    name="lazy_rows",
    unit=unit,
    models=("dense", "lazy", "constant"),
    replicates=10,
    code=(*PIPELINE, "shop", "market"),
    trainings=20,
    hours=0.05,
)

if __name__ == "__main__":
    STUDY.main()
