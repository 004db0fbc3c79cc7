"""Rules that balance task gradients: from their inner products to one update direction.

A balancing rule is an ``nn.Module`` with ``forward(gram (T, T), generator=None) -> weights (T,)``. From the
Gram matrix G = J Jᵀ of the task gradients g_1 .. g_T (the rows of J) it finds weights; the update is
d = Σ weights_i g_i. Inside, all is float64, and each problem is solved to rounding error, by ``solvers``.

Rules without state are functions of G: ``MGDA``, ``PCGrad`` (and the order it draws), ``CAGrad``, ``IMTLG``,
``NashMTL``, ``AlignedMTL``, ``UPGrad``. ``GradVac`` is a function of G and of a state. ``sign_dropout``
(GradDrop) is not a function of G at all: it reads J.

The rules differ in size. For T equal gradients g the update is g for MGDA, IMTL-G and UPGrad, (1 + c) g for
CAGrad, T g (the plain sum) for PCGrad, GradVac and Aligned-MTL; for Nash-MTL it has length √T whatever g is.
Scaling all gradients by s > 0 scales d by s, and leaves it as it is for Nash-MTL. Scaling one of them changes
d for all but Nash-MTL and, up to its length, IMTL-G.

Every rule refuses a matrix that is not square or not finite; a task whose gradient is zero is treated as
its class says. Unit gradients that differ by less than 3e-7 count as dependent: their inner products,
in float64, do not tell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from . import solvers
from .solvers import Array


class MGDA(nn.Module):
    """The shortest vector in the convex hull of the gradients, found exactly.

    The weights are not negative and sum to one; no task conflicts with d: ⟨g_i, d⟩ ≥ ‖d‖². The update is zero
    exactly where the gradients are Pareto-stationary, so also if one of them is zero (the zero gradients then
    share the weight) or two are exactly opposite.

    Source: Désidéri (2012); Sener and Koltun (2018), who solve it by Frank-Wolfe.
    """

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,)."""
        lengths, cosines = _read(gram)
        if not lengths.all():
            return _like(gram, (lengths == 0) / (lengths == 0).sum())
        return _like(gram, solvers.minimum_norm(solvers.factor(cosines), lengths))


class PCGrad(nn.Module):
    """Each gradient, stripped in random order of what conflicts with the others; then their sum.

    For T = 2 no task conflicts with d; for more, earlier conflicts can return. Linear in the length of each
    gradient as long as the order is the same. A zero gradient and two that are exactly opposite do as they
    should: the first changes nothing, the second cancel.

    Source: Yu et al. (2020), algorithm 1.
    """

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,); the orders are drawn from ``generator``, by default torch's own."""
        lengths, cosines = _read(gram)
        order, tasks = visiting_orders(len(lengths), generator), np.arange(len(lengths))
        kept = np.eye(len(lengths))  # row i: what became of unit gradient i, as coefficients
        for other in order.T:
            products = (kept * cosines[other]).sum(1)
            kept[tasks, other] -= np.minimum(products, 0.0)
        return _like(gram, _of_gradients(lengths @ kept, lengths, 1.0))


