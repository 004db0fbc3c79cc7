"""The shop behind Mulberry Lane: who is in it, what they want, and the truth that follows.

``market`` serves days in it; see there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from math import erf
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import checks

Array = NDArray[Any]
Rows = dict[str, Array]  # by column

OPENING = "2025-11-04"
RED_SCARF, WOOL_COAT, TEA_TIN = 0, 1, 2  # item_id of the recurring items
RETURNER, LOOKER, GIFT_GIVER = 0, 1, 2  # visitor_id of the recurring visitors
TYPES = ("regular", "returner", "looker", "gift giver")
SURFACES = ("home", "search", "cart", "mail")
VISITOR_FEATURES = ("visitor_id", "segment", "age_band", "region", "device", "loyalty")
ITEM_FEATURES = ("item_id", "category", "department", "brand", "seller_id", "colour", "shape", "pattern")
CATEGORICAL = (*VISITOR_FEATURES, *ITEM_FEATURES, "surface", "weekday")
HISTORY = ("tenure_days", "past_orders", "past_returns", "review_score", "review_count", "listing_days")
NUMERIC = (*HISTORY, "hour", "list_price", "price_shown", "competitor_price")

_LEVELS = {
    "segment": "student family professional retired collector",
    "age_band": "18-24 25-34 35-49 50-64 65+",
    "device": "phone tablet computer",
    "loyalty": "none silver gold",
    "region": "north south east west islands abroad",
    "category": "scarf coat dress shoes lamp cushion tea biscuits",
    "colour": "red blue green yellow black white grey brown",
    "pattern": "plain striped dotted checked",
    "shape": "square round long triangular oval",
    "brand": " ".join(f"brand-{n}" for n in range(40)),
}
_TYPICAL_PRICE = np.array([28.0, 150.0, 70.0, 85.0, 48.0, 24.0, 12.0, 8.0])  # by category
WEEK = np.array([1.0, 0.94, 0.92, 0.96, 1.04, 1.12, 1.02])  # requests by weekday, Monday first
_SURFACE_SHIFT = np.array([[0.0, 0.5, -0.2, -0.6], [-0.3, 0.4, 1.2, 0.0]])  # click, purchase
CUTS = np.array([-1.25, -0.9, -0.5, 0.25])  # satisfaction at which 1 star becomes 2, ... 4 become 5
RATED = np.array([0.16, 0.26, 0.36])  # share of purchases rated, by loyalty
_CDF_AT = np.linspace(-8.0, 8.0, 4001)
_CDF = np.array([0.5 + 0.5 * erf(x / 2**0.5) for x in _CDF_AT])
SCRIPTED = 1046  # position of impression 1047


def _dial(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Dials:
    """What can be turned in a world; zero means that the effect is absent.

    Attributes:
        task_correlation: Correlation of the purchase affinity with the click affinity and with the rating
            affinity over (visitor, item) pairs (click with rating: its square). In [-1, 1].
        observed_selection: Change of the click's log-odds per standard deviation of the *observed* bargain
            log(competitor_price / price_shown), which always drives purchases. In [-2, 2].
        hidden_confounding: Half the difference in log-odds of click *and* purchase between requests with and
            without a hidden errand. In [-2, 2].
        position_decay: Slot k is examined with probability k ** -position_decay. In [0, 2].
        delay_half_life: Days until half of the purchases that will follow a click have happened. In [0, 30].
        return_rate: Share of purchases returned by an average visitor of an average item. In [0, 0.4].
        accidental_clicks: Probability of a click by mistake on an impression; it never leads to a purchase.
            In [0, 0.05].
        surface_shift: Scale of the differences between surfaces, in level and in taste, in log-odds. In [0,
            2].
        drift: Change of the categories' log-odds per 28 days (standard deviation over categories). In [0, 2].
        noise: Standard deviation of a satisfaction around its mean (the mean varies with standard deviation
            1). In [0, 3].
        visitors: Number of visitors.
        items: Number of items.
        requests: Mean number of requests a day.
        slots: Slots of a page, one of 3, 4, 6, 9, 12 (then impression 1047 stands in slot 3).
        candidates: Items retrieved for a request, from which the policy fills the slots.

    Raises:
        ValueError: If a dial is out of its range, or impression 1047 would not fall on the first day.
    """

    task_correlation: float = _dial(0.5, -1, 1)
    observed_selection: float = _dial(0.3, -2, 2)
    hidden_confounding: float = _dial(0.0, -2, 2)
    position_decay: float = _dial(0.5, 0, 2)
    delay_half_life: float = _dial(2.0, 0, 30)
    return_rate: float = _dial(0.12, 0, 0.4)
    accidental_clicks: float = _dial(0.002, 0, 0.05)
    surface_shift: float = _dial(0.5, 0, 2)
    drift: float = _dial(0.1, 0, 2)
    noise: float = _dial(1.0, 0, 3)
    visitors: int = _dial(20_000, 100, 5_000_000)
    items: int = _dial(2_000, 100, 2_000_000)
    requests: int = _dial(2_000, 100, 1_000_000)
    slots: int = _dial(6, 3, 12)
    candidates: int = _dial(24, 6, 100)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for dial in fields(self):
            value, (low, high), whole = getattr(self, dial.name), dial.metadata["range"], dial.type == "int"
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                kind = f"{'a whole' if whole else 'a'} number from {low} to {high}"
                raise ValueError(f"dial {dial.name!r} must be {kind}, found {value!r}: choose one.")
        if SCRIPTED % self.slots != 2 or self.slots > self.candidates:
            raise ValueError(
                f"dial 'slots' must be 3, 4, 6, 9 or 12, <= candidates, found {self.slots}: choose."
            )
        if int(self.requests * WEEK[1]) * self.slots <= SCRIPTED:
            raise ValueError(
                f"dial 'requests' must give 1047 impressions a day, found {self.requests}: add some."
            )


def categorical(codes: Array, levels: Sequence[str]) -> pd.Categorical[str]:
    """A column of levels from its codes (N,)."""
    return pd.Categorical.from_codes(codes.astype(np.int64), pd.Index(levels))


def codes(column: pd.Series[Any]) -> Array:
    """The codes (N,) of a categorical column."""
    checks.categorical(column)
    return np.asarray(column.cat.codes, dtype=np.int64)


def _levels(random: np.random.Generator, n: int, *names: str) -> dict[str, pd.Categorical[str]]:
    levels = {name: _LEVELS[name].split() for name in names}
    return {k: categorical(random.integers(len(v), size=n), v) for k, v in levels.items()}


def _correlated(scale: float, correlation: float, parts: Array, weights: Array) -> Array:
    """Three scores (3, M), uncorrelated under weights (M,) by Gram-Schmidt, then tied to the first."""
    weights = weights / weights.sum()
    for k, part in enumerate(parts):
        part -= (weights * part).sum()
        for other in parts[:k]:
            part -= (weights * part * other).sum() * other
        part /= np.sqrt((weights * part**2).sum())
    parts[1:] = correlation * parts[0] + np.sqrt(1 - correlation**2) * parts[1:]
    return np.round(scale * parts, 6)


def _trees(random: np.random.Generator, left: Array, right: Array) -> Array:
    """Sum of 24 trees of two splits on a visitor's levels (F, A), two on an item's (F, B); (A, B)."""

    def split(levels: Array) -> Array:  # a random half of one feature's levels
        column = levels[random.integers(len(levels))]
        half = random.permutation(column.max() + 1) <= column.max() // 2
        return np.asarray(half[column], dtype=np.int64)

    total = np.zeros((left.shape[1], right.shape[1]))
    for _ in range(24):
        leaves = random.normal(size=(4, 4))
        total += leaves[2 * split(left) + split(left)][:, 2 * split(right) + split(right)]
    return total


def _waves(random: np.random.Generator, left: Array, right: Array) -> Array:
    """A bump and ripples: levels have places in space, a pair's score is smooth in their distance."""
    place = [sum(random.normal(size=(3, c.max() + 1))[:, c] for c in levels) for levels in (left, right)]
    distance = ((np.asarray(place[0])[:, :, None] - np.asarray(place[1])[:, None]) ** 2).sum(0)
    return np.asarray(3 * np.exp(-distance / 16) + np.cos(np.sqrt(distance)))


