"""Plots: the house colours and nothing else, legible text, stable bytes, the right numbers."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from mtl_ref import evaluation, metrics, plots

text_module = pytest.importorskip("matplotlib.text")
collections = pytest.importorskip("matplotlib.collections")

WHITE, DARK = "#ffffff", "#14181e"
PALETTE = {*plots.TASK_COLOURS.values(), plots.CONTEXT, plots.INK}


def contrast(one, other):
    """Contrast ratio of two colours by WCAG 2.1, from 1 to 21."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def history(replicates=1, epochs=8):
    rng = np.random.default_rng(0)
    rows = []
    for replicate in range(replicates):
        for epoch in range(1, epochs + 1):
            row = {"epoch": epoch, "learning_rate": 0.001, "train_loss": 1.0, "validation_loss": 1.0}
            for task in ("purchase", "rating"):
                row |= {f"train_{task}": 1 / epoch + 0.01 * rng.random(), f"weight_{task}": 1.0}
                row[f"validation_{task}"] = 1 / epoch + 0.03 * epoch + 0.01 * rng.random()
            rows.append(row | {"validation_purchase_auc": 0.7 - 0.2 / epoch, "replicate": replicate})
    return pd.DataFrame(rows)


def curve(seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.beta(1, 9, 2000)
    return metrics.calibration_curve(rng.random(2000) < probability, probability)


def runs(tasks=("purchase",)):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"model": model, "task": task, "value": 0.6 + 0.03 * i + 0.01 * rng.normal()}
            for i, model in enumerate(["constant", "single task", "shared encoder"])
            for task in tasks
            for _ in range(10)
        ]
    )


