"""Likelihoods, links and masks: what must hold for any task, then for each kind."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from mtl_ref.tasks import Binary, Count, Multiclass, Ordinal, Regression, Task, targets

ROWS = 40


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def every_task() -> list[Task]:
    return [
        Regression("price", location=20.0, scale=7.0),
        Regression("price", variance=True),
        Binary("bought"),
        Multiclass("kind", classes=("scarf", "coat", "tin")),
        Ordinal("stars"),
        Ordinal("stars", levels=(1, 3)),
        Count("visits"),
        Count("visits", zero_inflated=True),
    ]


def labels_for(task: Task, generator: torch.Generator) -> torch.Tensor:
    """Complete, encoded labels."""
    if isinstance(task, Regression):
        return torch.randn(ROWS, generator=generator) * 7 + 20
    high = {"bought": 2, "kind": 3, "stars": task.width + 1, "visits": 6}[task.name]
    return torch.randint(0, high, (ROWS,), generator=generator).to(torch.get_default_dtype())


def case(task: Task, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS,) if task.width == 1 else (ROWS, task.width)
    output = torch.randn(shape, generator=generator).requires_grad_()
    return {task.name: output}, labels_for(task, generator), torch.rand(ROWS, generator=generator) + 0.1


@pytest.fixture(params=every_task(), ids=lambda t: f"{type(t).__name__}-{t.width}")
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


def test_masking_a_label_equals_dropping_its_row(task: Task) -> None:
    predictions, label, weight = case(task)
    keep = torch.arange(ROWS) % 3 > 0
    masked = torch.where(keep, label, torch.nan)
    dropped = task.loss({task.name: predictions[task.name][keep]}, label[keep], weight[keep])
    loss = task.loss(predictions, masked, weight)
    assert loss.item() == pytest.approx(dropped.item(), rel=1e-13)
    (gradient,) = torch.autograd.grad(loss, predictions[task.name])
    assert gradient.isfinite().all() and (gradient[~keep] == 0).all() and (gradient[keep] != 0).any()


def test_a_weight_of_two_equals_a_row_twice(task: Task) -> None:
    predictions, label, _ = case(task)
    twice = torch.cat([torch.arange(ROWS), torch.tensor([5])])
    weight = torch.ones(ROWS)
    weight[5] = 2
    repeated = task.loss({task.name: predictions[task.name][twice]}, label[twice])
    assert task.loss(predictions, label, weight).item() == pytest.approx(repeated.item(), rel=1e-13)


def test_the_scale_of_the_weights_does_not_matter(task: Task) -> None:
    predictions, label, weight = case(task)
    once, scaled = (task.loss(predictions, label, w).item() for w in (weight, 1e6 * weight))
    assert once == pytest.approx(scaled, rel=1e-12)


def test_no_label_gives_zero_loss_and_zero_gradient(task: Task) -> None:
    predictions, label, weight = case(task)
    for loss in (
        task.loss(predictions, torch.full_like(label, torch.nan)),
        task.loss(predictions, torch.full_like(label, torch.nan), torch.full_like(label, torch.nan)),
        task.loss(predictions, label, torch.zeros(ROWS)),
    ):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, predictions[task.name], retain_graph=True)
        assert (gradient == 0).all()


def test_the_gradient_is_that_of_finite_differences(task: Task) -> None:
    predictions, label, weight = case(task)
    label[::4] = torch.nan
    output = predictions[task.name].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: task.loss({task.name: o}, label, weight), (output,))


def test_a_fitted_task_starts_at_the_best_constant(task: Task) -> None:
    """The mean loss of a constant output is flat (but for smoothing) at ``initial``."""
    if isinstance(task, Count) and task.zero_inflated:
        pytest.skip("zero inflation starts from a moment estimate, not from the optimum")
    rng = np.random.default_rng(0)
    draw = {
        "price": rng.normal(20, 7, 4000),
        "bought": rng.random(4000) < 0.03,
        "kind": rng.choice(["scarf", "coat", "tin"], 4000, p=[0.7, 0.1, 0.2]),
        "stars": rng.choice(getattr(task, "levels", (1,)), 4000),
        "visits": rng.poisson(1.7, 4000),
    }[task.name]
    fitted = task.fit(pd.DataFrame({task.name: draw}))
    constant = torch.tensor(fitted.initial).requires_grad_()
    output = constant.expand(4000, -1).squeeze(1) if task.width == 1 else constant.expand(4000, -1)
    loss = fitted.loss({task.name: output}, fitted.target(pd.DataFrame({task.name: draw})))
    (gradient,) = torch.autograd.grad(loss, constant)
    assert gradient.abs().max() < 1e-3


@pytest.mark.parametrize("factor,shift", [(20.0, -15.0), (1e-4, 0.0), (-3.0, 1.0)])
def test_a_regression_does_not_depend_on_the_unit_of_its_label(factor: float, shift: float) -> None:
    rating = pd.DataFrame({"rating": np.random.default_rng(1).normal(4, 1, 50)})
    scaled = rating * factor + shift
    one, two = (Regression("rating").fit(table) for table in (rating, scaled))
    output = torch.linspace(-2, 2, 50)
    sign = math.copysign(1, factor)  # a negative factor mirrors the standardised label
    losses = [
        one.loss({"rating": output}, one.target(rating)).item(),
        two.loss({"rating": sign * output}, two.target(scaled)).item(),
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    unit = one.link(output) * factor + shift
    assert torch.allclose(two.link(sign * output), unit, rtol=1e-9)


def test_the_learned_variance_minimises_at_the_noise() -> None:
    """With the mean known, the loss is least at the log of the true variance, whatever the unit."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"price": 50 + 9 * rng.normal(size=200_000)})
    task = Regression("price", variance=True).fit(table)
    label = task.target(table)

    def loss(log_variance: float) -> float:
        output = torch.tensor([0.0, log_variance]).expand(len(label), 2)
        return task.loss({"price": output}, label).item()

    grid = np.linspace(-0.5, 0.5, 101)
    best = grid[np.argmin([loss(s) for s in grid])]
    variance = task.link(torch.tensor([[0.0, best]]))[0, 1].item()
    assert variance == pytest.approx(81, rel=0.02)


