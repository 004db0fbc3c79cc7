"""Mini-batches: every row once an epoch, orders that can be resumed, errors that name the tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_ref.batches import Batches


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def make(n: int = 10, **options) -> Batches:
    row = torch.arange(n)
    x = {"categorical": row.unsqueeze(1), "numeric": row.unsqueeze(1) * 1.0}
    return Batches(x, {"a": row * 1.0}, {"a": row + 1.0}, **options)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 2**40), shuffle=st.booleans())
def test_an_epoch_is_a_permutation_and_rows_stay_together(
    n: int, size: int, seed: int, shuffle: bool
) -> None:
    batches = make(n, batch_size=size, seed=seed, shuffle=shuffle)
    seen = list(batches)
    assert len(seen) == len(batches)
    rows = torch.cat([b.y["a"] for b in seen])
    assert sorted(rows.tolist()) == list(range(n))
    for batch in seen:
        assert torch.equal(batch.x["numeric"].squeeze(1), batch.y["a"])
        assert torch.equal(batch.w["a"], batch.y["a"] + 1)
    if not shuffle:
        assert rows.tolist() == list(range(n))


def test_epochs_differ_and_seeds_repeat() -> None:
    def order(batches: Batches) -> list[float]:
        return torch.cat([b.y["a"] for b in batches]).tolist()

    one, two = make(50, seed=3), make(50, seed=3)
    first = order(one)
    assert first == order(two) and first != order(one) and first != order(make(50, seed=4))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 15), stop=st.integers(0, 60))
def test_a_saved_position_continues_with_the_next_batch(n: int, size: int, stop: int) -> None:
    def stream(batches: Batches):
        while batches.epoch < 3:
            for batch in batches:
                yield batch.y["a"].tolist()

    whole = list(stream(make(n, batch_size=size, seed=1)))
    stop = min(stop, len(whole) - 1)
    cut = make(n, batch_size=size, seed=1)
    walk = stream(cut)
    head = [next(walk) for _ in range(stop)]
    resumed = make(n, batch_size=size, seed=99)
    resumed.load_state_dict(cut.state_dict())
    assert head + [b for b in stream(resumed) if b] == whole


@pytest.mark.parametrize(
    "build,message",
    [
        (lambda: Batches({}, {}), "x holds no tensor"),
        (lambda: Batches({"n": torch.zeros(2)}, {"a": torch.zeros(3)}), "same number of rows"),
        (lambda: Batches({"n": torch.zeros(2)}, {}, {"a": torch.zeros(2)}), "use one set of names"),
        (lambda: Batches({"n": torch.zeros(0)}, {}), "no rows"),
        (lambda: make(3, batch_size=0), "batch_size must be a whole number"),
        (lambda: make(3).load_state_dict(make(4).state_dict()), "the position is not of these batches"),
    ],
)
def test_bad_input_is_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_moving_keeps_the_position() -> None:
    batches = make(10, batch_size=4)
    walk = iter(batches)
    next(walk)
    moved = batches.to("cpu")
    assert moved.state_dict() == batches.state_dict()
    assert torch.equal(next(iter(moved)).y["a"], next(walk).y["a"])
