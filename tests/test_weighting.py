"""Weighting rules: what is published about each, computed a second way; and what no rule may do."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtl_ref.batches import Batches
from mtl_ref.encoders import TabularEncoder
from mtl_ref.market import Dials, World
from mtl_ref.models import SharedEncoder
from mtl_ref.tasks import Binary, Count, Multiclass, Ordinal, Regression
from mtl_ref.training import cosine, fit
from mtl_ref.weighting import DWA, FAMO, GLS, RLW, STCH, FixedWeights, GradNorm, UncertaintyWeights

TASKS = [Regression("rating", scale=2.0), Binary("click"), Ordinal("stars")]
RULES = {
    "fixed": lambda tasks=TASKS: FixedWeights({t.name: 1 + len(t.name) / 4 for t in tasks}),
    "uncertainty": lambda tasks=TASKS: UncertaintyWeights(tasks),
    "dwa": lambda tasks=TASKS: DWA(tasks),
    "rlw": lambda tasks=TASKS: RLW(tasks, seed=7),
    "gls": lambda tasks=TASKS: GLS(tasks),
    "famo": lambda tasks=TASKS: FAMO(tasks),
    "stch": lambda tasks=TASKS: STCH(tasks, mu=0.3),
    "stch warm": lambda tasks=TASKS: STCH(tasks, mu=0.3, warm_up=1),
    "gradnorm": lambda tasks=TASKS: GradNorm(tasks, alpha=0.5),
}
PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
positive = st.lists(st.integers(1, 100_000).map(lambda i: i / 1000), min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype())


def softmax(values) -> np.ndarray:
    powers = np.exp(np.asarray(values) - np.max(values))
    return powers / powers.sum()


def combine(rule: nn.Module, losses: torch.Tensor, norms: torch.Tensor | None = None) -> torch.Tensor:
    if isinstance(rule, GradNorm):
        return rule.from_norms(losses, torch.ones_like(losses) if norms is None else norms)
    return rule(losses)


class Loop:
    """A training without a model: losses and norms are drawn; everything a loop calls is called."""

    def __init__(self, rule: nn.Module, order=(0, 1, 2), scales=(1.0, 1.0, 1.0)) -> None:
        self.rule, self.order, self.scales, self.step = rule, list(order), tensor(*scales), 0
        parameters = list(rule.parameters())
        self.optimiser = torch.optim.Adam(parameters, lr=0.05) if parameters else None
        self.losses: list[torch.Tensor] = []

    def drawn(self, stream: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10 * self.step + stream)
        return ((0.1 + torch.rand(3, generator=generator)) * self.scales)[self.order]

    def run(self, count: int) -> torch.Tensor:
        """Take steps, four an epoch; return (count, 1 + T): the combined loss and lambda of each."""
        found = []
        for _ in range(count):
            before, after = (
                self.drawn(0),
                self.drawn(0) * (0.9 + 0.1 * self.drawn(1) / self.scales[self.order]),
            )
            combined = combine(self.rule, before.requires_grad_(), self.drawn(2))
            if self.optimiser is not None:
                self.optimiser.zero_grad()
                combined.backward()
                self.optimiser.step()
            for hook, losses in (("after_step", before.detach()), ("after_update", after)):
                if hasattr(self.rule, hook):
                    getattr(self.rule, hook)(losses)
            self.losses.append(before.detach())
            self.step += 1
            if self.step % 4 == 0 and hasattr(self.rule, "after_epoch"):
                self.rule.after_epoch(torch.stack(self.losses[-4:]).mean(0))
            found.append(torch.cat([combined.detach().view(1), self.rule.weights]))
        return torch.stack(found)

    def state(self) -> bytes:
        file = io.BytesIO()
        torch.save([self.rule.state_dict(), self.optimiser and self.optimiser.state_dict()], file)
        return file.getvalue()

    def load(self, state: bytes) -> None:
        rule, optimiser = torch.load(io.BytesIO(state), weights_only=True)
        self.rule.load_state_dict(rule)
        if self.optimiser is not None:
            self.optimiser.load_state_dict(optimiser)


# Rules for all rules


@pytest.mark.parametrize("steps", [1, 6, 13])
@pytest.mark.parametrize("name", RULES)
def test_weights_are_the_derivative_by_each_loss(name, steps) -> None:
    rule = RULES[name]()
    Loop(rule).run(steps)
    losses = tensor(0.4, 1.7, 0.9).requires_grad_()
    (gradient,) = torch.autograd.grad(combine(rule, losses, tensor(1.0, 3.0, 0.2)), losses)
    assert torch.allclose(gradient, rule.weights, rtol=1e-12)
    assert (rule.weights > 0).all() and not rule.weights.requires_grad


@pytest.mark.parametrize("name", [name for name in RULES if name != "fixed"])
def test_weights_change_in_the_course_of_training(name) -> None:
    found = Loop(RULES[name]()).run(13)[:, 1:]
    assert (found.std(0) > 1e-3).all()


@pytest.mark.parametrize("name,total", [("dwa", 3), ("rlw", 1), ("famo", 1), ("stch", 1), ("gradnorm", 3)])
def test_lambda_has_the_sum_that_the_table_of_rules_says(name, total) -> None:
    assert torch.allclose(Loop(RULES[name]()).run(13)[:, 1:].sum(1), tensor(total), rtol=1e-12)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("name", [name for name in RULES if name != "rlw"])  # its draws go by position
def test_the_order_of_the_tasks_does_not_matter(name, order) -> None:
    straight = Loop(RULES[name]()).run(13)
    turned = Loop(RULES[name]([TASKS[i] for i in order]), order).run(13)
    assert torch.allclose(turned[:, 0], straight[:, 0], rtol=1e-10)
    assert torch.allclose(turned[:, 1:], straight[:, 1:][:, list(order)], rtol=1e-10)


@pytest.mark.parametrize("cut", [3, 4, 9])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_goes_on_from_its_state_bit_for_bit(name, cut) -> None:
    whole = Loop(RULES[name]()).run(13)
    first, second = Loop(RULES[name]()), Loop(RULES[name]())
    found = first.run(cut)
    second.run(5)  # the state must replace what the rule went through itself
    second.step, second.losses = first.step, list(first.losses)
    second.load(first.state())
    assert torch.equal(torch.cat([found, second.run(13 - cut)]), whole)


@pytest.mark.parametrize("name", RULES)
def test_one_task_is_trained_in_the_direction_of_its_loss(name) -> None:
    rule = RULES[name]([Binary("click")])
    losses = tensor(0.3).requires_grad_()
    combine(rule, losses).backward()
    assert rule.weights.shape == (1,) and losses.grad.item() > 0
    if name in ("rlw", "dwa", "gls", "famo", "stch", "gradnorm", "uncertainty"):
        assert rule.weights.item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_float32_stays_float32(name) -> None:
    torch.set_default_dtype(torch.float32)
    loop = Loop(RULES[name]())
    assert loop.run(9).dtype == torch.float32 and loop.run(1).isfinite().all()


# Does the unit of a loss matter? Task 1 is measured in cents in place of units


@pytest.mark.parametrize("name", ["gls", "famo", "stch warm"])
def test_units_cancel_in_the_direction(name) -> None:
    """lambda_i times the unit keeps its shares: the gradient keeps its direction, in every step."""
    straight = Loop(RULES[name]()).run(13)[:, 1:]
    cents = Loop(RULES[name](), scales=(1.0, 100.0, 1.0)).run(13)[:, 1:] * tensor(1.0, 100.0, 1.0)
    shares = [found / found.sum(1, keepdim=True) for found in (straight, cents)]
    assert torch.allclose(*shares, rtol=1e-9)


def test_units_cancel_in_lambda_of_dwa() -> None:
    straight = Loop(RULES["dwa"]()).run(13)[:, 1:]
    assert torch.allclose(Loop(RULES["dwa"](), scales=(1.0, 100.0, 1.0)).run(13)[:, 1:], straight, rtol=1e-12)


@pytest.mark.parametrize("name", ["fixed", "uncertainty", "rlw", "stch", "dwa", "gradnorm"])
def test_units_do_not_cancel_in_the_first_step(name) -> None:
    straight = Loop(RULES[name]()).run(1)[0, 1:]
    cents = Loop(RULES[name](), scales=(1.0, 100.0, 1.0)).run(1)[0, 1:] * tensor(1.0, 100.0, 1.0)
    shares = [found / found.sum() for found in (straight, cents)]
    assert shares[1][1] > 1.5 * shares[0][1]


@PROPERTY
@given(positive, st.floats(0.1, 10))
def test_a_common_factor_scales_gls_and_shifts_stch(values, factor) -> None:
    torch.set_default_dtype(torch.float64)
    names, losses = [f"t{i}" for i in range(len(values))], tensor(*values)
    assert torch.allclose(GLS(names)(factor * losses), factor * GLS(names)(losses), rtol=1e-12)
    smooth = STCH(names, mu=0.5)
    assert torch.allclose(smooth(losses + factor), smooth(losses) + factor, rtol=1e-12)


# Uncertainty weighting


def settled(tasks, losses: torch.Tensor) -> UncertaintyWeights:
    """The rule after s has reached its optimum at constant losses."""
    rule = UncertaintyWeights(tasks)
    precise = {
        "max_iter": 100,
        "tolerance_grad": 1e-10,
        "tolerance_change": 0.0,
        "line_search_fn": "strong_wolfe",
    }
    optimiser = torch.optim.LBFGS(rule.parameters(), **precise)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        combined = rule(losses)
        combined.backward()
        return combined

    optimiser.step(closure)
    return rule


@pytest.mark.parametrize("s", [-2.0, 0.0, 1.3])
def test_the_term_of_a_gaussian_task_is_its_negative_log_likelihood(s) -> None:
    generator = torch.Generator().manual_seed(0)
    output, label = torch.randn(2, 50, generator=generator)
    task = Regression("rating", location=3.0, scale=2.0)
    rule = UncertaintyWeights([task])
    with torch.no_grad():
        rule.log_variance.fill_(s)
    found = rule(task.loss({"rating": output}, 3 + 2 * label).view(1)).item()
    normal = torch.distributions.Normal(output, math.exp(s / 2))
    expected = -normal.log_prob(label).mean().item() - math.log(2 * math.pi) / 2
    assert found == pytest.approx(expected, rel=1e-12)


def test_at_the_optimum_s_is_the_log_of_twice_the_loss_and_the_direction_that_of_gls() -> None:
    losses = tensor(0.02, 0.7, 4.0)
    rule = settled(TASKS, losses.clone().requires_grad_(False))
    assert torch.allclose(rule.log_variance, (2 * losses).log(), atol=1e-6)
    assert rule(losses).item() == pytest.approx((0.5 + 0.5 * (2 * losses).log()).sum().item(), rel=1e-9)
    geometric = GLS(TASKS)
    geometric(losses)
    ratio = rule.weights / geometric.weights
    assert torch.allclose(ratio, ratio[0].expand(3), rtol=1e-5)


def test_another_unit_shifts_s_and_the_objective_by_a_constant() -> None:
    losses, factor = tensor(0.3, 0.7, 1.1), tensor(1.0, 100.0, 1.0)
    rule, other = UncertaintyWeights(TASKS), UncertaintyWeights(TASKS)
    with torch.no_grad():
        other.log_variance.copy_(factor.log())
    assert other(losses * factor).item() == pytest.approx(rule(losses).item() + math.log(100) / 2, rel=1e-12)


@pytest.mark.parametrize(
    "task,learns",
    [
        (Regression("price"), True),
        (Binary("price"), True),
        (Multiclass("price", classes=("low", "high", "fair")), True),
        (Ordinal("price"), True),
        (Regression("price", variance=True), False),
        (Count("price"), False),
        (Count("price", zero_inflated=True), False),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bool) else str(value),
)
def test_only_likelihoods_that_lack_a_scale_learn_one(task, learns) -> None:
    rule = UncertaintyWeights([task, Binary("click")])
    losses = tensor(0.8, 0.6)
    for _ in range(3):
        rule.zero_grad()
        rule(losses).backward()
        with torch.no_grad():
            rule.log_variance -= 0.1 * rule.log_variance.grad
    assert (rule.log_variance[0].item() != 0) == learns and rule.log_variance[1].item() != 0
    negative = tensor(-0.8, 0.6)
    if learns:
        with pytest.raises(ValueError, match="'price' is -0.8"):
            rule(negative)
    else:  # a density may exceed one
        rule(negative)
        assert rule.weights[0] == 1


def test_a_batch_without_labels_of_a_task_does_not_move_its_noise() -> None:
    rule = UncertaintyWeights(TASKS)
    rule(tensor(0.0, 0.5, 2.0)).backward()
    assert rule.log_variance.grad.tolist() == [0.0, 0.0, -1.5]  # 1/2 - L where there is a loss


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_a_gaussian_head_recovers_the_noise_of_the_simulator(noise) -> None:
    orders = World(0, Dials(noise=noise)).orders(4000)
    tasks = [Regression("satisfaction").fit(orders), Binary("returned").fit(orders)]
    x = {"numeric": torch.tensor(orders[["true_satisfaction", "true_return"]].to_numpy())}
    torch.manual_seed(0)
    model = SharedEncoder(TabularEncoder({"numeric": 2}, hidden=(8,)), tasks, head=())
    rule, y = UncertaintyWeights(tasks), {task.name: task.target(orders) for task in tasks}
    options = {"learning_rate": 0.05, "schedule": cosine, "epochs": 25, "batch_size": 400}
    history = fit(model, tasks, (x, y), weighting=rule, **options)
    sampling = noise / math.sqrt(2 * len(orders))
    assert rule.noise() == {"satisfaction": pytest.approx(noise, abs=4 * sampling)}
    assert abs(tasks[0].scale - noise) > 10 * sampling  # where s started
    # What it learned for the cross-entropy is no noise of the shop, only the loss itself.
    assert rule.log_variance[1].item() == pytest.approx(
        math.log(2 * history.train_returned.iloc[-1]), abs=0.02
    )


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_what_cross_entropy_lacks(rate) -> None:
    """No data can tell a temperature from a logit; the rule reports the labels' entropy as a variance."""
    logit = math.log(rate / (1 - rate))

    def bernoulli(at: torch.Tensor) -> torch.Tensor:  # the likelihood of softmax(f / sigma^2), exactly
        f, s = at
        scaled = f * torch.exp(-s)
        return nn.functional.softplus(scaled) - rate * scaled

    def gaussian(at: torch.Tensor) -> torch.Tensor:  # labels of mean 0 and variance 1
        f, s = at
        return ((1 + f**2) * torch.exp(-s) + s) / 2

    curvatures = [
        torch.linalg.eigvalsh(torch.autograd.functional.hessian(negative, tensor(start, 0.0)))
        for negative, start in ((bernoulli, logit), (gaussian, 0.0))
    ]
    assert abs(curvatures[0][0]) < 1e-12 < 0.05 < curvatures[0][1]  # a flat valley
    assert curvatures[1].min() > 0.4
    entropy = bernoulli(tensor(logit, 0.0)).item()
    variance = settled([Binary("click")], tensor(entropy)).log_variance.exp().item()
    assert variance == pytest.approx(2 * entropy, rel=1e-6)


