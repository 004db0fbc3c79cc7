"""The loop: reproducible, indifferent where it should be, and loud when something is wrong."""

from __future__ import annotations

import copy
import io
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mtl_ref.batches import Batches
from mtl_ref.encoders import TabularEncoder
from mtl_ref.metrics import auc
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.tasks import Binary, Count, Regression
from mtl_ref.training import cosine, fit, predict
from mtl_ref.weighting import FixedWeights

TASKS = [Regression("rating"), Binary("purchase")]


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def data(n: int = 400, seed: int = 0, missing: float = 0.3):
    g = torch.Generator().manual_seed(seed)
    x = {"categorical": torch.randint(0, 6, (n, 2), generator=g), "numeric": torch.randn(n, 3, generator=g)}
    score = x["numeric"][:, 0] - x["numeric"][:, 1] + 0.4 * (x["categorical"][:, 0] == 2)
    rating = score + 0.3 * torch.randn(n, generator=g)
    purchase = (torch.rand(n, generator=g) < torch.sigmoid(2 * score)) * 1.0
    rating[torch.rand(n, generator=g) < missing] = torch.nan
    return x, {"rating": rating, "purchase": purchase}


def model(seed: int = 0, **options) -> SharedEncoder:
    torch.manual_seed(seed)
    return SharedEncoder(
        TabularEncoder({"categorical": [6, 6], "numeric": 3}, 4, (16, 8), **options), TASKS, head=(8,)
    )


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def train(**options):
    made = options.pop("model", None) or model()
    rows = options.pop("rows", None) or data()
    history = fit(made, TASKS, rows, **({"epochs": 3, "batch_size": 64} | options))
    return made, history


def test_same_seed_same_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(123)
    one, first = train(model=model(dropout=0.2))
    torch.rand(17)
    two, second = train(model=model(dropout=0.2))
    assert torch.equal(weights(one), weights(two))
    pd.testing.assert_frame_equal(first, second)
    assert not torch.equal(weights(one), weights(train(model=model(dropout=0.2), seed=1)[0]))


