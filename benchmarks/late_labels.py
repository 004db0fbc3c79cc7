"""Purchases that arrive late on Mulberry Lane: ten worlds, five cases, six ways to read one log.

Each shop opened fourteen days ago, and its log is read on day 14. Every method sees the same rows and trains
the same network for the same number of epochs; only its reading of the purchase column differs. "One task"
is a network for purchases alone (a second one, trained once a world, predicts clicks); "two tasks" is one
encoder for clicks and purchases. They are judged on the clicks and on the pages of the following days,
against the probabilities that the simulator drew from. Settings were fixed on worlds 100 and 101. Run:

    python benchmarks/late_labels.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from study import PIPELINE, Rows, Study
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.market import CATEGORICAL, NUMERIC, WOOL_COAT, Dials, World, uniform
from mtl_ref.metrics import auc
from mtl_ref.models import SharedEncoder
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, Task, targets
from mtl_ref.training import fit, predict

CASES = {  # half-life in days (the dial's default is 2), mechanism of the shop
    "0.5 days": (0.5, "trees"),
    "2 days": (2.0, "trees"),
    "7 days": (7.0, "trees"),
    "14 days": (14.0, "trees"),
    "7 days, second shop": (7.0, "second"),
}
TODAY, LAG, WAIT = 14.0, 0.25, 7.0  # days: the reading, from a purchase to its row in the log, the wait
KEPT = 8  # one in so many impressions without a click trains the click task, with that weight
BID = 5.0  # clicks are offered at prices uniform from 0 to this
IDS = [name for name in CATEGORICAL if name != "visitor_id"]
METHODS = ("naive", "wait", "weight", "delay, fixed", "delay, learnt", "final labels")
CONSTANTS = ("constant", "constant, corrected")
MODELS = (*CONSTANTS, *(f"{m}, {n}" for n in ("one task", "two tasks") for m in METHODS), "oracle")


@dataclass(frozen=True)
class Delayed(Task):
    """Bought or not, seen late: the label is +delay where the purchase was seen, -elapsed where it was not.

    P(not seen) = 1 - p + p exp(-hazard elapsed); Chapelle (2014). With ``hazard`` 0 a second output learns
    its logarithm.
    """

    main = "auc"

    hazard: float = 0.0

    @property
    def width(self) -> int:
        """Logit, and log hazard where it is learnt."""
        return 1 if self.hazard else 2

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of signed times (B,)."""
        logit, log_hazard = (output, torch.tensor(self.hazard).log()) if self.hazard else output.unbind(1)
        waited = log_hazard.exp() * target.abs()
        seen = -logsigmoid(logit) - log_hazard + waited
        return torch.where(target >= 0, seen, softplus(logit) - softplus(logit - waited))

    def link(self, output: Tensor) -> Tensor:
        """Probability of buying at all."""
        return torch.sigmoid(output if self.hazard else output[:, 0])


def hazard_of(delay: np.ndarray, elapsed: np.ndarray) -> float:
    """Hazard from the delays that were seen: each was seen only because it was below the time elapsed."""

    def surprise(log_hazard: float) -> float:
        hazard = np.exp(log_hazard)
        return float(np.mean(hazard * delay - log_hazard + np.log(-np.expm1(-hazard * elapsed))))

    found = minimize_scalar(surprise, bounds=np.log(np.log(2) / np.array([60.0, 0.05])), method="bounded")
    return float(np.exp(found.x))


@dataclass
class Case:
    """One world at one half-life: what the shop sees on day 14, and what it is judged on."""

    rows: pd.DataFrame
    clicks: pd.DataFrame
    x: dict[str, Tensor]
    features: Features
    hazard: float
    test: pd.DataFrame
    page: pd.DataFrame
    world: World
    click: Any = None


