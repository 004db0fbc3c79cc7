"""A run that is killed and continued ends where it would have ended; a damaged checkpoint is never used."""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from mtl_ref import checkpoints
from mtl_ref.batches import Batches
from mtl_ref.encoders import TabularEncoder
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder
from mtl_ref.shards import Shards, write
from mtl_ref.tasks import Binary, Regression
from mtl_ref.training import cosine, fit

TASKS = [Regression("rating"), Binary("purchase")]


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


def rows(n: int = 600, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = {"categorical": torch.randint(0, 30, (n, 2), generator=g), "numeric": torch.randn(n, 3, generator=g)}
    rating = x["numeric"].sum(1) + torch.randn(n, generator=g)
    rating[torch.rand(n, generator=g) < 0.3] = torch.nan
    purchase = (torch.rand(n, generator=g) < 0.3) * 1.0
    return x, {"rating": rating, "purchase": purchase}


def model(seed: int = 1, dropout: float = 0.1) -> SharedEncoder:
    torch.manual_seed(seed)
    sizes = {"categorical": [30, 30], "numeric": 3}
    return SharedEncoder(TabularEncoder(sizes, 4, (16, 8), dropout), TASKS, (8,))


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


OPTIONS = {
    "epochs": 6,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "weight_decay": 1e-3,
    "schedule": cosine,
    "clip": 1.0,
    "patience": 6,
}


class Slow(Batches):
    """A source that takes its time, so that there are moments at which to be killed."""

    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.004)
            yield batch

    def to(self, device):
        return self


def source(kind: str, folder: Path):
    if kind == "memory":
        x, y = rows()
        return Slow(x, y, batch_size=32)
    return Shards(folder / "shards", batch_size=32, window_rows=128)


def shards(folder: Path) -> None:
    x, y = rows()
    table = pd.DataFrame(x["categorical"].numpy(), columns=["a", "b"]).astype(str)
    table[["u", "v", "w"]] = x["numeric"].numpy()
    table["rating"], table["purchase"] = y["rating"].numpy(), y["purchase"].numpy()
    features = Features(categorical=["a", "b"], numeric=["u", "v", "w"]).fit(table)
    write(folder / "shards", table, features, TASKS, rows_per_shard=170)


def sized(kind: str, folder: Path) -> SharedEncoder:
    if kind == "memory":
        return model()
    torch.manual_seed(1)
    features = Features.load(folder / "shards" / "features.json")
    return SharedEncoder(TabularEncoder(features.sizes, 4, (16, 8), 0.1), TASKS, (8,))


def run(kind: str, folder: Path, **options):
    made = sized(kind, folder)
    history = fit(made, TASKS, source(kind, folder), rows(200, seed=5), **OPTIONS, **options)
    return made, history


def child(kind: str, folder: Path, lazy: bool) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    made, history = run(
        kind, folder, checkpoint=folder / "c", checkpoint_every=5, resume=True, lazy_rows=lazy
    )
    torch.save((weights(made), history.to_dict()), folder / "end.partial")
    os.replace(folder / "end.partial", folder / "end.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL needs a POSIX system")
@pytest.mark.parametrize(("kind", "lazy"), [("memory", False), ("memory", True), ("shards", False)])
def test_killed_at_ten_random_moments_the_weights_are_those_of_the_whole_run(kind, lazy, tmp_path) -> None:
    if kind == "shards":
        shards(tmp_path)
    whole, expected = run(kind, tmp_path, lazy_rows=lazy)
    moments = random.Random(f"{kind} {lazy}")
    kills = resumed_from = 0
    fork = multiprocessing.get_context("fork")
    for _ in range(60):
        process = fork.Process(target=child, args=(kind, tmp_path, lazy))
        process.start()
        if kills < 10:
            process.join(moments.uniform(0.03, 0.25))
        else:
            process.join(60)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        resumed_from += bool(checkpoints.found(tmp_path / "c"))
        if (tmp_path / "end.pt").exists() and kills >= 10:
            break
        if (tmp_path / "end.pt").exists():  # done before it could be killed often enough: once more
            (tmp_path / "end.pt").unlink()
            for path in (
                checkpoints.found(tmp_path / "c")[:1] if len(checkpoints.found(tmp_path / "c")) > 1 else []
            ):
                path.unlink()
    assert kills == 10 and resumed_from > 2
    found, history = torch.load(tmp_path / "end.pt", weights_only=False)
    assert torch.equal(found, weights(whole))
    pd.testing.assert_frame_equal(pd.DataFrame(history), expected, check_exact=True)
    assert {path.suffix for path in (tmp_path / "c").iterdir()} <= {".checkpoint", ".partial"}


