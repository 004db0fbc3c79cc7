"""The small optimisation problems behind the balancing rules, solved to rounding error.

All of them speak of T unit gradients, known by their cosines C (T, T) and by a factor L (T, rank) with
L Lᵀ = C, whose rows are the unit gradients in coordinates of their own span. Working with unit gradients is
what keeps tasks of very different scales apart: G loses a gradient 10^8 times shorter than another, C does
not. Forming inner products squares the condition number, so that directions in which unit gradients differ
by less than ``RESOLUTION`` cannot be told from none; the rank of L counts the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.optimize import nnls

Array = NDArray[np.float64]
RESOLUTION = 3e-7  # about the square root of 500 rounding errors: C is known to about 1e-13


def factor(cosines: Array) -> Array:
    """Cholesky factor L (T, rank) of C (T, T), with pivoting; a zero gradient has a zero row."""
    packed, pivots, rank, _ = lapack.dpstrf(cosines, tol=RESOLUTION**2, lower=1)
    rows = np.zeros((len(cosines), rank))
    rows[pivots - 1] = np.tril(packed)[:, :rank]
    return rows


def nonnegative_least_squares(system: Array, right: Array) -> Array:
    """The x ≥ 0 that minimises ‖system · x - right‖, by an active-set method (Lawson and Hanson, 1974).

    Compiled code is asked first, and its answer is taken only if it meets the optimality conditions: where
    columns are parallel or opposite, it can let dependent ones in and return 1e13.
    """
    rounding = 1e-13 * float(np.linalg.norm(right))
    try:
        x: Array = nnls(system, right)[0]
    except RuntimeError:  # too many iterations
        x = np.full(system.shape[1], np.inf)
    if x.max() < 1e8:
        gain = system.T @ (right - system @ x)
        if gain.max() <= rounding and np.abs(gain[x > 0]).max(initial=0.0) <= rounding:
            return x
    x, free, refused = np.zeros(len(x)), np.zeros(len(x), bool), np.zeros(len(x), bool)
    for _ in range(20 * len(x)):
        gain = np.where(free | refused, -np.inf, system.T @ (right - system @ x))
        enters = int(gain.argmax())
        if gain[enters] <= rounding / 10:
            break
        free[enters] = True
        while free.any():
            target = np.zeros(len(x))  # the shortest solution on the free columns, dependent or not
            target[free] = np.linalg.lstsq(system[:, free], right, rcond=1e-12)[0]
            if target[free].min() > 0:
                x = target
                break
            ratios = np.full(len(x), np.inf)  # how far x may go before an entry is zero
            below = free & (target <= 0)
            ratios[below] = np.where(x[below] > 0, x[below] / np.maximum(x[below] - target[below], 1e-300), 0)
            x = x + ratios.min() * (target - x)
            free &= ~((ratios == ratios.min()) | (below & (x <= 0)))
            x[~free] = 0.0
        refused = np.zeros(len(x), bool) if free[enters] else refused | (np.arange(len(x)) == enters)
    return x


def shortest_push(rows: Array, demands: Array) -> Array | None:
    """The shortest v with ⟨ĝ_i, v⟩ ≥ h_i for every unit gradient, as v = Σ u_i ĝ_i with u ≥ 0.

    Least-distance programming by non-negative least squares (Lawson and Hanson, 1974, chapter 23).

    Args:
        rows: L (T, rank).
        demands: h (T,).

    Returns:
        u (T,), or None if no v meets all demands.
    """
    largest = np.abs(demands).max(initial=0.0)
    if not (demands > 0).any():
        return np.zeros(len(rows))
    system = np.vstack([rows.T, demands / largest])
    solution = nonnegative_least_squares(system, np.eye(len(system))[-1])
    # The squared distance that is left, 1 / (1 + |v|²): zero if the demands exclude each other.
    slack = 1.0 - system[-1] @ solution
    return None if slack <= RESOLUTION**2 else solution * (largest / slack)


def minimum_norm(rows: Array, lengths: Array) -> Array:
    """Weights (T,), w ≥ 0 and Σw = 1, of the shortest vector Σ w_i g_i; all lengths are positive.

    The shortest vector d of the hull is the shortest v with ⟨g_i, v⟩ ≥ 1, up to its length: both are one
    least-squares problem, whose solution exists even where d = 0 and v does not.
    """
    shares = lengths.min() / lengths
    system = np.vstack([rows.T, shares])
    solution = nonnegative_least_squares(system, np.eye(len(system))[-1])
    return np.asarray(solution * shares / (solution @ shares))


def dual_cone_projections(rows: Array) -> Array:
    """Rows (T, T): the coefficients of each unit gradient's projection onto {x : ⟨g_j, x⟩ ≥ 0 for all j}."""
    coefficients = np.eye(len(rows))
    for task, row in enumerate(rows):
        if (rows @ row).min() < 0:
            coefficients[task] += nonnegative_least_squares(rows.T, -row)
    return coefficients


