"""Mulberry Lane, a simulated shop whose truth is known.

A ``World`` is drawn from a seed and a set of ``Dials``. Each day visitors make requests; a policy fills the
slots of a page; visitors look, click, buy (days later), rate, return, complain, reorder and stay away. Beside
every label stands the probability it was drawn from. Probabilities and times are rounded to 6 decimals before
they are compared with a draw or stored, so that the same seed gives the same bytes on another CPU.

Time is counted in days since the shop's opening, Tuesday 4 November 2025, 00:00 (``OPENING``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from . import checks
from .shop import (
    CATEGORICAL,
    CUTS,
    GIFT_GIVER,
    LOOKER,
    NUMERIC,
    OPENING,
    RATED,
    RED_SCARF,
    RETURNER,
    SCRIPTED,
    SURFACES,
    TEA_TIN,
    WEEK,
    WOOL_COAT,
    Array,
    Dials,
    Rows,
    Shop,
    categorical,
    codes,
)

__all__ = ["CATEGORICAL", "NUMERIC", "OPENING", "SURFACES", "uniform", "Dials", "Log", "Policy", "World"]
__all__ += ["RED_SCARF", "WOOL_COAT", "TEA_TIN", "RETURNER", "LOOKER", "GIFT_GIVER", "plackett_luce"]

Policy = Callable[[pd.DataFrame], Array]

_HOURS = np.cumsum([1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 6, 5, 5, 6, 7, 9, 11, 12, 10, 6]) / 116
_SURFACE_SHARE = np.cumsum([0.5, 0.27, 0.08])
_VISIBLE_AFTER = {"click": 0.0, "purchase": 0.25, "rating": 1.0, "return": 2.0, "reorder": 0.25}  # days


@dataclass
class Log:
    """What the shop recorded while a policy ran, and the truth behind it.

    Attributes:
        world: The world that was served.
        requests: One row a request: request_id, visitor_id, day, time, hour, weekday (0 = Monday), surface.
        impressions: One row an impression: impression_id (from 1), request_id, item_id, slot (from 1),
            surface, price_shown, competitor_price, propensity (probability of this item in this slot, given
            the request's candidates and the slots above).
        events: One row an event: impression_id, kind (click, purchase, rating, return, reorder), happened_at,
            visible_at (days), value (dwell seconds, price paid, stars, refund, price paid).
        campaigns: One row an auction for the request's banner (no slot of the page): request_id, campaign_id,
            item_id, creative (drawn uniformly), bid, price_paid (a click's, the second bid), shown (a random
            tenth is held out), clicked, ordered, true_click, true_uplift (of showing on ordering).
        stock: One row for each day and item whose stock changed: day, item_id, units (at the close).
        tickets: One row a support ticket: impression_id, visitor_id, item_id, happened_at, topic, urgency (1
            to 3).
        departures: One row a visitor who left for good: visitor_id, true_left (day). The shop does not see
            it.
        truth: One row an impression: see ``World.truth``.
    """

    world: World
    requests: pd.DataFrame
    impressions: pd.DataFrame
    events: pd.DataFrame
    campaigns: pd.DataFrame
    stock: pd.DataFrame
    tickets: pd.DataFrame
    departures: pd.DataFrame
    truth: pd.DataFrame

    def table(self, as_of: float = np.inf) -> pd.DataFrame:
        """One row an impression: keys, features, labels and truth, ready for training.

        Args:
            as_of: Day on which the log is read: later impressions, and labels visible later, are not there
                yet.

        Returns:
            Keys ``impression_id, request_id, time, slot, propensity``; features ``day``, ``CATEGORICAL`` and
            ``NUMERIC``; labels ``click, purchase`` (0 or 1, never missing), ``purchase_given_click`` (NaN
            without a click), ``rating``, ``satisfaction`` (NaN unless rated), ``returned`` (NaN unless
            bought); then the ``true_*`` columns.
        """
        if not isinstance(as_of, (int, float, np.number)) or np.isnan(as_of):
            raise ValueError(f"as_of must be a day as a number, found {as_of!r}: count from the opening.")
        shown, events = self.impressions, self.events[self.events["visible_at"] <= as_of]
        asked = self.requests.take(shown["request_id"] - self.requests["request_id"].iloc[0])
        rows = {name: asked[name].to_numpy() for name in ("visitor_id", "day", "hour")}
        rows |= {name: shown[name].to_numpy() for name in ("item_id", "price_shown", "competitor_price")}
        rows["surface"] = codes(shown["surface"])
        features, labels = self.world._features(rows), pd.DataFrame(index=shown.index)
        for name in ("click", "purchase", "rating", "returned"):
            found = events[events["kind"] == name.removesuffix("ed")]
            column = np.full(len(shown), np.nan if name == "rating" else 0.0)
            at = np.searchsorted(shown["impression_id"], found["impression_id"])
            column[at] = found["value"] if name == "rating" else 1.0
            labels[name] = column
        labels["returned"] = labels["returned"].where(labels["purchase"] == 1)
        labels["purchase_given_click"] = labels["purchase"].where(labels["click"] == 1)
        labels["satisfaction"] = self.truth["satisfaction"].where(labels["rating"].notna())
        keys = shown[["impression_id", "request_id", "slot", "propensity"]]
        keys = keys.assign(time=asked["time"].to_numpy())
        table = pd.concat([keys, features, labels, self.truth.drop(columns="satisfaction")], axis=1)
        return table if as_of == np.inf else table[table["time"] <= as_of].reset_index(drop=True)


def uniform(candidates: pd.DataFrame) -> Array:
    """The policy that knows nothing: every candidate has score 0."""
    return np.zeros(len(candidates))


def plackett_luce(scores: Array) -> Array:
    """Probability of each item in its slot, given the slots above it (Plackett and Luce).

    Args:
        scores: (R, C) scores, columns in the order in which the items were placed; -inf where an item is not
            eligible.

    Returns:
        (R, C): exp(score) over the sum of exp(score) of the items not placed above, rounded to 6 decimals.

    Raises:
        ValueError: If the scores have another shape, or one is missing or +inf.
    """
    scores = checks.ranked_scores(scores)
    rest = np.logaddexp.accumulate(scores[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.exp(scores - np.where(np.isfinite(rest), rest, 0.0)).round(6))


class World(Shop):
    """A shop that can be served: see ``Shop`` for its arguments and tables."""

    def stream(self, policy: Policy | None = None, days: int = 28) -> Iterator[Log]:
        """Serve day by day, yielding each day's log, so that a policy can learn between days.

        Args:
            policy: Called once a day with the candidates of all requests, one row each (the columns of
                ``Log.table`` called features, ``day`` and ``request_id``); returns their scores (rows,). A
                slot's item is drawn with probability proportional to exp(score) among the eligible candidates
                not yet placed. ``None`` is the shop's old ranking. For a nearly deterministic policy, return
                large scores.
            days: Number of days, at least 1. A longer run begins with the bytes of a shorter one.

        Yields:
            One ``Log`` a day; its events may lie in the future, see ``visible_at``.

        Raises:
            ValueError: If ``days`` is not a positive integer, or the scores are not one finite number a row.
        """
        fortnight = 0.2 * self.dials.requests / self.dials.candidates * self._popularity  # orders, roughly
        if policy is not None and not callable(policy):
            raise TypeError(f"policy must be a function of the candidates, found {policy!r}: define one.")
        level, due, first = 2 + np.ceil(fortnight).astype(np.int64), np.zeros((0, 2), dtype=np.int64), 1
        leaves = self.visitors["true_leaves"].to_numpy(copy=True)
        state = {"leaves": leaves, "level": level, "units": level, "due": due}
        for day in range(checks.positive("days", days)):
            log = self._serve_day(policy, day, first, state)
            first += len(log.requests)
            yield log

    def serve(self, policy: Policy | None = None, days: int = 28) -> Log:
        """Serve ``days`` days and return one log; see ``stream``."""
        logs = list(self.stream(policy, days))
        parts = ([getattr(log, part.name) for log in logs] for part in fields(Log)[1:])
        return Log(self, *(pd.concat(part, ignore_index=True) for part in parts))

    def _visits(self, draw: Callable[[str], Array], weight: Array) -> Rows:
        """Who comes, where, and at what hour; one draw (N,) each."""
        reach = np.cumsum(weight)
        rows = {"visitor_id": np.searchsorted(reach, draw("visitor") * reach[-1], side="right")}
        rows["surface"] = np.searchsorted(_SURFACE_SHARE, draw("surface"), side="right")
        return rows | {"hour": np.searchsorted(_HOURS, draw("hour"), side="right")}

    def _rows(self, visits: Rows, item: Array, day: Array, slot: Array) -> Rows:
        price, other = self.prices(item, day)
        return visits | {
            "item_id": item,
            "day": day,
            "slot": slot,
            "price_shown": price,
            "competitor_price": other,
        }

    def _scores(self, policy: Policy | None, visits: Rows, offered: Array, day: int, first: int) -> Array:
        if policy is None:  # the shop's old ranking: what is popular, and what the visitor's kind clicks
            liked = self._by_pair[1][self._cell[0][visits["visitor_id"]][:, None], self._cell[1][offered]]
            return np.asarray((0.5 * liked + 0.2 * np.log(self._popularity[offered])).round(6))
        row, item = np.indices(offered.shape)[0].ravel(), offered.ravel()
        each = {name: column[row] for name, column in visits.items()}
        rows = self._rows(each, item, np.full(len(item), day), np.ones(len(item)))
        scores = checks.scores(policy(self._features(rows).assign(request_id=first + row)), len(item))
        return np.round(scores, 6).reshape(offered.shape)

    def _serve_day(self, policy: Policy | None, day: int, first: int, state: Rows) -> Log:
        d, page = self.dials, SCRIPTED // self.dials.slots
        n = int(d.requests * WEEK[(day + 1) % 7])
        # Requests: who comes back, when, where.
        giving = np.where(self._type == 3, 4.0 if 27 <= day < 51 else 0.4, 1.0)
        present = (self._joined <= day) & (state["leaves"] > day)
        weight = self.visitors["true_activity"].to_numpy() * giving * present
        visits = self._visits(lambda stream: self._random(stream, day).random(n), weight)
        if day == 0:
            visits["visitor_id"][page], visits["surface"][page], visits["hour"][page] = RETURNER, 0, 20
        time = np.round(day + (visits["hour"] + self._random("minute", day).random(n)) / 24, 6)
        # Pages: every shelf offers a candidate; Gumbel noise on the scores draws the slots (Plackett-Luce).
        shelf = np.arange(d.candidates) + self._random("shelf", day).random((n, d.candidates))
        offered = self._shelved[np.searchsorted(self._edges, shelf, side="right")]
        if day == 0:
            offered[page, RED_SCARF] = RED_SCARF
        eligible = (state["units"] > 0) & (self.items["listed_day"].to_numpy() <= day)
        scores = np.where(eligible[offered], self._scores(policy, visits, offered, day, first), -np.inf)
        gumbel = np.round(self._random("gumbel", day).gumbel(size=scores.shape), 6)
        order = np.argsort(-scores - gumbel, axis=1, kind="stable")
        if day == 0:
            order[page] = np.insert(order[page][order[page] != RED_SCARF], 2, RED_SCARF)
        ranked = np.take_along_axis(scores, order, axis=1)
        kept = np.flatnonzero(np.isfinite(ranked[:, : d.slots]))  # a short page, if little is in stock
        request, slot = kept // d.slots, kept % d.slots + 1
        item = np.take_along_axis(offered, order, axis=1)[:, : d.slots].ravel()[kept]
        rows = self._rows({k: v[request] for k, v in visits.items()}, item, np.full(len(kept), day), slot)
        truth, intended, bought = self._truth(rows)
        visitor, price, clicked_at = rows["visitor_id"], rows["price_shown"], time[request]

        def chance(stream: str, scripted: float = 0.0) -> Array:  # 1047 takes the scripted draw
            values = self._random(stream, day).random(n * d.slots)
            values[SCRIPTED] = scripted if day == 0 else values[SCRIPTED]
            return values[kept]

        # Outcomes.
        errand = self._random("errand", day).integers(len(intended), size=n)[request], np.arange(len(kept))
        genuine, slip = chance("click") < intended[errand], chance("slip") < d.accidental_clicks
        stay = chance("dwell", 0.5)
        dwell = np.round(np.where(genuine, 5 - 60 * np.log1p(-stay), 0.5 + 2 * stay), 1)
        purchase = genuine & (chance("purchase") < bought[errand])
        wait = -d.delay_half_life * np.log2(1 - chance("delay", 1 - 2 ** (-3.25 / 2)))
        wait[item == WOOL_COAT] = (9.0 + stay[item == WOOL_COAT] / 2) * (d.delay_half_life > 0)
        bought_at = np.round(clicked_at + wait, 6)
        normal = self._random("satisfaction", day).standard_normal(n * d.slots)[kept]
        satisfaction = np.round(truth["true_satisfaction"] + d.noise * normal, 6)
        satisfaction[kept == SCRIPTED if day == 0 else []] = -0.125  # four stars
        rated = purchase & (chance("rating") < RATED[codes(self.visitors["loyalty"])[visitor]])
        returned = purchase & (chance("return") < truth["true_return"])
        again = purchase & (
            chance("reorder") < (self._category[item] >= 6) * np.where(item == TEA_TIN, 0.9, 0.4)
        )
        happened = {"click": (genuine | slip, clicked_at, dwell), "purchase": (purchase, bought_at, price)}
        stars = 1.0 + np.searchsorted(CUTS, satisfaction)
        happened["rating"] = rated, bought_at + 4 + 6 * chance("rated"), stars
        happened["return"] = returned, bought_at + 5 + 16 * chance("returned", 10.25 / 16), price
        happened["reorder"] = again, bought_at + 21 + 14 * chance("reordered"), price
        impression_id, parts = kept + 1 + (first - 1) * d.slots, []
        for kind, (rule, at, value) in happened.items():
            part = {"impression_id": impression_id[rule], "kind": kind, "happened_at": np.round(at[rule], 6)}
            part |= {"visible_at": np.round(at[rule] + _VISIBLE_AFTER[kind], 6), "value": value[rule]}
            parts.append(pd.DataFrame(part))
        events = pd.concat(parts, ignore_index=True)
        events["kind"] = pd.Categorical(events["kind"], categories=list(happened))
        # Consequences: complaints, departures, stock.
        asks = purchase & (chance("ticket", 1.0) < np.where(satisfaction < -1, 0.35, 0.04))
        tickets = pd.DataFrame({"impression_id": impression_id, "visitor_id": visitor, "item_id": item})[asks]
        tickets["happened_at"] = np.round(bought_at + 2 + 5 * stay, 6)[asks]
        topic = np.where(satisfaction < -1, 1 + returned, 0)[asks]
        tickets["topic"] = categorical(topic, ["delivery", "quality", "refund"])
        tickets["urgency"] = (1 + (satisfaction < -1.5) + (price > 100).astype(np.int64))[asks]
        upset = purchase & (satisfaction < -1.2) & (chance("departure", 1.0) < 0.4)
        np.minimum.at(state["leaves"], visitor[upset], np.round(bought_at[upset] + 7, 6))
        left = np.flatnonzero((state["leaves"] > day) & (state["leaves"] <= day + 1))
        departures = pd.DataFrame({"visitor_id": left, "true_left": state["leaves"][left]})
        sold = np.stack([np.floor(bought_at), item], axis=1)[purchase].astype(np.int64)
        due = np.concatenate([state["due"], sold])
        units = state["units"] - np.bincount(due[due[:, 0] <= day, 1], minlength=d.items)
        fortnight = (np.arange(d.items) - day) % 14 == 0
        units = np.where(fortnight, np.maximum(units, state["level"]), np.maximum(units, 0))
        changed = np.flatnonzero(units != state["units"])
        stock = pd.DataFrame({"day": day, "item_id": changed, "units": units[changed]})
        state |= {"units": units, "due": due[due[:, 0] > day]}
        # Results.
        request_id = first + np.arange(n)
        requests = pd.DataFrame({"request_id": request_id, "day": day, "time": time, **visits})
        requests["weekday"] = (day + 1) % 7
        requests["surface"] = categorical(visits["surface"], SURFACES)
        keys = {"impression_id": impression_id, "request_id": request_id[request]}
        impressions = pd.DataFrame(keys | rows).drop(columns=["visitor_id", "hour", "day"])
        impressions["surface"] = categorical(rows["surface"], SURFACES)
        impressions["propensity"] = plackett_luce(ranked)[:, : d.slots].ravel()[kept]
        truths = pd.DataFrame({**truth, "satisfaction": np.where(purchase, satisfaction, np.nan)})
        banners = self._auctions(visits, day).assign(request_id=request_id)
        return Log(self, requests, impressions, events, banners, stock, tickets, departures, truths)

    def _auctions(self, visits: Rows, day: int) -> pd.DataFrame:
        """One banner a request, sold by second price among four campaigns; a random tenth is held out."""
        random, n = self._random("auctions", day), len(visits["hour"])
        bidders = random.integers(50, size=(n, 4))
        bids = np.round(self.campaigns["bid"].to_numpy()[bidders] * (0.8 + 0.4 * random.random((n, 4))), 4)
        best, creative = np.argsort(-bids, axis=1, kind="stable"), random.integers(3, size=n)
        bidders, bids = np.take_along_axis(bidders, best, axis=1), np.take_along_axis(bids, best, axis=1)
        table = pd.DataFrame({"campaign_id": bidders[:, 0], "bid": bids[:, 0], "price_paid": bids[:, 1]})
        table["item_id"] = item = self.campaigns["item_id"].to_numpy()[table["campaign_id"]]
        table["creative"] = categorical(creative, ["plain", "photo", "film"])
        truth = self._truth(self._rows(visits, item, np.full(n, day), np.ones(n)))[0]
        attention = truth["true_click"] * np.array([0.7, 1.0, 1.3])[creative]
        table["true_click"] = np.round(np.minimum(attention, 1), 6)
        organic, shown, click, order = np.round(0.2 * truth["true_ctcvr"], 6), *random.random((3, n))
        table["shown"] = shown >= 0.1
        table["clicked"] = table["shown"] & (click < table["true_click"])
        table["ordered"] = (table["clicked"] & (order < truth["true_purchase"])) | (order > 1 - organic)
        table["true_uplift"] = np.round(table["true_click"] * truth["true_purchase"], 6)
        return table

    def orders(self, n: int = 50_000) -> pd.DataFrame:
        """Rated purchases from the same truth: candidates thinned by P(bought and rated).

        Args:
            n: Number of orders, at least 1.

        Returns:
            ``day``, ``CATEGORICAL``, ``NUMERIC``, ``slot``; ``rating`` (1 to 5), ``satisfaction``,
            ``returned``; the columns of ``truth``. Days are uniform over the first 84; no policy ranks.

        Raises:
            ValueError: If ``n`` is not a positive integer.
        """
        chunk, parts, found, limit = 200_000, list[pd.DataFrame](), 0, 0.0
        while found < checks.positive("n", n):
            random = self._random("orders", len(parts))

            def draw(stream: str, part: int = len(parts)) -> Array:
                return self._random(f"orders {stream}", part).random(chunk)

            weight = self.visitors["true_activity"].to_numpy() * (self._joined <= 0)
            visits = self._visits(draw, weight)
            shelf = random.random(chunk) + random.integers(self.dials.candidates, size=chunk)
            item = self._shelved[np.searchsorted(self._edges, shelf, side="right")]
            day, slot = random.integers(84, size=chunk), random.integers(self.dials.slots, size=chunk) + 1
            rows = self._rows(visits, item, day, slot)
            truth = self._truth(rows)[0]
            share = truth["true_ctcvr"] * RATED[codes(self.visitors["loyalty"])[rows["visitor_id"]]]
            limit = limit or float(np.round(np.quantile(share, 0.9995), 9))  # rarer ones are cut to it
            kept = np.flatnonzero(random.random(chunk) * limit < share)
            labels = pd.DataFrame({name: column[kept] for name, column in truth.items()})
            normal, returning = random.standard_normal(chunk)[kept], random.random(chunk)[kept]
            satisfaction = np.round(labels["true_satisfaction"] + self.dials.noise * normal, 6)
            labels.insert(0, "returned", (returning < labels["true_return"]).astype(np.float64))
            labels.insert(0, "satisfaction", satisfaction)
            labels.insert(0, "rating", 1.0 + np.searchsorted(CUTS, satisfaction))
            features = self._features({name: column[kept] for name, column in rows.items()})
            parts.append(pd.concat([features.assign(slot=slot[kept]), labels], axis=1))
            found += len(kept)
        return pd.concat(parts, ignore_index=True).head(n)
