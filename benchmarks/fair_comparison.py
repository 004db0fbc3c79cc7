"""Is balancing worth it? Ten settings, every method with the same number of trials, ten replicates.

A unit is one method in one setting and one replicate. Every method gets nine trials (the control nine a
task): first its knob, if it has one, at the middle learning rate; then learning rates, from the middle
outwards, with the best knob (``KNOBS``, ``RATES``). So the more values its knob has, the fewer rates a method
sees. The last two trials of the tuned weights go back to lambda, half a step of its grid to either side of
the best trial. The grid is the same in all settings and holds equal weights.
Trials are judged on the validation part, by one criterion for all: the mean over the tasks of the explained
share, 1 - loss / loss of the best constant of the training labels. It has no unit, so that the scale of a
loss does not decide what is chosen; its reference is trained by nobody, so that it carries no noise of its
own; and it is a likelihood, which few labels measure better than a rank. The control (``single``: one encoder
per task) chooses its rate task by task. All train for the same number of steps on the same batches; the
encoder that is shared starts from the same weights in every method. The test part is looked at once, with the
chosen trial. Balancing reaches what is shared; each head gets the gradient of its own task.

Settings were fixed on the worlds 100 and 101. A first run, with six trials and three values of lambda, was
stopped in world 0: the chosen lambda stood at an end of its grid in seven of nine settings. The study is the
worlds 200 to 209, of which none was looked at before (the first block of census people was). Run:

    python benchmarks/fair_comparison.py                (or two processes: run 0 2, run 1 2, then merge)
    python benchmarks/fair_comparison.py time           (seconds per step, on a quiet machine)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import study
import torch
from study import PIPELINE, Rows, Study

from mtl_ref import balancing, weighting
from mtl_ref.datasets import census_income, reviews
from mtl_ref.encoders import EmbeddingTable, TabularEncoder
from mtl_ref.evaluation import split
from mtl_ref.features import Features
from mtl_ref.market import Dials, World
from mtl_ref.metrics import auc
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.reproducible import setup
from mtl_ref.tasks import Binary, Regression, Task, targets
from mtl_ref.training import cosine, fit, predict

FIRST_WORLD = 200  # seed of the first replicate
Array = np.ndarray
Prediction = dict[str, Array]


# Settings: a world or a table, its tasks, and by how much the loss of the first one is multiplied.


@dataclass(frozen=True)
class Setting:
    """Where methods are compared; ``factor`` multiplies the loss of the first task."""

    source: str
    correlation: float = 0.0
    factor: float = 1.0
    epochs: int = 9
    batch_size: int = 768


SETTINGS = {
    f"{name} {rho:g}, x{factor:g}": Setting(source, rho, factor)
    for source, name, correlations in (("trees", "shop", (-0.8, 0.0, 0.8)), ("second", "second shop", (0.8,)))
    for rho in correlations
    for factor in (1.0, 100.0)
} | {
    "reviews": Setting("reviews", epochs=8, batch_size=512),
    "census": Setting("census", epochs=10, batch_size=384),
}
# What the truth makes no use of is left out, and the bargain is handed over ready: few rows must do.
IDS = ["segment", "age_band", "device", "loyalty", "item_id", "category", "colour", "pattern", "surface"]
NUMBERS = [
    *("tenure_days", "past_orders", "past_returns", "review_score", "listing_days", "hour"),
    *("list_price", "bargain"),
]
HIDDEN, HEAD, EMBEDDING, DROPOUT = (32, 16), (8,), 4, 0.2


@dataclass(frozen=True)
class ScaledRegression(Regression):
    """A regression whose loss is ``factor`` times as large: the squared error in a smaller unit."""

    factor: float = 1.0

    def row_loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Gaussian negative log-likelihood in standardised units, times the factor."""
        return self.factor * super().row_loss(output, target)


