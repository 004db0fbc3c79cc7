"""Figures of the book: one function, one figure, one style for light and dark pages.

Each task has one colour everywhere; grey is context, ink is text. The ground is transparent and lines are
labelled directly. A figure has no title (its caption says what to see) and is at most 640 px wide. Functions
return the figure; let it be the last expression of a notebook cell. Needs the extra ``plots``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from . import checks
from .evaluation import Interval, replicate_interval
from .reproducible import need

Array = NDArray[np.float64]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each has a contrast of 3:1 or more on white and on #14181e; on the site all, and the ink, follow the theme.
TASK_COLOURS = {
    "click": "#2f7fc1",
    "purchase": "#c8561b",
    "rating": "#1b8f6a",
    "price": "#9a6bb8",
    "return": "#b0506e",
}
CONTEXT = "#858b94"
INK = "#3b4149"

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same glyphs everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "mtl_ref",
}


@contextmanager
def style() -> Iterator[None]:
    """Give all that is drawn inside a ``with`` block the look of the book.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with need("matplotlib", "plots").rc_context(_STYLE):
        yield


def task_colour(name: str) -> str:
    """The colour of a task, as hex.

    Args:
        name: a task of the shop, or a text with its name as a word, such as "purchase, shared" or "ratings".

    Returns:
        The task's colour, ink for anything else.
    """
    words = str(name).replace(",", " ").replace("_", " ").split()
    found = [TASK_COLOURS[word] for word in (w.removesuffix("s") for w in words) if word in TASK_COLOURS]
    return found[0] if found else INK


