"""Rules that combine the task losses into one: L = sum of lambda_i L_i, and who chooses lambda.

A weighting rule is an ``nn.Module`` with ``forward(losses (T,)) -> scalar``. Its parameters, if it has any,
join the optimiser; the rest of its state lies in buffers, so that a resumed run goes on as if nothing had
happened. It may have ``after_step(losses)`` (the batch's losses before the update), ``after_update(losses)``
(those of the same batch after it), ``after_epoch(means)``, and ``from_norms(losses, norms)`` in place of
``forward``. ``weights`` (T,) holds the lambda last applied, in the order of the tasks: the derivative of the
scalar by each loss.

======================  ==============================  ===================  ================================
rule                    lambda_i                        sum of lambda        unit of a loss
======================  ==============================  ===================  ================================
``FixedWeights``        chosen                          as chosen            matters
``UncertaintyWeights``  exp(-s_i), s_i learned          free                 absorbed by s_i, once learned
``DWA``                 softmax of loss ratios          T                    cancels in lambda, not in L
``RLW``                 softmax of normal draws         1                    matters
``GLS``                 geometric mean / (T L_i)        free                 cancels in the direction
``FAMO``                z_i / L_i, z learned            1                    cancels in the direction
``STCH``                near 1 for the largest          1 (equal p)          matters; cancels with ``warm_up``
``GradNorm``            equal pace of the gradients     T                    nearly cancels, once learned
======================  ==============================  ===================  ================================

The sum of lambda is a factor of the learning rate under plain gradient descent, and nearly none under Adam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .tasks import Binary, Multiclass, Ordinal, Regression, Task

Tasks = Sequence[Task | str]
Numbers = Sequence[float] | None


class FixedWeights(nn.Module):
    """L = sum of lambda_i L_i with lambda chosen beforehand.

    Args:
        weights: lambda_i in the order of the tasks, or by task name (``fit`` then checks the names).

    Raises:
        ValueError: If a weight is negative or not finite, or all are zero.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float] | Mapping[str, float]) -> None:
        super().__init__()
        given: object = weights  # whatever the annotation promises
        if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
            raise TypeError(f"weights must be a list or a dictionary by task, found {weights!r}: write one.")
        self.names = tuple(weights) if isinstance(weights, Mapping) else None
        named = dict(weights.items() if isinstance(weights, Mapping) else enumerate(weights))
        for name, value in named.items():
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                what = f"the weight of task {name!r} must be a finite number of at least 0"
                raise ValueError(f"{what}, found {value!r}: correct it.")
        values = [float(value) for value in named.values()]
        if not any(values):
            raise ValueError(f"all weights are zero, found {values}: give one task a positive weight.")
        self.register_buffer("weights", torch.tensor(values))

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar.

        Raises:
            ValueError: If there are not as many losses as weights.
        """
        if losses.shape != self.weights.shape:
            raise ValueError(
                f"{len(self.weights)} weights for {losses.numel()} tasks: give one weight per task."
            )
        return (self.weights.to(losses.dtype) * losses).sum()


class UncertaintyWeights(nn.Module):
    """Learn the noise of each task beside the model: L = sum of exp(-s_i) L_i + s_i / 2.

    Kendall, Gal and Cipolla (2018), equation 10, with s_i = log sigma_i^2 as a parameter. What the loss of a
    task leaves out of its likelihood decides its term:

    - ``Regression`` with a fixed variance: L_i is *half* the mean squared error, so exp(-s) L + s / 2 is the
      Gaussian negative log-likelihood itself (less log(2 pi) / 2), s / 2 its normaliser. It is least at
      s = log(2 L): sigma^2 is the mean squared error, the noise of the label in units of ``scale``.
    - ``Binary``, ``Multiclass``, ``Ordinal``: the same term, as published, but as an approximation: that of
      softmax(f / sigma^2) near sigma = 1. Cross-entropy lacks a scale: its logits absorb any temperature, so
      no data can tell sigma, and at s = log(2 L) the rule merely weighs by the inverse of the loss.
    - ``Regression`` with ``variance=True`` gives sigma^2 row by row, and ``Count`` ties the variance to the
      mean: nothing is left out and lambda stays one, as for any likelihood that is not named here.

    A loss of exactly zero is that of a batch without a label of the task: its s / 2 is then left out too.
    Where every s_i has reached log(2 L_i) the sum is half that of log L_i, up to a constant: the direction of
    ``GLS``.

    Args:
        tasks: The tasks, whose likelihoods decide; names are not enough.

    Attributes:
        log_variance: s (T,), a parameter; starts at zero, the noise of the best constant where labels are
            standardised.

    Raises:
        TypeError: If an entry is no ``Task``.
        ValueError: If no task has a noise to learn.
    """

    weights: Tensor
    learned: Tensor

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.names = _names(tasks)
        if not all(isinstance(task, Task) for task in tasks):
            raise TypeError(f"UncertaintyWeights reads the likelihoods, found {list(tasks)}: give the tasks.")
        # Standard deviations of the labels that have a Gaussian loss, whose unit ``noise`` returns to.
        self.scales = {t.name: t.scale for t in tasks if isinstance(t, Regression) and not t.variance}
        kinds = (Binary, Multiclass, Ordinal)
        learned = torch.tensor([task.name in self.scales or isinstance(task, kinds) for task in tasks])
        if not learned.any():
            raise ValueError(f"none of {list(self.names)} has a noise to learn: use FixedWeights.")
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))
        self.register_buffer("learned", learned, persistent=False)
        self.register_buffer("weights", torch.ones(len(tasks)))

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar.

        Raises:
            ValueError: If there is not one loss per task, or one with a learned noise is negative.
            FloatingPointError: If a loss is not finite.
        """
        _check(self, losses, torch.where(self.learned, 0.0, -math.inf), zero=True)
        weights = torch.where(self.learned, torch.exp(-self.log_variance), 1.0)
        normaliser = torch.where(self.learned & (losses.detach() != 0), self.log_variance / 2, 0.0)
        self.weights = weights.detach()
        return (weights * losses + normaliser).sum()

    def noise(self) -> dict[str, float]:
        """Return the learned standard deviation of each Gaussian label, in its unit, by task."""
        deviations = zip(self.names, torch.exp(self.log_variance.detach() / 2).tolist(), strict=True)
        return {name: self.scales[name] * value for name, value in deviations if name in self.scales}