class Judged(NamedTuple):
    """Labels of one task in one part: rows of the part, labels, weights, and the best constant's loss.

    Where the truth is known each row stands twice, as a yes and as a no, weighted by their probabilities:
    what its labels would say on average.
    """

    rows: Array
    y: Array
    w: Array
    base: float


class Data(NamedTuple):
    """One replicate of one source, prepared; the first task is the one whose loss is scaled."""

    tasks: list[Task]
    sizes: dict[str, Any]
    train: tuple[dict[str, torch.Tensor], ...]  # x, y, w
    validation: dict[str, torch.Tensor]
    test: dict[str, torch.Tensor]
    chosen_by: dict[str, Judged]
    judged_by: dict[str, Judged]
    offset: dict[str, float]  # of the log-odds, where the training rows are no fair sample
    page: pd.DataFrame | None = None  # candidates of test requests with their truth
    page_x: dict[str, torch.Tensor] | None = None
    truth: Prediction | None = None  # of the test rows


def surprise(task: Task, y: Array, p: Array, w: Array) -> float:
    """Mean loss of predictions in natural units: squared error, or cross-entropy."""
    if isinstance(task, Regression):
        return float(np.average((y - p) ** 2, weights=w))
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return float(np.average(-(y * np.log(p) + (1 - y) * np.log1p(-p)), weights=w))


def constant(task: Task, train: pd.DataFrame) -> float:
    """The best constant of the training labels, by weight."""
    y = train[task.column].to_numpy(dtype=float)
    seen = ~np.isnan(y)
    weights = train[task.weight].to_numpy()[seen] if task.weight else None
    return float(np.average(y[seen], weights=weights))


def corrected(p: Any, offset: float) -> Any:
    """Probabilities after a shift of their log-odds."""
    return p / (p + (1 - p) * np.exp(-offset))


def judged(
    task: Task, train: pd.DataFrame, part: pd.DataFrame, truth: str | None = None, offset: float = 0.0
) -> Judged:
    """What a task is measured on."""
    y = part[task.column].to_numpy(dtype=float)
    rows = np.flatnonzero(~np.isnan(y))
    y, w = y[rows], part[task.weight].to_numpy()[rows] if task.weight else np.ones(len(rows))
    if truth is not None:
        q = part[truth].to_numpy()[rows]
        rows, y = np.tile(rows, 2), np.repeat([1.0, 0.0], len(q))
        w = np.concatenate([q, 1 - q]) * np.tile(w, 2)
    best = constant(task, train)
    best = corrected(best, offset) if offset else best
    return Judged(rows, y, w, surprise(task, y, np.full(len(y), best), w))


# Data


REQUESTS, KEPT, RATED = 8_000, 2_000, 1_200
TRUTH = {"rating": "true_rating", "purchase_given_click": "true_purchase_given_click", "click": "true_click"}