# Dynamic weight average


def test_dwa_by_hand() -> None:
    rule = DWA(["click", "rating"])
    seen = []
    for means in [(1.0, 2.0), (0.5, 1.6), (0.4, 0.8)]:
        rule(tensor(9.0, 0.1))  # a batch's losses do not matter
        seen.append(rule.weights)
        rule.after_epoch(tensor(*means))
    rule(tensor(1.0, 1.0))
    assert seen[0].tolist() == seen[1].tolist() == [1.0, 1.0]
    ratios = [(0.5 / 1.0, 1.6 / 2.0), (0.4 / 0.5, 0.8 / 1.6)]
    expected = [2 * math.exp(a / 2) / (math.exp(a / 2) + math.exp(b / 2)) for a, b in ratios]
    assert [seen[2][0].item(), rule.weights[0].item()] == pytest.approx(expected, rel=1e-12)
    assert expected[0] < 1 < expected[1]  # the task that fell least is the one that counts more


@pytest.mark.parametrize("temperature", [0.05, 1.0, 2.0, 1e6])
def test_dwa_is_a_softmax_of_ratios_with_a_temperature(temperature) -> None:
    rule = DWA(TASKS, temperature)
    means = tensor(0.5, 1.0, 2.0), tensor(0.4, 0.9, 1.0)
    for values in means:
        rule.after_epoch(values)
    rule(means[1])
    expected = 3 * softmax((means[1] / means[0]).numpy() / temperature)
    assert np.allclose(rule.weights, expected, rtol=1e-12)
    if temperature == 0.05:
        assert rule.weights[1] > 2.6
    if temperature == 1e6:
        assert np.allclose(rule.weights, 1, atol=1e-6)


