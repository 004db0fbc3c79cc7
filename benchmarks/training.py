"""Rows per second of ``fit`` beside what others wrote, in one run, as ratios.

    python benchmarks/training.py             everything below (about 40 minutes on an idle machine)
    python benchmarks/training.py contest     beside others' code, at two batch sizes, on one and two threads
    python benchmarks/training.py ladder      from the tutorial's loop to ``fit``, one change at a time
    python benchmarks/training.py curves      against vocabulary, rows and batch size; dense and lazy rows
    python benchmarks/training.py contest --quick --only "ours;plain" --rounds 3

Results go to data/results/training.json; with ``--quick`` or ``--only`` they are printed and not stored.

Every contestant has a process of its own, as its user would run it, and trains the same rows (eight
categorical fields with 76,180 ids, log-uniform; eight numbers; a rating and a purchase) with the same shape
of model (embedding 16, MLP 128-64, heads 32-1) by Adam in float32: **one** call of several epochs, the first
of which does not count. A round times one epoch of each, while all others wait, in an order that rotates; a
ratio is taken within a round, so that a busy machine hits both sides. Shown are the median over the rounds
and the order statistics that hold it with 95 % confidence.

Why one call: code that asks for new memory at every step runs as fast as the C library's allocator lets it.
glibc gives large blocks back to the system when they are freed, and each new one must be cleared by the
system first, unless the process has freed a still larger block before. A second call of deepctr's ``fit`` in
one process runs after its first call freed its copy of the table, and is faster; a user's first and only
call is not. Because so much hangs on it, the contest is also held with an allocator that was told to
keep its memory (``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_``): the rows with ``kept_memory``.

- ours: the public ``fit`` on 30 % missing ratings, with masks, finite checks and a progress bar, no clipping.
- plain: ``DataLoader(TensorDataset)`` with the module a tutorial writes, one ``nn.Embedding`` per field.
- deepctr: ``SharedBottom.fit`` of deepctr-torch 0.3.0 as it comes (L2 on its embeddings, and on the weights
  of a linear part that this model never reads; progress bar); without the L2 on embeddings; without any.
- rechub: ``SharedBottom`` with ``MTLTrainer`` of torch-rechub 0.9.0.

The two libraries are no part of the book's environment: ``pip install --no-deps --target _build/peers
deepctr-torch==0.3.0 torch-rechub==0.9.0`` puts them where this script looks.

The floor is what the machine itself allows: the matrix products of one step and the memory traffic of its
table (gather, scatter and Adam's sweep), each measured in the same rounds on the same shapes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import io
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
sys.path += [str(ROOT / "_build" / "peers")]  # last: only what the environment itself does not have

from mtl_ref.batches import Batches  # noqa: E402
from mtl_ref.encoders import TabularEncoder  # noqa: E402
from mtl_ref.models import SharedEncoder  # noqa: E402
from mtl_ref.tasks import Binary, Regression  # noqa: E402
from mtl_ref.training import fit  # noqa: E402
from mtl_ref.weighting import FixedWeights  # noqa: E402

FIELDS = [50_000, 20_000, 5_000, 1_000, 100, 50, 20, 10]
NUMBERS = 8
EMBEDDING, HIDDEN, HEAD = 16, (128, 64), 32
TASKS = [Regression("rating"), Binary("purchase")]
Pace = Callable[[], None]  # to be called after every epoch
Contestant = Callable[[int, Pace], None]  # trains so many epochs
KEPT = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}


class Rows:
    """The table: ids (N, 8), numbers (N, 8), a rating and a purchase that depend on both."""

    def __init__(self, n: int, fields: list[int] = FIELDS, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        ids = [np.exp(draw.uniform(0, np.log(size + 1), n)).astype(np.int64) - 1 for size in fields]
        self.ids = torch.from_numpy(np.stack([i.clip(0, s - 1) for i, s in zip(ids, fields, strict=True)], 1))
        self.numbers = torch.from_numpy(draw.standard_normal((n, NUMBERS), dtype=np.float32))
        score = self.numbers[:, :3].sum(1) + 0.3 * (self.ids[:, -1] % 3)
        self.rating = score + torch.from_numpy(draw.standard_normal(n, dtype=np.float32))
        self.purchase = torch.from_numpy(
            (draw.random(n) < torch.sigmoid(score - 2).numpy()).astype(np.float32)
        )
        self.fields = fields


class Paced(FixedWeights):
    """Lambda one, and a word to the contest after every epoch."""

    def __init__(self, pace: Pace) -> None:
        super().__init__([1.0] * len(TASKS))
        self.after_epoch = lambda means: pace()


def ours(rows: Rows, batch: int, **options: object) -> Contestant:
    """The public ``fit``; 30 % of the ratings are missing."""
    torch.manual_seed(0)
    sizes = {"categorical": rows.fields, "numeric": NUMBERS}
    model = SharedEncoder(TabularEncoder(sizes, EMBEDDING, HIDDEN), TASKS, (HEAD,))
    rating = torch.where(torch.arange(len(rows.rating)) % 10 < 3, torch.nan, rows.rating)
    x = {"categorical": rows.ids, "numeric": rows.numbers}
    data = Batches(x, {"rating": rating, "purchase": rows.purchase}, batch_size=batch)
    return lambda epochs, pace: fit(
        model, TASKS, data, weighting=Paced(pace), epochs=epochs, progress=True, **options
    )


class Plain(nn.Module):
    """The module that a tutorial writes."""

    def __init__(self, fields: list[int]) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in fields)
        widths = [len(fields) * EMBEDDING + NUMBERS, *HIDDEN]
        self.trunk = nn.Sequential(
            nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Linear(widths[1], widths[2]), nn.ReLU()
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(HIDDEN[-1], HEAD), nn.ReLU(), nn.Linear(HEAD, 1)) for _ in TASKS
        )

    def forward(self, ids: Tensor, numbers: Tensor) -> list[Tensor]:
        vectors = [table(ids[:, c]) for c, table in enumerate(self.embeddings)]
        z = self.trunk(torch.cat([*vectors, numbers], 1))
        return [head(z).squeeze(1) for head in self.heads]


def plain(rows: Rows, batch: int) -> Contestant:
    """``DataLoader(TensorDataset)``, one embedding per field, Adam as it comes."""
    torch.manual_seed(0)
    model = Plain(rows.fields)
    data = torch.utils.data.TensorDataset(rows.ids, rows.numbers, rows.rating, rows.purchase)
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
    adam = torch.optim.Adam(model.parameters())
    squared, cross_entropy = nn.MSELoss(), nn.BCEWithLogitsLoss()

    def run(epochs: int, pace: Pace) -> None:
        for _ in range(epochs):
            for ids, numbers, rating, purchase in loader:
                a, b = model(ids, numbers)
                loss = squared(a, rating) + cross_entropy(b, purchase)
                adam.zero_grad()
                loss.backward()
                adam.step()
            pace()

    return run


def deepctr(rows: Rows, batch: int, **penalties: float) -> Contestant:
    """``SharedBottom.fit`` of deepctr-torch, with its default L2 penalties or others."""
    quiet = types.ModuleType("deepctr_torch.utils")  # its own asks the network for a newer version
    quiet.check_version = lambda version: None  # type: ignore[attr-defined]
    sys.modules.setdefault("deepctr_torch.utils", quiet)
    from deepctr_torch.callbacks import Callback
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models.multitask.sharedbottom import SharedBottom

    columns = [SparseFeat(f"c{c}", size, embedding_dim=EMBEDDING) for c, size in enumerate(rows.fields)]
    columns += [DenseFeat(f"n{k}", 1) for k in range(NUMBERS)]
    model = SharedBottom(
        columns,
        HIDDEN,
        (HEAD,),
        task_types=("regression", "binary"),
        task_names=("rating", "purchase"),
        **penalties,
    )
    model.compile("adam", loss=["mse", "binary_crossentropy"])
    x = {f"c{c}": rows.ids[:, c].numpy() for c in range(len(rows.fields))}
    x |= {f"n{k}": rows.numbers[:, k].numpy() for k in range(NUMBERS)}
    y = torch.stack([rows.rating, rows.purchase], 1).numpy()

    def run(epochs: int, pace: Pace) -> None:
        after = Callback()
        after.on_epoch_end = lambda epoch, logs=None: pace()
        model.fit(x, y, batch_size=batch, epochs=epochs, callbacks=[after])

    return run


def rechub(rows: Rows, batch: int) -> Contestant:
    """``SharedBottom`` and ``MTLTrainer`` of torch-rechub, both as they come."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import SharedBottom
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    features = [SparseFeature(f"c{c}", size, embed_dim=EMBEDDING) for c, size in enumerate(rows.fields)]
    features += [DenseFeature(f"n{k}") for k in range(NUMBERS)]
    kinds = ["regression", "classification"]
    model = SharedBottom(features, kinds, {"dims": list(HIDDEN)}, [{"dims": [HEAD]}, {"dims": [HEAD]}])
    trainer = MTLTrainer(model, kinds, n_epoch=1)
    x = {f"c{c}": rows.ids[:, c].numpy() for c in range(len(rows.fields))}
    x |= {f"n{k}": rows.numbers[:, k].numpy() for k in range(NUMBERS)}
    y = torch.stack([rows.rating, rows.purchase], 1).numpy()
    loader, *_ = DataGenerator(x, y).generate_dataloader(x, y, x, y, batch_size=batch)

    def run(epochs: int, pace: Pace) -> None:
        for _ in range(epochs):
            trainer.train_one_epoch(loader)
            pace()

    return run