def shop(replicate: int, correlation: float, mechanism: str) -> Data:
    """Mulberry Lane: days 0-13 train, 14-20 validate, 21-27 test; 100 pages a day of the test are ranked.

    Training (validation) keeps at most 2,000 (1,000) purchases, and so many clicks without one and
    impressions without a click, so that small networks learn something; the odds that they predict are
    corrected for it afterwards. Clicks that led to a purchase are kept more often than others, and count for
    less when the click is learnt. The rating is asked of 1,200 orders of the training days, which are rows of
    their own. The test takes a fair sample of impressions, and the truth for labels.
    """
    dials = Dials(requests=REQUESTS, items=300, visitors=4_000, task_correlation=correlation)
    world, random = World(replicate, dials, mechanism), np.random.default_rng(replicate)
    log = world.serve(days=28).table()
    part = np.searchsorted([14, 21], log["day"], side="right")
    kind = (log["click"] + log["purchase"]).to_numpy().astype(int)  # neither, click, click and purchase
    found = np.bincount(3 * part + kind).reshape(3, 3)
    share = np.minimum(np.array([[KEPT], [KEPT / 2], [5_000 / 3]]) / found, 1.0)
    share[2] = 5_000 / found[2].sum()
    kept = share[part, kind]
    some = log[random.random(len(log)) < kept]
    ratio = share[part, 1] / kept  # of a purchase: so many, as if it were kept as often as other clicks
    some = some.assign(counts=np.where(kind == 2, ratio, 1.0)[some.index], rating=np.nan)
    orders = world.orders(24_000).query("day < 28")
    orders = orders.assign(click=np.nan, purchase_given_click=np.nan, counts=1.0)
    early = orders[orders["day"] < 14]
    dropped = early.index[random.permutation(len(early))[RATED:]]
    columns = [*dict.fromkeys([*IDS, *NUMBERS, "day", "counts", *TRUTH, *TRUTH.values()])]
    both = [bargain(some)[columns], bargain(orders.drop(index=dropped))[columns]]
    rows = pd.concat(both, ignore_index=True)
    train, validation, test = (rows[rows["day"].between(*days)] for days in ((0, 13), (14, 20), (21, 27)))
    test = test.assign(purchase_given_click=test["click"])  # asked of every impression; the truth counts
    tasks: list[Task] = [
        Regression("rating").fit(train),
        Binary("purchase_given_click").fit(train),
        Binary("click", weight="counts").fit(train),
    ]
    odds = constant(tasks[2], train)
    tasks[2] = replace(tasks[2], initial=(float(np.log(odds / (1 - odds))),))
    features = Features(categorical=IDS, numeric=NUMBERS, min_count=3).fit(train)
    page = pages(replicate, dials, mechanism)
    offset = {"purchase_given_click": float(np.log(share[0, 1] / share[0, 2]))}
    offset["click"] = float(np.log(share[0, 0] / share[0, 1]))
    # Not by the weights of the training rows: the impressions of the test are a fair sample, and what a
    # click would bring counts by the probability of the click.
    by = {"rating": judged(tasks[0], train, test)}
    for task in tasks[1:]:
        by[task.name] = judged(task, train, test.assign(counts=1.0), TRUTH[task.name], offset[task.name])
    bought = by["purchase_given_click"]
    w = bought.w * test["true_click"].to_numpy()[bought.rows]
    best = corrected(constant(tasks[1], train), offset["purchase_given_click"])
    base = surprise(tasks[1], bought.y, np.full(len(w), best), w)
    by["purchase_given_click"] = bought._replace(w=w, base=base)
    return Data(
        tasks,
        features.sizes,
        (features.transform(train), *targets(tasks, train)),
        features.transform(validation),
        features.transform(test),
        {task.name: judged(task, train, validation) for task in tasks},
        by,
        offset,
        page,
        features.transform(page),
        {name: test[column].to_numpy() for name, column in TRUTH.items()},
    )


def bargain(rows: pd.DataFrame) -> pd.DataFrame:
    """Add how much cheaper the item is than elsewhere."""
    return rows.assign(bargain=np.log(rows["competitor_price"] / rows["price_shown"]))


def pages(replicate: int, dials: Dials, mechanism: str) -> pd.DataFrame:
    """Candidates of some requests of the test days in the same shop, with their truth."""
    quiet, kept = World(replicate, replace(dials, requests=200), mechanism), []

    def remember(candidates: pd.DataFrame) -> Array:
        if candidates["day"].iloc[0] >= 21:
            kept.append(candidates[(candidates["listing_days"] >= 0) & (candidates["request_id"] % 2 == 0)])
        return np.zeros(len(candidates))

    for _ in quiet.stream(remember, days=28):
        pass
    asked = bargain(pd.concat(kept, ignore_index=True)).assign(slot=1)
    asked["gain"] = asked["price_shown"] - quiet.items["cost"].to_numpy()[asked["item_id"]]
    return pd.concat([asked, quiet.truth(asked)], axis=1)