def best_worst_case(rows: Array, lengths: Array, mean: Array, radius: float) -> Array:
    """The v, ‖v‖ ≤ 1, for which the worst ⟨g_i, m + radius · v⟩ is largest, as coefficients u (T,), u ≥ 0.

    The length of the shortest v that raises the worst task to t is a convex, increasing function of t; Newton
    from above finds where it is 1. If no v raises all tasks above zero (zero lies in the hull of the
    gradients), every v that lowers none is optimal: the shortest is taken.

    Args:
        rows: L (T, rank).
        lengths: ‖g_i‖ (T,).
        mean: m (rank,), the direction that is corrected.
        radius: Largest correction, positive.
    """
    given = rows @ mean  # ⟨ĝ_i, m⟩
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)

    def raised(level: float) -> Array | None:
        return shortest_push(rows, (level * inverse - given) / radius)

    unharmed = raised(0.0)
    assert unharmed is not None  # v = -m / radius meets these demands
    level = 0.0
    if np.linalg.norm(unharmed @ rows) <= 1:
        if not lengths.all():
            return unharmed
        level = float(((given + radius) * lengths).min())  # no task can be raised higher
    push = unharmed
    for _ in range(100):
        found = raised(level)
        if found is None:
            return unharmed
        push = found
        length = float(np.linalg.norm(push @ rows))
        step = (length - 1) * length * radius / float(push @ inverse) if length > 1 else 0.0
        if level - step >= level:
            break
        level -= step
    return push / max(float(np.linalg.norm(push @ rows)), 1.0)


def fair_bargain(rows: Array) -> Array | None:
    """The z > 0 (T,) with z_i (Cz)_i = 1: the minimum of ½ zᵀCz - Σ log z_i.

    Damped Newton; the function is self-concordant, so that a step cut to 1 / (1 + decrement) never leaves
    the domain and converges from everywhere (Nesterov and Nemirovskii, 1994).

    Returns:
        None if the function has no minimum: zero lies in the hull of the gradients.
    """
    tasks, cosines = len(rows), rows @ rows.T
    if tasks == 2:  # by symmetry z_1 = z_2
        return None if cosines[0, 1] <= -1 + RESOLUTION**2 else np.full(2, 1 / np.sqrt(1 + cosines[0, 1]))
    if shortest_push(rows, np.ones(tasks)) is None:
        return None
    z = np.full(tasks, np.sqrt(tasks) / np.linalg.norm(rows.sum(0)))
    last = np.inf
    for _ in range(1000):
        # In the coordinates z_i = (current z_i)(1 + x_i) the Hessian is the identity plus a Gram matrix.
        scaled = z[:, None] * rows
        slope = scaled @ scaled.sum(0) - 1
        step = lapack.dposv(scaled @ scaled.T + np.eye(tasks), -slope)[1]
        decrement = np.sqrt(max(-slope @ step, 0.0))
        z = z * (1 + step / (1 + decrement if decrement > 0.2 else 1.0))
        if decrement < 1e-9 or (last < 0.2 and decrement > last / 2):  # its square is left, or rounding
            break
        last = decrement
    return z


def equal_projections(rows: Array) -> Array:
    """The z (T,), up to its length, for which Σ z_i ĝ_i has one projection onto all unit gradients.

    It solves Cz = 1 where that has a solution (the shortest of them), and otherwise Cz = 0: then no vector
    but zero has equal projections. Both are the limit of (C + εI)⁻¹1, up to its length.
    """
    ones = np.ones(len(rows))
    inner = np.linalg.lstsq(rows, ones, rcond=None)[0]
    rest = ones - rows @ inner
    if rows.shape[1] < len(rows) and np.linalg.norm(rest) > RESOLUTION:
        # Once more, since what the first projection leaves over counts when the weights nearly cancel.
        return np.asarray(rest - rows @ np.linalg.lstsq(rows, rest, rcond=None)[0])
    return np.asarray(np.linalg.lstsq(rows.T, inner, rcond=None)[0])


def aligned_weights(rows: Array, lengths: Array) -> Array:
    """Row sums (T,) of σ_min V Σ⁻¹ Vᵀ, where J = V Σ Wᵀ over the singular values that are not zero.

    The eigenvalues of G are the squared singular values of the scaled factor. One-sided Jacobi finds them to
    high relative accuracy however different the lengths are (Drmač and Veselić, 2008); an eigenvalue routine
    applied to G would lose all those below 1e-16 of the largest.
    """
    values, left, *_ = lapack.dgejsv(lengths[:, None] * rows, joba=2, jobu=0, jobv=3)
    return np.asarray(left @ (values[-1] / values * left.sum(0)))