def test_fit_does_not_touch_the_callers_generator() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    made = model(dropout=0.2)
    torch.manual_seed(9)
    fit(made, TASKS, data(), epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_it_learns_and_predicts_in_natural_units() -> None:
    made, history = train(epochs=20, learning_rate=1e-2, validation=data(seed=1))
    x, y = data(seed=1)
    score = x["numeric"][:, 0] - x["numeric"][:, 1] + 0.4 * (x["categorical"][:, 0] == 2)
    oracle = auc(y["purchase"], score)
    assert oracle - 0.03 < history.validation_purchase_auc.iloc[-1] < oracle + 0.02
    assert history.validation_rating_rmse.iloc[-1] < 0.6 < history.validation_rating_rmse.iloc[0]
    found = predict(made, TASKS, data(seed=2)[0], batch_size=37)
    assert found["rating"].shape == found["purchase"].shape == (400,)
    assert 0 < found["purchase"].min() and found["purchase"].max() < 1
    assert np.allclose(found["rating"], predict(made, TASKS, data(seed=2)[0])["rating"], rtol=1e-12)


def test_the_history_is_what_an_outsider_measures() -> None:
    x, y = data(seed=1)
    made, history = train(validation=(x, y), epochs=1)
    with torch.no_grad():
        outputs = made(x)
    losses = [task.loss(outputs, y[task.name]).item() for task in TASKS]
    last = history.iloc[-1]
    assert last.validation_loss == pytest.approx(sum(losses), rel=1e-12)
    assert last.validation_rating == pytest.approx(losses[0], rel=1e-12)
    seen = ~torch.isnan(y["rating"])
    rmse = (outputs["rating"] - y["rating"])[seen].square().mean().sqrt().item()
    assert last.validation_rating_rmse == pytest.approx(rmse, rel=1e-12)


def test_train_loss_counts_labels_not_batches() -> None:
    """At a learning rate of zero, the epoch's mean over unequal batches is that of the whole set."""
    x, y = data(n=150)
    made, history = train(rows=(x, y), learning_rate=0.0, epochs=1)
    with torch.no_grad():
        whole = TASKS[0].loss(made(x), y["rating"]).item()
    assert history.train_rating.iloc[0] == pytest.approx(whole, rel=1e-12)


def test_row_weight_zero_equals_a_missing_label() -> None:
    x, y = data(missing=0.0)
    drop = torch.arange(400) % 4 == 0
    masked = {"rating": torch.where(drop, torch.nan, y["rating"]), "purchase": y["purchase"]}
    one, _ = train(rows=(x, masked))
    two, _ = train(rows=(x, y, {"rating": (~drop) * 1.0}))
    assert torch.allclose(weights(one), weights(two), rtol=1e-9, atol=1e-12)


def test_the_order_of_the_tasks_does_not_matter() -> None:
    one, _ = train()
    turned = model()
    fit(turned, TASKS[::-1], data(), epochs=3, batch_size=64)
    assert torch.allclose(weights(one), weights(turned), rtol=1e-9, atol=1e-12)


def test_training_single_tasks_together_equals_training_each_alone() -> None:
    def make() -> SingleTask:
        torch.manual_seed(0)
        return SingleTask(lambda: TabularEncoder({"categorical": [6, 6], "numeric": 3}, 4, (8,)), TASKS)

    together, alone = make(), make()
    rows = data()
    fit(together, TASKS, rows, epochs=2, batch_size=64)
    for name in ("rating", "purchase"):
        only = {other: y if other == name else torch.full_like(y, torch.nan) for other, y in rows[1].items()}
        fit(alone, TASKS, (rows[0], only), epochs=2, batch_size=64)
    for key, value in together.state_dict().items():
        if "purchase" in key:  # trained second: its weights saw only zero gradients before
            assert torch.allclose(value, alone.state_dict()[key], rtol=1e-6, atol=1e-8), key


def test_a_lambda_of_zero_leaves_a_head_alone() -> None:
    made, history = train(weighting=FixedWeights({"rating": 1.0, "purchase": 0.0}))
    untouched = model().heads["purchase"].state_dict()
    assert all(
        torch.equal(value, untouched[key]) for key, value in made.heads["purchase"].state_dict().items()
    )
    assert (history.weight_purchase == 0).all() and (history.weight_rating == 1).all()


def test_early_stopping_returns_to_the_best_epoch() -> None:
    validation = data(n=60, seed=5)
    made, history = train(epochs=60, learning_rate=0.05, patience=3, validation=validation)
    assert len(history) < 60 and len(history) == history.validation_loss.argmin() + 4
    with torch.no_grad():
        outputs = made(validation[0])
    loss = sum(task.loss(outputs, validation[1][task.name]).item() for task in TASKS)
    assert loss == pytest.approx(history.validation_loss.min(), rel=1e-12)


@pytest.mark.parametrize(
    "monitor,column,best",
    [("purchase", "validation_purchase_auc", "max"), ("rating", "validation_rating_rmse", "min")],
)
def test_monitor_follows_the_direction_of_the_metric(monitor, column, best) -> None:
    _, history = train(
        epochs=40, learning_rate=0.05, patience=2, monitor=monitor, validation=data(80, seed=5)
    )
    at = history[column].argmax() if best == "max" else history[column].argmin()
    assert len(history) == min(at + 3, 40)


def test_a_schedule_scales_the_learning_rate() -> None:
    assert cosine(0) == 1 and cosine(1) == pytest.approx(0) and cosine(0.5) == pytest.approx(0.5)
    _, history = train(schedule=cosine, epochs=4, learning_rate=0.1)
    rates = history.learning_rate
    assert rates.is_monotonic_decreasing and rates.iloc[0] < 0.1 and rates.iloc[-1] > 0
    frozen, _ = train(schedule=lambda progress: 0.0)
    assert torch.equal(weights(frozen), weights(model()))


def test_clipping_bounds_a_step_of_plain_descent() -> None:
    made, _ = train(epochs=1, batch_size=400, clip=1e-3, optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    assert (weights(made) - weights(model())).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_weight_decay_shrinks() -> None:
    shrunk, _ = train(weight_decay=1.0, learning_rate=1e-2)
    assert weights(shrunk).norm() < weights(train(learning_rate=1e-2)[0]).norm()


class Constant(nn.Module):
    """A balancing rule that ignores the Gram matrix."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values, self.grams = torch.tensor(values), []

    def forward(self, gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        self.grams.append(gram)
        return self.values.double()


@pytest.mark.parametrize("gradients", ["parameters", "representation"])
def test_balancing_with_ones_equals_the_plain_sum(gradients) -> None:
    plain, _ = train()
    balanced, history = train(balancing=Constant(1.0, 1.0), gradients=gradients)
    assert torch.allclose(weights(plain), weights(balanced), rtol=1e-8, atol=1e-11)
    assert (history.weight_rating == 1).all()


@pytest.mark.parametrize("gradients", ["parameters", "representation"])
def test_a_balanced_step_is_the_weighted_sum_on_the_encoder_and_the_plain_sum_on_heads(gradients) -> None:
    x, y = data()
    reference = model()
    losses = [task.loss(reference(x), y[task.name]) for task in TASKS]
    shared, heads = reference.shared_parameters(), list(reference.heads.parameters())
    pulls = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    plain = torch.autograd.grad(sum(losses), heads)
    rule, made = Constant(0.25, 3.0), model()
    options = {"gradients": gradients, "optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
    fit(made, TASKS, Batches(x, y, batch_size=400, shuffle=False), epochs=1, balancing=rule, **options)
    for before, after, one, two in zip(shared, made.shared_parameters(), *pulls, strict=True):
        assert torch.allclose(before - after, 0.25 * one + 3 * two, rtol=1e-9, atol=1e-12)
    for before, after, step in zip(heads, made.heads.parameters(), plain, strict=True):
        assert torch.allclose(before - after, step, rtol=1e-9, atol=1e-12)
    if gradients == "parameters":
        flat = torch.stack([torch.cat([g.flatten() for g in pull]) for pull in pulls])
        assert torch.allclose(rule.grams[0], flat @ flat.T, rtol=1e-10)


class Penalised(SharedEncoder):
    """Adds the mean squared rating output, outside lambda."""

    def penalty(self, predictions):
        return 0.1 * predictions["rating"].square().mean()


@pytest.mark.parametrize(
    "options", [{"weighting": FixedWeights([1.0, 1.0])}, {"balancing": Constant(1.0, 1.0)}]
)
def test_a_penalty_is_added_as_it_is(options) -> None:
    def make() -> Penalised:
        torch.manual_seed(0)
        return Penalised(TabularEncoder({"categorical": [6, 6], "numeric": 3}, 4, (16, 8)), TASKS, head=(8,))

    x, y = data()
    reference = make()
    outputs = reference(x)
    total = sum(task.loss(outputs, y[task.name]) for task in TASKS) + reference.penalty(outputs)
    expected = torch.autograd.grad(total, list(reference.parameters()))
    made = make()
    step = {"optimizer": lambda p: torch.optim.SGD(p, lr=1.0), "epochs": 1}
    fit(made, TASKS, Batches(x, y, batch_size=400, shuffle=False), **step, **options)
    for before, after, gradient in zip(reference.parameters(), made.parameters(), expected, strict=True):
        assert torch.allclose(before - after, gradient, rtol=1e-9, atol=1e-12)


class Learned(nn.Module):
    """A weighting rule with a parameter and both hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.s, self.steps, self.epochs = nn.Parameter(torch.zeros(2)), 0, []

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        return (torch.exp(-self.s) * losses + self.s).sum()

    def after_step(self, losses: torch.Tensor) -> None:
        self.steps += 1

    def after_epoch(self, means: torch.Tensor) -> None:
        self.epochs.append(means)


def test_a_rules_parameters_are_trained_and_its_hooks_called() -> None:
    rule = Learned()
    _, history = train(weighting=rule, learning_rate=1e-2, weight_decay=100.0)
    assert rule.steps == 3 * 7 and len(rule.epochs) == 3
    assert rule.epochs[-1][0].item() == pytest.approx(history.train_rating.iloc[-1])
    assert (rule.s.detach().abs() > 0.05).all()
    assert history.weight_rating.isna().all()  # the rule does not say what it applied


def test_warns_and_refuses_at_the_representation() -> None:
    x, y = data(missing=0.0)
    half = torch.arange(400) % 2 == 0
    apart = {
        "rating": torch.where(half, y["rating"], torch.nan),
        "purchase": torch.where(half, torch.nan, y["purchase"]),
    }
    with pytest.warns(UserWarning, match="only 0% of the labelled rows"):
        train(rows=(x, apart), balancing=Constant(1.0, 1.0), gradients="representation", epochs=1)
    single = SingleTask(lambda: TabularEncoder({"categorical": [6, 6], "numeric": 3}), TASKS)
    with pytest.raises(ValueError, match="shares no parameter"):
        fit(single, TASKS, (x, y), balancing=Constant(1.0, 1.0))
    with pytest.raises(ValueError, match="no shared representation"):
        fit(single, TASKS, (x, y), balancing=Constant(1.0, 1.0), gradients="representation")


def test_a_loss_that_is_not_finite_stops_with_the_task_and_the_step() -> None:
    x, y = data()
    y["rating"][70] = 1e200  # its square is infinite
    with pytest.raises(FloatingPointError, match=r"'rating' is (nan|inf).*step 2 \(epoch 1\)"):
        fit(model(), TASKS, Batches(x, y, batch_size=64, shuffle=False))


def test_an_input_that_the_encoder_cannot_read_is_refused_before_training() -> None:
    x, y = data()
    made = model()
    before = weights(made)
    cases = (("numeric", 70, torch.inf, "inf"), ("categorical", 3, 6, "holds 6 in column"))
    for part, row, value, named in cases:
        wrong = copy.deepcopy(x)
        wrong[part][row, 1] = value
        for refused in (lambda: fit(made, TASKS, (wrong, y)), lambda: predict(made, TASKS, wrong)):  # noqa: B023
            with pytest.raises(ValueError, match=f"'{part}'.*{named}"):
                refused()
    assert torch.equal(before, weights(made))


def test_a_count_task_trains_beside_the_others() -> None:
    x, y = data()
    tasks = [*TASKS, Count("visits", zero_inflated=True)]
    y["visits"] = torch.arange(400) % 3 * 1.0
    torch.manual_seed(0)
    made = SharedEncoder(TabularEncoder({"categorical": [6, 6], "numeric": 3}, 4, (16,)), tasks)
    history = fit(made, tasks, (x, y), epochs=3, learning_rate=1e-2)
    assert history.train_visits.iloc[-1] < history.train_visits.iloc[0]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"patience": 2}, "there is no validation part"),
        ({"monitor": "price"}, "monitor must be 'loss' or a task"),
        ({"weighting": FixedWeights([1, 1]), "balancing": Constant(1.0, 1.0)}, "exclude each other"),
        ({"weighting": FixedWeights({"purchase": 1, "rating": 1})}, "use one order of names"),
        (
            {"rows": ({"numeric": torch.zeros(2, 3)}, {"rating": torch.zeros(2)})},
            "no targets for \\['purchase'\\]",
        ),
        ({"rows": ({"numeric": torch.zeros(2, 3)},)}, "found 1 entries"),
    ],
)
def test_bad_arguments_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**options)


def test_the_progress_bar_is_silent_unless_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    train(epochs=1)
    assert capsys.readouterr().err == ""
    train(epochs=1, progress=True)
    assert "step" in capsys.readouterr().err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(epochs=1)
    assert "step" in terminal.getvalue()


def test_an_epoch_without_any_label_reports_nan() -> None:
    x, y = data()
    y["rating"] = torch.full_like(y["rating"], torch.nan)
    _, history = train(rows=(x, y), validation=(x, y))
    assert math.isnan(history.train_rating.iloc[-1]) and history.validation_rating.iloc[-1] == 0


def test_training_on_a_named_device() -> None:
    made, _ = train(device="cpu")
    assert torch.equal(weights(made), weights(train()[0]))