class DWA(nn.Module):
    """Dynamic weight average: more weight for the task whose loss fell least from one epoch to the next.

    Liu, Johns and Davison (2019): lambda_i = T softmax(r_i / temperature), r_i = L_i(t-1) / L_i(t-2), from
    the mean losses of the two epochs before; lambda is one in the first two.

    Args:
        tasks: The tasks, or their names.
        temperature: Larger is more even; 2 in the paper.

    Raises:
        ValueError: If two tasks have one name, or the temperature is not positive.
    """

    weights: Tensor
    coming: Tensor
    last: Tensor

    def __init__(self, tasks: Tasks, temperature: float = 2.0) -> None:
        super().__init__()
        self.names, self.temperature = _names(tasks), _positive("temperature", temperature)
        self.register_buffer("weights", torch.ones(len(tasks)))
        self.register_buffer("coming", torch.ones(len(tasks)))  # lambda of this epoch
        self.register_buffer("last", torch.full((len(tasks),), math.nan))  # mean losses of the epoch before

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar.

        Raises:
            ValueError: If there is not one loss per task.
            FloatingPointError: If a loss is not finite.
        """
        _check(self, losses)
        self.weights = self.coming.clone()
        return (self.weights.to(losses.dtype) * losses).sum()

    def after_epoch(self, means: Tensor) -> None:
        """Choose lambda for the next epoch from the mean losses (T,) of this one.

        Raises:
            ValueError: If a mean is not positive: a ratio of losses then says nothing.
            FloatingPointError: If a mean is not finite, such as that of an epoch without a label of the task.
        """
        _check(self, means, 0.0, what="mean loss")
        if not self.last.isnan().any():
            self.coming = len(means) * torch.softmax(means / self.last / self.temperature, 0)
        self.last = means.detach().clone()


class RLW(nn.Module):
    """Random loss weighting: lambda = softmax of T standard normal draws, new in every step.

    Lin, Ye, Zhang and Tsang (2022). The control for every rule that claims to choose well: what does not beat
    it has not chosen. Its expectation is 1 / T for each task.

    Args:
        tasks: The tasks, or their names.
        seed: Seed of the draws; the generator's state is part of the module's, so that a resumed run draws
            what an uninterrupted one does.

    Raises:
        ValueError: If two tasks have one name, or the seed is no whole number.
    """

    weights: Tensor
    draws: Tensor

    def __init__(self, tasks: Tasks, seed: int = 0) -> None:
        super().__init__()
        self.names = _names(tasks)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"seed must be a whole number, found {seed!r}: correct it.")
        self.register_buffer("weights", torch.full((len(tasks),), 1 / len(tasks)))
        self.register_buffer("draws", torch.Generator().manual_seed(seed).get_state())

    def forward(self, losses: Tensor) -> Tensor:
        """Draw lambda and combine losses (T,) into a scalar.

        Raises:
            ValueError: If there is not one loss per task.
            FloatingPointError: If a loss is not finite.
        """
        _check(self, losses)
        generator = torch.Generator()
        generator.set_state(self.draws.cpu())
        drawn = torch.randn(len(losses), generator=generator, dtype=torch.float64)
        self.draws = generator.get_state().to(self.draws.device)
        self.weights = torch.softmax(drawn, 0).to(losses)
        return (self.weights * losses).sum()


class GLS(nn.Module):
    """Geometric loss strategy: L = (product of L_i)^(1/T), so lambda_i = L / (T L_i).

    Chennupati, Sistu, Yogamani and Rawashdeh (2019). The unit of a loss changes the length of the gradient,
    not its direction; a task near zero gets a weight without bound.

    Args:
        tasks: The tasks, or their names.

    Raises:
        ValueError: If two tasks have one name.
    """

    weights: Tensor

    def __init__(self, tasks: Tasks) -> None:
        super().__init__()
        self.names = _names(tasks)
        self.register_buffer("weights", torch.full((len(tasks),), 1 / len(tasks)))

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar.

        Raises:
            ValueError: If there is not one loss per task, or one is not positive.
            FloatingPointError: If a loss is not finite.
        """
        _check(self, losses, 0.0)
        combined = losses.log().mean().exp()
        self.weights = (combined / losses / len(losses)).detach()
        return combined