@lru_cache(maxsize=len(CASES))
def case(seed: int, half_life: float, mechanism: str) -> Case:
    """Serve the shop, read its log on day 14, and collect the next days' clicks and candidates."""
    world = World(seed, Dials(requests=4_000, items=300, delay_half_life=half_life), mechanism)
    log = world.serve(days=17)
    bought = log.events.query("kind == 'purchase'").set_index("impression_id")["happened_at"]
    table = log.table()
    table["final"] = table["purchase_given_click"]
    rows = table[table["time"] <= TODAY]
    draw = np.random.default_rng(seed).random(len(rows)) * KEPT < 1
    rows = rows[(rows["click"] == 1) | draw].reset_index(drop=True)
    rows["click_weight"] = np.where(rows["click"] == 1, 1.0, KEPT)
    asked = rows["click"] == 1
    rows["elapsed"] = (TODAY - LAG - rows["time"]).where(asked)
    delay = rows["impression_id"].map(bought) - rows["time"]
    rows["delay"] = delay.where(delay <= rows["elapsed"])
    rows.loc[rows["elapsed"] <= 0, "elapsed"] = np.nan  # no purchase could have been seen yet
    clicks = rows[rows["elapsed"].notna()]
    seen = clicks[clicks["delay"].notna()]
    hazard = hazard_of(seen["delay"].to_numpy(), seen["elapsed"].to_numpy())
    features = Features(categorical=[*IDS, "slot"], numeric=NUMERIC).fit(rows)
    offered: list[pd.DataFrame] = []

    def listen(candidates: pd.DataFrame) -> np.ndarray:
        offered[:] = [candidates]
        return uniform(candidates)

    world.serve(listen, days=int(TODAY) + 1)
    page = offered[0][offered[0]["request_id"] % 2 == 0].assign(slot=1).reset_index(drop=True)
    page["gain"] = page["price_shown"] - world.items["cost"].to_numpy()[page["item_id"]]
    test = table[(table["day"] >= TODAY) & (table["click"] == 1)].reset_index(drop=True)
    test["gain"] = test["price_shown"] - world.items["cost"].to_numpy()[test["item_id"]]
    return Case(rows, clicks, features.transform(rows), features, hazard, test, page, world)


def read(method: str, c: Case) -> tuple[Task, pd.DataFrame]:
    """The purchase task and the label column of one method; NaN where it has no opinion."""
    seen, elapsed = c.rows["delay"].notna().astype(float), c.rows["elapsed"]
    arrived = -np.expm1(-c.hazard * elapsed)  # share of the purchases that the log should show by now
    rate = seen.sum() / arrived.sum()
    weight = np.ones(len(seen))
    if method.startswith("delay"):
        label = c.rows["delay"].fillna(-elapsed)
        start = (np.log(rate / (1 - rate)), np.log(c.hazard))
        fixed = method == "delay, fixed"
        task: Task = Delayed("purchase", "label", initial=start[: 2 - fixed], hazard=c.hazard * fixed)
        return task, pd.DataFrame({"label": label, "weight": weight})
    label = c.rows["final"] if method == "final labels" else seen
    label = label.where(elapsed.notna())
    if method == "wait":
        label = label.where(elapsed >= WAIT)
    if method == "weight":
        label = label.where(arrived >= 0.1)
        weight = np.where(seen == 1, 1 / arrived.clip(lower=0.1), 1.0)
    table = pd.DataFrame({"label": label, "weight": weight})
    return Binary("purchase", "label", weight="weight").fit(table), table


def train(c: Case, tasks: list[Task], table: pd.DataFrame, keep: np.ndarray, size: int, seed: int) -> Any:
    """Train one network on the rows kept."""
    torch.manual_seed(seed)
    x = {name: part[torch.tensor(keep)] for name, part in c.x.items()}
    y, w = targets(tasks, table[keep])
    net = SharedEncoder(TabularEncoder(c.features.sizes, 4, (32,), 0.2), tasks, (16,))
    fit(net, tasks, (x, y, w), epochs=5, batch_size=size, learning_rate=3e-3, seed=seed)
    return net