class OneTable(nn.Module):
    """The tutorial's module with one table for all fields."""

    def __init__(self, fields: list[int]) -> None:
        super().__init__()
        self.rest = Plain([])
        width = len(fields) * EMBEDDING + NUMBERS
        self.rest.trunk[0] = nn.Linear(width, HIDDEN[0])
        self.table = nn.Embedding(sum(fields), EMBEDDING)
        self.register_buffer("starts", torch.tensor([0, *fields[:-1]]).cumsum(0))

    def forward(self, ids: Tensor, numbers: Tensor) -> list[Tensor]:
        z = self.rest.trunk(torch.cat([self.table(ids + self.starts).flatten(1), numbers], 1))
        return [head(z).squeeze(1) for head in self.rest.heads]


def sliced(rows: Rows, batch: int, one_table: bool, fused: bool) -> Contestant:
    """The tutorial's loop on batches cut from whole tensors, with one or two further changes."""
    torch.manual_seed(0)
    model = (OneTable if one_table else Plain)(rows.fields)
    x = {"ids": rows.ids, "numbers": rows.numbers}
    data = Batches(x, {"rating": rows.rating, "purchase": rows.purchase}, batch_size=batch)
    adam = torch.optim.Adam(model.parameters(), fused=fused)
    squared, cross_entropy = nn.MSELoss(), nn.BCEWithLogitsLoss()

    def run(epochs: int, pace: Pace) -> None:
        for _ in range(epochs):
            for part in data:
                a, b = model(part.x["ids"], part.x["numbers"])
                loss = squared(a, part.y["rating"]) + cross_entropy(b, part.y["purchase"])
                adam.zero_grad()
                loss.backward()
                adam.step()
            pace()

    return run