def clothing(replicate: int) -> Data:
    """Reviews split by item: 25 % train, 20 % validate, 55 % test; a third of train has `recommended`."""
    parts = split(reviews(), (0.25, 0.2, 0.55), groups="item_id", seed=replicate)
    few = np.random.default_rng(replicate).random(len(parts[0])) < 1 / 3
    train = parts[0].assign(recommended=parts[0]["recommended"].where(few))
    tasks: list[Task] = [Regression("rating").fit(train), Binary("recommended").fit(train)]
    ids = ["division", "department", "class_name"]
    options: dict[str, Any] = {"text": ["title", "text"], "min_count": 5, "text_length": 32}
    features = Features(categorical=ids, numeric=["age"], **options).fit(train)
    return real(tasks, features, train, *parts[1:])


def people(replicate: int) -> Data:
    """Census: each replicate has people of its own, a twelfth; one in three tells the income.

    Rows that agree in all but the weight stay in one twelfth and in one part of it. The last two twelfths
    served for fixing the settings.
    """
    table = census_income()
    twin = pd.util.hash_pandas_object(table.drop(columns="instance_weight"), index=False)
    table = table.assign(twin=twin, married_never=(table["marital_stat"] == "Never married").astype(float))
    block = split(table, [1 / 12] * 12, groups="twin")[
        replicate - FIRST_WORLD if replicate >= FIRST_WORLD else 10 + replicate % 2
    ]
    train, validation, test = split(block, (0.45, 0.2, 0.35), groups="twin", seed=replicate)
    few = np.random.default_rng(replicate).random(len(train)) < 1 / 3
    train = train.assign(income=train["income"].where(few))
    tasks: list[Task] = [Binary("income").fit(train), Binary("married_never").fit(train)]
    hidden = ("marital_stat", "tax_filer_stat", "det_hh_fam_stat", "det_hh_summ")  # nearly give it away
    ids = [n for n in table.columns if str(table[n].dtype) == "category" and n not in hidden]
    features = Features(categorical=ids, numeric=["age", "weeks_worked", "num_emp"], min_count=3).fit(train)
    return real(tasks, features, train, validation, test)


def real(tasks: list[Task], features: Features, *parts: pd.DataFrame) -> Data:
    """Tensors and labels of a table without a known truth."""
    train, validation, test = parts
    x = (features.transform(train), *targets(tasks, train))
    held_out = [features.transform(part) for part in (validation, test)]
    labels = [{task.name: judged(task, train, part) for task in tasks} for part in (validation, test)]
    return Data(tasks, features.sizes, x, *held_out, *labels, {})


@lru_cache(maxsize=1)
def source(replicate: int, name: str, correlation: float) -> Data:
    """The data that settings with the same source share."""
    if name == "reviews":
        return clothing(replicate)
    return people(replicate) if name == "census" else shop(replicate, correlation, name)


def prepare(setting: str, replicate: int) -> Data:
    """The data of a setting, its first loss scaled."""
    s = SETTINGS[setting]
    d = source(replicate, s.source, s.correlation)
    if s.factor == 1:
        return d
    first: Any = d.tasks[0]
    scaled = ScaledRegression("rating", "", None, first.initial, first.location, first.scale, False, s.factor)
    return d._replace(tasks=[scaled, *d.tasks[1:]])


# Methods: what ``fit`` is given, from the tasks, the knob and the seed.