def figure(width: int = 480, height: int = 300, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure in the style of the book.

    Args:
        width: in CSS pixels, at most 640; at 480 its text is still read on a phone of 390.
        height: in CSS pixels.
        rows: rows of panels.
        columns: panels in a row.

    Returns:
        The figure and its panels, row by row.

    Raises:
        ValueError: if it is wider than 640 pixels, or has no height or panel.
        ImportError: if matplotlib is not installed.
    """
    if not 0 < width <= 640 or min(height, rows, columns) < 1:
        found = f"found {width} x {height} px with {rows} x {columns}"
        raise ValueError(f"a figure is at most 640 px wide, with a panel or more, {found}: change them.")
    with style():
        made = need("matplotlib.figure", "plots").Figure(
            (width / 96, height / 96), dpi=96, layout="constrained"
        )
        axes = made.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        # Ticks are made when the figure is drawn, outside of the style, so they are told here.
        font = {"labelsize": 9.5, "labelcolor": INK, "labelfontfamily": "DejaVu Sans"}
        axis.tick_params(which="both", color=INK, **font)
    return made, axes


def to_svg(drawn: Figure) -> str:
    """The figure as SVG text: the same figure gives the same bytes.

    Args:
        drawn: any figure made here.

    Returns:
        SVG without a date, its text as paths.
    """
    buffer = io.StringIO()
    with style():
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def learning_curves(history: pd.DataFrame, metric: str | None = None) -> Figure:
    """Training and validation by epoch, one panel per task; the best epoch is marked.

    Args:
        history: from ``fit`` of ``mtl_ref.training``: ``epoch``, ``train_<task>``, ``validation_<task>``,
            ``validation_<task>_<metric>``. With a column ``replicate`` the lines are means with 95 % bands.
        metric: draw this metric on the validation part instead of the losses.

    Returns:
        The figure.

    Raises:
        ValueError: if the history holds no such columns.
    """
    checks.to_draw(history, [])
    names = [str(column).removeprefix("train_") for column in history if str(column).startswith("train_")]
    parts = {"validation": f"_{metric}"} if metric else {"train": "", "validation": ""}
    lines = {task: {p: f"{p}_{task}{end}" for p, end in parts.items()} for task in names if task != "loss"}
    lines = {task: {p: c for p, c in named.items() if c in history} for task, named in lines.items()}
    lines = {task: named for task, named in lines.items() if named}
    if "epoch" not in history or not lines:
        problem = (
            f"the history lacks epoch or what to draw ({metric or 'losses'}), found {list(history)[:12]}"
        )
        raise ValueError(f"{problem}: pass what fit returned.")
    for named in lines.values():
        checks.to_draw(history, drawn := ["epoch", *named.values()], drawn)
    made, axes = _panels(len(lines), 200)
    whole = need("matplotlib.ticker", "plots").MaxNLocator
    with style():
        for axis, (task, named) in zip(axes, lines.items(), strict=True):
            ends = []
            for part, column in named.items():
                colour = CONTEXT if part == "train" else task_colour(task)
                x, mean, low, high = _by_epoch(history, column)
                axis.plot(x, mean, color=colour)
                axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                ends.append((mean[-1], part, colour))
                if part == "validation" and not metric:
                    axis.plot(x[mean.argmin()], mean.min(), "o", color=colour, markersize=5)
            _label_ends(axis, history["epoch"].max(), ends)
            _name(axis, f"{task}, {metric or 'loss'}")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(whole(5, integer=True))
    return _settled(made)


def calibration(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Predicted probability against observed rate with intervals; on the grey line both agree.

    Args:
        curves: one panel each: by name, results of ``calibration_curve`` of ``mtl_ref.metrics``.

    Returns:
        The figure.
    """
    made, axes = _panels(len(checks.mapping("curves", curves)), 230)
    for curve in curves.values():
        checks.to_draw(curve, drawn := ["predicted", "observed", "low", "high"], drawn)
    with style():
        for axis, (name, curve) in zip(axes, curves.items(), strict=True):
            top = 1.05 * max(curve["high"].max(), curve["predicted"].max())
            axis.plot([0, top], [0, top], color=CONTEXT, linewidth=1)
            axis.vlines(
                curve["predicted"], curve["low"], curve["high"], color=task_colour(name), linewidth=1.5
            )
            axis.plot(curve["predicted"], curve["observed"], "o", color=task_colour(name), markersize=4.5)
            axis.set(xlim=(0, top), ylim=(0, top), xlabel="predicted")
            _name(axis, f"{name}, observed rate")
    return _settled(made)


def intervals(
    table: pd.DataFrame, label: str = "model", axis_name: str = "", reference: str | float | None = None
) -> Figure:
    """Dots with intervals: one row per model, in the order of the table, one panel per task.

    Args:
        table: columns ``label``, ``mean``, ``low``, ``high``, and ``task`` (such as "rating, RMSE in stars")
            for several panels, each with an axis of its own.
        label: column that names the rows.
        axis_name: what the horizontal axis shows, with its unit.
        reference: a row (its mean becomes a line, and it turns grey) or a number to compare with.

    Returns:
        The figure.

    Raises:
        ValueError: if the table lacks a column or the reference.
    """
    return _forest(table, label, axis_name, reference, pd.DataFrame(columns=[label, "value"]))


def replicates(
    table: pd.DataFrame,
    value: str = "value",
    label: str = "model",
    axis_name: str = "",
    reference: str | float | None = None,
    level: float = 0.95,
) -> Figure:
    """Every replicate as a grey dot; mean and Student's t interval of each model above.

    Args:
        table: one row per model and replicate: columns ``label`` and ``value``, and ``task`` for several
            panels.
        value: column to draw.
        label: column that names the rows.
        axis_name: what the horizontal axis shows, with its unit.
        reference: a row or a number to compare with, see ``intervals``.
        level: confidence level.

    Returns:
        The figure.

    Raises:
        ValueError: if the table lacks a column or the reference, or a model has one replicate only.
    """
    checks.to_draw(table, [label, value], [value])
    keys = ["task", label] if "task" in table else [label]
    rows = []
    for key, group in table.groupby(keys, sort=False):
        found = replicate_interval(group[value], level)
        rows.append(
            dict(zip(keys, key, strict=True)) | {"mean": found.mean, "low": found.low, "high": found.high}
        )
    return _forest(pd.DataFrame(rows), label, axis_name, reference, table.rename(columns={value: "value"}))


def marginals(
    panels: Mapping[str, pd.DataFrame | pd.Series | ArrayLike],
    long_tail: Sequence[str] = (),
    columns: int = 2,
) -> Figure:
    """Small multiples of what the data look like: bars, histograms, long tails.

    Args:
        panels: by panel name. A Series: bars over its index. A table with ``mean``, ``low``, ``high``: dots
            with intervals over its index. An array: its histogram.
        long_tail: names of arrays to draw as sizes by rank, both axes logarithmic, instead.
        columns: panels in a row.

    Returns:
        The figure.
    """
    made, axes = _panels(len(checks.mapping("panels", panels)), 170, columns)
    with style():
        for axis, (name, data) in zip(axes, panels.items(), strict=True):
            colour = task_colour(name)
            if isinstance(data, pd.DataFrame):
                checks.to_draw(data, ["mean", "low", "high"], ["mean", "low", "high"])
                places = np.arange(len(data))
                axis.vlines(places, data["low"], data["high"], color=colour, linewidth=1.5)
                axis.plot(places, data["mean"], "o", color=colour, markersize=4.5)
            elif isinstance(data, pd.Series):
                axis.bar(np.arange(len(data)), data, color=colour, width=0.7)
            elif name in long_tail:
                sizes = np.sort(checks.drawable(f"panel {name!r}", data))[::-1]
                axis.loglog(np.arange(1, len(sizes) + 1), sizes, color=colour, drawstyle="steps-mid")
                axis.set_xlabel("rank")
            else:
                axis.hist(checks.drawable(f"panel {name!r}", data), bins=30, color=colour)
            if isinstance(data, pd.DataFrame | pd.Series):
                axis.set_ylim(bottom=0)
                axis.set_xticks(np.arange(len(data)), [str(value) for value in data.index])
            _name(axis, name)
    return _settled(made)


def _settled(drawn: Figure) -> Figure:
    """Place everything once: the layout is iterative, and each further drawing would move it a little."""
    with style():
        drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    return drawn


def _panels(count: int, height: int, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """Just enough panels, ``columns`` in a row, each ``height`` px high."""
    if count < 1 or columns < 1:
        found = f"found {count} panels in {columns} columns"
        raise ValueError(f"there is nothing to draw, {found}: give at least one panel.")
    columns = min(columns, count)
    rows = -(-count // columns)
    made, axes = figure(300 if columns == 1 else 520, height * rows, rows, columns)
    for axis in axes[count:]:
        axis.remove()
    return made, axes[:count]


def _name(axis: Axes, text: str) -> None:
    """What the vertical axis shows, written above it where it can be read without turning the head."""
    axis.text(0, 1.04, text, transform=axis.transAxes, ha="left", va="bottom")


def _by_epoch(history: pd.DataFrame, column: str) -> Array:
    """(4, epochs): epoch, mean, and the interval's ends, which are the mean without replicates."""
    rows = []
    for epoch, values in history.dropna(subset=column).groupby("epoch")[column]:
        found = replicate_interval(values if len(values) > 1 else [values.iloc[0]] * 2)
        rows.append((epoch, found.mean, found.low, found.high))
    return np.array(rows, dtype=float).T


def _label_ends(axis: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name at its end, moved apart where two ends meet."""
    low, high = axis.get_ylim()
    height = -np.inf
    for y, text, colour in sorted(ends):
        height = max(y, height + 0.13 * (high - low))
        axis.annotate(text, (x, height), (5, 0), textcoords="offset points", color=colour, va="center")
    axis.set_ylim(low, high)


def _forest(
    table: pd.DataFrame, label: str, axis_name: str, reference: str | float | None, dots: pd.DataFrame
) -> Figure:
    checks.to_draw(table, [label, "mean", "low", "high"], ["mean", "low", "high"])
    keys = ["task", label] if "task" in table else [label]
    if (twice := table[table.duplicated(keys)]).size:
        problem = f"the table holds {twice[label].iloc[0]!r} twice in column {label!r}"
        raise ValueError(f"{problem}: keep one row per model and task.")
    table, dots = (t if "task" in t else t.assign(task="") for t in (table, dots))
    names, tasks = list(dict.fromkeys(table[label])), list(dict.fromkeys(table["task"]))
    if isinstance(reference, str) and reference not in names:
        raise ValueError(f"reference {reference!r} is none of the rows {names}: name one of them.")
    made, axes = figure(480, (60 + 28 * len(names)) * len(tasks) + 20, len(tasks))
    with style():
        for axis, task in zip(axes, tasks, strict=True):
            rows = table[table["task"] == task].set_index(label)
            at = rows["mean"].get(reference) if isinstance(reference, str) else reference
            if at is not None:
                axis.axvline(at, color=CONTEXT, linewidth=1, linestyle=(0, (4, 3)))
            for place, name in enumerate(names):
                own = dots[(dots[label] == name) & (dots["task"] == task)]["value"]
                axis.plot(own, np.full(len(own), place + 0.25), "o", color=CONTEXT, markersize=3.5, alpha=0.6)
                if name not in rows.index:
                    continue
                mean, low, high = (float(rows[column][name]) for column in ("mean", "low", "high"))
                colour = CONTEXT if name == reference else task_colour(task)
                axis.plot([low, high], [place, place], color=colour)
                axis.plot(mean, place, "o", color=colour, markersize=6)
                text = str(Interval(mean, low, high, 0))
                axis.text(1.02, place, text, transform=axis.get_yaxis_transform(), va="center")
            axis.set_ylim(len(names) - 0.5, -0.6)
            axis.set_yticks(range(len(names)), [str(name) for name in names])
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
            axis.locator_params(axis="x", nbins=3)
            if task:
                _name(axis, task)
        axes[-1].set_xlabel(axis_name)
    return _settled(made)