CONTESTANTS: dict[str, Callable[[Rows, int], Contestant]] = {
    "ours": ours,
    "plain": plain,
    "deepctr": deepctr,
    "deepctr, no embedding L2": lambda rows, batch: deepctr(rows, batch, l2_reg_embedding=0.0),
    "deepctr, no L2": lambda rows, batch: deepctr(rows, batch, l2_reg_embedding=0.0, l2_reg_linear=0.0),
    "rechub": rechub,
    "whole batches": lambda rows, batch: sliced(rows, batch, one_table=False, fused=False),
    "one table": lambda rows, batch: sliced(rows, batch, one_table=True, fused=False),
    "fused Adam": lambda rows, batch: sliced(rows, batch, one_table=True, fused=True),
    "lazy rows": lambda rows, batch: ours(rows, batch, lazy_rows=True),
}
OTHERS = ["ours", "plain", "deepctr", "deepctr, no embedding L2", "deepctr, no L2", "rechub"]
LADDER = ["ours", "plain", "whole batches", "one table", "fused Adam"]


def vocabulary(ids: int) -> list[int]:
    """The eight fields, the first one so large that there are ``ids`` in all."""
    return [ids - sum(FIELDS[1:]), *FIELDS[1:]]


def work(
    name: str,
    batch: int,
    threads: int,
    n: int,
    ids: int,
    epochs: int,
    pipe: multiprocessing.connection.Connection,
) -> None:
    """A contestant's own process: one training, which waits after every epoch until it is asked for more."""
    torch.set_num_threads(threads)
    start = time.perf_counter()

    def pace() -> None:
        nonlocal start
        pipe.send(time.perf_counter() - start)
        pipe.recv()
        gc.collect()
        start = time.perf_counter()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        CONTESTANTS[name](Rows(n, vocabulary(ids)), batch)(epochs, pace)


