"""Which score ranks the page? Ten worlds, nine weights lambda, each with nine products of powers; the purse.

A net with three heads (click, purchase after a click, rating) is trained on days 0-17 of the shop's own log
(every click and a quarter of the unclicked impressions, weighted) and on rated orders of the same days. On
days 18-20 (validation) and 21-27 (test), 300 requests a day are ranked: 24 candidates for 6 slots. The
*purse* is the expected margin of the pages per 1,000 requests by the simulator's truth, so that a formula is
not judged by the luck of a few orders. On the validation days it stands for an online test without noise;
``replay`` is what the shop itself can compute there: the logged pages put into the new order, with the orders
that were really placed. Nothing is chosen here: every trial is stored, with its validation and its test
purse. Each unit also asks what z knows: about similar items, about an item whose id is new, and about
visitors. Run:

    python benchmarks/score_fusion.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from study import PIPELINE, Rows, Study

from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.market import CATEGORICAL, NUMERIC, RED_SCARF, Dials, World
from mtl_ref.metrics import auc
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, Regression, targets
from mtl_ref.training import cosine, fit, predict
from mtl_ref.weighting import FixedWeights

IDS = [name for name in CATEGORICAL if name not in ("visitor_id", "region")]  # region: kept from the model
VISITOR = ["segment", "age_band", "device", "loyalty", "tenure_days", "past_orders", "past_returns"]
EPOCHS = 4
DECAY = 0.5  # slot k is examined with probability k ** -DECAY (the shop's default dial)
POWERS = list(product((0.5, 1.0, 1.5), (0.5, 0.75, 1.0)))  # of the purchase score and of the margin
WEIGHTS = list(
    product((0.3, 1.0, 3.0), (0.1, 0.3, 1.0))
)  # lambda of purchase and of rating; the click's is 1
MODELS = (*(f"{buy:g} {stars:g}" for buy, stars in WEIGHTS), "single")
Array = np.ndarray


class Data(NamedTuple):
    """One world, prepared."""

    world: World
    features: Features
    tasks: list[Any]
    train: tuple[dict[str, torch.Tensor], ...]  # x, y, w
    popularity: Array  # clicks of each item in training
    shown: pd.DataFrame  # impressions of the validation and test days
    asked: pd.DataFrame  # candidates of the requests that are ranked
    truth: pd.DataFrame  # of ``asked``


@lru_cache(maxsize=1)
def data(seed: int) -> Data:
    """Training rows, candidates and their truth of one world."""
    world, random, kept = World(seed, Dials(requests=2_500)), np.random.default_rng(seed), []
    log = world.serve(days=28).table()

    def remember(candidates: pd.DataFrame) -> Array:
        if candidates["day"].iloc[0] >= 18:
            some = np.sort(random.choice(candidates["request_id"].unique(), 300, replace=False))
            kept.append(candidates[candidates["request_id"].isin(some) & (candidates["listing_days"] >= 0)])
        return np.zeros(len(candidates))

    for _ in world.stream(remember, days=28):
        pass
    asked = pd.concat(kept, ignore_index=True)
    past, orders = log[log["day"] < 18], world.orders(40_000).query("day < 18")
    orders = orders.assign(click=np.nan, purchase_given_click=np.nan, stands_for=1.0)
    # Every click, and a quarter of the unclicked impressions, each standing for four.
    some = past[(past["click"] == 1) | (random.random(len(past)) < 0.25)]
    some = some.assign(rating=np.nan, stands_for=np.where(some["click"] == 1, 1.0, 4.0))
    columns = [*IDS, *NUMERIC, "click", "purchase_given_click", "rating", "stands_for"]
    rows = pd.concat([some[columns], orders[columns]], ignore_index=True)
    tasks = [Binary("click", weight="stands_for"), Binary("purchase_given_click"), Regression("rating")]
    tasks = [task.fit(rows) for task in tasks]
    features = Features(categorical=IDS, numeric=NUMERIC, min_count=5).fit(rows)
    train = features.transform(rows), *targets(tasks, rows)
    popularity = np.bincount(past["item_id"], past["click"], len(world.items))
    return Data(world, features, tasks, train, popularity, log[log["day"] >= 18], asked, world.truth(asked))


def place(score: Array, request: Array) -> Array:
    """The slot of each row (N,), from 1, when every request is sorted by score."""
    order = np.lexsort((-score, request))
    first = np.flatnonzero(np.diff(request[order], prepend=-1))
    slot = np.empty(len(score), dtype=np.int64)
    slot[order] = np.arange(len(score)) - np.repeat(first, np.diff(first, append=len(score))) + 1
    return slot


def purse(score: Array, request: Array, margin: Array, slots: int = 6) -> float:
    """Margin per 1,000 requests; ``margin`` (N,) is that of the row in slot 1."""
    slot = place(score, request)
    return float(1000 * (margin * slot**-DECAY)[slot <= slots].sum() / len(np.unique(request)))


def train(world: int, model: str) -> Any:
    """A trained net: the weights' shared encoder, or three nets that share nothing."""
    d = data(world)
    setup(seed=world)

    def encoder() -> TabularEncoder:
        return TabularEncoder(d.features.sizes, 8, (64, 32))

    weights = None if model == "single" else FixedWeights([1.0, *map(float, model.split())])
    net = SingleTask(encoder, d.tasks, (16,)) if weights is None else SharedEncoder(encoder(), d.tasks, (16,))
    settings: dict[str, Any] = {"epochs": EPOCHS, "learning_rate": 2e-3, "schedule": cosine, "seed": world}
    fit(net, d.tasks, d.train, weighting=weights, **settings)
    return net