@pytest.mark.parametrize("every", [1, 7, None])
def test_writing_checkpoints_changes_nothing(every, tmp_path) -> None:
    plain, first = run("memory", tmp_path)
    saved, second = run("memory", tmp_path, checkpoint=tmp_path / "c", checkpoint_every=every)
    assert torch.equal(weights(plain), weights(saved))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert len(checkpoints.found(tmp_path / "c")) == checkpoints.KEEP


def test_a_finished_run_returns_at_once(tmp_path) -> None:
    one, first = run("memory", tmp_path, checkpoint=tmp_path / "c")
    before = [path.stat().st_mtime_ns for path in checkpoints.found(tmp_path / "c")]
    two, second = run("memory", tmp_path, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(weights(one), weights(two))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert before == [path.stat().st_mtime_ns for path in checkpoints.found(tmp_path / "c")]


def small(folder: Path) -> tuple[Path, Path]:
    for step in (1, 2):
        checkpoints.save(folder, step, {"step": step, "values": torch.arange(5.0)})
    new, old = checkpoints.found(folder)
    return new, old


def test_cut_short_at_any_byte_it_is_refused_and_the_previous_one_used(tmp_path) -> None:
    new, _ = small(tmp_path)
    content = new.read_bytes()
    for length in range(len(content)):
        new.write_bytes(content[:length])
        with pytest.raises(ValueError, match=new.name):
            checkpoints.read(new)
    with pytest.warns(UserWarning, match=new.name):
        state = checkpoints.newest(tmp_path)
    assert state is not None and state["step"] == 1


def test_one_changed_bit_is_noticed(tmp_path) -> None:
    new, _ = small(tmp_path)
    content = bytearray(new.read_bytes())
    for position in range(0, len(content), 13):
        changed = content.copy()
        changed[position] ^= 1 << position % 8
        new.write_bytes(changed)
        with pytest.raises(ValueError, match=new.name):
            checkpoints.read(new)


def test_all_damaged_is_an_error_and_none_is_a_start(tmp_path) -> None:
    assert checkpoints.newest(tmp_path) is None
    for path in small(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in"):
        checkpoints.newest(tmp_path)


class Exploit:
    def __reduce__(self):
        return os.system, ("echo hacked",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capfd) -> None:
    checkpoints.save(tmp_path, 1, {"bad": Exploit()})
    with pytest.raises(ValueError, match="tensors and plain data"):
        checkpoints.read(checkpoints.found(tmp_path)[0])
    assert "hacked" not in capfd.readouterr().out


def test_a_disk_that_is_full_leaves_the_older_ones(tmp_path, monkeypatch) -> None:
    new, old = small(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, 3, {"step": 3})
    assert checkpoints.found(tmp_path) == [new, old] and sorted(tmp_path.iterdir()) == [old, new]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 64}, "batch_size"),
        ({"epochs": 9}, "epochs"),
        ({"seed": 3}, "seed"),
        ({"clip": 2.0}, "clip"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(change, named, tmp_path) -> None:
    x, y = rows()
    options = OPTIONS | {"patience": None}
    fit(model(), TASKS, (x, y), **options, checkpoint=tmp_path)
    made = model(seed=4)
    before = weights(made)
    with pytest.raises(ValueError, match=named):
        fit(made, TASKS, (x, y), **(options | change), checkpoint=tmp_path, resume=True)
    assert torch.equal(before, weights(made))


def test_a_folder_in_use_is_not_overwritten(tmp_path) -> None:
    small(tmp_path)
    with pytest.raises(ValueError, match="resume=True"):
        fit(model(), TASKS, rows(), checkpoint=tmp_path)
    for options in ({"resume": True}, {"checkpoint_every": 3}):
        with pytest.raises(ValueError, match="checkpoint"):
            fit(model(), TASKS, rows(), **options)


def test_the_state_is_not_shared_with_the_run(tmp_path) -> None:
    """What was written is what stood then, whatever training did to the tensors afterwards."""
    made = model()
    state = {"model": made.state_dict()}
    before = copy.deepcopy(weights(made))
    checkpoints.save(tmp_path, 1, state)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    other = model(seed=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(checkpoints.newest(tmp_path)["model"])
    assert torch.equal(weights(other), before)