class FAMO(nn.Module):
    """Fast adaptive multitask optimisation: let all log losses fall at one rate.

    Liu, Feng, Stone and Liu (2023), algorithm 1: lambda_i = c z_i / L_i with z = softmax(logits) and c such
    that lambda sums to one. After each update the loop hands in the losses of the *same* batch; what log L_i
    fell by moves the logits, away from the tasks that fell most. Their step is Adam's, and the decay is added
    to its gradient, as in the authors' code (the algorithm is written with plain descent).

    Args:
        tasks: The tasks, or their names.
        learning_rate: Step size of the logits; 0.025 in the authors' code.
        decay: gamma, pulls the logits to zero, so that old batches are forgotten; 0.01 in the authors' code.
        lowest: A number below all losses of each task (T,), subtracted before logarithms; zero by default.

    Raises:
        ValueError: If two tasks have one name, or a number is out of range.
    """

    weights: Tensor
    logits: Tensor
    moments: Tensor
    steps: Tensor
    before: Tensor
    lowest: Tensor

    def __init__(
        self, tasks: Tasks, learning_rate: float = 0.025, decay: float = 0.01, lowest: Numbers = None
    ) -> None:
        super().__init__()
        self.names, self.learning_rate = _names(tasks), _positive("learning_rate", learning_rate)
        self.decay, count = _positive("decay", decay, zero=True), len(tasks)
        self.register_buffer("lowest", _vector("lowest", lowest, [0.0] * count), persistent=False)
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("logits", torch.zeros(count))
        self.register_buffer("moments", torch.zeros(2, count))  # Adam's
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("before", torch.full((count,), math.nan))  # losses that wait for after_update

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar, c sum of z_i log(L_i - lowest_i).

        Raises:
            ValueError: If there is not one loss per task, or one is not above its ``lowest``.
            FloatingPointError: If a loss is not finite.
            RuntimeError: If the losses after the last update were not handed in.
        """
        _check(self, losses, self.lowest)
        if self.training and not self.before.isnan().any():
            raise RuntimeError("FAMO waits for the losses after the update: call after_update, as fit does.")
        excess = losses - self.lowest
        share = torch.softmax(self.logits, 0)
        scale = 1 / (share / excess.detach()).sum()
        self.weights = scale * share / excess.detach()
        if self.training:
            self.before = losses.detach().clone()
        return scale * (share * excess.log()).sum()

    def after_update(self, losses: Tensor) -> None:
        """Move the logits.

        Args:
            losses: (T,), of the batch of the last ``forward``, computed with the updated parameters.

        Raises:
            ValueError: If there is not one loss per task, or one is not above its ``lowest``.
            FloatingPointError: If a loss is not finite.
            RuntimeError: If no ``forward`` went before.
        """
        _check(self, losses, self.lowest)
        if self.before.isnan().any():
            raise RuntimeError("FAMO.after_update has no losses to compare with: combine the batch first.")
        fell = (self.before - self.lowest).log() - (losses.detach() - self.lowest).log()
        share = torch.softmax(self.logits, 0)
        gradient = share * (fell - (share * fell).sum()) + self.decay * self.logits
        mean, square = self.moments  # Kingma and Ba (2015), algorithm 1
        self.moments = torch.stack([mean.lerp(gradient, 0.1), square.lerp(gradient**2, 0.001)])
        self.steps = self.steps + 1
        mean, square = self.moments / (1 - torch.stack([0.9**self.steps, 0.999**self.steps]))[:, None]
        self.logits = self.logits - self.learning_rate * mean / (square.sqrt() + 1e-8)
        self.before = torch.full_like(self.before, math.nan)


class STCH(nn.Module):
    """Smooth Chebyshev: a smooth largest loss, L = mu log sum of exp(p_i u_i / mu).

    Lin et al. (2024), with u_i = L_i - ideal_i. As mu goes to zero, L tends to the largest p_i u_i, which it
    never exceeds by more than mu log T. Every Pareto optimal point minimises that maximum for some p, also
    where the front is not convex and no weighted sum finds it. lambda_i = p_i softmax(p_i u_i / mu).

    With ``warm_up``, as in the authors' code for multi-task learning, u_i = log(L_i / reference_i), where the
    reference is the mean loss of the last warm-up epoch, and L is T times the above; until then L is the sum
    of log L_i.

    Args:
        tasks: The tasks, or their names.
        mu: Smoothness, in the unit of p_i u_i.
        preference: p_i, one by default.
        ideal: Smallest possible loss of each task, zero by default; not with ``warm_up``.
        warm_up: Epochs until losses are compared by their logarithms; 0 to compare them as they are.

    Raises:
        ValueError: If two tasks have one name, a number is out of range, or ``ideal`` meets ``warm_up``.
    """

    weights: Tensor
    epochs: Tensor
    reference: Tensor
    preference: Tensor
    ideal: Tensor

    def __init__(
        self, tasks: Tasks, mu: float = 1, preference: Numbers = None, ideal: Numbers = None, warm_up: int = 0
    ) -> None:
        super().__init__()
        self.names, self.mu, count = _names(tasks), _positive("mu", mu), len(tasks)
        if not isinstance(warm_up, int) or warm_up < 0 or (warm_up and ideal is not None):
            raise ValueError(f"warm_up counts epochs and takes no ideal, found {warm_up!r}: correct it.")
        self.warm_up, preferred = warm_up, _vector("preference", preference, [1.0] * count, 0.0)
        self.register_buffer("preference", preferred, persistent=False)
        self.register_buffer("ideal", _vector("ideal", ideal, [0.0] * count), persistent=False)
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("reference", torch.ones(count))

    def forward(self, losses: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar.

        Raises:
            ValueError: If there is not one loss per task, or one is not positive with ``warm_up``.
            FloatingPointError: If a loss is not finite.
        """
        if not self.warm_up:
            _check(self, losses)
            scaled = self.preference * (losses - self.ideal) / self.mu
            self.weights = self.preference * torch.softmax(scaled, 0).detach()
            return self.mu * torch.logsumexp(scaled, 0)
        _check(self, losses, 0.0)
        if self.epochs < self.warm_up:
            self.weights = (1 / losses).detach()
            return losses.log().sum()
        scaled = self.preference * (losses / self.reference).log() / self.mu
        self.weights = (len(losses) * self.preference * torch.softmax(scaled, 0) / losses).detach()
        return len(losses) * self.mu * torch.logsumexp(scaled, 0)

    def after_epoch(self, means: Tensor) -> None:
        """Take the mean losses (T,) of the last warm-up epoch as reference.

        Raises:
            ValueError: If one is not positive where it is needed.
            FloatingPointError: If one is not finite where it is needed.
        """
        self.epochs = self.epochs + 1
        if self.epochs == self.warm_up:
            _check(self, means, 0.0, what="mean loss")
            self.reference = means.detach().clone()