TRIALS = 9
RATES = [0.01 * 10 ** (step / 5) for step in (0, -1, 1, -2, 2, -3, 3, -4, 4)]  # from the middle outwards
EXACT: dict[str, Callable[[int, Any], torch.nn.Module]] = {
    "MGDA": lambda count, knob: balancing.MGDA(),
    "PCGrad": lambda count, knob: balancing.PCGrad(),
    "GradVac": lambda count, knob: balancing.GradVac(count, knob),
    "CAGrad": lambda count, knob: balancing.CAGrad(knob),
    "IMTL-G": lambda count, knob: balancing.IMTLG(),
    "Nash-MTL": lambda count, knob: balancing.NashMTL(),
    "Aligned-MTL": lambda count, knob: balancing.AlignedMTL(),
    "UPGrad": lambda count, knob: balancing.UPGrad(),
}
LEARNT: dict[str, Callable[[list[Task], Any, int], torch.nn.Module]] = {
    "equal": lambda tasks, knob, seed: weighting.FixedWeights([1.0] * len(tasks)),
    "tuned fixed": lambda tasks, knob, seed: weighting.FixedWeights([knob] + [1.0] * (len(tasks) - 1)),
    "uncertainty": lambda tasks, knob, seed: weighting.UncertaintyWeights(tasks),
    "DWA": lambda tasks, knob, seed: weighting.DWA(tasks, knob),
    "RLW": lambda tasks, knob, seed: weighting.RLW(tasks, seed),
    "GLS": lambda tasks, knob, seed: weighting.GLS(tasks),
    "FAMO": lambda tasks, knob, seed: weighting.FAMO(tasks, knob),
    "STCH": lambda tasks, knob, seed: weighting.STCH(tasks, knob, warm_up=1),
    "GradNorm": lambda tasks, knob, seed: weighting.GradNorm(tasks),
}
AT_Z = " at z"  # the approximation gradients="representation" of an exact method
METHODS = (*LEARNT, *EXACT, *(name + AT_Z for name in ("MGDA", "PCGrad", "CAGrad")))
# What a method lets one choose, the published value first; the learning rate gets the other trials.
KNOBS: dict[str, tuple[float, ...]] = {
    "tuned fixed": (1.0, 0.1, 10.0, 0.01, 0.001),  # lambda of the first task
    "uncertainty": (1.0, 10.0),  # learning rate of s, as a multiple of the model's
    "DWA": (2.0, 0.5),  # temperature
    "FAMO": (0.025, 0.1),  # learning rate of its logits
    "STCH": (1.0, 0.3),  # mu
    "GradNorm": (0.025, 0.25),  # learning rate of its lambda; the first is the paper's
    "GradVac": (0.01, 0.1),  # decay
    "CAGrad": (0.5, 0.8),  # c
}
MODELS = [
    f"{setting} | {method}"
    for setting, about in SETTINGS.items()
    for method in ("constant", "single", *METHODS, "oracle")
    if method != "oracle" or about.source in ("trees", "second")
]


def knobs_of(method: str) -> tuple[float, ...]:
    """Values of the method's knob."""
    return KNOBS.get(method.removesuffix(AT_Z), (np.nan,))


def search(method: str) -> Generator[tuple[float, float], tuple[float, float], None]:
    """Yield the trials (learning rate, knob) of a method; is sent the best pair so far after each."""
    knobs = knobs_of(method)
    for knob in knobs:
        best = yield RATES[0], knob
    back = (10**-0.5, 10**0.5) if method == "tuned fixed" else ()
    for rate in RATES[1 : TRIALS - len(knobs) - len(back) + 1]:
        best = yield rate, best[1]
    rate, knob = best
    for factor in back:
        yield rate, factor * knob


def settings_of(method: str, tasks: list[Task], rate: float, knob: float, seed: int) -> dict[str, Any]:
    """Arguments of ``fit``."""
    base = method.removesuffix(AT_Z)
    if base in EXACT:
        where = "representation" if method.endswith(AT_Z) else "parameters"
        return {"balancing": EXACT[base](len(tasks), knob), "gradients": where, "learning_rate": rate}
    found: dict[str, Any] = {"learning_rate": rate}
    if method != "single":
        found["weighting"] = LEARNT[method](tasks, knob, seed)
    if method in ("uncertainty", "GradNorm"):
        own = rate * knob if method == "uncertainty" else knob

        def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
            groups = [{"params": parameters[:-1]}, {"params": parameters[-1:], "lr": own}]  # the rule's: last
            return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)

        found["optimizer"] = make
    return found


