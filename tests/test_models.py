"""Encoders, models, fixed weights: what is shared, what is not, and what a gradient may reach."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mtl_ref.encoders import BagOfTokens, FusedEmbedding, TabularEncoder, perceptron
from mtl_ref.models import Encoded, SharedEncoder, SingleTask, build, count_parameters
from mtl_ref.tasks import Binary, Multiclass, Regression
from mtl_ref.weighting import FixedWeights

SIZES = {"categorical": [5, 3], "numeric": 2, "text": 11}
ONE = TabularEncoder({"numeric": 2}, hidden=(3,))
TASKS = [
    Regression("rating"),
    Binary("purchase", initial=(-3.0,)),
    Multiclass("kind", classes=("a", "b", "c")),
]


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)


def inputs(n: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, 11, (n, 7), generator=generator)
    text[0] = 0  # a row without a word
    return {
        "categorical": torch.stack([torch.randint(0, k, (n,), generator=generator) for k in (5, 3)], 1),
        "numeric": torch.randn(n, 2, generator=generator),
        "text": text,
    }


def encoder() -> TabularEncoder:
    return TabularEncoder(SIZES, embedding=4, hidden=(16, 8), text_embedding=3)


def test_the_fused_table_equals_one_table_per_column() -> None:
    fused = FusedEmbedding([5, 3], 4)
    ids = inputs()["categorical"]
    tables = [nn.Embedding.from_pretrained(fused.table.weight[a:b]) for a, b in ((0, 5), (5, 8))]
    apart = torch.cat([table(ids[:, c]) for c, table in enumerate(tables)], 1)
    assert torch.equal(fused(ids), apart)


def test_the_bag_equals_the_mean_of_each_text_and_ignores_padding() -> None:
    bag, text = BagOfTokens(11, 3), inputs()["text"]
    rows = [bag.table.weight[row[row != 0]].mean(0) if row.any() else torch.zeros(3) for row in text]
    assert torch.allclose(bag(text), torch.stack(rows))
    padded = torch.cat([text, torch.zeros(len(text), 9, dtype=torch.long)], 1)
    assert torch.allclose(bag(padded), bag(text), rtol=1e-14)
    bag(text).sum().backward()
    assert (bag.table.weight.grad[0] == 0).all()
    assert bag(torch.zeros(0, 7, dtype=torch.long)).shape == (0, 3)


def test_the_order_of_the_words_does_not_matter_to_a_bag() -> None:
    bag, text = BagOfTokens(11, 3), inputs()["text"]
    assert torch.allclose(bag(text.flip(1)), bag(text), rtol=1e-14)


def test_rows_are_encoded_one_by_one() -> None:
    x, model = inputs(), SharedEncoder(encoder(), TASKS).eval()
    whole = model(x)
    for n in range(6):
        alone = model({key: value[n : n + 1] for key, value in x.items()})
        for name in whole:
            assert torch.allclose(alone[name][0], whole[name][n], rtol=1e-12)


def test_outputs_have_the_shape_of_the_contract() -> None:
    found = SharedEncoder(encoder(), TASKS)(inputs())
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "rating": (6,),
        "purchase": (6,),
        "kind": (6, 3),
    }


@pytest.mark.parametrize("make", [lambda t: SharedEncoder(encoder(), t), lambda t: SingleTask(encoder, t)])
def test_forward_is_decode_of_encode(make) -> None:
    model, x = make(TASKS).eval(), inputs()
    encoded = model.encode(x)
    assert isinstance(encoded, Encoded)
    direct, split = model(x), model.decode(encoded)
    assert all(torch.equal(direct[name], split[name]) for name in direct)


def reached(model: nn.Module, name: str) -> set[str]:
    model.zero_grad()
    model(inputs())[name].square().sum().backward()
    return {key for key, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_shared_parameters_are_those_that_every_task_reaches() -> None:
    model = SharedEncoder(encoder(), TASKS)
    shared = {id(p) for p in model.shared_parameters()}
    common = set.intersection(*(reached(model, task.name) for task in TASKS))
    assert {id(p) for key, p in model.named_parameters() if key in common} == shared and shared


def test_stop_gradient_reads_without_shaping() -> None:
    model = SharedEncoder(encoder(), TASKS, stop_gradient=["kind"])
    assert not any(key.startswith("encoder") for key in reached(model, "kind"))
    assert any(key.startswith("encoder") for key in reached(model, "rating"))
    open_model = SharedEncoder(encoder(), TASKS)
    open_model.load_state_dict(model.state_dict())
    assert torch.equal(open_model(inputs())["kind"], model(inputs())["kind"])
    assert SharedEncoder(encoder(), TASKS, stop_gradient=["kind", "rating"]).shared_parameters() == []


def test_single_tasks_share_nothing() -> None:
    model = SingleTask(encoder, TASKS)
    sets = [reached(model, task.name) for task in TASKS]
    assert all(not a & b for i, a in enumerate(sets) for b in sets[:i])
    assert model.shared_parameters() == [] and model.encode(inputs()).shared == ()


def test_one_task_makes_both_models_the_same() -> None:
    torch.manual_seed(5)
    shared = SharedEncoder(encoder(), TASKS[:1])
    torch.manual_seed(5)
    single = SingleTask(encoder, TASKS[:1])
    assert torch.equal(shared(inputs())["rating"], single(inputs())["rating"])
    assert count_parameters(shared) == count_parameters(single)


def test_the_order_of_the_tasks_permutes_the_predictions_only() -> None:
    model = SharedEncoder(encoder(), TASKS)
    turned = SharedEncoder(encoder(), TASKS[::-1])
    turned.load_state_dict(model.state_dict())
    one, two = model(inputs()), turned(inputs())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_task_may_have_the_name_of_a_dictionarys_method() -> None:
    tasks = [Binary("items"), Binary("keys"), Binary("values")]
    for model in (SharedEncoder(encoder(), tasks), SingleTask(encoder, tasks)):
        assert set(model(inputs())) == {"items", "keys", "values"}
        again = build(model.config, tasks)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(inputs())["items"], model(inputs())["items"])


def test_a_head_starts_at_the_constant_of_its_task() -> None:
    model = SharedEncoder(encoder(), TASKS)
    assert model.heads["purchase"].output.bias.item() == -3


@pytest.mark.parametrize(
    "make", [lambda t: SharedEncoder(encoder(), t, stop_gradient=["kind"]), lambda t: SingleTask(encoder, t)]
)
def test_a_model_can_be_built_again_from_its_configuration(make) -> None:
    model = make(TASKS)
    again = build(copy.deepcopy(model.config), TASKS)
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(value, again(inputs())[name]) for name, value in model(inputs()).items())
    assert again.config == model.config


@pytest.mark.parametrize(
    "sizes", [{"categorical": [4]}, {"numeric": 3}, {"text": 9}, {"numeric": 1, "text": 5}]
)
def test_any_subset_of_inputs_works(sizes) -> None:
    x = {
        "categorical": torch.tensor([[3], [0]]),
        "numeric": torch.ones(2, sizes.get("numeric", 0)),
        "text": torch.tensor([[1, 0], [0, 0]]),
    }
    used = TabularEncoder(sizes, hidden=())
    assert used({key: x[key] for key in sizes}).shape == (2, used.width)


def test_dropout_only_in_training() -> None:
    model = SharedEncoder(TabularEncoder(SIZES, dropout=0.5), TASKS)
    assert not torch.equal(model(inputs())["rating"], model(inputs())["rating"])
    model.eval()
    assert torch.equal(model(inputs())["rating"], model(inputs())["rating"])
    assert len(perceptron([3])) == 0


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: TabularEncoder({}), "names no input"),
        (lambda: TabularEncoder({"pictures": 3}), "found \\['pictures'\\]"),
        (lambda: FusedEmbedding([3, 0], 4), "at least one id"),
        (lambda: SharedEncoder(encoder(), TASKS, stop_gradient=["price"]), "names \\['price'\\]"),
        (lambda: SharedEncoder(encoder(), [TASKS[0], TASKS[0]]), "a name of its own"),
        (lambda: SharedEncoder(nn.Linear(2, 2), TASKS), "needs an integer attribute 'width'"),
        (lambda: SingleTask(lambda: ONE, TASKS), "found the same one twice"),
        (lambda: build({"class": "Oracle"}, TASKS), "cannot build a model"),
        (lambda: FixedWeights([]), "all weights are zero"),
        (lambda: FixedWeights([1.0, -1.0]), "task 1 must be a finite number of at least 0"),
        (lambda: FixedWeights([float("nan"), 1]), "finite"),
        (lambda: FixedWeights([0.0, 0.0]), "all weights are zero"),
        (lambda: FixedWeights([1.0])(torch.ones(2)), "1 weights for 2 tasks"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_fixed_weights_are_linear_and_named() -> None:
    rule = FixedWeights({"rating": 0.5, "purchase": 2.0})
    losses = torch.tensor([3.0, 0.25], requires_grad=True)
    total = rule(losses)
    total.backward()
    assert total.item() == 2.0 and losses.grad.tolist() == [0.5, 2.0]
    assert rule.names == ("rating", "purchase") and not list(rule.parameters())
    assert np.isclose(rule(4 * losses).item(), 4 * total.item())
