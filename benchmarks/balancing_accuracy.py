"""How exact the balancing rules are: worst error of each, by family of Jacobians, beside TorchJD's.

The reference works on the gradients themselves, in extended precision, by other means than the package: it
tries all 2^T active sets for MGDA, CAGrad and UPGrad, rotates the rows of J for Aligned-MTL, replays PCGrad
and GradVac vector by vector, and checks the equations of Nash-MTL and IMTL-G. The error of an update d
against the reference d* is |d - d*| / max(|d*|, 1e-6 max |g_i|); the package aims below 1e-6. TorchJD gets J
in float64, and is measured where it is installed; its Nash-MTL is given the exact length, and its IMTL-G is
another method where J is rank-deficient (least squares; here d = 0 where only zero has equal projections).
Run:

    python benchmarks/balancing_accuracy.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util
import itertools
import json
import platform
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mtl_ref import balancing

RESULTS = Path(__file__).resolve().parent.parent / "data" / "results" / "balancing_accuracy.json"
EXTENDED = np.longdouble
FAMILIES = (
    *("equal scales", "scales 10^±2", "scales 10^±4"),
    *("conflicting", "nearly parallel", "rank-deficient"),
)
METHODS = ("MGDA", "PCGrad", "GradVac", "CAGrad", "IMTLG", "NashMTL", "AlignedMTL", "UPGrad")
TASKS = range(2, 9)
DRAWS = 20  # of each family and number of tasks
DECAY = 0.3  # of GradVac's targets; it is called three times, so that they count


# Jacobians


def jacobian(family: str, tasks: int, seed: int) -> tuple[np.ndarray, int]:
    """J (T, P) in float64, and its rank.

    ``conflicting``: a convex combination is 10 to 1,000 times shorter than the gradients.
    ``nearly parallel``: one direction, disturbed by 10^-4 to 10^-1 of it.
    ``rank-deficient``: integer combinations of T/2 vectors, exact in float64; in every second draw all
    combinations are positive, so that more often a common descent direction exists.
    """
    rng = np.random.default_rng([FAMILIES.index(family), tasks, seed])
    rows = rng.standard_normal((tasks, 24))
    if family.startswith("scales"):
        decades = int(family[-1])
        return rows * 10.0 ** rng.uniform(-decades, decades, (tasks, 1)), tasks
    if family == "conflicting":
        shares = rng.dirichlet(np.full(tasks, 3.0))
        return rows - (1 - 10.0 ** rng.uniform(-3, -1)) * (shares @ rows), tasks
    if family == "nearly parallel":
        direction = rng.standard_normal(24)
        return direction + 10.0 ** rng.uniform(-4, -1) * rows, tasks
    if family == "rank-deficient":
        rank = tasks // 2
        mix = rng.integers(-3, 4, (tasks, rank))
        mix[: rank + 1] += 4 * np.eye(rank + 1, rank, dtype=int)  # full rank
        mix[~mix.any(1)] = 1
        if seed % 2:
            mix = np.abs(mix)
        basis = rng.integers(-9, 10, (rank, 24))
        return (mix @ basis).astype(float), int(np.linalg.matrix_rank(mix))
    return rows, tasks


# References: from J (T, P), in extended precision, to d (P,)


def eliminate(systems: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a stack of systems (S, n, n) x = right (S, n, k); what is singular becomes NaN or very large."""
    left, right = systems.astype(EXTENDED), right.astype(EXTENDED)
    size, stack = left.shape[1], np.arange(len(left))
    with np.errstate(all="ignore"):
        for column in range(size):
            pivot = column + np.abs(left[:, column:, column]).argmax(1)
            for matrix in (left, right):
                swapped = matrix[stack, pivot].copy()
                matrix[stack, pivot] = matrix[:, column]
                matrix[:, column] = swapped
            factors = left[:, :, column] / left[:, column, None, column]
            factors[:, column] = 0
            right -= factors[:, :, None] * right[:, None, column]
            left -= factors[:, :, None] * left[:, None, column]
        return right / np.einsum("sii->si", left)[:, :, None]