class Watch:
    """The learning-rate schedule, which at fixed moments also looks at the task gradients.

    ``cosines`` are those of pairs of task gradients over the shared parameters, on one sample of the training
    rows, without dropout. ``agreement``, for a method at z, is the cosine of its update to the update
    of the exact method. The sampled rows do not depend on the method.
    """

    MOMENTS = (0.1, 0.5, 0.9)
    ROWS = 512

    def __init__(self, net: Any, tasks: list[Task], train: Any, method: str, knob: float) -> None:
        self.net, self.tasks, self.left = net, tasks, list(self.MOMENTS)
        rows = torch.randperm(len(next(iter(train[1].values()))), generator=torch.Generator().manual_seed(0))
        self.x, self.y, self.w = ({k: v[rows[: self.ROWS]] for k, v in part.items()} for part in train)
        base = method.removesuffix(AT_Z)
        self.rule = EXACT[base](len(tasks), knob) if method.endswith(AT_Z) else None
        self.cosines: list[float] = []
        self.agreement: list[float] = []

    def __call__(self, progress: float) -> float:
        """Factor of the learning rate."""
        if self.left and progress >= self.left[0] and self.net.shared_parameters():
            self.left.pop(0)
            self.look()
        return cosine(progress)

    def look(self) -> None:
        """Compare the gradients of the tasks, leaving the training as it is."""
        tables = [m for m in self.net.modules() if isinstance(m, EmbeddingTable)]
        tapes = [table.tape for table in tables]
        for table in tables:
            table.tape = None
        self.net.eval()
        encoded = self.net.encode(self.x)
        predictions = self.net.decode(encoded)
        losses = [t.loss(predictions, self.y[t.name], self.w.get(t.name)) for t in self.tasks]
        exact = self.gram(losses, self.net.shared_parameters())
        length = exact.diagonal().sqrt()
        pairs = combinations(range(len(losses)), 2)
        self.cosines += [float(exact[i, j] / (length[i] * length[j])) for i, j in pairs]
        if self.rule is not None:
            at_z = self.gram(losses, encoded.shared)
            a, b = (self.rule(gram, torch.Generator().manual_seed(0)) for gram in (exact, at_z))
            self.agreement.append(float(a @ exact @ b / ((a @ exact @ a) * (b @ exact @ b)).sqrt()))
        self.net.train()
        for table, tape in zip(tables, tapes, strict=True):
            table.tape = tape

    @staticmethod
    def gram(losses: list[torch.Tensor], at: Any) -> torch.Tensor:
        """Inner products (T, T) of the gradients of the losses."""
        rows = [
            torch.autograd.grad(loss, list(at), retain_graph=True, materialize_grads=True) for loss in losses
        ]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        return jacobian @ jacobian.T


# Units


def ask(d: Data, net: Any, x: dict[str, torch.Tensor]) -> Prediction:
    """Predictions for a fair sample of rows."""
    found = predict(net, d.tasks, x)
    return found | {name: corrected(found[name], offset) for name, offset in d.offset.items()}


def attempt(setting: str, d: Data, method: str, rate: float, knob: float, seed: int) -> tuple[Any, Watch]:
    """One trained network."""
    s = SETTINGS[setting]
    torch.manual_seed(seed)

    def encoder() -> TabularEncoder:
        return TabularEncoder(d.sizes, EMBEDDING, HIDDEN, DROPOUT, text_embedding=8)

    net = (
        SingleTask(encoder, d.tasks, HEAD) if method == "single" else SharedEncoder(encoder(), d.tasks, HEAD)
    )
    watch = Watch(net, d.tasks, d.train, method, knob)
    with warnings.catch_warnings():  # the approximation warns where tasks have labels on different rows
        warnings.filterwarnings("ignore", message="only .* of the labelled rows")
        fit(
            net,
            d.tasks,
            d.train,
            epochs=s.epochs,
            batch_size=s.batch_size,
            schedule=watch,
            seed=seed,
            progress=False,
            **settings_of(method, d.tasks, rate, knob, seed),
        )
    return net, watch


