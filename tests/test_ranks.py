"""Several processes train what one process would have trained, or say why not; they never wait for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from train_with_ranks import train

from mtl_ref.ranks import Ranks, join

HERE = Path(__file__).resolve().parent
CASES = ["plain", "lazy", "rule", "balancing parameters", "balancing representation", "uneven"]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")


def torchrun(folder: Path, cases: list[str], ranks: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += [str(HERE / "train_with_ranks.py"), str(folder), ",".join(cases)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(folder, CASES)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("case", CASES[:-1])
def test_two_processes_end_where_one_ends(case, together, tmp_path) -> None:
    weights, history = train(case, tmp_path)
    for rank in (0, 1):
        found, table = torch.load(together / f"{case}-{rank}.pt", weights_only=False)
        torch.testing.assert_close(found, weights, rtol=1e-9, atol=1e-11)
        pd.testing.assert_frame_equal(pd.DataFrame(table), pd.DataFrame(history), rtol=1e-8)
    first, second = (torch.load(together / f"{case}-{r}.pt", weights_only=False)[0] for r in (0, 1))
    assert torch.equal(first, second)


def test_uneven_data_is_an_error_on_every_rank(together) -> None:
    for rank in (0, 1):
        message = (together / f"uneven-{rank}.error").read_text()
        assert "ValueError: the ranks disagree about rows, found [331, 332]" in message


def test_a_dead_rank_is_an_error_within_30_seconds_and_the_run_can_go_on(tmp_path) -> None:
    start = time.monotonic()
    assert torchrun(tmp_path, ["dies"]).returncode != 0
    assert time.monotonic() - start < 30
    assert not (tmp_path / "dies-0.pt").exists()
    if (tmp_path / "dies-0.error").exists():  # unless torchrun ended this rank first
        assert "another rank stopped answering rank 0 of 2" in (tmp_path / "dies-0.error").read_text()
    assert torchrun(tmp_path, ["continues"]).returncode == 0
    whole, history = train("whole", tmp_path)
    found, table = torch.load(tmp_path / "continues-0.pt", weights_only=False)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-11)
    pd.testing.assert_frame_equal(pd.DataFrame(table), pd.DataFrame(history), rtol=1e-8)


def test_alone_every_sum_is_the_value_itself() -> None:
    alone = join()
    values = torch.arange(3.0)
    assert (alone.rank, alone.world) == (0, 1) and alone.sum(values) is values
    assert alone.gather("a") == ["a"] and alone.first(7) == 7
    alone.agree({"rows": float("nan")})
    parameter = torch.nn.Parameter(torch.ones(2))
    alone.sum_gradients([parameter])
    alone.copy_first([values])
    assert parameter.grad is None and isinstance(alone, Ranks)