def table(tasks=("purchase",)):
    rows = []
    for (model, task), group in runs(tasks).groupby(["model", "task"], sort=False):
        found = evaluation.replicate_interval(group["value"])
        rows.append({"model": model, "task": task, "mean": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def panels():
    rng = np.random.default_rng(0)
    rates = pd.DataFrame(
        {"mean": [0.03, 0.04], "low": [0.02, 0.03], "high": [0.04, 0.05]}, index=["Mo", "Tu"]
    )
    return {
        "click rate": rates,
        "ratings": pd.Series([3, 2, 30], index=[1, 2, 3]),
        "price": rng.gamma(2, 1, 300),
        "orders per item": rng.pareto(1, 300) + 1,
    }


FIGURES = {
    "learning curves": lambda: plots.learning_curves(history()),
    "learning curves with replicates": lambda: plots.learning_curves(history(3)),
    "learning curves of a metric": lambda: plots.learning_curves(history(), "auc"),
    "calibration": lambda: plots.calibration({"click": curve(), "purchase, shared": curve(1)}),
    "intervals": lambda: plots.intervals(table(), axis_name="AUC", reference="single task"),
    "intervals by task": lambda: plots.intervals(table(("click", "return")), reference=0.6),
    "replicates": lambda: plots.replicates(runs().drop(columns="task"), axis_name="AUC"),
    "replicates by task": lambda: plots.replicates(runs(("click", "price")), reference="constant"),
    "marginals": lambda: plots.marginals(panels(), long_tail=["orders per item"]),
}


@pytest.fixture(scope="module", params=FIGURES, ids=lambda name: name.replace(" ", "-"))
def drawn(request):
    figure = FIGURES[request.param]()
    return figure, plots.to_svg(figure), FIGURES[request.param]


def texts(figure):
    """What can be read: matplotlib also keeps labels of ticks outside of the axis, which it does not draw."""
    hidden = set()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden |= {
                label for t in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)
            }
    found = figure.findobj(text_module.Text)
    return [t for t in found if t not in hidden and t.get_visible() and t.get_text().strip()]


# Colours


@pytest.mark.parametrize("ground", [WHITE, DARK])
@pytest.mark.parametrize("colour", [*plots.TASK_COLOURS.values(), plots.CONTEXT])
def test_every_mark_can_be_seen_on_both_grounds(colour, ground):
    assert contrast(colour, ground) >= 3


def test_ink_is_legible_as_text_on_white():
    assert contrast(plots.INK, WHITE) >= 7
    assert contrast("#000000", WHITE) == pytest.approx(21)


def test_tasks_keep_their_colour():
    assert len(set(plots.TASK_COLOURS.values())) == 5
    assert plots.task_colour("click") == "#2f7fc1"
    assert (
        plots.task_colour("purchase, shared encoder") == plots.task_colour("purchases_per_item") == "#c8561b"
    )
    assert plots.task_colour("recommended") == plots.task_colour("") == plots.INK


# All figures


def test_the_same_input_gives_the_same_bytes(drawn):
    figure, svg, make = drawn
    assert plots.to_svg(make()) == svg == plots.to_svg(figure)
    assert "<dc:date>" not in svg and "<text" not in svg, "no date, and text as paths"
    assert len(svg.encode()) < 100_000


def test_only_house_colours_on_a_transparent_ground(drawn):
    _, svg, _ = drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= PALETTE
    assert not re.search(r"(fill|stroke): (white|black|rgb)", svg)


def test_text_is_large_enough_and_inside(drawn):
    figure, _, _ = drawn
    assert figure.get_figwidth() * 96 <= 640
    figure.draw_without_rendering()
    box = figure.bbox
    for text in texts(figure):
        extent = text.get_window_extent()
        assert text.get_fontsize() >= 9, text
        assert extent.x0 >= -1 and extent.x1 <= box.x1 + 1 and extent.y0 >= -1 and extent.y1 <= box.y1 + 1, (
            text
        )
        assert text.get_color() in PALETTE


def test_no_text_overlaps_another(drawn):
    figure, _, _ = drawn
    figure.draw_without_rendering()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    for i, (one, a) in enumerate(boxes):
        for other, b in boxes[i + 1 :]:
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 1 or high <= 1, f"{one!r} lies on {other!r}"


def test_labels_stand_beside_the_marks_and_not_in_a_legend_or_title(drawn):
    for axis in drawn[0].axes:
        assert axis.get_legend() is None and not axis.get_title()
    assert drawn[0].get_suptitle() == ""


# Single figures


def test_learning_curves_show_the_numbers_and_mark_the_best_epoch():
    data = history()
    axis = plots.learning_curves(data).axes[0]
    train, validation, best = axis.lines
    np.testing.assert_allclose(train.get_ydata(), data["train_purchase"])
    np.testing.assert_allclose(validation.get_ydata(), data["validation_purchase"])
    assert best.get_xdata()[0] == data.loc[data["validation_purchase"].idxmin(), "epoch"]
    assert (train.get_color(), validation.get_color()) == (plots.CONTEXT, plots.task_colour("purchase"))


def test_learning_curves_of_replicates_are_means_with_bands():
    data = history(4)
    axis = plots.learning_curves(data).axes[0]
    values = data.loc[data["epoch"] == 3, "train_purchase"]
    interval = evaluation.replicate_interval(values)
    assert axis.lines[0].get_ydata()[2] == pytest.approx(values.mean())
    band = axis.collections[0].get_paths()[0].vertices
    ends = band[band[:, 0] == 3][:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((interval.low, interval.high))


def test_learning_curves_take_what_there_is():
    only_train = history()[["epoch", "train_loss", "train_purchase"]]
    assert [t.get_text() for t in plots.learning_curves(only_train).axes[0].texts] == [
        "train",
        "purchase, loss",
    ]
    gaps = history()
    gaps.loc[2, "validation_rating"] = np.nan  # an epoch that was not validated
    assert len(plots.learning_curves(gaps).axes[1].lines[1].get_xdata()) == 7
    for bad in (history().drop(columns="epoch"), history()[["epoch", "train_loss"]]):
        with pytest.raises(ValueError, match="lacks epoch or what to draw"):
            plots.learning_curves(bad)
    with pytest.raises(ValueError, match="novelty"):
        plots.learning_curves(history(), "novelty")


def test_calibration_draws_every_bin_with_its_interval():
    data = curve()
    (axis,) = plots.calibration({"purchase": data}).axes
    dots = axis.lines[1]
    np.testing.assert_allclose(dots.get_xydata(), data[["predicted", "observed"]])
    ends = np.array([path.vertices[:, 1] for path in axis.collections[0].get_paths()])
    np.testing.assert_allclose(ends, data[["low", "high"]])


def test_intervals_write_the_numbers_and_grey_the_reference():
    data = table()
    (axis,) = plots.intervals(data, reference="single task").axes
    written = {t.get_text() for t in axis.texts}
    expected = {
        str(evaluation.Interval(row.mean, row.low, row.high, 0)) for row in data.itertuples(index=False)
    }
    assert expected <= written
    assert [t.get_text() for t in axis.get_yticklabels()] == list(data["model"])
    dots = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert [d.get_color() for d in dots] == [
        plots.task_colour("purchase"),
        plots.CONTEXT,
        plots.task_colour("purchase"),
    ]
    assert axis.lines[0].get_xdata()[0] == data.loc[1, "mean"], "the reference line"


def test_a_model_may_lack_a_task():
    data = table(("click", "purchase")).iloc[1:]
    figure = plots.intervals(data, reference="constant")
    assert len(figure.axes) == 2
    drawn = [
        sum(line.get_marker() == "o" and len(line.get_xdata()) == 1 for line in a.lines) for a in figure.axes
    ]
    assert sorted(drawn) == [2, 3]


def test_replicates_draw_every_run_and_its_interval():
    data = runs()
    (axis,) = plots.replicates(data).axes
    clouds = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 10]
    np.testing.assert_allclose(np.concatenate(clouds), data["value"])
    bars = [tuple(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    expected = [evaluation.replicate_interval(g["value"]) for _, g in data.groupby("model", sort=False)]
    assert bars == [(i.low, i.high) for i in expected]


def test_marginals_draw_bars_intervals_histograms_and_tails():
    data = panels()
    rates, ratings, price, tail = plots.marginals(data, long_tail=["orders per item"]).axes
    np.testing.assert_allclose(rates.lines[0].get_ydata(), data["click rate"]["mean"])
    assert [b.get_height() for b in ratings.patches] == [3, 2, 30]
    assert sum(b.get_height() for b in price.patches) == 300
    assert tail.get_xscale() == tail.get_yscale() == "log"
    assert (np.diff(tail.lines[0].get_ydata()) <= 0).all()
    assert len(plots.marginals({"price": data["price"]}).axes) == 1
    assert len(plots.marginals(dict(list(data.items())[:3])).axes) == 3, "no empty panel is left"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.figure(700), "at most 640 px wide"),
        (lambda: plots.calibration({}), "nothing to draw"),
        (lambda: plots.intervals(table().drop(columns="low")), "needs rows and the columns"),
        (lambda: plots.intervals(table().iloc[:0]), "needs rows"),
        (lambda: plots.intervals(table(), reference="oracle"), "reference 'oracle' is none of the rows"),
        (lambda: plots.replicates(runs(), value="auc"), "needs rows and the columns"),
        (lambda: plots.replicates(runs().drop_duplicates("model")), "at least two"),
        (lambda: plots.marginals({"rate": pd.DataFrame({"mean": [1]})}), "'low'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_the_style_ends_with_its_block():
    import matplotlib

    before = matplotlib.rcParams["text.color"]
    with plots.style():
        assert matplotlib.rcParams["text.color"] == plots.INK
    assert matplotlib.rcParams["text.color"] == before


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"mtl-ref\[plots\]"), plots.style():
        pass