def active_sets(tasks: int) -> np.ndarray:
    """All subsets but the empty one, as rows of zeros and ones (2^T - 1, T)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=tasks))[1:])


def solve_on(sets: np.ndarray, cosines: np.ndarray, right: np.ndarray) -> np.ndarray:
    """C x = right (T, k) on each active set, zero elsewhere: (S, T, k)."""
    systems = cosines * sets[:, :, None] * sets[:, None] + np.eye(len(cosines)) * (1 - sets[:, :, None])
    return eliminate(systems, right * sets[:, :, None])


def length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors**2).sum(-1))


def units(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, unit gradients and their cosines."""
    rows = rows.astype(EXTENDED)
    lengths = length(rows)
    unit = rows / np.where(lengths > 0, lengths, 1)[:, None]
    return lengths, unit, unit @ unit.T


def smallest(candidates: np.ndarray, vectors: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Among the candidates (S, T) with entries of at least zero, the vector that is shortest."""
    allowed = np.isfinite(candidates).all(1) & (np.abs(candidates) < 1e12).all(1)
    allowed &= (np.where(np.isfinite(candidates), candidates, -1) > -1e-12).all(1)
    found = vectors(candidates[allowed].clip(min=0))
    return found[length(found).argmin()]


def mgda(rows: np.ndarray) -> np.ndarray:
    lengths, unit, cosines = units(rows)
    sets, shares = active_sets(len(rows)), lengths.min() / lengths
    # On an active set: C u = |d|² a with a u = 1; bordered, so that |d| = 0 is a solution like any other.
    tasks = len(rows)
    systems = np.zeros((len(sets), tasks + 1, tasks + 1), EXTENDED)
    systems[:, :tasks, :tasks] = cosines * sets[:, :, None] * sets[:, None]
    systems[:, range(tasks), range(tasks)] += 1 - sets
    systems[:, :tasks, tasks], systems[:, tasks, :tasks] = -shares * sets, shares * sets
    right = np.zeros((len(sets), tasks + 1, 1), EXTENDED)
    right[:, tasks] = 1
    found = eliminate(systems, right)[:, :tasks, 0]
    return smallest(found, lambda u: u @ unit / (u @ shares)[:, None]) * lengths.min()


def upgrad(rows: np.ndarray) -> np.ndarray:
    lengths, unit, cosines = units(rows)
    sets = active_sets(len(rows))
    found = np.concatenate([np.zeros((1, len(rows), len(rows))), solve_on(sets, cosines, -cosines)])
    projected = [smallest(found[:, :, i], lambda u, i=i: unit[i] + u @ unit) for i in range(len(rows))]
    return (lengths[:, None] * projected).mean(0)


def cagrad(rows: np.ndarray, c: float = 0.5) -> np.ndarray:
    lengths, unit, cosines = units(rows)
    mean = (unit * lengths[:, None]).mean(0)
    radius = c * length(mean)
    given, sets = unit @ mean, active_sets(len(rows))
    solved = solve_on(sets, cosines, np.stack([1 / lengths, given], 1))
    if length(mgda(rows)) < 1e-15 * lengths.max():  # no direction helps all: near the mean
        found = np.concatenate([np.zeros((1, len(rows))), -solved[..., 1]])
        nearest = smallest(found, lambda u: mean + u @ unit)
        if length(nearest - mean) <= radius:
            return nearest
    # On an active set the level t at which |v| = 1 solves a quadratic; every |v| ≤ 1 is a candidate.
    one, other = solved[..., 0], solved[..., 1]
    with np.errstate(all="ignore"):
        a, b, g = one @ (1 / lengths), one @ given, other @ given
        level = (b + np.sqrt(b**2 - a * (g - radius**2))) / a
        u = level[:, None] * one - other
        v = u @ unit
        v = v / length(v)[:, None]
    v = np.concatenate([v[np.isfinite(v).all(1)], np.zeros((1, rows.shape[1]))])
    worst = ((mean + radius * v) @ (unit * lengths[:, None]).T).min(1)
    return mean + radius * v[worst.argmax()]


def imtlg(rows: np.ndarray, rank: int) -> np.ndarray:
    lengths, unit, cosines = units(rows)
    ones = np.ones((1, len(rows), 1), EXTENDED)
    if rank == len(rows):
        z = eliminate(cosines[None], ones)[0, :, 0]
    else:
        values, vectors = np.linalg.eigh(cosines.astype(float))
        values, vectors = values[-rank:], vectors[:, -rank:]
        inside = vectors.T @ np.ones(len(rows))
        if len(rows) - inside @ inside > 1e-9:
            return np.zeros(rows.shape[1])
        z = vectors @ (inside / values)
    return z @ unit / (z / lengths).sum()


def nash(rows: np.ndarray) -> np.ndarray | None:
    """None where the bargain has no solution."""
    _, unit, cosines = units(rows)
    tasks = len(rows)
    if length(mgda(unit)) < 1e-12:
        return None
    z = np.ones(tasks, EXTENDED)
    for _ in range(500):
        hessian = cosines + np.diag(1 / z**2)
        step = eliminate(hessian[None], -(cosines @ z - 1 / z)[None, :, None])[0, :, 0]
        size = np.sqrt(step @ hessian @ step)
        z = z + step / (1 + size if size > 0.25 else 1)
    assert np.abs(z * (cosines @ z) - 1).max() < 1e-10  # strictly convex: this proves the minimum
    return z @ unit


def aligned(rows: np.ndarray, rank: int) -> np.ndarray:
    """Rotate pairs of rows until all are orthogonal: then their lengths are the singular values."""
    rotated, rotation = rows.astype(EXTENDED), np.eye(len(rows), dtype=EXTENDED)
    for _ in range(30):
        for i, j in itertools.combinations(range(len(rows)), 2):
            a, b, g = rotated[i] @ rotated[i], rotated[j] @ rotated[j], rotated[i] @ rotated[j]
            if abs(g) <= 1e-19 * np.sqrt(a * b) or g == 0:
                continue
            angle = np.arctan2(2 * g, a - b) / 2
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            rotated[[i, j]], rotation[[i, j]] = turn @ rotated[[i, j]], turn @ rotation[[i, j]]
    sizes = length(rotated)
    kept = np.argsort(sizes)[::-1][:rank]
    return sizes[kept[-1]] * (rotation[kept].sum(1) / sizes[kept]) @ rotated[kept]


def surgery(
    rows: np.ndarray, orders: list[np.ndarray], decay: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """PCGrad, or with a decay GradVac, on the vectors: the last update, and the targets after all orders."""
    _, unit, _ = units(rows)
    targets = np.zeros((len(rows), len(rows)), EXTENDED)
    for order in orders:
        turned = rows.astype(EXTENDED)
        for i, j in ((task, other) for task in range(len(rows)) for other in order[task]):
            if (size := length(turned[i])) < 1e-14 * length(rows[i]):
                continue
            cosine = turned[i] @ unit[j] / size
            target = targets[i, j]
            if cosine < target:
                across = length(turned[i] - size * cosine * unit[j]) / np.sqrt(1 - target**2)
                turned[i] = turned[i] + (target * across - size * cosine) * unit[j]
            if decay is not None:
                targets[i, j] = (1 - decay) * target + decay * cosine
    return turned.sum(0), targets


# What is compared


def error(found: np.ndarray, expected: np.ndarray, rows: np.ndarray) -> float:
    scale = max(length(expected), 1e-6 * length(rows).max())
    return float(length(found - expected) / scale)


def reference(method: str, rows: np.ndarray, rank: int, orders: list[np.ndarray]) -> np.ndarray | None:
    if method in ("PCGrad", "GradVac"):
        return surgery(rows, orders, DECAY if method == "GradVac" else None)[0]
    if method in ("IMTLG", "AlignedMTL"):
        return {"IMTLG": imtlg, "AlignedMTL": aligned}[method](rows, rank)
    return {"MGDA": mgda, "CAGrad": cagrad, "NashMTL": nash, "UPGrad": upgrad}[method](rows)


def ours(method: str, rows: np.ndarray, seed: int) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """The package's update (None where it refuses), and the orders that it drew."""
    generator, again = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    calls = 3 if method == "GradVac" else 1
    rule = balancing.GradVac(len(rows), DECAY) if method == "GradVac" else getattr(balancing, method)()
    orders = [balancing.visiting_orders(len(rows), again) for _ in range(calls)]
    jacobian = torch.from_numpy(rows)
    try:
        for _ in range(calls):
            weights = rule(jacobian @ jacobian.T, generator=generator)
    except ValueError:
        return None, orders
    return weights.numpy().astype(EXTENDED) @ rows, orders


def torchjd(method: str, rows: np.ndarray, seed: int) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """TorchJD's update (None where it fails), times what makes it comparable; and the orders that it drew."""
    import torchjd.aggregation as peer

    tasks, calls = len(rows), 3 if method == "GradVac" else 1
    torch.manual_seed(seed)
    orders = []
    for _ in range(calls if method in ("PCGrad", "GradVac") else 0):
        if method == "PCGrad":
            drawn = [torch.randperm(tasks).numpy() for _ in range(tasks)]
            orders.append(np.array([order[order != i] for i, order in enumerate(drawn)]))
        else:
            drawn = [torch.randperm(tasks - 1).numpy() for _ in range(tasks)]
            orders.append(np.array([np.delete(np.arange(tasks), i)[order] for i, order in enumerate(drawn)]))
    options = {
        "GradVac": {"beta": DECAY},
        "CAGrad": {"c": 0.5},
        "NashMTL": {"n_tasks": tasks, "max_norm": 0.0},
        "AlignedMTL": {"pref_vector": torch.ones(tasks, dtype=torch.float64)},
    }
    rule = getattr(peer, method)(**options.get(method, {}))
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(calls):
                update = rule(torch.from_numpy(rows))
    except Exception:  # whatever its solvers raise is a failure
        return None, orders
    found = update.numpy()
    if method == "NashMTL":  # its users clip the length; the direction is what counts
        found = found * np.sqrt(tasks) / np.linalg.norm(found)
    return (found if np.isfinite(found).all() else None), orders


def measure(solve: Any, method: str, family: str, draws: int) -> dict[str, Any]:
    """Worst and median error over draws and numbers of tasks, and how often there was no answer."""
    errors, failed, unbounded, wrong = [], 0, 0, 0
    for tasks, seed in itertools.product(TASKS, range(draws)):
        rows, rank = jacobian(family, tasks, seed)
        found, orders = solve(method, rows, seed)
        expected = reference(method, rows, rank, orders)
        if expected is None:
            unbounded += 1
            wrong += found is not None
        elif found is None:
            failed += 1
        else:
            errors.append(error(found, expected, rows))
    return {
        "method": method,
        "family": family,
        "draws": len(TASKS) * draws,
        "worst": float(f"{max(errors):.3g}"),
        "median": float(f"{np.median(errors):.3g}"),
        "failed": failed,
        "without_solution": unbounded,
        "answered_without_solution": wrong,
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown: ours | TorchJD's, by method and family."""
    lines = ["| | " + " | ".join(FAMILIES) + " |", "|---|" + "---|" * len(FAMILIES)]
    for method in METHODS:
        cells = []
        for family in FAMILIES:
            both = [
                next(
                    (r for r in results.get(side, []) if (r["method"], r["family"]) == (method, family)), None
                )
                for side in ("ours", "torchjd")
            ]
            cells.append(" / ".join("–" if one is None else _cell(one) for one in both))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(result: dict[str, Any]) -> str:
    failed = f" ({result['failed']} failed)" if result["failed"] else ""
    return f"{result['worst']:.0e}{failed}"


def main() -> None:
    results: dict[str, Any] = {
        "command": "python benchmarks/balancing_accuracy.py",
        "tasks": [TASKS.start, TASKS.stop - 1],
        "draws": DRAWS,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "scipy")},
    }
    sides = {"ours": ours}
    if importlib.util.find_spec("torchjd"):
        sides["torchjd"] = torchjd
        try:
            results["versions"]["torchjd"] = version("torchjd")
        except PackageNotFoundError:
            pass
    for side, solve in sides.items():
        results[side] = [measure(solve, method, family, DRAWS) for method in METHODS for family in FAMILIES]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