class GradVac(nn.Module):
    """Each gradient, turned towards the others until their cosine is what it usually is; then their sum.

    PCGrad with a target in the place of zero: the running mean of each pair's cosine, which starts at zero.
    The targets are a buffer, so that checkpoints carry them. Pairs with a zero gradient, or with one that has
    been turned into zero (exactly opposite ones are), are left as they are, and so is their target. No
    freedom from conflict is promised.

    Source: Wang et al. (2021).

    Args:
        tasks: Number of tasks T.
        decay: Share of the newest cosine in the running mean, between 0 and 1.

    Raises:
        ValueError: If ``tasks`` is not a whole number of at least 1, or ``decay`` is out of range.
    """

    targets: Tensor

    def __init__(self, tasks: int, decay: float = 0.01) -> None:
        super().__init__()
        if not isinstance(tasks, int) or tasks < 1:
            raise ValueError(f"tasks must be a whole number of at least 1, found {tasks!r}: count the tasks.")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, found {decay!r}: correct it.")
        self.decay = decay
        self.register_buffer("targets", torch.zeros(tasks, tasks, dtype=torch.float64))

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,), and move the targets.

        Raises:
            ValueError: If G is not of T tasks.
        """
        lengths, cosines = _read(gram)
        if len(lengths) != len(self.targets):
            raise ValueError(
                f"GradVac was made for {len(self.targets)} tasks, found a Gram matrix of {len(lengths)}: "
                f"write GradVac({len(lengths)})."
            )
        order, tasks = visiting_orders(len(lengths), generator), np.arange(len(lengths))
        rows, kept = solvers.factor(cosines), np.eye(len(lengths))
        turned, targets = rows.copy(), self.targets.double().cpu().numpy().copy()
        for other in order.T:
            size, target = np.linalg.norm(turned, axis=1), targets[tasks, other]
            known = (size > 1e-12) & (lengths[other] > 0)
            along = (turned * rows[other]).sum(1)
            across = np.linalg.norm(turned - along[:, None] * rows[other], axis=1)  # exact for parallel ones
            cosine = np.clip(along / np.where(known, size, 1.0), -1.0, 1.0)
            target_sine = np.sqrt(np.maximum(1 - target**2, 0.0))
            low = known & (cosine < target) & (target_sine > 0)
            pull = (target * across / np.where(low, target_sine, 1.0) - along) * low
            kept[tasks, other] += pull
            turned += pull[:, None] * rows[other]
            targets[tasks, other] += self.decay * (cosine - target) * known
        self.targets.copy_(torch.from_numpy(targets))
        return _like(gram, _of_gradients(lengths @ kept, lengths, 1.0))


class CAGrad(nn.Module):
    """The direction near the mean gradient whose worst improvement over the tasks is largest.

    d maximises min ⟨g_i, d⟩ over ‖d - g_0‖ ≤ c ‖g_0‖, g_0 the mean gradient. If no direction improves all
    tasks (zero lies in the gradients' hull, as with a zero gradient) there are many such d: the rule
    takes the one nearest to g_0. Opposite gradients of one length have g_0 = 0 and give d = 0.
    Not divided by 1 + c or 1 + c², as some code does.

    Source: Liu et al. (2021a).

    Args:
        c: Size of the ball, at least 0 (the mean gradient) and below 1.

    Raises:
        ValueError: If ``c`` is out of range.
    """

    def __init__(self, c: float = 0.5) -> None:
        super().__init__()
        if not 0 <= c < 1:
            raise ValueError(f"c must be at least 0 and below 1, found {c!r}: use 0.5 if in doubt.")
        self.c = c

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,)."""
        lengths, cosines = _read(gram)
        weights = np.full(len(lengths), 1 / len(lengths))
        longest = lengths.max()
        rows, relative = solvers.factor(cosines), lengths / (longest or 1.0)
        mean = weights * relative @ rows
        radius = self.c * float(np.linalg.norm(mean))
        if radius > 1e-15:  # otherwise the gradients cancel
            push = solvers.best_worst_case(rows, relative, mean, radius)
            weights += _of_gradients(radius * push, relative, 0.0)
        return _like(gram, weights)


class IMTLG(nn.Module):
    """The combination, its weights summing to one, with equal projections onto all unit gradients.

    Weights may be negative, and so may the common projection: then d worsens every task. If only zero has
    equal projections (more tasks than dimensions, exactly opposite gradients), d = 0; equal gradients share
    the weight. Tasks with a zero gradient are left out.

    Source: Liu et al. (2021b), the gradient balance IMTL-G.
    """

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,).

        Raises:
            ValueError: If the weights with equal projections sum to zero.
        """
        lengths, cosines = _read(gram)
        seen = lengths > 0
        weights = np.zeros(len(lengths))
        if not seen.any():
            return _like(gram, weights + 1 / len(lengths))
        shares = lengths[seen].min() / lengths[seen]
        found = solvers.equal_projections(solvers.factor(cosines[np.ix_(seen, seen)])) * shares
        if abs(found.sum()) <= 1e-14 * np.abs(found).sum():
            raise ValueError(
                f"IMTL-G has no weights that sum to one for {len(found)} gradients: they sum to zero; "
                "use another rule."
            )
        weights[seen] = found / found.sum()
        return _like(gram, weights)


class NashMTL(nn.Module):
    """The bargain of Nash: the direction in a ball for which the product of the improvements is largest.

    Its weights solve Gα = 1/α and are positive; no task conflicts with d, since ⟨g_i, d⟩ = 1/α_i. The
    direction does not depend on the lengths of the gradients, and ‖d‖ = √T: clip it, as the authors do.
    Tasks with a zero gradient do not bargain (weight 0, and they do not count in T).

    Source: Navon et al. (2022).
    """

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,).

        Raises:
            ValueError: If no direction improves every task, as with exactly opposite gradients.
        """
        lengths, cosines = _read(gram)
        seen = lengths > 0
        weights = np.zeros(len(lengths))
        if seen.any():
            found = solvers.fair_bargain(solvers.factor(cosines[np.ix_(seen, seen)]))
            if found is None:
                raise ValueError(
                    f"Nash-MTL has no solution for these {seen.sum()} gradients: no direction improves every "
                    "task (Pareto-stationary): use MGDA, or stop here."
                )
            weights[seen] = found / lengths[seen]
        return _like(gram, weights)


