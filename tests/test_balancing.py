"""Balancing rules: the theory of each as a test, and references that know nothing of the solvers."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import balancing_accuracy as accuracy
from mtl_ref import balancing
from mtl_ref.balancing import IMTLG, MGDA, AlignedMTL, CAGrad, GradVac, NashMTL, PCGrad, UPGrad

RULES = {rule.__name__: rule for rule in (MGDA, PCGrad, CAGrad, IMTLG, NashMTL, AlignedMTL, UPGrad)}
METHODS = [*RULES, "GradVac"]
CASES = [
    (family, tasks, seed) for family in accuracy.FAMILIES for tasks in accuracy.TASKS for seed in (100, 101)
]


def rule_for(method: str, tasks: int) -> torch.nn.Module:
    return GradVac(tasks) if method == "GradVac" else RULES[method]()


def weigh(method: str, rows, seed: int = 0) -> np.ndarray:
    """Weights for J (T, P); the random order is that of ``seed``."""
    jacobian = torch.as_tensor(np.asarray(rows), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return rule_for(method, len(jacobian))(jacobian @ jacobian.T, generator=generator).numpy()


def update(method: str, rows, seed: int = 0) -> np.ndarray:
    """The direction d (P,) for J (T, P)."""
    return weigh(method, rows, seed) @ np.asarray(rows, dtype=float)


def draw(family: str = "equal scales", tasks: int = 4, seed: int = 0) -> np.ndarray:
    return accuracy.jacobian(family, tasks, seed)[0]


def cosines_with(direction: np.ndarray, rows: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(direction) * np.linalg.norm(rows, axis=1)
    return rows @ direction / np.where(size > 0, size, 1)


def bounded(rows: np.ndarray) -> bool:
    """Whether some direction improves every task."""
    return accuracy.length(accuracy.mgda(accuracy.units(rows)[1])) > 1e-12


# Exactness


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", accuracy.FAMILIES)
def test_updates_agree_with_brute_force_in_extended_precision(method, family) -> None:
    found = accuracy.measure(accuracy.ours, method, family, draws=1 if method == "NashMTL" else 3)
    assert found["worst"] < 1e-6
    assert found["failed"] == found["answered_without_solution"] == 0
    if method == "NashMTL":
        assert found["without_solution"] < found["draws"]  # some were compared


def test_the_reference_itself_is_right_where_the_answer_is_known() -> None:
    right_angle = np.array([[3.0, 0.0], [0.0, 4.0]])
    near = lambda found, expected: np.testing.assert_allclose(found.astype(float), expected, atol=1e-14)  # noqa: E731
    near(accuracy.mgda(right_angle), [48 / 25, 36 / 25])  # the foot of the height on the hypotenuse
    near(accuracy.upgrad(right_angle), [1.5, 2])  # no conflict: the mean
    near(accuracy.imtlg(right_angle, 2), [12 / 7, 12 / 7])  # 4/7 (3, 0) + 3/7 (0, 4)
    near(accuracy.nash(right_angle), [1, 1])
    near(accuracy.aligned(right_angle, 2), [3, 3])  # both as long as the shorter
    near(accuracy.surgery(np.array([[1.0, 0.0], [-1.0, 1.0]]), [np.array([[1], [0]])])[0], [0.5, 1.5])
    # CAGrad: the worst task is the first; from the mean, straight along it.
    near(accuracy.cagrad(np.array([[1.0, 0.0], [9.0, 0.0]]), 0.5), [7.5, 0])


# Optimality conditions, from d and G alone


@pytest.mark.parametrize(("family", "tasks", "seed"), CASES[::2])
def test_mgda_meets_its_optimality_conditions(family, tasks, seed) -> None:
    rows = draw(family, tasks, seed)
    weights = weigh("MGDA", rows)
    d, shortest = weights @ rows, np.linalg.norm(rows, axis=1).min()
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-12)
    slack = (rows @ d - d @ d) / np.linalg.norm(rows, axis=1) / shortest
    assert slack.min() > -1e-11  # convex: with this for all i, d is the minimum
    assert abs(weights * slack).max() < 1e-11


@pytest.mark.parametrize(("family", "tasks", "seed"), CASES[1::2])
def test_cagrad_closes_the_gap_between_its_problem_and_its_dual(family, tasks, seed) -> None:
    rows = draw(family, tasks, seed)
    mean, weights = rows.mean(0), weigh("CAGrad", rows)
    d, radius = weights @ rows, 0.5 * np.linalg.norm(mean)
    extra = weights - 1 / tasks
    assert extra.min() > -1e-9 * np.abs(weights).max()
    assert np.linalg.norm(d - mean) <= radius * (1 + 1e-9)
    scale = np.linalg.norm(mean) * np.linalg.norm(rows, axis=1).max()
    worst = (rows @ d).min()
    share = extra / extra.sum() if extra.sum() > 1e-12 else None
    combined = share @ rows if share is not None else np.zeros_like(d)
    on_the_rim = np.linalg.norm(d - mean) > radius * (1 - 1e-9)
    dual = combined @ mean + radius * np.linalg.norm(combined) if on_the_rim else 0.0  # zero lies in the hull
    assert dual - worst == pytest.approx(0, abs=1e-9 * scale)


@pytest.mark.parametrize(("family", "tasks", "seed"), CASES[::3])
def test_nash_weights_solve_the_bargain(family, tasks, seed) -> None:
    rows = draw(family, tasks, seed)
    if not bounded(rows):
        with pytest.raises(ValueError, match="no direction improves every task"):
            weigh("NashMTL", rows)
        return
    weights = weigh("NashMTL", rows)
    assert weights.min() > 0
    np.testing.assert_allclose(weights * (rows @ (weights @ rows)), 1, atol=1e-8)
    assert np.linalg.norm(weights @ rows) == pytest.approx(np.sqrt(tasks), rel=1e-8)


@pytest.mark.parametrize(("family", "tasks", "seed"), CASES[::3])
def test_upgrad_projects_each_gradient_onto_the_dual_cone(family, tasks, seed) -> None:
    rows = draw(family, tasks, seed)
    for task, gradient in enumerate(rows):  # alone in having a length that counts
        scaled = rows * 1e-30
        scaled[task] = gradient
        projected = tasks * update("UPGrad", scaled)
        change, tolerance = projected - gradient, 1e-10 * (gradient @ gradient)
        assert (rows / np.linalg.norm(rows, axis=1)[:, None] @ projected).min() > -1e-10 * np.linalg.norm(
            gradient
        )
        assert abs(change @ projected) < tolerance  # Moreau: what was taken off is orthogonal to what is left


@pytest.mark.parametrize("family", accuracy.FAMILIES[:5])
def test_imtl_g_has_equal_projections_and_weights_that_sum_to_one(family) -> None:
    for tasks in accuracy.TASKS:
        rows = draw(family, tasks, 7)
        weights = weigh("IMTLG", rows)
        assert weights.sum() == pytest.approx(1, abs=1e-9 * np.abs(weights).sum())
        cosines = cosines_with(weights @ rows, rows)
        np.testing.assert_allclose(cosines, cosines[0], atol=1e-7)


@pytest.mark.parametrize("family", accuracy.FAMILIES[:4])
def test_aligned_gradients_are_orthogonal_and_equally_long(family) -> None:
    """By linearity: d of all sign patterns is as long as d, for the aligned rows are orthogonal."""
    for tasks in accuracy.TASKS:
        rows = draw(family, tasks, 3)
        sizes = []
        for pattern in range(4):
            signs = np.where(np.arange(tasks) & pattern, -1.0, 1.0)
            sizes.append(np.linalg.norm(update("AlignedMTL", rows * signs[:, None])))
        smallest = np.linalg.svd(rows.astype(float), compute_uv=False).min()
        np.testing.assert_allclose(sizes, smallest * np.sqrt(tasks), rtol=1e-6)


# Promises


@pytest.mark.parametrize("method", ["MGDA", "NashMTL", "UPGrad"])
@pytest.mark.parametrize("family", accuracy.FAMILIES)
def test_no_task_conflicts_with_the_update(method, family) -> None:
    checked, conflicts_of_the_sum = 0, 0
    for tasks in accuracy.TASKS:
        for seed in range(4):
            rows = draw(family, tasks, seed)
            if method == "NashMTL" and not bounded(rows):
                continue
            d = update(method, rows)
            tolerance = 1e-11 * max(np.linalg.norm(d), 1e-3 * np.linalg.norm(rows, axis=1).max())
            assert (rows @ d / np.linalg.norm(rows, axis=1)).min() > -tolerance
            checked += 1
            conflicts_of_the_sum += (rows @ rows.sum(0)).min() < 0
    assert checked > 5
    assert conflicts_of_the_sum > 0 or family == "nearly parallel"  # the test can see a conflict


@pytest.mark.parametrize("method", ["MGDA", "UPGrad"])
def test_no_task_conflicts_where_gradients_are_nearly_parallel_and_two_are_opposite(method) -> None:
    """Dependent columns: compiled non-negative least squares alone returns weights of 1e13 here."""
    for seed in range(60):
        rows = draw("nearly parallel", 7, seed)
        rows[seed % 7] = -3 * rows[(seed + 1) % 7]
        weights = weigh(method, rows)
        lengths = np.linalg.norm(rows, axis=1)
        assert (np.abs(weights) * lengths).max() < 1e6 * lengths.max()
        assert (rows @ (weights @ rows) / lengths).min() > -1e-11 * lengths.max()


def test_pcgrad_promises_it_for_two_tasks_and_not_for_more() -> None:
    assert all(
        (draw("conflicting", 2, s) @ update("PCGrad", draw("conflicting", 2, s))).min() > 0 for s in range(9)
    )
    worst = [
        cosines_with(update("PCGrad", rows), rows).min()
        for rows in (draw(tasks=8, seed=s) for s in range(20))
    ]
    assert min(worst) < -1e-3


@pytest.mark.parametrize("method", METHODS)
def test_scaling_all_gradients_scales_the_update_but_not_that_of_nash(method) -> None:
    for family in ("equal scales", "scales 10^±2", "conflicting"):
        rows = draw(family, 5, 1)
        for factor in (1e-12, 0.3, 1e12):
            expected = update(method, rows) * (1 if method == "NashMTL" else factor)
            np.testing.assert_allclose(
                update(method, factor * rows), expected, rtol=0, atol=1e-9 * np.abs(expected).max()
            )


@pytest.mark.parametrize(("method", "size_too"), [("NashMTL", True), ("IMTLG", False)])
def test_direction_does_not_depend_on_the_scale_of_a_task(method, size_too) -> None:
    for tasks in accuracy.TASKS:
        rows = draw("equal scales", tasks, 2)
        scaled = rows * 10.0 ** np.linspace(-4, 4, tasks)[:, None]
        before, after = update(method, rows), update(method, scaled)
        if not size_too:
            before, after = before / np.linalg.norm(before), after / np.linalg.norm(after)
            before, after = before * np.sign(before @ rows[0]), after * np.sign(after @ rows[0])
        np.testing.assert_allclose(after, before, atol=1e-9 * np.linalg.norm(before))
    assert cosines_with(update("MGDA", rows), update("MGDA", scaled)[None])[0] < 0.9  # others do depend


@pytest.mark.parametrize("method", ["PCGrad", "GradVac", "UPGrad"])
def test_update_is_linear_in_the_length_of_each_gradient(method) -> None:
    rng = np.random.default_rng(0)
    for tasks in accuracy.TASKS:
        rows = draw("conflicting", tasks, 5)
        first, second = rng.uniform(0.01, 100, (2, tasks, 1))
        together = update(method, (first + second) * rows)
        apart = update(method, first * rows) + update(method, second * rows)
        np.testing.assert_allclose(together, apart, atol=1e-9 * np.abs(together).max())
    assert not np.allclose(
        update("MGDA", (first + second) * rows), update("MGDA", first * rows) + update("MGDA", second * rows)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["equal scales", "scales 10^±4", "conflicting"])
def test_permuting_tasks_permutes_weights(method, family, monkeypatch) -> None:
    drawn = balancing.visiting_orders
    for tasks in (2, 5, 8):
        rows, new = draw(family, tasks, 4), np.random.default_rng(tasks).permutation(tasks)
        order = drawn(tasks, torch.Generator().manual_seed(1))
        monkeypatch.setattr(balancing, "visiting_orders", lambda *_, order=order: order)
        weights = weigh(method, rows)
        moved = np.argsort(new)[order[new]]  # the same visits under the new names
        monkeypatch.setattr(balancing, "visiting_orders", lambda *_, moved=moved: moved)
        found = weigh(method, rows[new])
        lengths = np.linalg.norm(rows, axis=1)
        scale = 1e-8 * np.abs(weights * lengths).max()
        np.testing.assert_allclose(found * lengths[new], (weights * lengths)[new], atol=scale)


@pytest.mark.parametrize("method", METHODS)
def test_update_is_continuous_as_one_gradient_turns(method) -> None:
    """From the same direction to nearly the opposite: halving the steps halves the largest jump."""
    fixed = np.array([[1.0, 0.2, 0.0], [0.1, 0.7, 0.4]])

    def largest_jump(steps: int) -> float:
        angles = np.linspace(0.5, 2.6, steps)
        path = [np.array([*fixed, [2 * np.cos(a), 2 * np.sin(a), 0.3]]) for a in angles]
        found = np.array([update(method, rows) for rows in path])
        return np.linalg.norm(np.diff(found, axis=0), axis=1).max()

    coarse, fine = largest_jump(101), largest_jump(801)
    assert 0 < fine < coarse / 4


def test_aligned_mtl_jumps_where_the_rank_changes() -> None:
    almost, parallel = np.array([[1.0, 0.0], [1.0, 1e-4]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.linalg.norm(update("AlignedMTL", almost)) < 1e-3
    np.testing.assert_allclose(update("AlignedMTL", parallel), [2, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("method", "size"),
    [
        ("MGDA", 1),
        ("PCGrad", 5),
        ("GradVac", 5),
        ("CAGrad", 1.5),
        ("IMTLG", 1),
        ("AlignedMTL", 5),
        ("UPGrad", 1),
    ],
)
def test_size_of_the_update_for_equal_gradients(method, size) -> None:
    gradient = np.array([3.0, -4.0])
    np.testing.assert_allclose(update(method, np.tile(gradient, (5, 1))), size * gradient, atol=1e-12)


def test_nash_update_has_one_size() -> None:
    assert np.linalg.norm(update("NashMTL", np.tile([3.0, -4.0], (5, 1)))) == pytest.approx(np.sqrt(5))


def test_cagrad_without_a_ball_is_the_mean() -> None:
    rows = draw("conflicting", 5)
    gram = torch.from_numpy(rows @ rows.T)
    np.testing.assert_allclose(CAGrad(c=0.0)(gram).numpy(), 0.2)
    assert np.abs(CAGrad(c=0.5)(gram).numpy() - 0.2).max() > 0.01


# Degenerate gradients


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("MGDA", [0, 0]),  # the shortest of the hull
        ("PCGrad", [2, 0]),
        ("GradVac", [2, 0]),
        ("CAGrad", [1, 0]),
        ("IMTLG", [2, 0]),
        ("NashMTL", [1, 0]),
        ("AlignedMTL", [2, 0]),
        ("UPGrad", [1, 0]),
    ],
)
def test_a_zero_gradient(method, expected) -> None:
    np.testing.assert_allclose(update(method, [[2, 0], [0, 0]]), expected, atol=1e-12)
    for rows in (np.zeros((3, 2)), np.array([[0, 0], [1, 2], [0, 0], [2, -1.5]])):
        weights = weigh(method, rows)
        assert np.isfinite(weights).all()
    assert not update(method, np.zeros((3, 2))).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_task_without_gradient_leaves_the_others_as_they_were(method) -> None:
    """Up to the mean, which counts it, and for MGDA, which stands still."""
    rows = draw("conflicting", 3, 6)
    counted = 3 / 4 if method == "UPGrad" else 1
    with_zero = np.vstack([rows, np.zeros((1, 24))])
    if method == "MGDA":
        assert not update(method, with_zero).any()
    elif method == "CAGrad":  # another problem: nobody may get worse, if the ball allows it
        assert (
            np.linalg.norm(update(method, with_zero) - with_zero.mean(0))
            <= 0.5 * np.linalg.norm(with_zero.mean(0)) + 1e-12
        )
    else:
        order = {
            3: np.array([[1, 2], [2, 0], [0, 1]]),
            4: np.array([[1, 3, 2], [2, 0, 3], [3, 0, 1], [0, 1, 2]]),
        }
        found = []
        for given in (rows, with_zero):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(balancing, "visiting_orders", lambda tasks, _: order[tasks])
                found.append(update(method, given))
        np.testing.assert_allclose(found[1], counted * found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_equal_gradients_in_a_crowd_give_the_update_of_the_reference(method) -> None:
    rows = draw("conflicting", 3, 2)[[0, 1, 1, 2]]
    expected = accuracy.reference(
        method, rows, 3, [balancing.visiting_orders(4, torch.Generator().manual_seed(0))]
    )
    assert accuracy.error(update(method, rows), expected, rows) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_exactly_opposite_gradients(method, length) -> None:
    rows = np.array([[0.6, 0.8], [-0.6 * length, -0.8 * length]])
    if method == "NashMTL":
        with pytest.raises(ValueError, match="Pareto-stationary"):
            update(method, rows)
        return
    # CAGrad keeps within half a mean gradient of the mean; aligned, gradients of rank one are what they were.
    expected = {"CAGrad": 0.5 * rows.mean(0), "AlignedMTL": rows.sum(0)}.get(method, np.zeros(2))
    np.testing.assert_allclose(update(method, rows), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_one_task_keeps_its_direction(method) -> None:
    gradient = np.array([3.0, -4.0])
    size = {"CAGrad": 1.5, "NashMTL": 0.2}.get(method, 1.0)
    np.testing.assert_allclose(update(method, [gradient]), size * gradient, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("gram", "error", "message"),
    [
        (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), FloatingPointError, "not finite"),
        (torch.tensor([[1.0, 0.0], [0.0, torch.inf]]), FloatingPointError, r"tasks \[1\] .*not finite"),
        (torch.ones(2, 3), ValueError, r"found the shape \(2, 3\)"),
        (torch.ones(2), ValueError, r"found the shape \(2,\)"),
        (torch.ones(0, 0), ValueError, r"found the shape \(0, 0\)"),
        (-torch.eye(2), ValueError, "task 0 has the squared length -1"),
    ],
)
def test_what_is_no_gram_matrix_is_refused_in_one_sentence(method, gram, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        rule_for(method, 2)(gram)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CAGrad(c=1.0), "c must be at least 0 and below 1, found 1.0"),
        (lambda: CAGrad(c=float("nan")), "c must be"),
        (lambda: GradVac(0), "tasks must be a whole number of at least 1, found 0"),
        (lambda: GradVac(2, decay=1.5), "decay must lie between 0 and 1, found 1.5"),
        (lambda: GradVac(2)(torch.eye(3)), r"made for 2 tasks, found a Gram matrix of 3: write GradVac\(3\)"),
        (lambda: IMTLG()(_cancelling()), "sum to zero"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _cancelling() -> torch.Tensor:
    """Three gradients whose weights with equal projections sum to zero: the third counts negatively."""
    unit = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.6, np.sqrt(0.28)]])
    z = np.linalg.solve(unit @ unit.T, np.ones(3))
    rows = torch.from_numpy(unit * np.array([1.0, 1.0, -z[2] / (z[0] + z[1])])[:, None])
    return rows @ rows.T


# Randomness, state, tensors


def test_orders_visit_every_other_task_once_and_follow_the_generator() -> None:
    orders = balancing.visiting_orders(6, torch.Generator().manual_seed(3))
    assert [sorted([i, *row]) for i, row in enumerate(orders.tolist())] == [list(range(6))] * 6
    again = balancing.visiting_orders(6, torch.Generator().manual_seed(3))
    other = balancing.visiting_orders(6, torch.Generator().manual_seed(4))
    assert (orders == again).all() and (orders != other).any()
    assert balancing.visiting_orders(1).shape == (1, 0)


@pytest.mark.parametrize("method", ["PCGrad", "GradVac"])
def test_random_rules_follow_their_generator_and_leave_the_global_one_alone(method) -> None:
    rows = draw("equal scales", 8, 1)
    before = torch.get_rng_state()
    assert (weigh(method, rows, 1) == weigh(method, rows, 1)).all()
    assert (weigh(method, rows, 1) != weigh(method, rows, 2)).any()
    assert (torch.get_rng_state() == before).all()


def test_first_step_of_gradvac_is_pcgrad() -> None:
    rows = draw("conflicting", 6, 1)
    np.testing.assert_allclose(update("GradVac", rows, 5), update("PCGrad", rows, 5), rtol=1e-9)


def test_gradvac_turns_gradients_until_their_cosine_is_the_target() -> None:
    rule = GradVac(2, decay=0.0)
    rule.targets.fill_(0.5)
    rows = torch.tensor([[2.0, 0.0], [-1.0, 3.0]], dtype=torch.float64)
    weights = rule(rows @ rows.T)
    # By hand: g_1 + s g_2 with cosine 1/2 to g_2, and g_2 + t g_1 with cosine 1/2 to g_1.
    s, t = weights[1].item() - 1, weights[0].item() - 1
    for turned, other in ((rows[0] + s * rows[1], rows[1]), (rows[1] + t * rows[0], rows[0])):
        assert torch.nn.functional.cosine_similarity(turned, other, 0).item() == pytest.approx(0.5, abs=1e-12)


def test_gradvac_continues_from_a_checkpoint_as_if_never_stopped() -> None:
    grams = [torch.from_numpy(rows @ rows.T) for rows in (draw("equal scales", 4, s) for s in range(6))]
    whole, first = GradVac(4, decay=0.5), GradVac(4, decay=0.5)
    draws, resumed = torch.Generator().manual_seed(0), GradVac(4, decay=0.5)
    expected = [whole(gram, generator=draws) for gram in grams]
    draws.manual_seed(0)
    for gram in grams[:3]:
        first(gram, generator=draws)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    found = [resumed(gram, generator=draws) for gram in grams[3:]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected[3:], strict=True))
    draws.manual_seed(0)
    forgetful = [GradVac(4, decay=0.5)(gram, generator=draws) for gram in grams]
    assert not torch.equal(forgetful[-1], expected[-1])  # the state matters


@pytest.mark.parametrize("method", METHODS)
def test_weights_come_back_as_the_matrix_came(method) -> None:
    rows = torch.from_numpy(draw("equal scales", 3)).requires_grad_()
    gram = (rows @ rows.T).float()
    weights = rule_for(method, 3)(gram)
    assert weights.dtype == torch.float32 and weights.shape == (3,) and not weights.requires_grad
    assert rule_for(method, 3)(gram.double()).dtype == torch.float64


def test_sign_dropout_is_no_function_of_the_gram_matrix() -> None:
    """Turning all gradients together keeps G, and turns the update of every rule but this one."""
    rows = torch.from_numpy(draw("conflicting", 3)[:, :6].copy())
    turn = torch.linalg.qr(
        torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    torch.testing.assert_close((rows @ turn) @ (rows @ turn).T, rows @ rows.T)
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    plain, turned = (balancing.sign_dropout(j, g) for j, g in zip((rows, rows @ turn), seeds, strict=True))
    assert not torch.allclose(plain @ turn, turned, atol=1e-3)
    for column, found in zip(rows.T, plain, strict=True):  # one sign per coordinate, whole
        assert min(abs(found - column.clamp(min=0).sum()), abs(found - column.clamp(max=0).sum())) == 0


def test_sign_dropout_keeps_what_all_agree_on_and_draws_by_purity() -> None:
    jacobian = torch.tensor([[3.0, 1.0, 0.0], [-1.0, 2.0, 0.0]]).repeat(1, 4000)
    found = balancing.sign_dropout(jacobian, torch.Generator().manual_seed(0)).reshape(4000, 3)
    assert (found[:, 1] == 3).all() and (found[:, 2] == 0).all()
    assert (found[:, 0] == 3).float().mean().item() == pytest.approx(0.75, abs=0.03)  # ½ (1 + (3 - 1) / 4)


# Others


@pytest.mark.parametrize("method", ["MGDA", "PCGrad", "GradVac", "IMTLG", "AlignedMTL", "UPGrad"])
def test_torchjd_agrees_where_it_is_accurate(method) -> None:
    if importlib.util.find_spec("torchjd") is None or importlib.util.find_spec("quadprog") is None:
        pytest.skip("no torchjd 0.18 here")
    tolerance = {"MGDA": 0.2, "UPGrad": 1e-2}.get(method, 1e-6)
    for tasks in (2, 3, 5):
        rows = draw("equal scales", tasks, 1)
        theirs, orders = accuracy.torchjd(method, rows, 1)
        expected = accuracy.reference(method, rows, tasks, orders)
        assert accuracy.error(theirs, expected, rows) < tolerance
        if method not in ("PCGrad", "GradVac"):
            assert accuracy.error(accuracy.ours(method, rows, 1)[0], theirs, rows) < tolerance


def test_stored_table_is_complete_and_within_the_tolerance() -> None:
    path = Path(accuracy.RESULTS)
    stored = json.loads(path.read_text())
    cells = {(row["method"], row["family"]): row for row in stored["ours"]}
    assert set(cells) == {(method, family) for method in accuracy.METHODS for family in accuracy.FAMILIES}
    assert all(row["worst"] < 1e-6 and not row["failed"] for row in cells.values())
    again = accuracy.measure(accuracy.ours, "MGDA", "conflicting", stored["draws"])
    assert again["worst"] < 1e-6 and again["draws"] == cells["MGDA", "conflicting"]["draws"]