def chances(model: str, c: Case, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(buy | click) of the test clicks; P(click) and P(buy | click) of the candidates."""
    if model == "oracle":
        truth = c.world.truth(c.page)
        given = [t["true_purchase_given_click"].to_numpy() for t in (c.test, truth)]
        return given[0], truth["true_click"].to_numpy(), given[1]
    ask = Binary("click", weight="click_weight").fit(c.rows)
    every = np.ones(len(c.rows), dtype=bool)
    parts = [c.features.transform(part) for part in (c.test, c.page)]
    if not model.endswith("two tasks"):
        if c.click is None:
            net = train(c, [ask], c.rows, every, 2048, seed)
            c.click = predict(net, [ask], parts[1])["click"]
        if model in CONSTANTS:
            seen, arrived = len(c.clicks["delay"].dropna()), -np.expm1(-c.hazard * c.clicks["elapsed"]).sum()
            rate = seen / (arrived if model.endswith("corrected") else len(c.clicks))
            return np.full(len(c.test), rate), c.click, np.full(len(c.page), rate)
    method = model.removesuffix(", one task").removesuffix(", two tasks")
    task, table = read(method, c)
    if model.endswith("one task"):
        net = train(c, [task], table, table["label"].notna().to_numpy(), 512, seed)
        bought = [predict(net, [task], x)["purchase"] for x in parts]
        return bought[0], c.click, bought[1]
    both = pd.concat([c.rows[["click", "click_weight"]], table], axis=1)
    net = train(c, [ask, task], both, every, 2048, seed)
    found = [predict(net, [ask, task], x) for x in parts]
    return found[0]["purchase"], found[1]["click"], found[1]["purchase"]


def judge(c: Case, p: np.ndarray, click: np.ndarray, bought: np.ndarray) -> dict[str, float]:
    """Metrics against the truth of the next days, and the purse."""
    truth, final = c.test["true_purchase_given_click"].to_numpy(), c.test["final"].to_numpy()
    q, p = np.clip(truth, 1e-9, 1 - 1e-9), np.clip(p, 1e-9, 1 - 1e-9)
    both = np.repeat([1.0, 0.0], len(p)), np.tile(p, 2), np.concatenate([q, 1 - q])
    worth, bid = q * c.test["gain"].to_numpy(), np.clip(p * c.test["gain"].to_numpy(), 0, BID)
    order = c.page.assign(score=click * bought * c.page["gain"]).sort_values(
        ["request_id", "score"], ascending=[True, False], kind="stable"
    )
    slot = order.groupby("request_id").cumcount() + 1
    page = order.assign(slot=slot)[slot <= c.world.dials.slots]
    coat = (c.page["item_id"] == WOOL_COAT).to_numpy()
    coat_truth = c.world.truth(c.page[coat])["true_purchase_given_click"].mean()
    return {
        "surplus": float(1000 * np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))),
        "log_loss": float(-np.mean(final * np.log(p) + (1 - final) * np.log(1 - p))),
        "auc": auc(*both),
        "level": float(p.mean() / q.mean()),
        "coat": float(bought[coat].mean() / coat_truth),
        "page": float(1000 * c.world.truth(page)["true_margin"].sum() / page["request_id"].nunique()),
        "bids": float(1000 * np.mean(worth * bid - bid**2 / 2) / BID),
    }


def unit(replicate: int, model: str) -> Rows:
    """All cases of one model in one world."""
    setup(seed=replicate)
    rows: Rows = []
    for name, (half_life, mechanism) in CASES.items():
        c = case(replicate, half_life, mechanism)
        found = judge(c, *chances(model, c, replicate))
        found["half_life"] = float(np.log(2) / c.hazard)
        found["missing"] = 1 - float(c.clicks["delay"].notna().sum() / c.clicks["final"].sum())
        rows += [{"task": name, "metric": k, "value": v} for k, v in found.items()]
    return rows


STUDY = Study(
    name="late_labels",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=(*PIPELINE, "market", "reproducible", "shop"),
    trainings=10 * len(CASES) * (2 * len(METHODS) + 1),
    hours=0.3,
)

if __name__ == "__main__":
    STUDY.main()