def test_likelihoods_equal_those_of_scipy() -> None:
    output = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(30) % 5 * 1.0
    y, (a, b) = label.numpy(), output.numpy().T
    gauss = Regression("r", variance=True).row_loss(output, label).numpy() + 0.5 * math.log(2 * math.pi)
    assert np.allclose(gauss, -stats.norm(a, np.exp(b / 2)).logpdf(y), rtol=1e-12)
    poisson = Count("c").row_loss(output[:, 0], label).numpy()
    assert np.allclose(poisson, -stats.poisson(np.exp(a)).logpmf(y), rtol=1e-12)
    never = 1 / (1 + np.exp(-b))
    mixed = (y == 0) * never + (1 - never) * stats.poisson(np.exp(a)).pmf(y)
    inflated = Count("c", zero_inflated=True).row_loss(output, label).numpy()
    assert np.allclose(inflated, -np.log(mixed), rtol=1e-12)
    mean = Count("c", zero_inflated=True).link(output).numpy()
    assert np.allclose(mean, (1 - never) * np.exp(a))


@pytest.mark.parametrize("task", [Ordinal("s"), Multiclass("s", classes=(1, 2, 3, 4, 5))])
def test_level_probabilities_sum_to_one_and_match_the_loss(task: Task) -> None:
    output = 3 * torch.randn(60, task.width, generator=torch.Generator().manual_seed(2))
    probability = task.link(output)
    assert torch.allclose(probability.sum(1), torch.ones(60)) and (probability >= 0).all()
    label = torch.arange(60) % 5
    chosen = probability[torch.arange(60), label]
    assert torch.allclose(task.row_loss(output, label * 1.0), -chosen.log(), rtol=1e-8)


def test_ordinal_cuts_fall_for_any_output_and_stay_finite() -> None:
    task = Ordinal("s")
    extreme = torch.tensor([[500.0, -500, 500, -500], [-500, 500, -500, 500]]).requires_grad_()
    for level in range(5):
        loss = task.row_loss(extreme, torch.full((2,), float(level)))
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), extreme)[0].isfinite().all()


def test_binary_loss_is_the_complete_cross_entropy() -> None:
    """Not the article's -y log p alone: a wrong no must cost as much as a wrong yes."""
    logit = torch.tensor([2.0])
    yes, no = (Binary("b").row_loss(s * logit, torch.tensor([y])).item() for s, y in ((-1, 1.0), (1, 0.0)))
    assert yes == pytest.approx(no) and no == pytest.approx(-math.log(1 - 1 / (1 + math.exp(-2))))


def test_targets_reads_labels_and_weights() -> None:
    table = pd.DataFrame(
        {
            "stars": pd.array([5, None, 1], dtype="Int64"),
            "kind": ["tin", "coat", None],
            "bought": [1, 0, None],
            "value": [2.0, 0.5, np.nan],
        }
    )
    tasks = [Ordinal("stars"), Multiclass("kind", classes=("coat", "tin")), Binary("bought", weight="value")]
    y, w = targets(tasks, table)
    assert [y["stars"][0], y["stars"][2], y["kind"][0]] == [4, 0, 1]
    assert y["stars"][1].isnan() and y["kind"][2].isnan() and y["bought"][2].isnan()
    assert w["bought"].tolist() == [2.0, 0.5, 0.0] and set(w) == {"bought"}