# Random weights


def test_rlw_draws_normals_and_takes_their_softmax() -> None:
    rule, generator = RLW(TASKS, seed=7), torch.Generator().manual_seed(7)
    state = torch.get_rng_state()
    for _ in range(5):
        rule(tensor(1.0, 2.0, 3.0))
        expected = softmax(torch.randn(3, generator=generator).numpy())
        assert np.allclose(rule.weights, expected, rtol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws
    other = RLW(TASKS, seed=8)
    other(tensor(1.0, 2.0, 3.0))
    assert not torch.equal(other.weights, rule.weights)


def test_rlw_favours_no_task() -> None:
    rule = RLW(["a", "b", "c", "d"])
    drawn = []
    for _ in range(4000):
        rule(torch.ones(4))
        drawn.append(rule.weights)
    drawn = torch.stack(drawn)
    assert ((drawn.mean(0) - 0.25).abs() < 4 * drawn.std(0) / math.sqrt(4000)).all()
    assert drawn.std(0).min() > 0.1


# Geometric mean


def test_gls_by_hand() -> None:
    rule, losses = GLS(["click", "rating"]), tensor(1.0, 4.0)
    assert rule(losses).item() == pytest.approx(2.0, rel=1e-14)
    assert rule.weights.tolist() == pytest.approx([1.0, 0.25], rel=1e-14)


@PROPERTY
@given(positive)
def test_gls_is_the_root_of_the_product(values) -> None:
    torch.set_default_dtype(torch.float64)
    rule = GLS([f"t{i}" for i in range(len(values))])
    assert rule(tensor(*values)).item() == pytest.approx(math.prod(values) ** (1 / len(values)), rel=1e-11)
    assert (rule.weights * tensor(*values)).std(correction=0).item() < 1e-12 * rule(
        tensor(*values)
    ).item() + 1e-15


# FAMO


def test_famo_moves_its_logits_as_adam_does_by_the_fall_of_log_losses() -> None:
    rule = FAMO(TASKS, learning_rate=0.1, decay=0.02, lowest=[0.0, -1.0, 0.05])
    lowest, logits = tensor(0.0, -1.0, 0.05), torch.zeros(3, requires_grad=True)
    adam, loop = torch.optim.Adam([logits], lr=0.1, weight_decay=0.02), Loop(rule)
    for step in range(12):
        loop.step = step
        before, after = loop.drawn(0), loop.drawn(1)
        rule(before)
        share = softmax(logits.detach().numpy()) / (before - lowest).numpy()
        assert np.allclose(rule.weights, share / share.sum(), rtol=1e-10)
        rule.after_update(after)
        fell = (before - lowest).log() - (after - lowest).log()
        adam.zero_grad()
        (torch.softmax(logits, 0) * fell).sum().backward()
        adam.step()
        assert torch.allclose(rule.logits, logits.detach(), rtol=1e-10, atol=1e-14)


def test_famo_turns_to_the_task_that_fell_least_and_forgets_by_decay() -> None:
    rule = FAMO(["fast", "slow"])
    rule(tensor(1.0, 1.0))
    rule.after_update(tensor(0.5, 0.9))
    assert rule.logits[0] < 0 < rule.logits[1]
    rule, moved = FAMO(["fast", "slow"], decay=0.5), rule.logits
    rule.logits = 10 * moved
    for _ in range(20):
        rule(tensor(1.0, 1.0))
        rule.after_update(tensor(1.0, 1.0))
    assert (rule.logits.abs() < 5 * moved.abs()).all()


def descend(rule, steps: int = 800) -> np.ndarray:
    """Fall of the log losses (2,) of two quadratics from the middle to the end of a gradient descent."""
    curvature = torch.tensor([[1.0, 0.0], [0.05, 0.1]])
    theta, logs = torch.ones(2, requires_grad=True), []
    for _ in range(steps):
        losses = (curvature * theta**2).sum(1) / 2
        logs.append(losses.detach().log().numpy())
        (gradient,) = torch.autograd.grad(rule(losses), theta)
        with torch.no_grad():
            theta -= 1e-2 * gradient
            if hasattr(rule, "after_update"):
                rule.after_update((curvature * theta**2).sum(1) / 2)
    return logs[steps // 2] - logs[-1]


def test_famo_lets_log_losses_fall_at_equal_rates() -> None:
    """Two quadratics, the first steeper: the sum leaves the flat one behind, FAMO does not."""
    adaptive, plain = (descend(rule) for rule in (FAMO(["a", "b"], decay=0.0), FixedWeights([1.0, 1.0])))
    assert adaptive.min() > 0.3 and adaptive[0] / adaptive[1] == pytest.approx(1.0, abs=0.05)
    assert plain[0] / plain[1] > 3


def test_famo_asks_for_the_losses_after_the_update() -> None:
    rule = FAMO(TASKS)
    with pytest.raises(RuntimeError, match="no losses to compare with: combine the batch first"):
        rule.after_update(tensor(1.0, 1.0, 1.0))
    rule(tensor(1.0, 1.0, 1.0))
    with pytest.raises(RuntimeError, match="call after_update"):
        rule(tensor(1.0, 1.0, 1.0))
    rule.eval()  # to look at it, outside training
    rule(tensor(1.0, 1.0, 1.0))


# Smooth Chebyshev


@PROPERTY
@given(positive, st.sampled_from([1e-3, 0.1, 2.0]))
def test_stch_lies_above_the_largest_loss_by_at_most_mu_log_t(values, mu) -> None:
    torch.set_default_dtype(torch.float64)
    rule = STCH([f"t{i}" for i in range(len(values))], mu)
    excess = rule(tensor(*values)).item() - max(values)
    assert -1e-12 <= excess <= mu * math.log(len(values)) + 1e-12


def test_stch_by_hand() -> None:
    rule = STCH(["a", "b"], mu=0.5, preference=[2.0, 0.5], ideal=[-1.0, 0.2])
    combined = rule(tensor(0.3, 3.0)).item()
    terms = [2.0 * (0.3 + 1.0), 0.5 * (3.0 - 0.2)]
    assert combined == pytest.approx(0.5 * math.log(sum(math.exp(term / 0.5) for term in terms)), rel=1e-12)
    assert np.allclose(rule.weights, [2.0, 0.5] * softmax(np.array(terms) / 0.5), rtol=1e-12)


def test_stch_tends_to_the_largest_loss_and_its_gradient() -> None:
    losses, gaps = tensor(0.3, 0.9, 0.8), []
    for mu in (1.0, 0.1, 0.01, 0.001):
        rule = STCH(TASKS, mu)
        gaps.append(rule(losses).item() - 0.9)
    assert all(after < before for before, after in zip(gaps, gaps[1:], strict=False)) and gaps[-1] < 1e-12
    assert rule.weights.tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-12)


def test_stch_finds_the_middle_of_a_concave_front_where_no_weighted_sum_does() -> None:
    x = torch.linspace(-1, 1, 401)
    front = 1 - torch.exp(-4 * torch.stack([x - 1, x + 1]) ** 2)  # (2, 401)
    smooth = STCH(["a", "b"], mu=0.01)
    best = x[torch.stack([smooth(losses) for losses in front.T]).argmin()].item()
    assert best == pytest.approx(0.0, abs=1e-12)
    ends = [x[(w * front[0] + (1 - w) * front[1]).argmin()].abs().item() for w in np.linspace(0, 1, 41)]
    assert min(ends) > 0.9


def test_stch_with_warm_up_compares_logarithms_after_it() -> None:
    rule = STCH(["a", "b"], mu=0.5, warm_up=2)
    losses = tensor(0.5, 3.0)
    for means in [(9.0, 9.0), (0.4, 2.0)]:  # the last epoch of the warm-up is the reference
        assert rule(losses).item() == pytest.approx(math.log(0.5) + math.log(3.0), rel=1e-12)
        assert rule.weights.tolist() == pytest.approx([2.0, 1 / 3], rel=1e-12)
        rule.after_epoch(tensor(*means))
    terms = np.log([0.5 / 0.4, 3.0 / 2.0])
    assert rule(losses).item() == pytest.approx(2 * 0.5 * math.log(np.exp(terms / 0.5).sum()), rel=1e-12)
    assert np.allclose(rule.weights, 2 * softmax(terms / 0.5) / losses.numpy(), rtol=1e-12)
    rule.after_epoch(tensor(7.0, 7.0))
    assert np.allclose(rule.reference, [0.4, 2.0])


# GradNorm


def test_gradnorm_by_hand() -> None:
    """Losses 2 and 4 first, then 1 and 4; norms 3 and 1; alpha 1."""
    rule = GradNorm(["click", "rating"], alpha=1.0)
    descent = torch.optim.SGD(rule.parameters(), lr=0.1)
    rule.from_norms(tensor(2.0, 4.0), tensor(1.0, 1.0))  # only L(0) counts here
    losses = tensor(1.0, 4.0).requires_grad_()
    combined = rule.from_norms(losses, tensor(3.0, 1.0))
    assert combined.item() == pytest.approx(1 + 4, rel=1e-14)
    combined.backward()
    # Ratios 1/2 and 1, mean 3/4: r = 2/3 and 4/3. Pulls 3 and 1, mean 2: targets 4/3 and 8/3.
    # The first pulls too much, the second too little: the gradient by lambda is +3 and -1.
    assert rule.raw.grad.tolist() == pytest.approx([3.0, -1.0], rel=1e-14)
    assert losses.grad.tolist() == [1.0, 1.0]
    descent.step()
    rule.after_step(losses.detach())
    assert rule.raw.tolist() == pytest.approx([0.7 * 2 / 1.8, 1.1 * 2 / 1.8], rel=1e-14)
    assert rule.weights.tolist() == [1.0, 1.0]  # the lambda last applied


def test_gradnorm_with_alpha_zero_makes_the_gradients_equally_long() -> None:
    """At constant norms n the end is known: lambda_i = T / n_i over the sum of 1 / n."""
    rule, norms = GradNorm(TASKS, alpha=0.0), tensor(1.0, 20.0, 5.0)
    adam = torch.optim.Adam(rule.parameters(), lr=2e-3)
    for _ in range(1500):
        adam.zero_grad()
        rule.from_norms(tensor(0.3, 4.0, 1.0), norms).backward()
        adam.step()
        rule.after_step(tensor(0.3, 4.0, 1.0))
    expected = 3 / norms / (1 / norms).sum()
    assert torch.allclose(rule.raw, expected, atol=0.02)
    assert (rule.raw * norms).std() < 0.1 * norms.std()


def test_gradnorm_gives_more_to_the_task_that_trains_slowly() -> None:
    lambdas = []
    for alpha in (0.0, 1.5):
        rule = GradNorm(["fast", "slow"], alpha)
        adam = torch.optim.Adam(rule.parameters(), lr=0.01)
        for losses in (tensor(1.0, 1.0), *[tensor(0.2, 0.8)] * 20):
            adam.zero_grad()
            rule.from_norms(losses, tensor(1.0, 1.0)).backward()
            adam.step()
            rule.after_step(losses)
        lambdas.append(rule.raw.detach())
    assert (
        torch.allclose(lambdas[0], tensor(1.0, 1.0), atol=0.03) and lambdas[1][1] > 1.1 > 0.9 > lambdas[1][0]
    )


def test_a_batch_without_labels_of_a_task_moves_no_lambda_of_gradnorm() -> None:
    rule = GradNorm(TASKS)
    rule.from_norms(tensor(1.0, 2.0, 3.0), tensor(1.0, 1.0, 1.0))
    rule.from_norms(tensor(0.0, 2.0, 1.0), tensor(0.0, 5.0, 1.0)).backward()
    assert rule.raw.grad.tolist() == [0.0, 0.0, 0.0]


def test_gradnorm_takes_the_first_losses_as_given_and_keeps_lambda_positive() -> None:
    given_first, own = GradNorm(["a", "b"], initial=[0.7, 1.6]), GradNorm(["a", "b"])
    for rule in (given_first, own):
        rule.from_norms(tensor(0.5, 1.0), tensor(1.0, 1.0))
    assert given_first.first.tolist() == [0.7, 1.6] and own.first.tolist() == [0.5, 1.0]
    with torch.no_grad():
        own.raw.copy_(tensor(-3.0, 1.0))
    own.after_step(tensor(0.5, 1.0))
    assert (own.raw > 0).all() and own.raw.sum().item() == pytest.approx(2.0, rel=1e-12)


def test_gradnorm_does_not_train_without_norms() -> None:
    with pytest.raises(RuntimeError, match="call from_norms"):
        GradNorm(TASKS)(tensor(1.0, 1.0, 1.0))


# In the loop


def table(rows: int = 240):
    g = torch.Generator().manual_seed(3)
    x = {
        "categorical": torch.randint(0, 5, (rows, 2), generator=g),
        "numeric": torch.randn(rows, 3, generator=g),
    }
    score = x["numeric"][:, 0] + 0.5 * torch.randn(rows, generator=g)
    y = {"rating": 2 * score, "click": (score > 0.3) * 1.0, "stars": score.mul(1.5).round().clamp(-2, 2) + 2}
    y["rating"][::4] = torch.nan
    return x, y


class Stops(Batches):
    """A table whose reader is interrupted before a batch."""

    batch = 10**9

    def __iter__(self):
        for k, rows in enumerate(super().__iter__()):
            if k == self.batch:
                raise KeyboardInterrupt
            yield rows

    def to(self, device):
        return self


def small(dropout: float = 0.0) -> SharedEncoder:
    torch.manual_seed(0)
    encoder = TabularEncoder({"categorical": [5, 5], "numeric": 3}, 4, (8, 6), dropout=dropout)
    return SharedEncoder(encoder, TASKS, head=(4,))


def train(rule, **options):
    data = Stops(*table(), batch_size=32, seed=0)
    data.batch, model = options.pop("stop_at", 10**9), small(dropout=0.1)
    history = fit(model, TASKS, data, weighting=rule, epochs=4, learning_rate=5e-3, **options)
    return torch.cat([p.detach().flatten() for p in (*model.parameters(), *rule.parameters())]), history


@pytest.mark.parametrize("name", RULES)
def test_fit_reproduces_and_logs_lambda(name) -> None:
    one, history = train(RULES[name]())
    torch.rand(5)
    two, again = train(RULES[name]())
    assert torch.equal(one, two)
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    logged = history[[f"weight_{task.name}" for task in TASKS]]
    assert len(logged) == 4 and (logged > 0).all(axis=None) and np.isfinite(logged).all(axis=None)
    total = {"dwa": 3, "rlw": 1, "famo": 1, "stch": 1, "gradnorm": 3}.get(name)
    assert total is None or np.allclose(logged.sum(axis=1), total, rtol=1e-9)
    assert (logged.nunique() == 1).all() == (name == "fixed")
    assert history.train_stars.iloc[-1] < history.train_stars.iloc[0]


@pytest.mark.parametrize("name", RULES)
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(name, tmp_path) -> None:
    whole, history = train(RULES[name]())
    options = {"checkpoint": tmp_path, "checkpoint_every": 3, "resume": True}
    for stop in (2, 5):  # before the first checkpoint; then in the middle of the first epoch
        with pytest.raises(KeyboardInterrupt):
            train(RULES[name](), stop_at=stop, **options)
    found, again = train(RULES[name](), **options)
    assert torch.equal(found, whole)
    pd.testing.assert_frame_equal(again, history, check_exact=True)


def test_the_logged_lambda_is_the_mean_over_the_steps_of_the_epoch() -> None:
    """What the epoch applied; the last of many random draws would say nothing."""
    _, history = train(RLW(TASKS, seed=7))
    generator = torch.Generator().manual_seed(7)
    drawn = torch.stack([torch.softmax(torch.randn(3, generator=generator), 0) for _ in range(4 * 8)])
    drawn = drawn.view(4, 8, 3).mean(1)
    assert np.allclose(history[[f"weight_{task.name}" for task in TASKS]], drawn, rtol=1e-12)


@pytest.mark.parametrize("name", ["gradnorm"])
def test_fit_hands_gradnorm_the_norms_at_the_last_shared_layer(name) -> None:
    x, y = table()
    model, rule, seen = small(), RULES[name](), []
    plain = rule.from_norms
    rule.from_norms = lambda losses, norms: seen.append(norms) or plain(losses, norms)
    last = model.encoder.mlp[-2].weight
    outputs = model(x)
    losses = [task.loss(outputs, y[task.name]) for task in TASKS]
    expected = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm().item() for loss in losses]
    fit(model, TASKS, Batches(x, y, batch_size=240, shuffle=False), weighting=rule, epochs=1)
    assert len(seen) == 1 and seen[0].tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["famo"])