class Contest:
    """One process per contestant, as its user would run it; one at a time is asked to work."""

    def __init__(
        self, names: list[str], batch: int, threads: int, n: int, ids: int, epochs: int, kept_memory: bool
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipes, self.processes = {}, []
        os.environ |= KEPT if kept_memory else {}  # the C library reads it when a process starts
        for name in names:
            self.pipes[name], other = spawn.Pipe()
            process = spawn.Process(
                target=work, args=(name, batch, threads, n, ids, epochs, other), daemon=True
            )
            process.start()
            self.processes.append(process)
            self.pipes[name].recv()  # the first epoch does not count: caches, allocators, first-use imports
        for key in KEPT:
            os.environ.pop(key, None)

    def seconds(self, name: str) -> float:
        """Wall-clock seconds of one epoch."""
        self.pipes[name].send(True)
        return self.pipes[name].recv()

    def close(self) -> None:
        for pipe in self.pipes.values():
            pipe.send(False)
        for process in self.processes:
            process.join()


def typical(call: Callable[[], object], repeats: int = 30) -> float:
    """Median seconds of a short call."""
    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def floor(rows: Rows, batch: int) -> dict[str, float]:
    """Seconds a step cannot go below on this machine: products and memory traffic, measured on its shapes."""
    widths = [len(rows.fields) * EMBEDDING + NUMBERS, *HIDDEN]
    shapes = [*zip(widths, widths[1:], strict=False), (HIDDEN[-1], HEAD * len(TASKS)), (HEAD * len(TASKS), 1)]
    products = 0.0
    for into, out in shapes:
        a, w, g = torch.randn(batch, into), torch.randn(into, out), torch.randn(batch, out)
        forward, by_weight, by_input = (
            torch.empty(batch, out),
            torch.empty(into, out),
            torch.empty(batch, into),
        )
        products += typical(lambda: torch.mm(a, w, out=forward))  # noqa: B023
        products += typical(lambda: torch.mm(a.T, g, out=by_weight))  # noqa: B023
        products += typical(lambda: torch.mm(g, w.T, out=by_input))  # noqa: B023
    table, gradient = torch.randn(sum(rows.fields), EMBEDDING), torch.zeros(sum(rows.fields), EMBEDDING)
    starts = torch.tensor([0, *rows.fields[:-1]]).cumsum(0)
    ids = (rows.ids[:batch] + starts).flatten()
    gathered = torch.empty(len(ids), EMBEDDING)
    traffic = typical(lambda: torch.index_select(table, 0, ids, out=gathered))
    traffic += typical(lambda: gradient.index_add_(0, ids, gathered))
    table.requires_grad_().grad = gradient
    adam = torch.optim.Adam([table], fused=True)
    traffic += typical(adam.step)  # Adam must read and write parameter and both moments of every row
    return {"products": products, "traffic": traffic}


def busy() -> float:
    """CPU seconds that all programs have used on this machine since it started; NaN where it does not say."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:]]
    except OSError:
        return math.nan
    user, nice, system, _, _, interrupts, soft = ticks[:7]
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and the order statistics that hold the true median with at least 95 % confidence."""
    ordered, n = sorted(values), len(values)
    k = max(int(binom.ppf(0.025, n, 0.5)), 1)
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def contest(
    names: list[str],
    batch: int = 1024,
    threads: int = 1,
    n: int = 131_072,
    ids: int = 76_180,
    rounds: int = 9,
    kept_memory: bool = False,
) -> list[dict[str, object]]:
    """Time all contestants, round by round; one row each, with the ratio to the first within the round."""
    race = Contest(names, batch, threads, n, ids, rounds + 1, kept_memory)
    times: dict[str, list[float]] = {name: [] for name in names}
    floors: list[dict[str, float]] = []
    torch.set_num_threads(threads)
    rows = Rows(batch, vocabulary(ids))
    before, start = busy(), time.perf_counter()
    for turn in range(rounds):
        for position in range(len(names)):
            name = names[(turn + position) % len(names)]
            times[name].append(race.seconds(name))
        floors.append(floor(rows, batch) if ids < 2_000_000 else {"products": math.nan, "traffic": math.nan})
    # About one core per thread is ours; what is beyond it belongs to other programs, and to the kernel.
    load = (busy() - before) / (time.perf_counter() - start)
    race.close()
    limit = {part: statistics.median(f[part] for f in floors) for part in floors[0]}
    fastest = batch / sum(limit.values())
    print(
        f"\nbatch {batch:,}, {threads} thread(s), {n:,} rows, {ids:,} ids, {rounds} rounds"
        + (", the allocator keeps its memory" if kept_memory else "")
    )
    print(
        f"  floor {fastest / 1e3:.0f}k rows/s: products {limit['products'] * 1e3:.2f} ms, "
        f"traffic {limit['traffic'] * 1e3:.2f} ms a step; {load:.2f} cores were busy"
    )
    result: list[dict[str, object]] = []
    for name in names:
        speed = interval([n / t for t in times[name]])
        ratio = interval([t / o for t, o in zip(times[name], times[names[0]], strict=True)])
        row = {
            "contestant": name,
            "batch": batch,
            "threads": threads,
            "rows": n,
            "ids": ids,
            "rounds": rounds,
            "kept_memory": kept_memory,
            "busy_cores": round(load, 2),
        }
        row |= dict(zip(("rows_per_second", "low", "high"), map(round, speed), strict=True))
        row |= dict(zip(("ratio", "ratio_low", "ratio_high"), (round(r, 3) for r in ratio), strict=True))
        if ids < 2_000_000:
            row |= {"floor": round(fastest), "of_floor": round(speed[0] / fastest, 3)}
        result.append(row)
        print(
            f"  {name:<24} {speed[0] / 1e3:7.1f}k rows/s [{speed[1] / 1e3:.1f}, {speed[2] / 1e3:.1f}]   "
            f"{names[0]} is {ratio[0]:.2f} x as fast [{ratio[1]:.2f}, {ratio[2]:.2f}]   "
            f"{speed[0] / fastest:.0%} of the floor",
            flush=True,
        )
    return result


def curves(rounds: int) -> Iterable[dict[str, object]]:
    """Rows/s of ``fit`` against vocabulary (dense and lazy), batch size and rows."""
    for ids in (76_180, 300_000, 1_000_000):
        yield from contest(["lazy rows", "ours", "plain"], n=65_536, ids=ids, rounds=rounds)
    for ids in (76_180, 1_000_000, 10_000_000):  # long enough for the rare ids to come up
        yield from contest(["lazy rows"], n=262_144, ids=ids, rounds=rounds)
    for batch in (256, 4096, 16_384):
        yield from contest(["ours", "plain"], batch=batch, n=65_536, rounds=rounds)
    for n in (16_384, 524_288):
        yield from contest(["ours"], n=n, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["contest", "ladder", "curves"])
    parser.add_argument("--only", help="names of contestants, separated by semicolons")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--quick", action="store_true", help="batch 1,024 on one thread only")
    args = parser.parse_args()
    parts = [args.part] if args.part else ["contest", "ladder", "curves"]
    names = args.only.split(";") if args.only else OTHERS
    peers = {"deepctr": "deepctr_torch", "rechub": "torch_rechub"}
    for library in [peer for peer in peers if importlib.util.find_spec(peers[peer]) is None]:
        print(f"{library} is not installed (see the head of this script): left out")
        names = [name for name in names if not name.startswith(library)]
    found: dict[str, list[dict[str, object]]] = {}
    if "contest" in parts:
        settings = [(1024, 1)] if args.quick else [(1024, 1), (8192, 1), (1024, 2), (8192, 2)]
        found["contest"] = [
            r for b, t in settings for r in contest(names, b, t, args.rows, rounds=args.rounds)
        ]
        found["contest"] += contest(names, n=args.rows, rounds=args.rounds, kept_memory=True)
    if "ladder" in parts:
        found["ladder"] = [
            r for b in (1024, 8192) for r in contest(LADDER, b, n=args.rows, rounds=args.rounds)
        ]
    if "curves" in parts:
        found["curves"] = list(curves(args.rounds))
    if args.only or args.quick:
        return
    target = ROOT / "data" / "results" / "training.json"
    stored = json.loads(target.read_text("utf-8")) if target.exists() else {}
    stored |= found | {
        "command": "python benchmarks/training.py",
        "versions": {"python": platform.python_version(), "torch": importlib.metadata.version("torch")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    target.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