class AlignedMTL(nn.Module):
    """The sum of the gradients after all their principal directions were given the shortest one's length.

    J = V Σ Wᵀ becomes σ_min V Wᵀ, over the singular values that are not zero, and d is the sum of its
    rows (not their mean). Not continuous where the rank changes: nearly parallel gradients give a short d,
    parallel ones do not. A zero gradient stays zero; exactly opposite gradients span one direction.

    Source: Senushkin et al. (2023), with all task weights one.
    """

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,)."""
        lengths, cosines = _read(gram)
        if not lengths.any():
            return _like(gram, np.ones(len(lengths)))
        return _like(gram, solvers.aligned_weights(solvers.factor(cosines), lengths))


class UPGrad(nn.Module):
    """The mean of the gradients, each projected onto the directions that conflict with no task.

    No task conflicts with d. Linear in the length of each gradient. A zero gradient changes nothing; exactly
    opposite gradients cancel.

    Source: Quinton and Rey (2024); the projections are exact here, without their regularisation.
    """

    def forward(self, gram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map G (T, T) to weights (T,)."""
        lengths, cosines = _read(gram)
        tasks = len(lengths)
        projected = solvers.dual_cone_projections(solvers.factor(cosines))
        return _like(gram, _of_gradients(lengths @ projected / tasks, lengths, 1 / tasks))


def sign_dropout(jacobian: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """GradDrop: per coordinate, keep the gradients of one sign, drawn by how much speaks for it.

    Not a balancing rule in the sense of this file: the direction depends on the coordinates, not on inner
    products alone, and is no combination of the task gradients.

    Source: Chen et al. (2020), algorithm 1, without leak.

    Args:
        jacobian: J (T, P), the gradients of the tasks.
        generator: Where the random numbers come from; by default torch's own.

    Returns:
        The update d (P,).
    """
    size = jacobian.abs().sum(0)
    positive = 0.5 * (1 + jacobian.sum(0) / torch.where(size > 0, size, 1.0))
    drawn = torch.rand(positive.shape, dtype=jacobian.dtype, device=jacobian.device, generator=generator)
    return torch.where(positive > drawn, jacobian.clamp(min=0), jacobian.clamp(max=0)).sum(0)


def visiting_orders(tasks: int, generator: torch.Generator | None = None) -> np.ndarray[tuple[int, int]]:
    """Row i (T, T - 1): the other tasks in the random order in which PCGrad and GradVac visit them."""
    keys = torch.rand(tasks, tasks, dtype=torch.float64, generator=generator)
    order: np.ndarray[tuple[int, int]] = keys.fill_diagonal_(2.0).argsort(1)[:, :-1].numpy()
    return order


def _read(gram: Tensor) -> tuple[Array, Array]:
    """Lengths ‖g_i‖ (T,) and cosines (T, T) of the gradients; the cosines of a zero gradient are zero."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
        raise ValueError(
            f"a Gram matrix has one row and one column per task, found the shape {tuple(gram.shape)}: "
            "give J @ J.T of the task gradients."
        )
    matrix = gram.detach().to("cpu", torch.float64).numpy()
    squares = matrix.diagonal()
    if not np.isfinite(matrix).all():
        wrong = np.flatnonzero(~np.isfinite(squares)) if not np.isfinite(squares).all() else "some pairs"
        raise FloatingPointError(
            f"the gradients of tasks {wrong} (counted from 0) are not finite: look for infinite inputs, "
            "lower the learning rate, or clip the gradient."
        )
    if squares.min() < 0:
        raise ValueError(
            f"task {squares.argmin()} has the squared length {squares.min():g}: give J @ J.T of gradients."
        )
    lengths = np.sqrt(squares)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    cosines = np.clip(matrix * inverse[:, None] * inverse, -1.0, 1.0)
    np.fill_diagonal(cosines, lengths > 0)
    return lengths, cosines


def _of_gradients(coefficients: Array, lengths: Array, otherwise: float) -> Array:
    """Coefficients (T,) of unit gradients as weights of gradients; ``otherwise`` where a gradient is zero."""
    weights = np.full_like(lengths, otherwise)
    return np.divide(coefficients, lengths, out=weights, where=lengths > 0)


def _like(gram: Tensor, weights: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(weights)).to(gram)