def shares(d: Data, by: dict[str, Judged], found: Prediction) -> dict[str, float]:
    """Explained share of each task."""
    return {
        t.name: 1 - surprise(t, by[t.name].y, found[t.name][by[t.name].rows], by[t.name].w) / by[t.name].base
        for t in d.tasks
    }


def measured(d: Data, found: Prediction) -> Rows:
    """Test metrics of each task."""
    rows: Rows = []
    for task in d.tasks:
        j = d.judged_by[task.name]
        p = found[task.name][j.rows]
        loss = surprise(task, j.y, p, j.w)
        values = {"explained": 1 - loss / j.base}
        if isinstance(task, Regression):
            values["rmse"] = loss**0.5
        else:
            values |= {"auc": auc(j.y, p, j.w), "log_loss": loss}
        rows += [{"task": task.name, "metric": metric, "value": value} for metric, value in values.items()]
    return rows


def purse(d: Data, score: Array) -> float:
    """Expected margin of the pages per 1,000 requests, when each request's candidates are sorted by score."""
    page: Any = d.page
    order = page.assign(score=score).sort_values(
        ["request_id", "score"], ascending=[True, False], kind="stable"
    )
    slot = order.groupby("request_id").cumcount().to_numpy() + 1
    worth = order["true_margin"].to_numpy() * slot**-0.5  # the dial ``position_decay``
    return float(1000 * worth[slot <= 6].sum() / page["request_id"].nunique())


def paid(d: Data, score: Array | None) -> Rows:
    """Purse of the pages under a score, where there are pages."""
    return [] if d.page is None or score is None else [_row("page", "purse", purse(d, score))]


def expected(d: Data, found: Prediction) -> Array | None:
    """P(click) P(purchase | click) margin of the candidates; a constant leaves the margin alone."""
    if d.page is None:
        return None
    margin = np.maximum(d.page["gain"].to_numpy(), 0.01)
    return margin * found["click"] * found["purchase_given_click"] if found else margin


def unit(replicate: int, model: str) -> Rows:
    """Test metrics of one method in one setting, with what was chosen and what was seen on the way.

    A trial that stops (Nash-MTL where no direction improves all tasks, a loss that is not finite) is lost;
    if all are lost, the constant stands in.
    """
    world = FIRST_WORLD + replicate
    setup(seed=world)
    setting, method = model.split(" | ")
    d = prepare(setting, world)
    count = len(next(iter(d.test.values())))
    nothing = {t.name: np.full(count, float(t.link(torch.tensor(t.initial)[0]))) for t in d.tasks}
    nothing |= {name: corrected(nothing[name], offset) for name, offset in d.offset.items()}
    if method == "constant":
        return measured(d, nothing) + paid(d, expected(d, {}))
    if method == "oracle":
        truth, page = d.truth, d.page  # which every setting with an oracle has
        assert truth is not None and page is not None
        return measured(d, truth) + paid(d, page["true_margin"].to_numpy())
    return tuned(setting, d, method, world, nothing)