class Shop:
    """One draw of the shop: visitors, items, sellers, campaigns and what they want.

    Args:
        seed: A non-negative integer; the same seed gives the same bytes.
        dials: What is turned; each effect has its own random stream, so that a dial does not reshuffle the
            others.
        mechanism: ``"trees"`` (affinities are sums of trees, effects are thresholds) or ``"second"`` (another
            shop: distances and ripples, smooth effects), to repeat a claim under another truth.

    Attributes:
        visitors: One row a visitor; ``visitor_id`` is the row number. Columns ``true_*`` are hidden from the
            shop.
        items: One row an item; ``item_id`` is the row number.
        sellers: One row a seller: seller_id, ships_in_days.
        campaigns: One row a campaign: campaign_id, item_id, bid (mean, for a click).

    Raises:
        ValueError: If the seed or the mechanism is not one of these.
    """

    def __init__(self, seed: int = 0, dials: Dials | None = None, mechanism: str = "trees") -> None:
        """Draw the shop."""
        checks.one_of("mechanism", mechanism, ("trees", "second"))
        checks.kind("dials", dials, Dials)
        self.seed, self.dials = checks.positive("seed", seed, 0), dials or Dials()
        self.smooth = mechanism == "second"
        self._make_visitors(self._random("visitors"), self.dials.visitors)
        self._make_items(self._random("items"), self.dials.items)
        self._make_tastes(self._random("tastes"))

    def _random(self, stream: str, day: int = -1) -> np.random.Generator:
        """The generator of one effect on one day: a child of the seed, whatever else is drawn."""
        key = (int.from_bytes(stream.encode(), "big"), day + 1)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _make_visitors(self, random: np.random.Generator, n: int) -> None:
        table = pd.DataFrame({"visitor_id": np.arange(n), **_levels(random, n, *VISITOR_FEATURES[1:])})
        self._type = np.append([1, 2, 3], random.choice(4, n, p=[0.72, 0.08, 0.12, 0.08])[3:])
        early, days_ago, days_on = random.random(n) < 0.85, random.exponential(400, n), 120 * random.random(n)
        joined = np.where(early, -days_ago, days_on).round()
        joined[:3] = -700, -300, -400
        table["joined_day"] = self._joined = joined.astype(np.int64)
        table["past_orders"] = random.poisson(np.where(self._type == 2, 0, 0.004 * np.maximum(-joined, 0)))
        table["past_returns"] = random.binomial(table["past_orders"], np.where(self._type == 1, 0.4, 0.09))
        table["true_type"] = categorical(self._type, TYPES)
        table["true_activity"] = np.round(random.pareto(2.0, n) + 0.2, 6)
        stays = random.exponential(300, n) + 400 * (np.arange(n) < 3)
        table["true_leaves"] = np.round(np.maximum(joined, 0) + stays, 6)
        steps = 1.8 + 1.5 * (codes(table["segment"]) < 2) + 0.9 * (codes(table["loyalty"]) == 0)
        waves = 2.4 * np.exp(0.35 * random.normal(size=n))
        self._sensitivity = np.round(waves if self.smooth else steps, 6)  # to price
        table["true_sensitivity"] = self._sensitivity
        self.visitors = table

    def _make_items(self, random: np.random.Generator, n: int) -> None:
        levels = _levels(random, n, "category", "brand", "colour", "shape", "pattern")
        table = pd.DataFrame({"item_id": np.arange(n), **levels})
        table.loc[:2, "category"] = ["scarf", "coat", "tea"]
        table.loc[:2, "colour"] = ["red", "grey", "green"]
        table.loc[:2, "pattern"] = ["plain", "checked", "dotted"]
        self._category = codes(table["category"])
        table["name"] = table["colour"].astype(str) + " " + table["category"].astype(str)
        table.loc[:2, "name"] = ["red scarf", "wool coat", "tea tin"]
        departments = np.array([0, 0, 0, 0, 1, 1, 2, 2])[self._category]
        table["department"] = categorical(departments, ["clothing", "home", "pantry"])
        table["seller_id"] = random.integers(60, size=n)
        price = _TYPICAL_PRICE[self._category] * np.exp(0.35 * random.normal(size=n))
        price[:3] = 24.0, 240.0, 9.5
        table["list_price"] = self._price = np.round(price, 2)
        table["cost"] = self._cost = np.round(price * (0.45 + 0.25 * random.random(n)), 2)
        listed = np.where(random.random(n) < 0.93, -random.exponential(300, n) - 1, 90 * random.random(n))
        table["listed_day"] = np.where(np.arange(n) < 3, -200, np.floor(listed)).astype(np.int64)
        rank = random.permutation(n)
        rank[:3] = 2, n // 3, 4
        table["true_popularity"] = np.round(1.0 / (rank + 13.0), 9)
        # Candidates come from as many shelves; a shelf offers one item, in proportion to popularity.
        shelf, popularity = np.arange(n) % self.dials.candidates, table["true_popularity"].to_numpy()
        self._popularity = popularity / np.bincount(shelf, popularity)[shelf]
        self._shelved = np.argsort(shelf, kind="stable")
        self._edges = np.round(np.cumsum(self._popularity[self._shelved]), 9)
        self._cycles = random.random((6, n))  # of own and competitors' prices
        self.sellers = pd.DataFrame({"seller_id": np.arange(60), "ships_in_days": random.integers(1, 6, 60)})
        self.campaigns = pd.DataFrame({"campaign_id": np.arange(50), "item_id": random.permutation(n)[:50]})
        self.campaigns["bid"] = np.round(0.05 + 0.4 * random.random(50), 2)
        self.items = table

    def _make_tastes(self, random: np.random.Generator) -> None:
        """Affinities of purchase, click, rating (in this order): of cells, of items, of visitors."""
        levels = [[codes(self.visitors[c]) for c in ("segment", "age_band", "device", "loyalty")]]
        levels += [[codes(self.items[c]) for c in ("category", "colour", "pattern")]]
        levels[1].append(np.searchsorted([0.8, 1.25], self._price / _TYPICAL_PRICE[self._category]))
        shapes: list[tuple[int, ...]] = [(5, 5, 3, 3), (8, 8, 4, 3)]
        self._cell = [np.ravel_multi_index(tuple(c), shape) for c, shape in zip(levels, shapes, strict=True)]
        grid = [np.indices(shape).reshape(4, -1) for shape in shapes]
        pairs = np.stack([(_waves if self.smooth else _trees)(random, grid[0], grid[1]) for _ in range(3)])
        by_item = random.normal(size=(3, len(self.items)))
        by_visitor = random.normal(size=(3, len(self.visitors)))
        activity, rho = self.visitors["true_activity"].to_numpy(), self.dials.task_correlation
        left = np.bincount(self._cell[0], activity, pairs.shape[1])
        right = np.bincount(self._cell[1], self._popularity, pairs.shape[2])
        weights = np.outer(left, right).ravel()
        self._by_pair = _correlated(0.8, rho, pairs.reshape(3, -1), weights).reshape(pairs.shape)
        self._by_item = _correlated(0.5, rho, by_item, self._popularity)
        self._by_item[:, RED_SCARF] = -0.2, 1.2, -0.2  # much clicked
        self._by_item[0, TEA_TIN] = 0.6
        self._by_visitor = _correlated(0.33, rho, by_visitor, activity)
        self.items["true_quality"] = self._by_item[2]
        reviews = random.poisson(400 * self._popularity / self._popularity.max()) + 1
        self.items["review_count"] = reviews
        score = 4 + self._by_item[2] + random.normal(size=len(reviews)) / np.sqrt(reviews)
        self.items["review_score"] = np.round(np.clip(score, 1, 5), 1)
        tilt = _SURFACE_SHIFT[:, :, None] + 0.5 * random.normal(size=(2, 4, 8))
        drift = random.normal(size=(2, 8))
        drift = (drift - drift.mean(1, keepdims=True)) / drift.std(1, keepdims=True)
        self._by_surface = np.round(self.dials.surface_shift * tilt, 6)
        self._drift = np.round(self.dials.drift / 28 * drift, 6)
        self._season = random.random(8)

    def _demand(self, item: Array, day: Array) -> Array:
        return np.round(np.sin(2 * np.pi * (day // 7 / 26 + self._season[self._category[item]])), 6)

    def prices(self, item: Array, day: Array) -> tuple[Array, Array]:
        """Price shown and competitor's price of items (N,) on days (N,); both change weekly.

        No sale falls into its category's season, when demand is high: prices are confounded with demand.

        Raises:
            ValueError: If an item is not one of the shop's, or a day is missing or infinite.
        """
        item, day = checks.items_and_days(item, day, len(self.items))
        week, (length, start, depth, period, phase, level) = day // 7, self._cycles[:, item]
        sale = (week + np.floor(7 * start)) % (3 + np.floor(4 * length)) == 0
        sale &= self._demand(item, day) < 0.5
        walk = 0.2 * np.sin(2 * np.pi * (week / (4 + 8 * period) + phase)) + 0.3 * (level - 0.5)
        shown = self._price[item] * (1 - sale * (0.1 + 0.25 * depth))
        return np.round(shown, 2), np.round(self._price[item] * np.exp(walk), 2)

    def _truth(self, rows: Rows) -> tuple[Rows, Array, Array]:
        """Truth of N rows; P(intended click), P(buy) by hidden errand (E, N), E = 1 if there is none."""
        d, (visitor, item) = self.dials, (rows["visitor_id"], rows["item_id"])
        category, surface, day, hour = self._category[item], rows["surface"], rows["day"], rows["hour"]
        cell = self._cell[0][visitor], self._cell[1][item]
        taste = self._by_pair[:, cell[0], cell[1]] + self._by_item[:, item] + self._by_visitor[:, visitor]
        bargain = np.log(rows["competitor_price"] / rows["price_shown"])
        evening = 0.5 + 0.5 * np.cos((hour - 20) * np.pi / 12) if self.smooth else hour >= 18
        giving = (self._type[visitor] == 3) & (day >= 27) & (day < 51)
        click = -3.3 + 0.8 * taste[1] + 0.2 * evening + d.observed_selection * (bargain - 0.04) / 0.19
        click += self._by_surface[0, surface, category] + self._drift[0, category] * day
        buy = -3.95 + 0.9 * taste[0] + self._sensitivity[visitor] * bargain
        buy += 0.4 * self._demand(item, day) + 0.9 * giving
        buy += self._by_surface[1, surface, category] + self._drift[1, category] * day
        errand = np.array([[-1.0], [1.0]] if d.hidden_confounding else [[0.0]]) * d.hidden_confounding
        errand -= np.log(np.cosh(d.hidden_confounding))  # keeps the rates where they are
        intended = np.round(rows["slot"] ** -float(d.position_decay) / (1 + np.exp(-click - errand)), 6)
        never = self._type[visitor] == 2  # the looker
        bought = np.round(~never / (1 + np.exp(-buy - errand)), 6)
        clicked = (intended + (1 - intended) * d.accidental_clicks).mean(0)
        both, do, liked = (intended * bought).mean(0), bought.mean(0), 0.15 + taste[2]
        stars = 1 + np.interp((liked - CUTS[:, None]) / max(d.noise, 1e-9), _CDF_AT, _CDF).sum(0)
        unhappy = np.exp(-0.4 * liked) if self.smooth else np.where(liked < -0.4, 1.6, 0.8)
        habit = np.where(self._type[visitor] == 1, 3.5, 0.8) * np.where(item == RED_SCARF, 2.5, 1)
        returned = np.minimum(d.return_rate * unhappy * habit, 0.9)
        slope, margin = (bought * (1 - bought)).mean(0), rows["price_shown"] - self._cost[item]
        truth = {"true_click": clicked, "true_purchase": do, "true_ctcvr": both}
        truth["true_purchase_given_click"] = both / np.maximum(clicked, 1e-9)
        truth |= {"true_satisfaction": liked, "true_rating": stars, "true_return": returned}
        truth["true_elasticity"] = -self._sensitivity[visitor] * slope / np.maximum(do, 1e-9)
        truth["true_margin"] = both * ((1 - returned) * margin - 4 * returned)
        return {name: np.round(column, 6) for name, column in truth.items()}, intended, bought

    def truth(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """The truth of any rows; with it an oracle policy is one line.

        Args:
            candidates: Columns visitor_id, item_id, surface, day, hour, price_shown, competitor_price; slot,
                1 if absent.

        Returns:
            ``true_click`` P(click), ``true_purchase`` P(buy | do(click)), ``true_purchase_given_click`` P(buy
            | click), ``true_ctcvr`` P(click and buy), ``true_satisfaction`` and ``true_rating`` (means, if
            bought and rated), ``true_return`` P(return | bought), ``true_elasticity`` (of P(buy | do(click))
            to the price shown), ``true_margin`` (expected, per impression; a return costs 4). Hidden errands
            are averaged over.

        Raises:
            KeyError: If a column is missing.
            ValueError: If a column occurs twice, an id or a surface is not one of the shop's, or a number is
                missing, infinite or too small.
        """
        rows = checks.candidates(candidates, len(self.visitors), len(self.items), SURFACES)
        rows["surface"] = codes(pd.Series(pd.Categorical(candidates["surface"], list(SURFACES))))
        return pd.DataFrame(self._truth(rows)[0], index=candidates.index)

    def _features(self, rows: Rows) -> pd.DataFrame:
        who, what = self.visitors.take(rows["visitor_id"]), self.items.take(rows["item_id"])
        made: dict[str, Any] = {**rows, "weekday": (rows["day"] + 1) % 7}
        made["surface"] = categorical(rows["surface"], SURFACES)
        made["tenure_days"] = rows["day"] - who["joined_day"].to_numpy()
        made["listing_days"] = rows["day"] - what["listed_day"].to_numpy()
        names = ("day", *CATEGORICAL, *NUMERIC)
        made = {**what, **who, **made}
        return pd.DataFrame({name: getattr(made[name], "array", made[name]) for name in names})