def represent(net: Any, x: dict[str, torch.Tensor]) -> Array:
    """The representation z (N, width) of any of the nets."""
    with torch.no_grad():
        encoded = net.encode(x)
    return torch.cat(
        [*encoded.shared, *(z for part in encoded.private.values() for z in part)], dim=1
    ).numpy()


def formulas(d: Data, found: dict[str, Array], rows: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Array]:
    """Every way to turn the predictions of rows into one score."""
    click, buy, item = found["click"], found["purchase_given_click"], rows["item_id"].to_numpy()
    margin = np.maximum(rows["price_shown"].to_numpy() - d.world.items["cost"].to_numpy()[item], 0.01)
    scores = {"random": np.random.default_rng(0).random(len(rows)), "popularity": d.popularity[item]}
    scores |= {"rating": found["rating"], "click": click, "purchase": buy, "conversion": click * buy}
    scores |= {f"powers {b:g} {m:g}": click * buy**b * margin**m for b, m in POWERS}
    return scores | {
        "true conversion": truth["true_ctcvr"].to_numpy(),
        "oracle": truth["true_margin"].to_numpy(),
    }


def pages(d: Data, net: Any) -> Rows:
    """Purse and AUC of every formula."""
    x = d.features.transform(d.asked)
    scores = formulas(d, predict(net, d.tasks, x), d.asked, d.truth)
    request, margin = d.asked["request_id"].to_numpy(), d.truth["true_margin"].to_numpy()
    test = d.asked["day"].to_numpy() >= 21
    logged = formulas(d, predict(net, d.tasks, d.features.transform(d.shown)), d.shown, d.shown)
    bought, late = d.shown["purchase"].to_numpy(), d.shown["day"].to_numpy() >= 21
    cost = d.world.items["cost"].to_numpy()[d.shown["item_id"]]
    kept = 1 - d.shown["returned"].fillna(0).to_numpy()
    gain = bought * (kept * (d.shown["price_shown"].to_numpy() - cost) - 4 * (1 - kept))
    gain = gain * d.shown["slot"].to_numpy() ** DECAY  # as if it had stood in slot 1
    page = d.shown["request_id"].to_numpy()
    rows: Rows = []
    for name, score in scores.items():
        values = {"purse": purse(score[test], request[test], margin[test])}
        values["validation"] = purse(score[~test], request[~test], margin[~test])
        values["replay"] = purse(logged[name][~late], page[~late], gain[~late])
        values["auc"] = auc(bought[late], logged[name][late])
        rows += [{"task": name, "metric": metric, "value": value} for metric, value in values.items()]
    return rows


