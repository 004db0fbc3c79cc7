"""The hand-written passes give the gradients of autograd, and step aside where they are not sure."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mtl_ref.backpropagation import by_hand
from mtl_ref.balancing import UPGrad
from mtl_ref.batches import Batch
from mtl_ref.encoders import EmbeddingTable, TabularEncoder
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.optimisers import Optimiser
from mtl_ref.ranks import Ranks
from mtl_ref.steps import backward
from mtl_ref.tasks import Binary, Count, Multiclass, Regression
from mtl_ref.training import fit
from mtl_ref.weighting import GLS, FixedWeights

B = 64
SIZES = {"categorical": [9, 5], "numeric": 3}
ALIKE = [Regression("a"), Binary("b"), Count("c")]
MIXED = [Regression("a", variance=True), Binary("b"), Multiclass("k", classes=("x", "y", "z"))]


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def batch(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {
        "categorical": torch.stack([torch.randint(0, n, (B,), generator=g) for n in (9, 5)], 1),
        "numeric": torch.randn(B, 3, generator=g),
        "text": torch.randint(0, 6, (B, 4), generator=g),
    }
    y = {"a": torch.randn(B, generator=g), "b": (torch.rand(B, generator=g) < 0.4) * 1.0}
    y |= {"c": torch.poisson(torch.ones(B), generator=g), "k": torch.randint(0, 3, (B,), generator=g) * 1.0}
    for name in ("a", "c", "k"):  # missing labels, and some at every task
        y[name] = torch.where(torch.rand(B, generator=g) < 0.4, torch.nan, y[name])
    return Batch(x, y, {"b": torch.rand(B, generator=g)})


def model(tasks=ALIKE, sizes=SIZES, hidden=(7, 6), head=(4,), dropout=0.0, stop=()) -> SharedEncoder:
    torch.manual_seed(3)
    return SharedEncoder(TabularEncoder(sizes, 4, hidden, dropout), tasks, head, stop)


def gradients(
    made, tasks, hand: bool, rule=None, balancing=None, where="parameters"
) -> tuple[list[Tensor], Tensor]:
    """Every parameter's gradient after one batch, and the weights of the rule."""
    rule = rule or FixedWeights([1.0, 2.0, 0.5][: len(tasks)])
    passes = by_hand(made, tasks) if hand else None
    assert (passes is not None) == hand
    optimiser = Optimiser(
        made, rule, None, 0.1, 0.0, hand or where == "representation" or not balancing, False
    )
    torch.manual_seed(5)  # dropout
    with optimiser:
        optimiser.zero()
        found = backward(made, tasks, batch(), rule, balancing, where, torch.Generator(), Ranks(), passes)
        optimiser.collect(Ranks())
        kept = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in made.parameters()]
    return kept, found.weights


CASES = {
    "alike heads": {},
    "heads of several kinds": {"tasks": MIXED},
    "two hidden layers in the heads": {"head": (5, 4)},
    "linear heads": {"head": ()},
    "one layer": {"hidden": (6,)},
    "four layers": {"hidden": (7, 5, 6, 4)},
    "dropout": {"dropout": 0.4},
    "no numbers": {"sizes": {"categorical": [9, 5]}},
    "no ids": {"sizes": {"numeric": 3}},
    "a task that only reads": {"stop": ("b",)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["sum", "rule", "parameters", "representation"])
def test_gradients_are_those_of_autograd(case: str, how: str) -> None:
    tasks = CASES[case].get("tasks", ALIKE)
    if how == "rule" and case == "heads of several kinds":
        tasks = MIXED[1:]
    made = model(**(CASES[case] | {"tasks": tasks}))
    options: dict[str, object] = {"rule": GLS(tasks)} if how == "rule" else {}
    if how in ("parameters", "representation"):
        options = {"balancing": UPGrad(), "where": how}
    own, own_weights = gradients(made, tasks, True, **options)
    expected, weights = gradients(made, tasks, False, **options)
    torch.testing.assert_close(own_weights, weights, rtol=1e-9, atol=1e-12)
    largest = max(g.abs().max() for g in expected)
    alive = sum(g.abs().max() > 1e-3 * largest for g in expected)
    assert alive > len(expected) / 2  # nothing passes on zeros
    for found, wanted in zip(own, expected, strict=True):
        assert (found - wanted).abs().max() <= 1e-12 * largest


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_the_gram_matrix_is_that_of_the_whole_jacobian(tasks: int) -> None:
    many = [Regression(f"t{k}") if k % 2 else Binary(f"t{k}") for k in range(tasks)]
    made, rows = model(many), batch()
    y = {t.name: (torch.rand(B) < 0.5) * 1.0 for t in many}
    predictions = made(rows.x)
    losses = [t.loss(predictions, y[t.name]) for t in many]
    parameters = made.shared_parameters()
    jacobian = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
            for loss in losses
        ]
    )
    passes = by_hand(made, many)
    assert passes is not None
    predictions = passes.forward(rows.x, apart=True)
    torch.autograd.backward(torch.stack([t.loss(predictions, y[t.name]) for t in many]).sum())
    found = passes.jacobian(passes.at_latent())
    expected = jacobian @ jacobian.T
    assert (found.gram() - expected).abs().max() <= 1e-10 * expected.abs().max()
    # Only rows that were read are kept, each once.
    assert found.ids is not None and found.table is not None
    read = {*rows.x["categorical"][:, 0].tolist(), *(rows.x["categorical"][:, 1] + 9).tolist()}
    assert sorted(read) == found.ids.tolist() and found.table.shape == (len(read), tasks, 4)