class GradNorm(nn.Module):
    """Gradient normalisation: all tasks pull at the last shared layer W alike, slow tasks more.

    Chen, Badrinarayanan, Lee and Rabinovich (2018), algorithm 1. With norms n_i of the gradient of L_i by W,
    G_i = lambda_i n_i is to reach mean(G) r_i^alpha, where r_i = (L_i / L_i(0)) / mean of these ratios is the
    task's inverse training rate. lambda descends the summed distances of G_i from these targets, which are
    held constant, in the same optimiser step as the model, and is then scaled to sum T. It is kept from
    falling below a millionth, about which the paper says nothing. ``from_norms`` stands in for ``forward``;
    the loop hands in the norms.

    Args:
        tasks: The tasks, or their names.
        alpha: How much faster slow tasks should train; 0 asks for equal norms.
        initial: L_i(0) (T,), where the first batch's losses will not do.

    Attributes:
        raw: lambda before the next step (T,), a parameter.

    Raises:
        ValueError: If two tasks have one name, or a number is out of range.
    """

    weights: Tensor
    first: Tensor

    def __init__(self, tasks: Tasks, alpha: float = 1.5, initial: Numbers = None) -> None:
        super().__init__()
        self.names, self.alpha = _names(tasks), _positive("alpha", alpha, zero=True)
        self.raw = nn.Parameter(torch.ones(len(tasks)))
        self.register_buffer("weights", torch.ones(len(tasks)))
        self.register_buffer("first", _vector("initial", initial, [math.nan] * len(tasks), 0.0))

    def forward(self, losses: Tensor) -> Tensor:
        """Refuse to combine losses without the norms of their gradients.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("GradNorm needs gradient norms: call from_norms(losses, norms), as fit does.")

    def from_norms(self, losses: Tensor, norms: Tensor) -> Tensor:
        """Combine losses (T,) into a scalar whose gradient also moves lambda.

        Args:
            losses: (T,).
            norms: (T,), Euclidean norms of the gradients of the losses, without lambda, by the last shared
                layer.

        Returns:
            The sum of lambda_i L_i. In a batch that lacks a task's labels (its loss is exactly zero), lambda
            gets no gradient.

        Raises:
            ValueError: If there is not one loss and one norm per task, a loss is negative, or a loss of the
                first batch is zero.
            FloatingPointError: If a loss or a norm is not finite.
        """
        starting = bool(self.first.isnan().any())
        _check(self, losses, 0.0, zero=not starting)
        _check(self, norms, 0.0, zero=True, what="gradient norm")
        if starting:
            self.first = losses.detach().clone()
        self.weights = self.raw.detach().clone()
        combined = (self.weights * losses).sum()
        pulls, ratios = self.raw * norms.detach(), losses.detach() / self.first
        targets = pulls.detach().mean() * (ratios / ratios.mean()) ** self.alpha
        distance = (pulls - targets).abs().sum() * (ratios > 0).all()
        return combined + distance - distance.detach()  # the value of the one, the gradients of both

    def after_step(self, losses: Tensor) -> None:
        """Scale lambda to sum T."""
        with torch.no_grad():
            self.raw.clamp_(min=1e-6).mul_(len(self.raw) / self.raw.sum())


def _names(tasks: Tasks) -> tuple[str, ...]:
    """Return the names of tasks, or names as they are; refuse what is no list of distinct ones."""
    given: object = tasks
    listed = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    names = tuple(task.name if isinstance(task, Task) else task for task in tasks) if listed else (None,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"a rule needs the tasks or their names, found {given!r}: write a list of them.")
    if len(set(names)) < len(names):
        raise ValueError(f"each task must have a name of its own, found {list(names)}: rename one.")
    return names  # type: ignore[return-value]


def _positive(name: str, value: Any, zero: bool = False) -> float:
    """Return a finite number above zero (or not below it)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        least = "not below" if zero else "above"
        raise ValueError(f"{name} must be a finite number {least} zero, found {value!r}: correct it.")
    return float(value)