def similar(d: Data, net: Any) -> Rows:
    """Five nearest items by the id's embedding and by z, for the 500 items most clicked."""
    items = np.sort(np.argsort(-d.popularity, kind="stable")[:500])
    view = d.shown[d.shown["item_id"].isin(items)].drop_duplicates("item_id").sort_values("item_id")
    items = view["item_id"].to_numpy()
    asker = d.shown.iloc[:40]  # forty real visits, the same for every item
    table = view.loc[view.index.repeat(len(asker))].reset_index(drop=True)
    for name in [*VISITOR, "visitor_id", "surface", "weekday", "hour", "day"]:
        table[name] = pd.concat([asker[name]] * len(items), ignore_index=True)
    x = d.features.transform(table)
    z = represent(net, x).reshape(len(items), -1)
    encoder = net.encoder if hasattr(net, "encoder") else net.encoders["click"]
    at = IDS.index("item_id")
    own = x["categorical"][:: len(asker), at] + encoder.embedding.offset[at]
    table = table.assign(slot=1)
    worth = np.log(d.world.truth(table)["true_click"].to_numpy()).reshape(len(items), -1)
    worth = np.corrcoef(worth - worth.mean(0))  # do the same visitors click both?
    category = d.world.items["category"].to_numpy()[items]
    rows: Rows = []
    vectors = {"embedding": encoder.embedding.table.weight.detach().numpy()[own], "z": z}
    vectors["random"] = np.random.default_rng(0).normal(size=(len(items), 8))
    for name, vector in vectors.items():
        vector = vector - vector.mean(0)
        near = vector @ vector.T / np.linalg.norm(vector, axis=1)[:, None] / np.linalg.norm(vector, axis=1)
        np.fill_diagonal(near, -np.inf)
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :5]
        same = (category[nearest] == category[:, None]).mean()
        rows.append({"task": f"neighbours by {name}", "metric": "same category", "value": float(same)})
        tastes = worth[np.arange(len(items))[:, None], nearest].mean()
        rows.append({"task": f"neighbours by {name}", "metric": "same visitors", "value": float(tastes)})
    return rows


def newcomers(d: Data, net: Any) -> Rows:
    """Rank correlation of predicted and true click rate: id known, id hidden, sides shuffled, new items."""
    listed = (d.asked["day"] - d.asked["listing_days"]).to_numpy()
    known, new = d.asked[listed < 0], d.asked[listed >= 18]
    sides = ["category", "department", "brand", "seller_id", "colour", "shape", "pattern"]
    sides += ["review_score", "review_count", "listing_days", "list_price", "price_shown", "competitor_price"]
    other = known[sides].sample(frac=1, random_state=0).reset_index(drop=True)
    cases = {"id known": known, "id hidden": known.assign(item_id=-1)}
    cases["sides shuffled"] = known.reset_index(drop=True).assign(**{name: other[name] for name in sides})
    cases["new item"] = new
    rows: Rows = []
    for name, table in cases.items():
        click = predict(net, d.tasks, d.features.transform(table))["click"]
        true = d.truth.loc[(new if name == "new item" else known).index, "true_click"].to_numpy()
        value = pd.Series(click).corr(pd.Series(true), method="spearman")
        rows.append({"task": name, "metric": "rank correlation", "value": float(value)})
    return rows


def privacy(d: Data, net: Any) -> Rows:
    """AUC of a logistic regression that reads a hidden attribute of held-out visitors."""
    people = d.world.visitors.iloc[3:].sample(8_000, random_state=0)
    scarf = d.shown[d.shown["item_id"] == RED_SCARF].iloc[[0]]
    table = scarf.loc[scarf.index.repeat(len(people))].reset_index(drop=True)
    people = people.assign(tenure_days=table["day"].iloc[0] - people["joined_day"]).reset_index(drop=True)
    table[VISITOR] = people[VISITOR]
    x = d.features.transform(table)
    inputs = pd.get_dummies(people[VISITOR], dtype=float).to_numpy()
    outputs = np.stack(list(predict(net, d.tasks, x).values()), axis=1)
    rows: Rows = []
    hidden = {"looker": people["true_type"] == "looker", "returner": people["true_type"] == "returner"}
    hidden["from the north"] = people["region"] == "north"
    for task, label in hidden.items():
        y = label.to_numpy().astype(int)
        for metric, seen in (
            ("from z", represent(net, x)),
            ("from outputs", outputs),
            ("from inputs", inputs),
        ):
            reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
            reader.fit(seen[:4_000], y[:4_000])
            value = auc(y[4_000:], reader.predict_proba(seen[4_000:])[:, 1])
            # Rounded: another CPU may swap two visitors whose probabilities agree to ten digits.
            rows.append({"task": task, "metric": metric, "value": round(float(value), 4)})
    return rows


def unit(world: int, model: str) -> Rows:
    """All rows of one trained net in one world."""
    d, net = data(world), train(world, model)
    return pages(d, net) + similar(d, net) + newcomers(d, net) + privacy(d, net)


STUDY = Study(
    name="score_fusion",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=(*PIPELINE, "shop", "market"),
    trainings=10 * 10,
    hours=0.25,
)

if __name__ == "__main__":
    STUDY.main()
