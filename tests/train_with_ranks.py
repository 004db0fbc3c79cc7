"""What ``torchrun`` starts in the tests: ``python train_with_ranks.py FOLDER CASE``; not a test itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from mtl_ref.batches import Batches
from mtl_ref.encoders import TabularEncoder
from mtl_ref.models import SharedEncoder
from mtl_ref.tasks import Binary, Regression
from mtl_ref.training import fit

TASKS = [Regression("rating"), Binary("purchase")]


class Geometric(torch.nn.Module):
    """A rule that is not linear in the losses, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tilt = torch.nn.Parameter(torch.zeros(2))

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        return losses.log().mul(torch.softmax(self.tilt, 0)).sum().exp()


class MinimumNorm(torch.nn.Module):
    """MGDA for two tasks, in closed form."""

    def forward(self, gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        a = ((gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1])).clamp(0, 1)
        return torch.stack([a, 1 - a])


class DiesAt(Batches):
    """A rank that is killed before a batch."""

    batch = 10**9

    def __iter__(self):
        for k, rows in enumerate(super().__iter__()):
            if k == self.batch:
                os.kill(os.getpid(), signal.SIGKILL)
            yield rows

    def to(self, device):
        return self


def rows(n: int):
    g = torch.Generator().manual_seed(0)
    x = {"categorical": torch.randint(0, 30, (n, 2), generator=g), "numeric": torch.randn(n, 3, generator=g)}
    rating = x["numeric"].sum(1) + torch.randn(n, generator=g)
    rating[torch.rand(n, generator=g) < 0.8] = torch.nan  # few labels, unevenly over the ranks
    purchase = (torch.rand(n, generator=g) < 0.3) * 1.0
    return x, {"rating": rating, "purchase": purchase}, {"purchase": 1 + torch.rand(n, generator=g)}


def train(case: str, folder: Path, rank: int = 0) -> tuple[torch.Tensor, dict]:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # other initial weights on every rank: rank 0's count
    sizes = {"categorical": [30, 30], "numeric": 3}
    model = SharedEncoder(TabularEncoder(sizes, 4, (16, 8)), TASKS, (8,))
    options: dict = {"epochs": 3, "learning_rate": 1e-2, "clip": 1.0, "validation": rows(101)}
    n = 331  # the last batch has 11 rows: not the same number for every rank
    if case == "uneven":
        n += rank
    data = DiesAt(*rows(n), batch_size=32)
    if case == "rule":
        options["weighting"] = Geometric()
    if case.startswith("balancing"):
        options |= {"balancing": MinimumNorm(), "gradients": case.split()[1], "weight_decay": 0.1}
    if case == "lazy":
        options["lazy_rows"] = True
    if case in ("dies", "continues", "whole"):
        options |= {"epochs": 4} | ({} if case == "whole" else {"checkpoint": folder / "c"})
    if case in ("dies", "continues"):
        options |= {"checkpoint_every": 4, "resume": True}
    if case == "dies" and rank == 1:
        data.batch = 7
    history = fit(model, TASKS, data, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), history.to_dict()


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for case in sys.argv[2].split(","):
        try:
            torch.save(train(case, folder, rank), folder / f"{case}-{rank}.pt")
        except Exception as error:
            (folder / f"{case}-{rank}.error").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
