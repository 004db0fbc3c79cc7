"""Mulberry Lane: same seed, same bytes; the truth is calibrated; every dial is recovered from the data."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mtl_ref import market
from mtl_ref.market import Dials, World

PARTS = [part.name for part in dataclasses.fields(market.Log)][1:]
PLAIN = Dials(
    task_correlation=0.0,
    observed_selection=0.0,
    surface_shift=0.0,
    position_decay=0.0,
    accidental_clicks=0.0,
    drift=0.0,
    candidates=8,
)


def digest(*tables):
    """One number for the bytes of the tables."""
    return tuple(int(pd.util.hash_pandas_object(t, index=False).to_numpy().sum()) for t in tables)


def log_digest(log):
    """One number for each part of a log."""
    return digest(*(getattr(log, name) for name in PARTS))


def within(estimate, expected, error, width=4.0):
    """The estimate lies within ``width`` standard errors of what is expected."""
    assert abs(estimate - expected) <= width * error, (estimate, expected, error)


def turned(**dials):
    """The plain dials, some of them turned."""
    return dataclasses.replace(PLAIN, **dials)


@pytest.fixture(scope="module")
def log():
    """Four weeks of the default shop under its own policy."""
    return World(0).serve(days=28)


@pytest.fixture(scope="module")
def table(log):
    """Its training table."""
    return log.table()


@pytest.fixture(scope="module")
def orders():
    """Rated purchases of the default shop."""
    return World(0).orders(50_000)


@pytest.fixture(scope="module")
def plain():
    """Four weeks without any effect, pages filled at random."""
    return World(1, PLAIN).serve(market.uniform, days=21).table()


# Same seed, same bytes.


@pytest.mark.parametrize("mechanism", ["trees", "second"])
def test_same_seed_same_bytes(mechanism):
    first, again, other = (World(seed, mechanism=mechanism) for seed in (3, 3, 4))
    tables = [(w.visitors, w.items, w.sellers, w.campaigns, w.orders(500)) for w in (first, again, other)]
    assert digest(*tables[0]) == digest(*tables[1])
    assert all(a != b for a, b in zip(digest(*tables[0]), digest(*tables[2]), strict=True))
    logs = [log_digest(world.serve(days=2)) for world in (first, again, other)]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    assert log_digest(first.serve(days=2)) == logs[0]  # serving leaves no trace in the world


def test_a_longer_run_begins_with_the_bytes_of_a_shorter_one(log):
    short = World(0).serve(days=3)
    for name in PARTS:
        if name != "events":
            part = getattr(short, name)
            assert digest(part) == digest(getattr(log, name).head(len(part)))
    last = short.impressions["impression_id"].iloc[-1]
    assert digest(short.events) == digest(log.events[log.events["impression_id"] <= last])


def test_a_dial_does_not_reshuffle_the_rest(log):
    other = World(0, Dials(return_rate=0.0, noise=0.5, delay_half_life=1.0)).serve(days=1)
    assert digest(other.requests) == digest(log.requests.head(len(other.requests)))
    same = log.impressions.head(len(other.impressions))
    assert digest(other.impressions) == digest(same)
    for kind in ("click", "purchase"):
        ours, theirs = (x.events[x.events["kind"] == kind]["impression_id"] for x in (other, log))
        assert list(ours) == list(theirs[theirs <= same["impression_id"].iloc[-1]])


def test_numbers_are_stored_with_six_decimals(log, orders):
    for part in (*(getattr(log, name) for name in PARTS), orders):
        for name in part.select_dtypes("float"):
            column = part[name].dropna().to_numpy()
            assert np.array_equal(column, np.round(column, 6)), name


# The world is believable.


@pytest.mark.parametrize(("seed", "mechanism"), [(0, "trees"), (5, "trees"), (5, "second")])
def test_marginals_a_shop_would_believe(mechanism, seed):
    world = World(seed, mechanism=mechanism)
    log = world.serve(days=14)
    table = log.table()
    bought = table[table["purchase"] == 1]
    assert 0.02 <= table["click"].mean() <= 0.06
    assert 0.02 <= table["purchase_given_click"].mean() <= 0.08
    assert 0.10 <= bought["rating"].notna().mean() <= 0.40
    clicks = table.groupby("item_id")["click"].sum().sort_values(ascending=False)
    assert clicks.head(len(world.items) // 5).sum() >= 0.6 * clicks.sum()  # the long tail: a fifth gets most
    assert clicks.head(20).sum() <= 0.4 * clicks.sum()  # but no item is the shop
    requests = log.requests.groupby("weekday").size()
    assert requests.idxmax() == 5 and requests.max() >= 1.15 * requests.min()
    stars = world.orders(20_000)["rating"].value_counts(normalize=True)
    assert stars[5] == stars.max() and stars[1] > stars[2] and stars[3] < stars[4]


def test_the_second_world_differs():
    trees, second = World(0), World(0, mechanism="second")
    rows = trees.serve(days=1).table()
    truth = trees.truth(rows), second.truth(rows)
    for name in ("true_click", "true_purchase", "true_satisfaction", "true_return", "true_elasticity"):
        assert (truth[0][name] != truth[1][name]).mean() > 0.8
    assert digest(trees.visitors.drop(columns="true_sensitivity")) == digest(
        second.visitors.drop(columns="true_sensitivity")
    )


def calibrated(label, truth, variance=None):
    """Mean label equals mean truth within 4 standard errors, within 4.5 in each decile of the truth."""
    bins = pd.qcut(truth, 10, labels=False, duplicates="drop")
    for _, rows in pd.DataFrame({"label": label, "truth": truth}).groupby(bins):
        spread = (rows["truth"] * (1 - rows["truth"])).sum() if variance is None else variance * len(rows)
        within(rows["label"].sum(), rows["truth"].sum(), np.sqrt(spread), 4.5)
    spread = (truth * (1 - truth)).sum() if variance is None else variance * len(truth)
    within(label.sum(), truth.sum(), np.sqrt(spread))


def test_the_truth_is_calibrated(table, orders):
    calibrated(table["click"], table["true_click"])
    clicked = table[table["click"] == 1]
    calibrated(clicked["purchase"], clicked["true_purchase_given_click"])
    calibrated(table["purchase"], table["true_ctcvr"])
    calibrated(orders["rating"], orders["true_rating"], (orders["rating"] - orders["true_rating"]).var())
    calibrated(orders["returned"], orders["true_return"])


def test_truth_of_a_table_is_the_truth_of_its_log(log, table):
    rows = table.sample(1000, random_state=0)
    truth = log.world.truth(rows)
    assert np.array_equal(truth, rows[truth.columns])
    assert (log.world.truth(rows.drop(columns="slot"))["true_click"] >= truth["true_click"]).all()
    assert (truth["true_ctcvr"] <= truth["true_click"]).all()


def test_elasticity_is_the_slope_of_purchase_in_price(table):
    world, rows = World(0, Dials(hidden_confounding=0.7)), table.head(20_000)
    dearer = world.truth(rows.assign(price_shown=rows["price_shown"] * 1.02))
    cheaper, truth = world.truth(rows.assign(price_shown=rows["price_shown"] / 1.02)), world.truth(rows)
    sure = truth["true_purchase"] > 0.05
    slope = np.log(dearer["true_purchase"] / cheaper["true_purchase"]) / (2 * np.log(1.02))
    assert sure.sum() > 500
    assert np.allclose(slope[sure], truth["true_elasticity"][sure], atol=5e-3)


# Each dial is recovered from the data; at zero its effect is absent.


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_position_decay(plain, decay):
    table = plain if decay == 0 else World(1, turned(position_decay=decay)).serve(market.uniform, 14).table()
    clicks, slots = table.groupby("slot")["click"].sum(), np.log(np.arange(1, 7))
    design = np.stack([np.ones(6), slots], axis=1)
    information = np.linalg.inv(design.T @ (clicks.to_numpy()[:, None] * design))  # of a Poisson regression
    rates = np.log(clicks / table.groupby("slot").size()).to_numpy()
    slope = (information @ (design.T @ (clicks.to_numpy() * rates)))[1]
    within(slope, -decay, np.sqrt(information[1, 1]))


@pytest.mark.parametrize("half_life", [2.0, 5.0])
def test_delay_half_life(half_life):
    log = World(0, Dials(delay_half_life=half_life)).serve(days=14)
    found = log.events.pivot_table(
        index="impression_id", columns="kind", values="happened_at", observed=False
    )
    found = found.join(log.impressions.set_index("impression_id")["item_id"])
    wait = (found["purchase"] - found["click"])[
        (found["item_id"] != market.WOOL_COAT) & (found.index != 1047)
    ]
    wait = wait.dropna()
    within((wait < half_life).mean(), 0.5, 0.5 / np.sqrt(len(wait)))
    within((wait < 2 * half_life).mean(), 0.75, np.sqrt(0.75 * 0.25 / len(wait)))


def test_no_delay():
    events = World(0, Dials(delay_half_life=0.0)).serve(days=7).events
    at = {
        kind: part.set_index("impression_id")["happened_at"]
        for kind, part in events.groupby("kind", observed=True)
    }
    assert len(at["purchase"]) > 50
    assert (at["purchase"] == at["click"][at["purchase"].index]).all()


@pytest.mark.parametrize("rate", [0.0, 0.12, 0.24])
def test_return_rate(rate):
    world = World(0, Dials(return_rate=rate))
    orders = world.orders(20_000)
    kind = world.visitors["true_type"].to_numpy()[orders["visitor_id"]]
    typical = orders[(kind != "returner") & (orders["item_id"] != market.RED_SCARF)]
    assert 0.75 * rate <= orders["returned"].mean() <= 1.25 * rate
    within(typical["returned"].mean(), typical["true_return"].mean(), 0.5 / np.sqrt(len(typical)))
    if rate:  # three and a half against eight tenths
        ratio = orders["true_return"][kind == "returner"].mean() / typical["true_return"].mean()
        assert 3.5 <= ratio <= 5.0


@pytest.mark.parametrize("rate", [0.0, 0.02])
def test_accidental_clicks_bounce(rate):
    log = World(0, Dials(accidental_clicks=rate)).serve(days=14)
    clicks = log.events[log.events["kind"] == "click"]
    short = clicks[clicks["value"] < 3.0]
    looked = len(log.impressions) - (len(clicks) - len(short))
    within(len(short) / looked, rate, np.sqrt(rate * (1 - rate) / looked) + 1e-12)
    bought = log.events[log.events["kind"] == "purchase"]["impression_id"]
    assert not short["impression_id"].isin(bought).any()


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.5, 1.0])
def test_task_correlation(correlation):
    table = World(1, turned(task_correlation=correlation)).serve(market.uniform, 7).table()
    table = table[table["true_purchase"] > 0]
    click, buy = (np.log(p / (1 - p)) for p in (table["true_click"], table["true_purchase"]))
    assert abs(np.cov(click, buy)[0, 1] / (0.8 * 0.9) - correlation) < 0.12
    assert abs(np.cov(buy, table["true_satisfaction"])[0, 1] / 0.9 - correlation) < 0.12
    assert abs(np.cov(click, table["true_satisfaction"])[0, 1] / 0.8 - correlation**2) < 0.12
    lift = table["true_purchase"][table["click"] == 1].mean() / table["true_purchase"].mean()
    assert np.log(lift) > 0.2 if correlation >= 0.5 else np.log(lift) < -0.2 if correlation < 0 else True


def selection(table):
    """Clicked against all in the truth; label against truth among the clicked; its standard error."""
    clicked = table[table["click"] == 1]
    expected = clicked["true_purchase"].sum()
    seen = clicked["true_purchase"].mean() / table["true_purchase"].mean()
    return seen, clicked["purchase"].sum() / expected, 1 / np.sqrt(expected)


def test_observed_selection_shows_in_the_truth_of_the_clicked(plain):
    seen, hidden, error = selection(plain)
    assert abs(np.log(seen)) < 0.12
    within(hidden, 1.0, error)
    tables = [World(1, turned(observed_selection=s)).serve(market.uniform, 14).table() for s in (-1.0, 1.0)]
    lower, higher = (selection(table) for table in tables)
    assert np.log(lower[0]) < np.log(seen) - 0.2 and np.log(higher[0]) > np.log(seen) + 0.2
    within(lower[1], 1.0, lower[2])
    within(higher[1], 1.0, higher[2])
    bargain = np.log(tables[1]["competitor_price"] / tables[1]["price_shown"])
    high = tables[1]["click"][bargain > bargain.quantile(0.9)].mean()
    assert high > 4 * tables[1]["click"][bargain < bargain.quantile(0.1)].mean()


def test_hidden_confounding_shows_in_the_labels_of_the_clicked(plain):
    table = World(1, turned(hidden_confounding=1.0)).serve(market.uniform, 28).table()
    seen, hidden, error = selection(table)
    assert abs(np.log(seen) - np.log(selection(plain)[0])) < 0.12  # nothing in what is seen
    assert hidden > 1 + 4 * error  # everything in what is not
    within(hidden, np.cosh(2) / np.cosh(1) ** 2, np.sqrt(hidden) * error)  # rare events: E[e^2u] / E[e^u]^2
    clicked = table[table["click"] == 1]
    calibrated(clicked["purchase"], clicked["true_purchase_given_click"])
    assert 0.7 < table["click"].mean() / plain["click"].mean() < 1.1


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_surface_shift(plain, shift):
    table = plain if shift == 0 else World(1, turned(surface_shift=shift)).serve(market.uniform, 14).table()
    groups = table.groupby("surface", observed=True)["click"]
    rate, error = groups.mean(), np.sqrt(groups.mean() / groups.size())
    if shift == 0:
        assert (abs(rate - table["click"].mean()) < 4 * error).all()
    else:
        assert rate["search"] - rate["mail"] > 8 * np.hypot(error["search"], error["mail"])
        taste = table.pivot_table(index="category", columns="surface", values="true_click", observed=True)
        assert np.log(taste["search"] / taste["home"]).std() > 0.25  # tastes shift, not only levels


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_drift(drift):
    table = World(2, turned(drift=drift, requests=1_000)).serve(market.uniform, 42).table()
    first, last = (
        part.groupby("category", observed=True)["click"]
        for part in (table[table["day"] < 14], table[table["day"] >= 28])
    )
    change = np.log(last.mean() / first.mean())
    noise = np.sqrt((1 / first.sum() + 1 / last.sum()).mean())
    spread = np.sqrt(max(change.var(ddof=0) - noise**2, 0.0))
    assert (
        abs(spread - drift) < 4 * noise + 0.2 * drift
    )  # 28 days lie between the middles of the two fortnights


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5])
def test_noise(noise):
    orders = World(0, Dials(noise=noise)).orders(10_000)
    residual = orders["satisfaction"] - orders["true_satisfaction"]
    within(residual.std(), noise, noise / np.sqrt(2 * len(residual)))
    if noise == 0:
        assert np.allclose(orders["rating"], orders["true_rating"], atol=1e-6)


def test_sizes():
    world = World(0, Dials(visitors=300, items=150, requests=500, slots=3, candidates=8))
    log = world.serve(days=7)
    assert (len(world.visitors), len(world.items)) == (300, 150)
    assert abs(len(log.requests) / 7 - 500) < 5
    assert log.impressions["slot"].max() == 3
    row = log.table().set_index("impression_id").loc[1047]
    assert (row["slot"], row["item_id"], row["day"]) == (3, market.RED_SCARF, 0)


# Policies and propensities.


def test_plackett_luce_sums_to_one_in_every_slot():
    scores = np.array([0.3, -1.0, 2.0, -np.inf])
    first = np.exp(scores) / np.exp(scores).sum()
    slots = np.zeros((4, 3))
    for a in range(3):
        for b in set(range(3)) - {a}:
            c = ({0, 1, 2} - {a, b}).pop()
            p = market.plackett_luce(scores[None, [a, b, c, 3]])[0]
            assert p[2] == 1 and p[3] == 0 and abs(p[0] - first[a]) < 1e-6
            slots[[a, b, c], [0, 1, 2]] += p[0] * p[1]
    assert np.allclose(slots[:3].sum(0), 1, atol=1e-5) and np.allclose(slots[:3].sum(1), 1, atol=1e-5)
    assert np.array_equal(market.plackett_luce(np.array([[9000.0, 0.0, -9000.0]])), [[1.0, 1.0, 1.0]])


def test_propensities_are_the_frequencies():
    seen = []

    def policy(candidates):
        seen.append(candidates.assign(score=candidates["review_score"] - 0.02 * candidates["list_price"]))
        return seen[-1]["score"].to_numpy()

    log = World(0, Dials(position_decay=0.0)).serve(policy, days=4)
    offered = pd.concat(seen)
    offered = offered[offered["listing_days"] >= 0]
    weight = np.exp(offered["score"])
    offered["probability"] = weight / weight.groupby(offered["request_id"]).transform("sum")
    top = log.impressions[(log.impressions["slot"] == 1) & (log.impressions["impression_id"] > 1050)]
    expected = offered.groupby("item_id")["probability"].agg(["sum", lambda p: (p * (1 - p)).sum()])
    shown = top["item_id"].value_counts().reindex(expected.index, fill_value=0)
    often = expected["sum"] > 10
    score = (shown - expected["sum"])[often] / np.sqrt(expected.iloc[:, 1][often])
    assert often.sum() > 100 and abs((score**2).mean() - 1) < 4 * np.sqrt(2 / often.sum())
    joined = top.merge(offered[["request_id", "item_id", "probability"]], on=["request_id", "item_id"])
    stock = len(joined) - np.isclose(joined["propensity"], joined["probability"], atol=2e-6).sum()
    assert len(joined) == len(top) and stock < 0.05 * len(top)  # the rest had something out of stock


def test_inverse_propensities_count_the_candidates(log):
    shown = log.impressions[log.impressions["propensity"] > 0]
    for slot, part in shown.groupby("slot"):
        inverse = 1 / part["propensity"]
        assert 0.85 < inverse.mean() / (24 - slot + 1) < 1.01  # E[1 / p] = number of eligible candidates


def test_an_oracle_earns_more_than_chance():
    world = World(0)
    oracle = world.serve(lambda candidates: 300 * world.truth(candidates)["true_margin"].to_numpy(), 2)
    chance = world.serve(market.uniform, 2)
    assert digest(oracle.requests) == digest(chance.requests)
    assert oracle.truth["true_margin"].mean() > 2 * chance.truth["true_margin"].mean()


def test_a_policy_may_learn_between_days():
    clicked = np.zeros(2000)
    for log in World(0).stream(lambda candidates: clicked[candidates["item_id"]], days=3):
        table = log.table()
        np.add.at(clicked, table["item_id"][table["click"] == 1], 1.0)
    assert table["day"].unique() == [2] and table["impression_id"].is_monotonic_increasing
    assert table["propensity"].max() > 0.5


@pytest.mark.parametrize("scores", [np.zeros(3), np.nan, "length"])
def test_a_policy_must_return_one_finite_score_a_row(scores):
    def policy(candidates):
        return (
            np.zeros((len(candidates), 1)) if isinstance(scores, str) else scores * np.ones(np.size(scores))
        )

    with pytest.raises(ValueError, match="finite scores"):
        World(0).serve(policy, 1)


# The story.


def test_impression_1047(log, table):
    row = table.set_index("impression_id").loc[1047]
    assert (row["day"], row["weekday"], row["hour"], row["surface"], row["slot"]) == (0, 1, 20, "home", 3)
    assert pd.Timestamp(market.OPENING).day_name() == "Tuesday"
    assert log.world.items["name"][row["item_id"]] == "red scarf"
    assert row["price_shown"] == log.world.prices(np.array([0]), np.array([0]))[0][0]
    assert 0 < row["propensity"] < 1 and 0 < row["true_click"] < 1 and 0 < row["true_purchase"] < 1
    assert (row["click"], row["purchase"], row["rating"], row["returned"]) == (1, 1, 4, 1)
    events = log.events[log.events["impression_id"] == 1047].set_index("kind")["happened_at"]
    assert events["click"] == row["time"] and events["purchase"] == pytest.approx(row["time"] + 3.25)
    assert events["purchase"] < events["rating"] < events["return"] and int(events["return"]) == 19
    truth = log.world.truth(table[table["impression_id"] == 1047])
    assert (truth.iloc[0] == row[truth.columns]).all()


@pytest.mark.parametrize("mechanism", ["trees", "second"])
def test_impression_1047_in_any_world(mechanism):
    for seed, policy, slots in ((7, None, 4), (8, market.uniform, 12)):
        log = World(seed, Dials(slots=slots, observed_selection=-1.0), mechanism).serve(policy, 1)
        row = log.table().set_index("impression_id").loc[1047]
        assert (row["item_id"], row["slot"], row["visitor_id"]) == (0, 3, market.RETURNER)
        assert (row["click"], row["purchase"], row["rating"], row["returned"]) == (1, 1, 4, 1)


def test_as_of_hides_what_is_not_yet_visible(log, table):
    early = log.table(as_of=10.0)
    assert early["time"].max() <= 10 and len(early) == (table["time"] <= 10).sum()
    final = table.set_index("impression_id").loc[early["impression_id"]]
    assert 0.3 < early["purchase"].sum() / final["purchase"].sum() < 0.95
    assert (early["purchase"].to_numpy() <= final["purchase"].to_numpy()).all()
    row = early.set_index("impression_id").loc[1047]
    assert (row["purchase"], row["rating"], row["returned"]) == (1, 4, 0)
    assert np.isnan(log.table(as_of=3.0).set_index("impression_id").loc[1047, "rating"])
    assert list(early.columns) == list(table.columns)


def test_labels_are_missing_where_they_were_not_observed(table):
    assert table["click"].isin([0, 1]).all() and table["purchase"].isin([0, 1]).all()
    assert (table["purchase"] <= table["click"]).all()
    assert (table["purchase_given_click"].notna() == (table["click"] == 1)).all()
    assert (table["returned"].notna() == (table["purchase"] == 1)).all()
    assert table["rating"].notna().sum() == table["satisfaction"].notna().sum() > 0
    assert (table["purchase"][table["rating"].notna()] == 1).all()
    features = table[["day", *market.CATEGORICAL, *market.NUMERIC]]
    assert features.notna().all().all() and not any(name.startswith("true") for name in features)


def test_recurring_visitors_and_items():
    world = World(0, Dials(requests=3_000, visitors=4_000, items=500, candidates=12))
    log = world.serve(days=35)
    table = log.table()
    kind = world.visitors["true_type"].astype(str).to_numpy()[table["visitor_id"]]
    assert list(world.visitors["true_type"][:3]) == ["returner", "looker", "gift giver"]
    assert table["purchase"][kind == "looker"].sum() == 0 and table["click"][kind == "looker"].sum() > 500
    returned = table.groupby(kind)["returned"].mean()
    assert returned["returner"] > 2 * returned["regular"]
    givers = (table["day"] >= 27)[kind == "gift giver"].mean()
    assert givers > 2 * (table["day"] >= 27)[kind == "regular"].mean()  # eight of the 35 days are in December
    by_item = table.groupby("item_id")
    assert by_item["click"].mean()[market.RED_SCARF] > 1.5 * table["click"].mean()
    assert by_item["true_return"].mean()[market.RED_SCARF] > 1.8 * table["true_return"].mean()
    events = log.events.merge(log.impressions[["impression_id", "item_id"]])
    at = events.pivot_table(
        index=["item_id", "impression_id"], columns="kind", values="happened_at", observed=False
    )
    if market.WOOL_COAT in at["purchase"].dropna().index.get_level_values(0):
        wait = (at["purchase"] - at["click"]).loc[market.WOOL_COAT].dropna()
        assert wait.between(9, 9.5).all()
    tea = at.loc[market.TEA_TIN]
    assert tea["reorder"].notna().sum() >= 0.7 * tea["purchase"].notna().sum() > 10


def test_stock_runs_out_and_is_refilled():
    world = World(0, Dials(items=100, candidates=12, requests=4_000))
    log = world.serve(days=28)
    assert (log.stock["units"] >= 0).all()
    closed = set(map(tuple, (log.stock[log.stock["units"] == 0][["day", "item_id"]] + [1, 0]).to_numpy()))
    day = log.requests.set_index("request_id")["day"].loc[log.impressions["request_id"]].to_numpy()
    shown = set(zip(day, log.impressions["item_id"], strict=True))
    assert len(closed) > 5 and not closed & shown
    units = log.stock.sort_values("day").groupby("item_id")["units"].diff()
    assert (units > 0).sum() > 20 and (units < 0).sum() > 100


def test_new_items_are_not_shown_before_their_time(table):
    assert table["listing_days"].min() == 0
    assert table["tenure_days"].min() >= 0


def test_unhappy_visitors_complain_and_leave(log):
    satisfaction = log.truth["satisfaction"].set_axis(log.impressions["impression_id"])
    bought = satisfaction.dropna()
    asked = bought.loc[log.tickets["impression_id"]]
    assert asked.mean() < bought.mean() - 0.5
    assert (log.tickets["urgency"].between(1, 3)).all() and set(log.tickets["topic"]) <= {
        "delivery",
        "quality",
        "refund",
    }
    last = log.requests.groupby("visitor_id")["time"].max()
    left = log.departures.set_index("visitor_id")["true_left"]
    both = left.index.intersection(last.index)
    assert len(both) > 100 and (last[both] < np.floor(left[both]) + 1).all()


def test_banners_are_sold_by_second_price(log):
    banners = log.campaigns
    assert len(banners) == len(log.requests) and (banners["price_paid"] <= banners["bid"]).all()
    within(banners["shown"].mean(), 0.9, np.sqrt(0.09 / len(banners)))
    assert not banners["clicked"][~banners["shown"]].any()
    shown = banners[banners["shown"]]
    calibrated(shown["clicked"].astype(float), shown["true_click"])
    effect = shown["ordered"].mean() - banners["ordered"][~banners["shown"]].mean()
    error = np.sqrt(banners["ordered"].mean() / (~banners["shown"]).sum())
    within(effect, banners["true_uplift"].mean(), error)
    clicks = shown.groupby("creative", observed=True)["clicked"].mean()
    assert clicks["film"] > clicks["photo"] > clicks["plain"]


def test_sales_avoid_the_season(table):
    """Prices are confounded with demand: the dear weeks are the weeks in which the shop sells."""
    world = World(0)
    item, week = np.meshgrid(np.arange(2000), np.arange(0, 182, 7))
    shown = world.prices(item.ravel(), week.ravel())[0]
    list_price = world.items["list_price"].to_numpy()[item.ravel()]
    assert 0.03 < (shown < list_price - 0.01).mean() < 0.4
    assert (shown <= list_price).all()


# Bad input; size.


@pytest.mark.parametrize(
    "bad",
    [
        {"task_correlation": 1.1},
        {"observed_selection": float("nan")},
        {"hidden_confounding": -3},
        {"position_decay": -0.1},
        {"delay_half_life": "two"},
        {"return_rate": 0.5},
        {"accidental_clicks": 1.0},
        {"surface_shift": np.inf},
        {"drift": None},
        {"noise": -1},
        {"noise": True},
        {"visitors": 10.5},
        {"visitors": 1},
        {"items": 10},
        {"requests": 150},
        {"slots": 5},
        {"slots": 12, "candidates": 8},
    ],
)
def test_invalid_dials(bad):
    with pytest.raises(ValueError, match=f"dial '{next(iter(bad))}' must .*found"):
        Dials(**bad)


def test_invalid_arguments():
    with pytest.raises(ValueError, match="mechanism must be 'trees' or 'second', found 'forest'"):
        World(0, mechanism="forest")
    for seed in (-1, 1.5, True, "1"):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            World(seed)
    for number in (0, 2.5, True):
        with pytest.raises(ValueError, match="days must be"):
            World(0).serve(days=number)
        with pytest.raises(ValueError, match="n must be"):
            World(0).orders(number)


def test_a_million_impressions_fit_in_two_gibibytes(log, table):
    """By structure: bytes a row, and no working array longer than a day."""
    rows = len(log.impressions)
    stored = sum(getattr(log, name).memory_usage(deep=True).sum() for name in PARTS)
    assert 2 * stored / rows * 1e6 < 2**30  # days and their concatenation
    assert table.memory_usage(deep=True).sum() / rows * 1e6 < 2**29
    days = [len(day.impressions) for day in World(0).stream(days=8)]
    assert max(days) < 1.3 * Dials().requests * Dials().slots