def test_fit_hands_famo_the_losses_of_the_same_batch_after_the_update(name) -> None:
    x, y = table()
    whole = Batches(x, y, batch_size=240, shuffle=False)

    def after(model, **options) -> tuple[torch.Tensor, torch.Tensor]:
        rule, seen = RULES[name](), []
        plain = rule.after_update
        rule.after_update = lambda losses: seen.append((rule.before, losses)) or plain(losses)
        fit(model, TASKS, whole, weighting=rule, epochs=1, **options)
        assert len(seen) == 1
        return seen[0]

    model = small()
    before, losses = after(model, learning_rate=0.05)
    outputs = model(x)
    expected = [task.loss(outputs, y[task.name]).item() for task in TASKS]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12) and (losses != before).all()
    # With dropout, the same units are dropped: nothing but the update makes a difference.
    assert torch.equal(*after(small(dropout=0.5), learning_rate=0.0))


# Bad input


@pytest.mark.parametrize("name", [name for name in RULES if name != "fixed"])
@pytest.mark.parametrize(
    "values,error,message",
    [
        (
            (1.0, 2.0),
            ValueError,
            r"\['rating', 'click', 'stars'\], found .* shape \(2,\): give one loss per task",
        ),
        ((1.0, math.nan, 1.0), FloatingPointError, r"'click' is nan: look for"),
        ((1.0, 1.0, math.inf), FloatingPointError, r"'stars' is inf: look for"),
    ],
)
def test_every_rule_refuses_losses_that_it_cannot_combine(name, values, error, message) -> None:
    rule = RULES[name]()
    before = {key: value.clone() for key, value in rule.state_dict().items()}
    with pytest.raises(error, match=message):
        combine(rule, tensor(*values))
    for key, value in rule.state_dict().items():  # as it was
        assert torch.equal(value.nan_to_num(-1), before[key].nan_to_num(-1)), key


