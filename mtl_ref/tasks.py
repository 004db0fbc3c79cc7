"""What a model is asked: a target column, its likelihood (loss and link), its metrics.

A head of a task gives a raw output (a logit, a standardised mean, a log rate). The likelihood turns it into a
loss per row; ``link`` turns it into natural units: a probability, a mean in the unit of the label.
Losses are means over the *observed* labels: a NaN target takes its row out of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from . import checks, labels, metrics

Array = NDArray[np.float64]

_ERRORS = {"rmse": metrics.rmse, "mae": metrics.mae}


@dataclass(frozen=True)
class Task:
    """One question to the model. Use a subclass: it brings the likelihood.

    Args:
        name: Name of the task; the key of its predictions, losses and weights.
        column: Target column of the table; the name by default. NaN marks a label that was not observed.
        weight: Column of row weights (inverse propensity, sampling correction, price), if any.
        initial: Raw output of the best constant, found by ``fit``; heads start from it.

    Attributes:
        main: The metric by which the task is judged first.
        higher_is_better: Direction of the main metric.
        highest: Highest label where labels are 0, 1, ... by themselves.
    """

    main: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    highest: ClassVar[float | None] = None

    name: str
    column: str = ""
    weight: str | None = None
    initial: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checks.name(self.name)
        object.__setattr__(self, "column", self.column or self.name)
        object.__setattr__(self, "initial", checks.start(self.name, self.initial, self.width))

    @property
    def width(self) -> int:
        """Raw outputs per row; with 1 the output is (B,), else (B, width)."""
        return 1

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of each row, (B,), from raw outputs (B,) or (B, width) and targets (B,)."""
        raise NotImplementedError

    def link(self, output: Tensor) -> Tensor:
        """Turn raw outputs into natural units."""
        raise NotImplementedError

    def metrics(self, target: Array, prediction: Array, weights: Array | None = None) -> dict[str, float]:
        """Measure predictions in natural units against targets (N,), by row weight; NaN is left out."""
        raise NotImplementedError

    def _read(self, column: pd.Series, role: str) -> Array:
        """Observed labels as ``row_loss`` reads them."""
        return labels.numbers(column, role)

    def _constant(self, seen: Array) -> tuple[float, ...]:
        """Raw output of the best constant prediction for observed, encoded seen."""
        return (0.0,) * self.width

    def check(self, target: Tensor) -> None:
        """Refuse encoded labels that the likelihood cannot have, for tensors that ``target`` did not make.

        Args:
            target: (N,) as ``target`` encodes them, classes and levels by position; NaN where not observed.

        Raises:
            ValueError: Names the task, the label and what to do.
        """
        known = getattr(self, "classes", getattr(self, "levels", ()))
        checks.codes(self.name, target, len(known) - 1 if known else self.highest)

    def target(self, table: pd.DataFrame) -> Tensor:
        """Read the labels.

        Returns:
            (N,) in torch's default dtype, NaN where the label is missing.

        Raises:
            KeyError: If the table lacks the column.
            ValueError: If it holds labels that the likelihood cannot have.
        """
        role = f"the target of task {self.name!r}"
        column = labels.find_column(table, self.column, role)
        missing = column.isna().to_numpy()
        values = np.full(len(column), np.nan)
        if not missing.all():
            values[~missing] = self._read(column[~missing], role)
        found: Tensor = torch.as_tensor(values, dtype=torch.get_default_dtype())
        checks.representable(self.column, role, values, found)
        return found

    def fit(self, table: pd.DataFrame) -> Task:
        """Learn from the training rows what the likelihood needs to start well.

        Returns:
            A copy that knows its best constant (``initial``) and, for a regression, its location and scale.

        Raises:
            ValueError: If no label is observed.
        """
        seen = self.target(table).numpy().astype(np.float64)
        seen = seen[~np.isnan(seen)]
        if not seen.size:
            raise ValueError(f"task {self.name!r}: no label is observed in {self.column!r}: leave it out.")
        return replace(self, initial=self._constant(seen))

    def totals(
        self, predictions: Mapping[str, Tensor], target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum the row losses of the observed labels, by weight, and the weights.

        The two sums add up over parts of a batch; ``loss`` is their quotient.

        Args:
            predictions: Raw outputs by name; this task reads its own.
            target: (B,), NaN where not observed.
            weight: (B,), not negative; all ones by default.

        Returns:
            Sum of w_n loss_n and sum of w_n over observed n, two scalars.

        Raises:
            KeyError: If the predictions lack the task.
            ValueError: If the output has not one row (of ``width`` numbers) per target, or the weight not one
                number.
        """
        checks.loss_inputs(self.name, self.width, predictions, target, weight)
        output = predictions[self.name]
        observed = ~torch.isnan(target)
        # A stand-in label where none was observed: a NaN there would reach the gradient even at weight zero.
        rows = torch.where(observed, self.row_loss(output, torch.where(observed, target, 0.0)), 0.0)
        if weight is None:
            return rows.sum(), observed.sum().to(rows.dtype)
        weight = torch.where(observed, weight, 0.0).to(rows.dtype)
        return rows.mul(weight).sum(), weight.sum()

    def loss(self, predictions: Mapping[str, Tensor], target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Average the row losses over the observed labels, by weight.

        Sum of w_n loss_n over observed n, divided by the sum of those w_n: labels and weights, never the
        batch size, set its scale. Zero, with zero gradient, where nothing is observed.

        Args:
            predictions: Raw outputs by name; this task reads its own.
            target: (B,), NaN where not observed.
            weight: (B,), not negative; all ones by default.

        Returns:
            A scalar.
        """
        total, weights = self.totals(predictions, target, weight)
        return total / torch.where(weights > 0, weights, 1.0)


@dataclass(frozen=True)
class Regression(Task):
    """A number: Gaussian likelihood on the standardised label.

    With a fixed variance the row loss is (y - mu)^2 / 2 in units of ``scale`` squared; with ``variance=True``
    the head also gives log sigma^2 = s and the row loss is (exp(-s) (y - mu)^2 + s) / 2, the constant
    log(2 pi) / 2 left out (Nix and Weigend, 1994). ``location`` and ``scale`` are those of the training
    labels, so that the loss does not depend on the unit of the label.
    """

    main: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False

    location: float = 0.0
    scale: float = 1.0
    variance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.scaling(self.name, self.location, self.scale)

    @property
    def width(self) -> int:
        """One mean, or mean and log variance."""
        return 2 if self.variance else 1

    def fit(self, table: pd.DataFrame) -> Regression:
        """Take location and scale from the observed training labels."""
        fitted = super().fit(table)
        seen = self.target(table)
        seen = seen[~torch.isnan(seen)]
        location, scale = seen.mean().item(), seen.std(correction=0).item()
        checks.spread(self.name, self.column, seen, location + scale)
        return replace(self, initial=fitted.initial, location=location, scale=scale if scale > 0 else 1.0)

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Gaussian negative log-likelihood in standardised units."""
        label = (target - self.location) / self.scale
        if not self.variance:
            return (label - output).square() / 2
        mean, log_variance = output.unbind(1)
        return ((label - mean).square() * torch.exp(-log_variance) + log_variance) / 2

    def link(self, output: Tensor) -> Tensor:
        """Mean (B,) in the unit of the label; with variance (B, 2): mean and variance."""
        if not self.variance:
            return output * self.scale + self.location
        mean, log_variance = output.unbind(1)
        return torch.stack([mean * self.scale + self.location, torch.exp(log_variance) * self.scale**2], 1)

    def metrics(self, target: Array, prediction: Array, weights: Array | None = None) -> dict[str, float]:
        """RMSE and MAE; with variance also the mean negative log-likelihood in the unit of the label."""
        checks.natural(target, prediction, 2 if self.variance else 0)
        mean = prediction[:, 0] if self.variance else prediction
        found = {name: metric(target, mean, weights) for name, metric in _ERRORS.items()}
        if self.variance:
            surprise = ((target - mean) ** 2 / prediction[:, 1] + np.log(2 * math.pi * prediction[:, 1])) / 2
            seen = ~np.isnan(target)
            kept = None if weights is None else weights[seen]
            found["nll"] = float(np.average(surprise[seen], weights=kept)) if seen.any() else math.nan
        return found


@dataclass(frozen=True)
class Binary(Task):
    """Yes or no: Bernoulli likelihood; the raw output is a logit.

    Row loss -(y log p + (1 - y) log(1 - p)), computed from the logit so that neither logarithm overflows.
    """

    main: ClassVar[str] = "auc"
    highest: ClassVar[float | None] = 1

    def _read(self, column: pd.Series, role: str) -> Array:
        return labels.yes_or_no(column, role)

    def _constant(self, seen: Array) -> tuple[float, ...]:
        rate = np.clip(seen.mean(), 0.5 / len(seen), 1 - 0.5 / len(seen))  # finite where all seen agree
        return (float(np.log(rate / (1 - rate))),)

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of a logit."""
        return binary_cross_entropy_with_logits(output, target, reduction="none")

    def link(self, output: Tensor) -> Tensor:
        """Probability of a yes."""
        return torch.sigmoid(output)

    def metrics(self, target: Array, prediction: Array, weights: Array | None = None) -> dict[str, float]:
        """AUC, log-loss, expected calibration error; accuracy, precision, recall and F1 at one half."""
        scores = {"auc": metrics.auc, "log_loss": metrics.log_loss}
        scores |= {"calibration_error": metrics.calibration_error, "accuracy": metrics.accuracy}
        scores |= {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}
        return {name: metric(target, prediction, weights) for name, metric in scores.items()}


@dataclass(frozen=True)
class Multiclass(Task):
    """One of several kinds: categorical likelihood; the raw outputs are logits, one per class.

    Args:
        classes: The labels, in the order of the outputs.
    """

    main: ClassVar[str] = "accuracy"

    classes: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", checks.classes(self.name, self.classes))
        super().__post_init__()

    @property
    def width(self) -> int:
        """One logit per class."""
        return len(self.classes)

    def _read(self, column: pd.Series, role: str) -> Array:
        return labels.positions(column, role, self.classes, "classes")

    def _constant(self, seen: Array) -> tuple[float, ...]:
        counts = np.bincount(seen.astype(int), minlength=len(self.classes)) + 0.5
        return tuple(np.log(counts / counts.sum()).tolist())

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits (B, K)."""
        return torch.nn.functional.cross_entropy(output, target.long(), reduction="none")

    def link(self, output: Tensor) -> Tensor:
        """Class probabilities (B, K)."""
        return torch.softmax(output, 1)

    def metrics(self, target: Array, prediction: Array, weights: Array | None = None) -> dict[str, float]:
        """Accuracy and mean log-loss; targets are positions in ``classes``."""
        checks.natural(target, prediction, len(self.classes))
        return {
            "accuracy": metrics.accuracy(target, prediction, weights),
            "log_loss": metrics.log_loss(target, prediction, weights),
        }


@dataclass(frozen=True)
class Ordinal(Task):
    """Ordered levels, such as stars: cumulative logits (McCullagh, 1980).

    With levels 1..K the raw outputs (B, K-1) give c_1 = r_1 and c_k = c_{k-1} - softplus(r_k), and
    P(y > level k) = sigmoid(c_k): decreasing in k for any output, so every row has valid probabilities.

    Args:
        levels: The labels from lowest to highest.
    """

    main: ClassVar[str] = "kappa"

    levels: tuple[float, ...] = (1, 2, 3, 4, 5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", checks.levels(self.name, self.levels))
        super().__post_init__()

    @property
    def width(self) -> int:
        """One cut between two neighbouring levels."""
        return len(self.levels) - 1

    def _read(self, column: pd.Series, role: str) -> Array:
        return labels.positions(
            pd.Series(labels.numbers(column, role), name=column.name), role, self.levels, "levels"
        )

    def _constant(self, seen: Array) -> tuple[float, ...]:
        counts = np.bincount(seen.astype(int), minlength=len(self.levels)) + 0.5
        above = 1 - counts.cumsum()[:-1] / counts.sum()  # P(y > level k)
        cut = np.log(above / (1 - above))
        gaps = -np.diff(cut)
        return (float(cut[0]), *np.log(np.expm1(gaps)).tolist())

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Negative log-probability of the level, without a difference of two close sigmoids.

        P(y = k) = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) with a = c_{k-1}, b =
        c_k, and 1 - exp(-softplus(r)) = sigmoid(r).
        """
        output = _as_columns(output)
        cut = _cuts(output)
        end = torch.zeros_like(cut[:, :1])  # log 1: nothing lies above the last level or below the first
        above = torch.cat([end, logsigmoid(cut)], 1)
        below = torch.cat([logsigmoid(-cut), end], 1)
        gap = torch.cat([end, logsigmoid(output[:, 1:]), end], 1)
        return -(above + below + gap).gather(1, target.long().unsqueeze(1)).squeeze(1)

    def link(self, output: Tensor) -> Tensor:
        """Level probabilities (B, K)."""
        above = torch.sigmoid(_cuts(_as_columns(output)))
        ends = torch.ones_like(above[:, :1])
        return torch.cat([ends, above], 1) - torch.cat([above, torch.zeros_like(ends)], 1)

    def metrics(self, target: Array, prediction: Array, weights: Array | None = None) -> dict[str, float]:
        """Kappa and accuracy of the likeliest level, log-loss, and RMSE and MAE of the expected level."""
        checks.natural(target, prediction, len(self.levels))
        levels = np.asarray(self.levels, dtype=np.float64)
        likeliest = np.where(np.isnan(target), np.nan, prediction.argmax(1))
        right = metrics.accuracy(target, prediction, weights)  # refuses what is no position
        label = np.append(levels, np.nan)[np.where(np.isnan(target), len(levels), target).astype(int)]
        return {
            "kappa": metrics.quadratic_weighted_kappa(target, likeliest, weights),
            "accuracy": right,
            "log_loss": metrics.log_loss(target, prediction, weights),
        } | {name: metric(label, prediction @ levels, weights) for name, metric in _ERRORS.items()}


@dataclass(frozen=True)
class Count(Task):
    """How many: Poisson likelihood, the raw output is a log rate.

    ``zero_inflated=True`` adds a logit of never: P(0) = pi + (1 - pi) exp(-rate) (Lambert, 1992).
    """

    main: ClassVar[str] = "poisson_deviance"
    highest: ClassVar[float | None] = math.inf
    higher_is_better: ClassVar[bool] = False

    zero_inflated: bool = False

    @property
    def width(self) -> int:
        """Log rate, and the logit of a structural zero."""
        return 2 if self.zero_inflated else 1

    def _read(self, column: pd.Series, role: str) -> Array:
        return labels.counts(column, role)

    def _constant(self, seen: Array) -> tuple[float, ...]:
        mean = max(float(seen.mean()), 0.5 / len(seen))
        # half of the zeros taken for structural: a start, not an estimate
        never = 0.5 * float((seen == 0).mean())
        if not self.zero_inflated:
            return (math.log(mean),)
        never = min(max(never, 1e-3), 0.5)
        return (math.log(mean / (1 - never)), math.log(never / (1 - never)))

    def row_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Negative log-probability of the count."""
        log_rate = output if not self.zero_inflated else output[:, 0]
        poisson = log_rate.exp() - target * log_rate + torch.lgamma(target + 1)
        if not self.zero_inflated:
            return poisson
        never, ever = logsigmoid(output[:, 1]), logsigmoid(-output[:, 1])
        return torch.where(target == 0, -torch.logaddexp(never, ever - log_rate.exp()), poisson - ever)

    def link(self, output: Tensor) -> Tensor:
        """Expected count (B,)."""
        if not self.zero_inflated:
            return output.exp()
        return output[:, 0].exp() * torch.sigmoid(-output[:, 1])

    def metrics(self, target: Array, prediction: Array, weights: Array | None = None) -> dict[str, float]:
        """Poisson deviance, RMSE and MAE of the expected count."""
        errors = {"poisson_deviance": metrics.poisson_deviance} | _ERRORS
        return {name: metric(target, prediction, weights) for name, metric in errors.items()}


KINDS: tuple[type[Task], ...] = (Regression, Binary, Multiclass, Ordinal, Count)


def targets(tasks: Sequence[Task], table: pd.DataFrame) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the labels and row weights of all tasks.

    Returns:
        ``y`` by task name, (N,) with NaN where not observed, and ``w`` by task name for tasks with a weight
        column.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If two tasks have one name, a label is impossible, or the weight of an observed label is
            negative,
            missing or infinite.
    """
    check_names(tasks)
    y = {task.name: task.target(table) for task in tasks}
    w = {}
    for task in tasks:
        if task.weight is None:
            continue
        seen = ~torch.isnan(y[task.name]).numpy()
        values = labels.row_weights(table, task.weight, f"the weight of task {task.name!r}", seen)
        w[task.name] = torch.as_tensor(values, dtype=torch.get_default_dtype())
    return y, w


def check_names(tasks: Sequence[Task]) -> None:
    """Refuse what is no list of tasks, no task at all, and two tasks of one name."""
    checks.tasks(tasks)


def _as_columns(output: Tensor) -> Tensor:
    """(B, K-1), also for two levels, for which the head gives (B,)."""
    return output.unsqueeze(1) if output.ndim == 1 else output


def _cuts(output: Tensor) -> Tensor:
    """Cumulative logits (B, K-1), falling from level to level."""
    return torch.cat([output[:, :1], output[:, :1] - softplus(output[:, 1:]).cumsum(1)], 1)