def tuned(setting: str, d: Data, method: str, seed: int, nothing: Prediction) -> Rows:
    """Run the trials of a method; measure the chosen one on the test part."""
    names = [task.name for task in d.tasks]
    alone = method == "single"
    chosen: dict[str, Any] = {}  # by task for the control, by "" for all others
    scores, failed, trials = [], 0, search(method)
    rate, knob = next(trials)
    for trial in range(TRIALS):
        if trial:
            best = chosen.get("", (0.0, None, RATES[0], knobs_of(method)[0]))
            rate, knob = trials.send((best[2], best[3]))
        try:
            net, watch = attempt(setting, d, method, rate, knob, seed)
            by_task = shares(d, d.chosen_by, predict(net, d.tasks, d.validation))
        except (ValueError, FloatingPointError):
            failed += 1
            continue
        scores.append(float(np.mean(list(by_task.values()))))
        for name, score in by_task.items() if alone else [("", scores[-1])]:
            if name not in chosen or score > chosen[name][0]:
                chosen[name] = score, net, rate, knob, watch
    if not chosen:
        return measured(d, nothing) + paid(d, expected(d, {})) + _about({"failed": failed})
    picked = [chosen[name if alone else ""] for name in names]
    nets = {id(entry[1]): entry[1] for entry in picked}
    on_test = {key: ask(d, net, d.test) for key, net in nets.items()}
    on_page = {key: ask(d, net, d.page_x) for key, net in nets.items() if d.page_x is not None}

    def pick(found: dict[int, Prediction]) -> Prediction:
        return {n: found[id(entry[1])][n] for n, entry in zip(names, picked, strict=True)} if found else {}

    rows = measured(d, pick(on_test)) + paid(d, expected(d, pick(on_page)))
    about = {"failed": failed, "validation": float(np.mean([entry[0] for entry in picked]))}
    about |= {"median trial": float(np.median(scores)), "worst trial": min(scores)}
    if alone:
        return rows + _about(about) + [_row(n, "rate", e[2]) for n, e in zip(names, picked, strict=True)]
    _, _, rate, knob, watch = picked[0]
    about |= {"rate": rate} | ({} if np.isnan(knob) else {"knob": knob})
    about |= {"cosine": float(np.mean(watch.cosines)), "lowest cosine": min(watch.cosines)}
    if watch.agreement:
        about |= {"to exact": float(np.mean(watch.agreement))}
    return rows + _about(about)


def _row(task: str, metric: str, value: float) -> dict[str, Any]:
    return {"task": task, "metric": metric, "value": value}


def _about(values: dict[str, float]) -> Rows:
    return [_row("training", metric, value) for metric, value in values.items()]


# Time


def clock(rounds: int = 9, setting: str = "shop 0, x1") -> None:
    """Seconds per step of each method, methods interleaved in each round; stored beside the results."""
    setup(seed=100)
    d, seconds = prepare(setting, 100), {method: [] for method in METHODS}
    short = {k: v[: 512 * 20] for k, v in d.train[0].items()}
    train = (short, *({k: v[: 512 * 20] for k, v in part.items()} for part in d.train[1:]))
    for turn in range(rounds + 1):  # the first round warms up
        for method in np.random.default_rng(turn).permutation(METHODS).tolist():
            torch.manual_seed(0)
            net = SharedEncoder(TabularEncoder(d.sizes, EMBEDDING, HIDDEN, DROPOUT), d.tasks, HEAD)
            options = settings_of(method, d.tasks, RATES[0], knobs_of(method)[0], 0)
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit(net, d.tasks, train, epochs=2, batch_size=512, progress=False, **options)
            if turn:
                seconds[method].append(
                    (time.perf_counter() - started) / (2 * -(-len(short["numeric"]) // 512))
                )
    plain = np.array(seconds["equal"])
    found = {
        method: {
            "milliseconds": round(1000 * float(np.median(taken)), 4),
            "ratio": round(float(np.median(np.array(taken) / plain)), 4),
            "lowest": round(float((np.array(taken) / plain).min()), 4),
            "highest": round(float((np.array(taken) / plain).max()), 4),
        }
        for method, taken in seconds.items()
    }
    about = {
        "command": "python benchmarks/fair_comparison.py time",
        "setting": setting,
        "rounds": rounds,
        "batch_size": 512,
        "tasks": len(d.tasks),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "methods": found,
    }
    path = study.RESULTS / "fair_comparison_time.json"
    path.write_text(json.dumps(about, indent=1) + "\n")


STUDY = Study(
    name="fair_comparison",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=(*PIPELINE, "balancing", "solvers", "market", "shop", "datasets", "evaluation", "folding"),
    trainings=10 * TRIALS * len(SETTINGS) * (len(METHODS) + 1),  # the control's: one encoder per task in each
    hours=3.0,
    data=("reviews", "census_income"),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["time"]:
        clock()
    else:
        STUDY.main()
