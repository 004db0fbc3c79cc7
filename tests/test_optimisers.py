"""The fast step is the plain step; the lazy one is Adam on the rows that are read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_ref.encoders import EmbeddingTable, TabularEncoder
from mtl_ref.models import SharedEncoder, SingleTask
from mtl_ref.optimisers import Adam, LazyRowAdam
from mtl_ref.ranks import Ranks
from mtl_ref.tasks import Binary, Regression
from mtl_ref.training import fit, predict

TASKS = [Regression("rating"), Binary("purchase")]
ALONE = Ranks()


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def data(n: int = 300, seed: int = 0, ids: int = 40):
    g = torch.Generator().manual_seed(seed)
    x = {
        "categorical": torch.randint(0, ids, (n, 2), generator=g),
        "numeric": torch.randn(n, 3, generator=g),
        "text": torch.randint(0, 9, (n, 5), generator=g),
    }
    rating = x["numeric"].sum(1) + (x["categorical"][:, 0] % 3) + 0.1 * torch.randn(n, generator=g)
    return x, {"rating": rating, "purchase": (torch.rand(n, generator=g) < 0.3) * 1.0}


def model(kind: str = "shared", ids: int = 40) -> nn.Module:
    torch.manual_seed(1)
    sizes = {"categorical": [ids, ids], "numeric": 3, "text": 9}
    if kind == "single":
        return SingleTask(lambda: TabularEncoder(sizes, 4, (16,)), TASKS, (8,))
    return SharedEncoder(TabularEncoder(sizes, 4, (16,)), TASKS, (8,))


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def tables(module: nn.Module) -> list[EmbeddingTable]:
    return [m for m in module.modules() if isinstance(m, EmbeddingTable)]


def plainly(made: nn.Module, steps: int, batch: int, clip: float | None) -> None:
    """The loop that everyone writes: autograd through the tables, Adam as torch has it."""
    x, y = data()
    adam = torch.optim.AdamW(made.parameters(), lr=0.01, weight_decay=0.1)
    for k in range(steps):
        rows = slice(k * batch, (k + 1) * batch)
        predictions = made({name: t[rows] for name, t in x.items()})
        loss = sum(task.loss(predictions, y[task.name][rows]) for task in TASKS)
        adam.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(made.parameters(), clip)
        adam.step()


def test_adam_is_that_of_torch_to_the_last_bit() -> None:
    """Two groups, one with decay, a float32 parameter among float64 ones, and gradients that are missing."""

    def made() -> list[torch.Tensor]:
        torch.manual_seed(2)
        shapes = [(5, 3), (4,), (2, 2), (3,)]
        own = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        return [*own[:3], nn.Parameter(own[3].detach().float())]

    ours, theirs = made(), made()
    adam = Adam(
        [{"params": ours[:2] + ours[3:], "weight_decay": 0.1}, {"params": ours[2:3], "weight_decay": 0.0}],
        0.01,
    )
    groups = [
        {"params": theirs[:2] + theirs[3:], "weight_decay": 0.1},
        {"params": theirs[2:3], "weight_decay": 0.0},
    ]
    expected = torch.optim.AdamW(groups, lr=0.01, fused=True)
    for step in range(12):
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            torch.manual_seed(100 * step + k)
            gradient = None if step % 3 == 1 and k in (1, 2) else torch.randn(a.shape).to(a)
            a.grad, b.grad = gradient, None if gradient is None else gradient.clone()
        for group in (*adam.param_groups, *expected.param_groups):
            group["lr"] = 0.01 / (1 + step)
        adam.step()
        expected.step()
        if step == 6:  # a resumed run goes on as if nothing had happened
            state = adam.state_dict()
            state = {
                "lr": state["lr"],
                "parts": [
                    [[m.clone() for m in part[0]], [v.clone() for v in part[1]], part[2].clone()]
                    for part in state["parts"]
                ],
            }
            adam = Adam(
                [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in adam.param_groups], 9.9
            )
            adam.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], made()[0])


@pytest.mark.parametrize("kind", ["shared", "single"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("ids", [40, 3000])  # a buffer that is cleared whole, and one that is cleared by row
def test_fit_makes_the_steps_of_the_plain_loop(kind, clip, ids) -> None:
    from mtl_ref.batches import Batches

    expected, found = model(kind, ids), model(kind, ids)
    plainly(expected, 10, 30, clip)
    batches = Batches(*data(), batch_size=30, shuffle=False)
    fit(found, TASKS, batches, epochs=1, learning_rate=0.01, weight_decay=0.1, clip=clip)
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-10, atol=1e-12)


def test_after_fit_the_tables_are_plain_embeddings_again() -> None:
    made = model()
    fit(made, TASKS, data(), epochs=1)
    x, y = data()
    assert all(table.tape is None and table.weight.grad is None for table in tables(made))
    TASKS[0].loss(made(x), y["rating"]).backward()
    assert all(table.weight.grad is not None for table in tables(made))


def test_a_table_that_is_frozen_stays() -> None:
    made = model()
    frozen = tables(made)[0].weight.requires_grad_(False)
    before = frozen.clone()
    fit(made, TASKS, data(), epochs=2, learning_rate=0.05)
    assert torch.equal(frozen, before)


def lazy(rows: int = 7) -> tuple[EmbeddingTable, LazyRowAdam]:
    torch.manual_seed(2)
    table = EmbeddingTable(rows, 3)
    return table, LazyRowAdam([table])


def step(table: EmbeddingTable, adam: LazyRowAdam, ids: list[int], rate: float = 0.1) -> torch.Tensor:
    table.tape = []
    target = torch.arange(3.0)
    ((table(torch.tensor(ids)) - target) ** 2).sum().backward()
    adam.collect(ALONE)
    adam.step(rate)
    return table.weight.detach().clone()


def test_when_every_row_is_read_lazy_is_dense() -> None:
    table, adam = lazy()
    other = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
    dense = torch.optim.Adam(other.parameters(), lr=0.1)
    for _ in range(20):
        ids = [*range(7), 3, 3]  # a row that is read three times counts three times
        found = step(table, adam, ids)
        dense.zero_grad()
        ((other(torch.tensor(ids)) - torch.arange(3.0)) ** 2).sum().backward()
        dense.step()
        torch.testing.assert_close(found, other.weight.detach(), rtol=1e-10, atol=1e-12)


def test_a_row_that_is_not_read_neither_moves_nor_forgets() -> None:
    table, adam = lazy()
    before = step(table, adam, [0, 1])
    moments = adam.moments[0].clone()
    after = step(table, adam, [2])
    assert torch.equal(after[[0, 1, 3, 4, 5, 6]], before[[0, 1, 3, 4, 5, 6]])
    assert not torch.equal(after[2], before[2])
    assert torch.equal(adam.moments[0][:2], moments[:2]) and (moments[:2] != 0).any()


def test_bias_correction_counts_all_steps_as_the_formula_says() -> None:
    table, adam = lazy()
    start = table.weight.detach().clone()
    for _ in range(4):
        step(table, adam, [0])
    found = step(table, adam, [5])
    gradient = 2 * (start[5] - torch.arange(3.0))
    mean = 0.1 * gradient / (1 - 0.9**5)
    root = (0.001 * gradient**2 / (1 - 0.999**5)).sqrt()
    torch.testing.assert_close(found[5], start[5] - 0.1 * mean / (root + 1e-8), rtol=1e-12, atol=1e-12)


def test_lazy_rows_learn_and_have_no_decay() -> None:
    made, ids = model(ids=3000), 3000
    never = tables(made)[0].weight.detach().clone()
    x, y = data(ids=20)
    history = fit(
        made, TASKS, (x, y), epochs=30, learning_rate=0.02, lazy_rows=True, weight_decay=0.1, clip=5.0
    )
    assert history.train_rating.iloc[-1] < 0.3 * history.train_rating.iloc[0]
    seen = torch.zeros(2 * ids, dtype=torch.bool)
    seen[(x["categorical"] + torch.tensor([0, ids])).flatten()] = True
    assert torch.equal(tables(made)[0].weight[~seen], never[~seen])
    assert (tables(made)[0].weight[seen] != never[seen]).any(1).all()


def test_lazy_clipping_bounds_the_whole_gradient() -> None:
    """Adam hardly sees a scale, but a gradient far below its epsilon moves nothing."""
    found = {}
    for clip in (1e-12, None):
        made = model()
        fit(made, TASKS, data(), epochs=1, lazy_rows=True, clip=clip, learning_rate=0.01)
        found[clip] = (weights(made) - weights(model())).abs().max().item()
    assert found[1e-12] < 0.1 * found[None]  # gradients far below Adam's epsilon hardly move anything


def test_lazy_rows_have_their_own_adam() -> None:
    with pytest.raises(ValueError, match="lazy_rows"):
        fit(model(), TASKS, data(), lazy_rows=True, optimizer=torch.optim.SGD)


def test_another_optimiser_trains_tables_too() -> None:
    made = model()
    before = weights(made)
    fit(made, TASKS, data(), epochs=2, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05))
    x, _ = data()
    moved = (weights(made) != before).double().mean()
    assert moved > 0.5 and all(abs(p).max() < 100 for p in predict(made, TASKS, x).values())