@pytest.mark.parametrize(
    "make,table,message",
    [
        (lambda: Binary("b"), {"b": [0, 2]}, "'b', the target of task 'b', must hold 0 and 1, found 2"),
        (lambda: Binary("b"), {"c": [0, 1]}, "no column 'b'"),
        (lambda: Binary("b"), {"b": ["yes", "no"]}, "must hold numbers, found 'yes'"),
        (lambda: Regression("b"), {"b": [1.0, np.inf]}, "infinite"),
        (lambda: Ordinal("b"), {"b": [1, 2.5]}, "holds 2.5, which is not among the levels"),
        (lambda: Ordinal("b"), {"b": [1, 9]}, "holds 9"),
        (lambda: Count("b"), {"b": [1, -1]}, "must hold counts"),
        (lambda: Multiclass("b", classes=("x", "y")), {"b": ["z"]}, "holds 'z'"),
        (
            lambda: Binary("b", weight="w"),
            {"b": [1, 0], "w": [1, -1]},
            "'w', the weight of task 'b', must be finite",
        ),
        (lambda: Binary("b", weight="w"), {"b": [1, 0], "w": [1, np.nan]}, "must be finite"),
    ],
)
def test_impossible_labels_are_refused_by_name(make, table, message) -> None:
    with pytest.raises((ValueError, KeyError), match=message.replace("(", r"\(")):
        targets([make()], pd.DataFrame(table))


def test_bad_tasks_are_refused() -> None:
    twice = pd.DataFrame([[1, 0]], columns=["b", "b"])
    with pytest.raises(ValueError, match="2 columns named 'b'"):
        Binary("b").target(twice)
    for make in (
        lambda: Binary("not a name"),
        lambda: Multiclass("m", classes=("x",)),
        lambda: Multiclass("m", classes=("x", "x")),
        lambda: Ordinal("o", levels=(2, 1)),
        lambda: targets([], twice),
        lambda: targets([Binary("a"), Binary("a")], twice),
        lambda: Regression("b").fit(pd.DataFrame({"b": [np.nan]})),
    ):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(ValueError, match=r"must be \(B,\), found \(3, 1\) for a target of \(3,\)"):
        Binary("b").loss({"b": torch.zeros(3, 1)}, torch.zeros(3))


def test_metrics_leave_out_missing_labels_and_use_natural_units() -> None:
    target = np.array([1.0, 0, 1, 0, np.nan])
    found = Binary("b").metrics(target, np.array([0.9, 0.2, 0.4, 0.1, 0.99]))
    assert found["auc"] == 1 and found["accuracy"] == 0.75 and found["recall"] == 0.5
    probability = np.eye(5)[[4, 0, 2]]
    stars = Ordinal("s").metrics(np.array([4.0, 0, np.nan]), probability)
    assert stars["accuracy"] == 1 and stars["rmse"] == 0
    price = Regression("p", variance=True).metrics(np.array([3.0, np.nan]), np.array([[1.0, 4.0], [0, 1]]))
    assert price["rmse"] == 2 and price["nll"] == pytest.approx(-stats.norm(1, 2).logpdf(3))
    assert Count("c").metrics(np.array([2.0, 0]), np.array([2.0, 1]))["mae"] == 0.5
    kinds = Multiclass("m", classes=("x", "y")).metrics(
        np.array([0.0, 1]), np.array([[0.8, 0.2], [0.5, 0.5]])
    )
    assert kinds["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    nothing = Multiclass("m", classes=("x", "y")).metrics(np.array([np.nan]), np.array([[0.8, 0.2]]))
    assert math.isnan(nothing["log_loss"])


def test_a_row_weight_counts_in_the_metrics_as_rows_do(task: Task) -> None:
    predictions, label, _ = case(task)
    found = task.link(predictions[task.name]).detach().numpy()
    twice = np.concatenate([np.arange(ROWS), [5, 5]])
    weight = np.ones(ROWS)
    weight[5] = 3
    weighted = task.metrics(label.numpy(), found, weight)
    repeated = task.metrics(label.numpy()[twice], found[twice])
    weighted.pop("calibration_error", None)  # its bins hold equal numbers of rows
    assert all(
        value == pytest.approx(repeated[name], rel=1e-9, nan_ok=True) for name, value in weighted.items()
    )


def test_every_task_names_a_main_metric_that_it_computes(task: Task) -> None:
    predictions, label, _ = case(task)
    found = task.metrics(label.numpy(), task.link(predictions[task.name]).detach().numpy())
    assert task.main in found
    good_is_high = task.main in {"auc", "accuracy", "kappa"}
    assert task.higher_is_better is good_is_high