def _vector(name: str, values: Any, default: list[float], above: float = -math.inf) -> Tensor:
    """Return one finite number per task, each larger than ``above``."""
    if values is None:
        return torch.tensor(default)
    listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == len(default)
    if not listed or not all(isinstance(v, (int, float)) and above < v < math.inf for v in values):
        kind = f"{len(default)} {'finite' if above < 0 else 'positive'} numbers"
        raise ValueError(f"{name} must be {kind}, found {values!r}: give one per task.")
    return torch.tensor([float(value) for value in values])


def _check(rule: Any, losses: Tensor, least: Any = -math.inf, zero: bool = False, what: str = "loss") -> None:
    """Refuse losses (T,) that a rule cannot combine: each must be finite and above ``least`` (or equal)."""
    kind, names, seen = type(rule).__name__, rule.names, losses.detach()
    if seen.shape != (len(names),):
        found = f"found {what} of shape {tuple(seen.shape)}"
        raise ValueError(f"{kind} combines {list(names)}, {found}: give one {what} per task, in this order.")
    enough = seen >= least if zero else seen > least
    if bool((enough & seen.isfinite()).all()):
        return
    for position, (name, value) in enumerate(zip(names, seen.tolist(), strict=True)):
        found = f"{kind}: the {what} of task {name!r} is {value}"
        if not math.isfinite(value):
            raise FloatingPointError(f"{found}: look for missing labels, infinite inputs or too large steps.")
        if not enough[position]:
            advice = "use a loss that stays above zero, and batches that hold labels of each task."
            raise ValueError(f"{found}, too small for this rule: {advice}")