def test_the_gram_matrix_of_a_float32_model_is_summed_in_float64() -> None:
    made = model().float()
    x = {name: t.float() if t.is_floating_point() else t for name, t in batch().x.items()}
    passes = by_hand(made, ALIKE)
    assert passes is not None
    out = passes.forward(x, apart=True)
    torch.autograd.backward(torch.stack([out[t.name].square().mean() for t in ALIKE]).sum())
    jacobian = passes.jacobian(passes.at_latent())
    assert jacobian.gram().dtype == torch.float64 and jacobian.table.dtype == torch.float32


def disjoint() -> tuple[SharedEncoder, list[Regression], dict[str, Tensor], dict[str, Tensor]]:
    """Two tasks, labelled on different rows, that want the same embedding to move in opposite directions."""
    tasks = [Regression("up"), Regression("down")]
    torch.manual_seed(0)
    made = SharedEncoder(TabularEncoder({"categorical": [3]}, 4, (8,)), tasks, (6,))
    made.heads["down"].load_state_dict(made.heads["up"].state_dict())  # one reading of z
    x = {"categorical": torch.randint(0, 3, (200, 1))}
    first = torch.arange(200) < 100
    y = {"up": torch.where(first, 3.0, torch.nan), "down": torch.where(first, torch.nan, -3.0)}
    return made, tasks, x, y


def test_labels_on_disjoint_rows_conflict_at_the_parameters_and_are_orthogonal_at_z() -> None:
    made, tasks, x, y = disjoint()
    passes = by_hand(made, tasks)
    assert passes is not None
    out = passes.forward(x, apart=True)
    torch.autograd.backward(torch.stack([t.loss(out, y[t.name]) for t in tasks]).sum())
    apart = passes.at_latent()
    flat = apart.flatten(1)
    assert (flat @ flat.T)[0, 1] == 0.0 and (flat.norm(dim=1) > 0).all()
    gram = passes.jacobian(apart).gram()
    assert gram[0, 1] / (gram[0, 0] * gram[1, 1]).sqrt() < -0.9


def test_fit_is_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    part = batch()
    found = []
    for hand in (True, False):
        if not hand:
            monkeypatch.setattr("mtl_ref.training.by_hand", lambda model, tasks: None)
        made = model(dropout=0.2)
        fit(made, ALIKE, part, batch_size=16, epochs=3, balancing=UPGrad(), clip=1.0, learning_rate=0.01)
        found.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    start = torch.cat([p.detach().flatten() for p in model(dropout=0.2).parameters()])
    assert (found[0] - found[1]).abs().max() < 1e-10 < 1e-3 < (found[0] - start).abs().max()


@dataclass(frozen=True)
class Curious(Regression):
    """A task whose loss reads another task's output."""

    def totals(self, predictions, target, weight=None):
        total, weights = super().totals(predictions, target, weight)
        return total + predictions["b"].square().sum(), weights


class Own(TabularEncoder):
    """A derived encoder: it may do anything."""


def test_what_is_not_known_is_left_to_autograd() -> None:
    assert by_hand(model(), ALIKE) is not None
    assert by_hand(model(sizes={**SIZES, "text": 6}), ALIKE) is None
    assert by_hand(model(hidden=()), ALIKE) is None
    assert by_hand(SingleTask(lambda: TabularEncoder(SIZES), ALIKE), ALIKE) is None
    assert by_hand(SharedEncoder(Own(SIZES, 4, (6,)), ALIKE), ALIKE) is None
    assert by_hand(model(), [Curious("a"), *ALIKE[1:]]) is None
    frozen = model()
    frozen.encoder.embedding.table.weight.requires_grad_(False)
    assert by_hand(frozen, ALIKE) is None
    watched = model()
    watched.heads["a"].output.register_forward_hook(lambda *_: None)
    assert by_hand(watched, ALIKE) is None
    normed = model()
    nn.utils.parametrizations.weight_norm(normed.encoder.mlp[0])
    assert by_hand(normed, ALIKE) is None
    swapped = model()
    swapped.encoder.mlp[1] = nn.GELU()
    assert by_hand(swapped, ALIKE) is None
    with torch.autocast("cpu"):
        assert by_hand(model(), ALIKE) is None


def test_a_hook_still_sees_every_step() -> None:
    made, seen = model(), []
    made.encoder.register_forward_hook(lambda *_: seen.append(1))
    fit(made, ALIKE, batch(), batch_size=16, epochs=1)
    assert len(seen) == B / 16


def test_tables_are_plain_again_after_fit() -> None:
    made = model()
    fit(made, ALIKE, batch(), batch_size=16, epochs=1, balancing=UPGrad())
    assert all(
        t.tape is None and t.weight.grad is None for t in made.modules() if isinstance(t, EmbeddingTable)
    )