@pytest.mark.parametrize("value", [0.0, -0.2])
@pytest.mark.parametrize("name", ["gls", "famo", "stch warm", "gradnorm"])
def test_logarithms_and_ratios_need_losses_above_zero(name, value) -> None:
    with pytest.raises(
        ValueError, match=f"'click' is {value}, too small for this rule: use a loss that stays"
    ):
        combine(RULES[name](), tensor(1.0, value, 1.0))


def test_losses_below_zero_are_no_problem_where_their_bound_is_given() -> None:
    losses = tensor(1.0, -0.2, 1.0)
    assert FAMO(TASKS, lowest=[0.0, -1.0, 0.0])(losses).isfinite()
    assert STCH(TASKS)(losses).isfinite() and RLW(TASKS)(losses).isfinite() and DWA(TASKS)(losses).isfinite()


def test_famo_refuses_bad_losses_after_the_update_too() -> None:
    rule = FAMO(TASKS)
    rule(tensor(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="'stars' is -1.0"):
        rule.after_update(tensor(1.0, 1.0, -1.0))


@pytest.mark.parametrize("make", [lambda: DWA(TASKS), lambda: STCH(TASKS, warm_up=1)])
def test_an_epoch_whose_mean_says_nothing_is_refused(make) -> None:
    with pytest.raises(FloatingPointError, match="mean loss of task 'rating' is nan"):
        make().after_epoch(tensor(math.nan, 1.0, 1.0))
    with pytest.raises(ValueError, match="mean loss of task 'rating' is -0.1"):
        make().after_epoch(tensor(-0.1, 1.0, 1.0))


def test_gradnorm_refuses_bad_norms() -> None:
    with pytest.raises(ValueError, match=r"gradient norm of shape \(2,\)"):
        GradNorm(TASKS).from_norms(tensor(1.0, 1.0, 1.0), tensor(1.0, 1.0))
    with pytest.raises(FloatingPointError, match="gradient norm of task 'click' is inf"):
        GradNorm(TASKS).from_norms(tensor(1.0, 1.0, 1.0), tensor(1.0, math.inf, 1.0))


@pytest.mark.parametrize(
    "make,error,message",
    [
        (lambda: GLS("click"), TypeError, "write a list"),
        (lambda: GLS([]), TypeError, "write a list"),
        (lambda: GLS([1, 2]), TypeError, "write a list"),
        (lambda: GLS(2), TypeError, "found 2: write a list"),
        (lambda: DWA(["a", "a"]), ValueError, r"a name of its own, found \['a', 'a'\]: rename one"),
        (lambda: UncertaintyWeights(["a"]), TypeError, "give the tasks"),
        (lambda: UncertaintyWeights([Count("visits")]), ValueError, r"\['visits'\] has a noise to learn"),
        (lambda: DWA(TASKS, temperature=0), ValueError, "temperature must be a finite number above zero"),
        (lambda: RLW(TASKS, seed=0.5), ValueError, "seed must be a whole number, found 0.5"),
        (lambda: FAMO(TASKS, learning_rate=math.nan), ValueError, "learning_rate must be .* found nan"),
        (lambda: FAMO(TASKS, decay=-1), ValueError, "decay must be a finite number not below zero, found -1"),
        (lambda: FAMO(TASKS, lowest=[0.0]), ValueError, r"lowest must be 3 finite numbers, found \[0.0\]"),
        (lambda: STCH(TASKS, mu=True), ValueError, "mu must be a finite number above zero, found True"),
        (lambda: STCH(TASKS, preference=[1, 0, 1]), ValueError, "preference must be 3 positive numbers"),
        (lambda: STCH(TASKS, ideal=[1, math.nan, 1]), ValueError, "ideal must be 3 finite numbers"),
        (lambda: STCH(TASKS, warm_up=-1), ValueError, "warm_up counts epochs"),
        (lambda: STCH(TASKS, ideal=[0, 0, 0], warm_up=1), ValueError, "takes no ideal"),
        (lambda: GradNorm(TASKS, alpha="fast"), ValueError, "alpha must be .* found 'fast'"),
        (lambda: GradNorm(TASKS, initial=[1, 1, 0]), ValueError, "initial must be 3 positive numbers"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(make, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    text = str(caught.value)
    assert text.endswith(".") and text.count(". ") == 0 and ": " in text


@pytest.mark.parametrize("name", ["dwa", "gls"])
def test_fit_refuses_a_rule_of_other_tasks(name) -> None:
    with pytest.raises(ValueError, match="use one order of names"):
        train(RULES[name](TASKS[::-1]))
