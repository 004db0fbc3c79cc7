"""What a step costs when task gradients are balanced: ours beside TorchJD's, in one run, as ratios.

    python benchmarks/balancing.py                      two and eight tasks (25 minutes on an idle machine)
    python benchmarks/balancing.py --quick              the plain sum and UPGrad only, three short rounds
    python benchmarks/balancing.py --tasks 8 --only "ours, UPGrad;TorchJD, UPGrad" --rounds 3

Results go to data/results/balancing.json; with ``--quick``, ``--only`` or ``--tasks`` they are printed and
not stored.

The rows, the model and the rules of the contest are those of ``training.py``: batch 1,024 on one thread,
float32, Adam; a process for each contestant; **one** call of several epochs, the first of which does not
count; in every round one epoch of each while all others wait, in an order that rotates; ratios within a
round; the median and the order statistics that hold it with 95 % confidence. The tasks are a rating and a
purchase, or four of each, all observed, which depend on different numbers of the table, the later the more
noisily. All contestants iterate over the same whole batches, so no loader is timed.

Three sides:

- ours: the public ``fit``, checks and all; and for the plain sum, which balances nothing, the same ``fit``.
- TorchJD: 0.18.0, as its users write it: one ``nn.Embedding`` per field, Adam as it comes, ``mtl_backward``
  and ``jac_to_grad``. **The targets are about this one**, because they were set from it.
- TorchJD, one table: the same with our table (one for all fields) and ``Adam(fused=True)``, so that its plain
  step is close to ours and what is left is the balancing.

Where the gradients are compared:

- a rule's name alone: at the shared parameters, exact. For TorchJD with all its options as they come.
- sparing: the same on TorchJD's side with two options that its documentation offers for memory
  (``parallel_chunk_size=1``: no ``vmap``; ``optimize_gramian_computation=True``: no second copy of J). With
  eight tasks they also save time.
- autogram: the same by TorchJD's engine for Gram matrices; its heads get the weighted gradients.
- at z: at the representation, another method. TorchJD has no call for it, its documented parts do: the
  heads read a detached copy of z, ``mtl_backward`` fills the copy's Jacobian, its aggregation goes back
  through the encoder.
- GradNorm compares norms at the last shared layer, by weighting; TorchJD has no GradNorm.

Before the contest, both take one step of plain descent in float64 from the same weights, on labels made to
conflict, and must move the encoder alike: by TorchJD's UPGrad with its regularisation all but off, to 1e-6.

TorchJD is no part of the book's environment. This puts it where this script looks (torch and numpy are
there); quadprog and qpsolvers serve UPGrad, cvxpy and ecos Nash-MTL, cvxpy with clarabel CAGrad; MGDA and
PCGrad need none:

    pip install --no-deps --target _build/peers torchjd==0.18.0 quadprog qpsolvers
    pip install --no-deps --target _build/peers cvxpy clarabel ecos osqp scs qdldl highspy sparsediffpy

Memory is the highest resident set of the process (the kernel's VmHWM; not ``ru_maxrss``: on Linux a new
process starts with the highest value of the one that started it). Of the whole process, as in the survey from
which the target comes; and beyond what was resident when imports and data were in place, and a training of
128 rows over: model, optimiser and all that a step needs. Without that small training the first step of
``torch.optim`` would count some 65 MB of modules that it imports.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
sys.path += [str(ROOT / "_build" / "peers")]  # last: only what the environment itself does not have

from benchmarks.training import EMBEDDING, FIELDS, HEAD, HIDDEN, NUMBERS, Pace, Rows, busy, interval  # noqa: E402
from mtl_ref import balancing  # noqa: E402
from mtl_ref.batches import Batch, Batches  # noqa: E402
from mtl_ref.encoders import TabularEncoder  # noqa: E402
from mtl_ref.models import SharedEncoder  # noqa: E402
from mtl_ref.tasks import Binary, Regression, Task  # noqa: E402
from mtl_ref.training import fit  # noqa: E402
from mtl_ref.weighting import GradNorm  # noqa: E402

BATCH = 1024
RULES = ("UPGrad", "MGDA", "PCGrad", "CAGrad", "NashMTL")  # the first stands for all where only one is timed
Labels = dict[str, Tensor]
Contestant = Callable[[int], None]  # trains so many epochs
Net = Callable[["Network", Batch], None]  # fills the gradients of one batch

# Data


def labels(rows: Rows, tasks: int, seed: int = 1) -> Labels:
    """Ratings and purchases (N,), in turn; the first two are those of ``training.py``."""
    found = {"rating": rows.rating, "purchase": rows.purchase}
    draw = np.random.default_rng(seed)
    for k in range(1, tasks // 2):
        score = rows.numbers[:, k : k + 3].sum(1) + 0.3 * (rows.ids[:, -1 - k] % 3)
        noise = torch.from_numpy(draw.standard_normal(len(score), dtype=np.float32))
        bought = draw.random(len(score)) < torch.sigmoid((score - 2) / (1 + 0.5 * k)).numpy()
        found[f"rating_{k + 1}"] = score + (1 + 0.5 * k) * noise
        found[f"purchase_{k + 1}"] = torch.from_numpy(bought.astype(np.float32))
    return found


class PacedBatches(Batches):
    """Batches that say when an epoch is over; the word is given before the next one is asked for."""

    pace: Pace

    def __iter__(self) -> Iterator[Batch]:
        yield from super().__iter__()
        self.pace()

    def to(self, device: torch.device | str) -> PacedBatches:
        return self  # all is on the CPU


def batches(rows: Rows, y: Labels, pace: Pace) -> PacedBatches:
    found = PacedBatches({"categorical": rows.ids, "numeric": rows.numbers}, y, batch_size=BATCH)
    found.pace = pace
    return found


# Ours


def make(rows: Rows, y: Labels) -> tuple[SharedEncoder, list[Task]]:
    tasks: list[Task] = [Regression(name) if name.startswith("rating") else Binary(name) for name in y]
    sizes = {"categorical": rows.fields, "numeric": NUMBERS}
    torch.manual_seed(0)
    return SharedEncoder(TabularEncoder(sizes, EMBEDDING, HIDDEN), tasks, (HEAD,)), tasks


def ours(data: PacedBatches, rows: Rows, y: Labels, rule: str | None, where: str) -> Contestant:
    """The public ``fit``."""
    model, tasks = make(rows, y)
    balance = getattr(balancing, rule)() if rule in RULES else None
    gradients = "representation" if where == "at z" else "parameters"
    weighting = GradNorm(tasks) if rule == "GradNorm" else None
    return lambda epochs: fit(
        model, tasks, data, weighting=weighting, balancing=balance, gradients=gradients, epochs=epochs
    )


# TorchJD


class Network(nn.Module):
    """The module that a user of TorchJD writes; with ``one_table``, all fields share an embedding."""

    def __init__(self, fields: list[int], tasks: list[str], one_table: bool) -> None:
        super().__init__()
        sizes = [sum(fields)] if one_table else fields
        self.tables = nn.ModuleList(nn.Embedding(size, EMBEDDING) for size in sizes)
        width = len(fields) * EMBEDDING + NUMBERS
        self.trunk = nn.Sequential(
            nn.Linear(width, HIDDEN[0]), nn.ReLU(), nn.Linear(HIDDEN[0], HIDDEN[1]), nn.ReLU()
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(HIDDEN[-1], HEAD), nn.ReLU(), nn.Linear(HEAD, 1)) for _ in tasks
        )
        self.tasks, self.one_table = tasks, one_table
        self.register_buffer("starts", torch.tensor([0, *fields[:-1]]).cumsum(0))

    def encode(self, batch: Batch) -> Tensor:
        ids = batch.x["categorical"]
        if self.one_table:
            vectors = self.tables[0](ids + self.starts).flatten(1)
        else:
            vectors = torch.cat([table(ids[:, c]) for c, table in enumerate(self.tables)], 1)
        return self.trunk(torch.cat([vectors, batch.x["numeric"]], 1))

    def losses(self, z: Tensor, batch: Batch) -> list[Tensor]:
        found = []
        for name, head in zip(self.tasks, self.heads, strict=True):
            output, label = head(z).squeeze(1), batch.y[name]
            if name.startswith("rating"):
                found.append(0.5 * mse_loss(output, label))  # the half as in ``Regression``: same gradients
            else:
                found.append(binary_cross_entropy_with_logits(output, label))
        return found

    def shared(self) -> list[nn.Parameter]:
        return [*self.tables.parameters(), *self.trunk.parameters()]


def plain_sum(net: Network, batch: Batch) -> None:
    torch.stack(net.losses(net.encode(batch), batch)).sum().backward()


def at_parameters(aggregator: nn.Module, sparing: bool = False) -> Net:
    """TorchJD's own recipe for several tasks."""
    from torchjd.autojac import jac_to_grad, mtl_backward

    options = {"optimize_gramian_computation": True} if sparing else {}

    def backward(net: Network, batch: Batch) -> None:
        z = net.encode(batch)
        mtl_backward(net.losses(z, batch), features=z, parallel_chunk_size=1 if sparing else None)
        jac_to_grad(net.shared(), aggregator, **options)

    return backward


def at_features(aggregator: nn.Module) -> Net:
    """The Jacobian by z only, (T, B * 64); then once back through the encoder."""
    from torchjd.autojac import jac_to_grad, mtl_backward

    def backward(net: Network, batch: Batch) -> None:
        z = net.encode(batch)
        leaf = z.detach().requires_grad_()
        copy = leaf.clone()  # ``features`` may not be a leaf itself
        mtl_backward(net.losses(copy, batch), features=copy)
        jac_to_grad([leaf], aggregator)
        z.backward(leaf.grad)

    return backward


def by_gram(net: Network, weighting: nn.Module) -> Net:
    """TorchJD's engine for Gram matrices, then a weighted sum of the losses."""
    from torchjd.autogram import Engine

    engine = Engine(net.tables, net.trunk, batch_dim=None)  # the losses are means over the batch

    def backward(net: Network, batch: Batch) -> None:
        losses = torch.stack(net.losses(net.encode(batch), batch))
        losses.backward(weighting(engine.compute_gramian(losses)))

    return backward


def aggregator(rule: str, tasks: int) -> nn.Module:
    import torchjd.aggregation as peer

    options = {"CAGrad": {"c": 0.5}, "NashMTL": {"n_tasks": tasks}}
    return getattr(peer, rule)(**options.get(rule, {}))


def torchjd(
    data: PacedBatches, rows: Rows, y: Labels, rule: str | None, where: str, one_table: bool
) -> Contestant:
    """A plain loop, in which TorchJD takes the place of ``backward``."""
    torch.manual_seed(0)
    net = Network(rows.fields, list(y), one_table)
    adam = torch.optim.Adam(net.parameters(), fused=one_table or None)
    if rule is None:
        backward: Net = plain_sum
    elif where == "autogram":
        from torchjd.aggregation import UPGradWeighting

        backward = by_gram(net, UPGradWeighting())
    elif where == "at z":
        backward = at_features(aggregator(rule, len(y)))
    else:
        backward = at_parameters(aggregator(rule, len(y)), where == "sparing")

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for batch in data:
                adam.zero_grad()
                backward(net, batch)
                adam.step()

    return run


# Contestants: by name, who runs which rule where


def contestants() -> dict[str, tuple[str, str | None, str]]:
    found = {}
    for who in ("ours", "TorchJD", "TorchJD, one table"):
        rules = RULES[:1] if who == "TorchJD, one table" else RULES  # the methods differ little
        entries = [(None, ""), *((rule, "") for rule in rules), (RULES[0], "at z")]
        entries += [("GradNorm", "")] if who == "ours" else [(RULES[0], "sparing"), (RULES[0], "autogram")]
        for rule, where in entries:
            found[", ".join(filter(None, (who, rule or "plain sum", where)))] = (who, rule, where)
    return found


CONTESTANTS = contestants()
QUICK = [name for name, (_, rule, _) in CONTESTANTS.items() if rule in (None, RULES[0])]


def begin(name: str, rows: Rows, y: Labels, pace: Pace) -> Contestant:
    """A contestant with its model, ready to train."""
    who, rule, where = CONTESTANTS[name]
    data = batches(rows, y, pace)
    if who == "ours":
        return ours(data, rows, y, rule, where)
    return torchjd(data, rows, y, rule, where, one_table=who != "TorchJD")


def resident(field: str) -> float:
    """Megabytes: what is resident now (``VmRSS``) or was at most (``VmHWM``)."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:  # not Linux; note that there ru_maxrss would also count the parent before the exec
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 2**10
        )
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


def work(name: str, tasks: int, n: int, epochs: int, pipe: multiprocessing.connection.Connection) -> None:
    """A contestant's own process: one training, which waits after every epoch until it is asked for more."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    few = Rows(128, [10] * len(FIELDS))
    with contextlib.redirect_stderr(io.StringIO()):
        begin(name, few, labels(few, tasks), lambda: None)(1)  # all that libraries import on their first use
    rows = Rows(n, FIELDS)
    y = labels(rows, tasks)
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the highest resident set so far is now's
    before = resident("VmRSS")
    start = time.perf_counter()

    def pace() -> None:
        nonlocal start
        pipe.send(time.perf_counter() - start)
        pipe.recv()
        gc.collect()
        start = time.perf_counter()

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        begin(name, rows, y, pace)(epochs)
    peak = resident("VmHWM")
    pipe.send({"peak_mb": round(peak, 1), "step_mb": round(peak - before, 1)})


class Contest:
    """One process per contestant, as its user would run it; one at a time is asked to work."""

    def __init__(self, names: list[str], tasks: int, n: int, epochs: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipes, self.processes = {}, {}
        for name in names:
            self.pipes[name], other = spawn.Pipe()
            self.processes[name] = spawn.Process(
                target=work, args=(name, tasks, n, epochs, other), daemon=True
            )
            self.processes[name].start()
            other.close()  # so that a process that dies is noticed
            self.pipes[name].recv()  # the first epoch does not count: caches, allocators, first-use imports

    def seconds(self, name: str) -> float:
        """Wall-clock seconds of one epoch."""
        self.pipes[name].send(True)
        return self.pipes[name].recv()

    def close(self) -> dict[str, dict[str, float]]:
        """End all processes; what memory each used."""
        memory = {}
        for name, pipe in self.pipes.items():
            pipe.send(False)
            memory[name] = pipe.recv()
            self.processes[name].join()
        return memory


def within(times: dict[str, list[float]], over: str, under: str, digits: int = 3) -> list[float]:
    """Median and interval of the ratio of two contestants' times in the same round."""
    found = interval([a / b for a, b in zip(times[over], times[under], strict=True)])
    return [round(value, digits) for value in found]


def contest(names: list[str], tasks: int, n: int, rounds: int) -> tuple[list[dict], list[dict]]:
    """Time all contestants, round by round: one row each; and the targets."""
    race = Contest(names, tasks, n, rounds + 1)
    times: dict[str, list[float]] = {name: [] for name in names}
    before, start = busy(), time.perf_counter()
    for turn in range(rounds):
        for position in range(len(names)):
            name = names[(turn + position) % len(names)]
            times[name].append(race.seconds(name))
    load = (busy() - before) / (time.perf_counter() - start)
    memory, steps = race.close(), -(-n // BATCH)
    print(
        f"\n{tasks} tasks, batch {BATCH:,}, 1 thread, {n:,} rows an epoch, {rounds} rounds; "
        f"{load:.2f} cores were busy\n{'':<38} ms a step {'':<14} rows/s  of own plain  MB (process)"
    )
    found = []
    for name in names:
        who, rule, where = CONTESTANTS[name]
        row: dict = {"contestant": name, "who": who, "rule": rule or "plain sum", "where": where}
        row |= {"tasks": tasks, "batch": BATCH, "threads": 1, "rows": n, "rounds": rounds}
        row |= {"ids": sum(FIELDS), "busy_cores": round(load, 2)}
        row["round_ms"] = [round(1000 * t / steps, 3) for t in times[name]]
        ms = interval([1000 * t / steps for t in times[name]])
        row |= dict(zip(("ms", "ms_low", "ms_high"), (round(v, 3) for v in ms), strict=True))
        speed = interval([n / t for t in times[name]])
        row |= dict(zip(("rows_per_second", "low", "high"), map(round, speed), strict=True))
        keys = ("of_plain", "of_plain_low", "of_plain_high")
        own = f"{who}, plain sum"
        row |= dict(zip(keys, within(times, name, own) if own in times else [None] * 3, strict=True))
        same = name.replace(who, "ours", 1)
        same = same if same in times else f"ours, {row['rule']}"  # sparing, autogram: the exact one
        keys = ("ours_is_faster", "ours_is_faster_low", "ours_is_faster_high")
        row |= dict(zip(keys, within(times, name, same) if same in times else [None] * 3, strict=True))
        row |= memory[name]
        found.append(row)
        relative = "" if row["of_plain"] is None else f"{row['of_plain']:.2f} x"
        memories = f"{row['step_mb']:,.0f} ({row['peak_mb']:,.0f})"
        print(
            f"  {name:<36} {ms[0]:7.2f} [{ms[1]:6.2f}, {ms[2]:6.2f}]  {row['rows_per_second']:>8,}   "
            f"{relative:>8}   {memories:>12}",
            flush=True,
        )
    return found, targets(found, times, tasks)


def targets(found: list[dict], times: dict[str, list[float]], tasks: int) -> list[dict]:
    """What was asked for before the work began, and what came out: medians with intervals.

    ``speed`` is how many times as fast as TorchJD's exact step ours is. ``step`` and ``memory`` count in
    those of our plain sum: ``memory`` of the whole process, as the survey took it, ``own memory`` beyond what
    libraries and data take, which is stricter.
    """
    asked = [
        (f"{rule}, speed", f"TorchJD, {rule}", f"ours, {rule}", ">=", exact)
        for rule in RULES
        for exact in [2.6 if tasks == 2 else 3.0]
    ]
    asked += [
        ("UPGrad, at z, step", "ours, UPGrad, at z", "ours, plain sum", "<=", 1.25),
        (
            "UPGrad, at z, speed",
            "TorchJD, UPGrad",
            "ours, UPGrad, at z",
            ">=",
            4.0 if tasks == 2 else 10.0,
        ),
    ]
    result: list[dict] = []
    for what, over, under, sign, limit in asked:
        if over in times and under in times:
            values = within(times, over, under)
            result.append({"tasks": tasks, "target": what, "sign": sign, "limit": limit})
            result[-1] |= {"over": over, "under": under, "measure": "ms"}
            result[-1] |= dict(zip(("found", "found_low", "found_high"), values, strict=True))
    by_name, plain = {row["contestant"]: row for row in found}, "ours, plain sum"
    for rule in RULES:
        for what, measure in (("memory", "peak_mb"), ("own memory", "step_mb")):
            if {f"ours, {rule}", plain} <= set(by_name):
                value = round(by_name[f"ours, {rule}"][measure] / by_name[plain][measure], 3)
                result.append({"tasks": tasks, "target": f"{rule}, {what}", "sign": "<=", "limit": 1.3})
                result[-1] |= {"over": f"ours, {rule}", "under": plain, "measure": measure, "found": value}
    for row in result:
        row["met"] = row["found"] >= row["limit"] if row["sign"] == ">=" else row["found"] <= row["limit"]
        spread = f" [{row['found_low']:.2f}, {row['found_high']:.2f}]" if "found_low" in row else ""
        print(
            f"  {'met    ' if row['met'] else 'NOT met'} {tasks} tasks, {row['target']}: "
            f"{row['found']:.2f}{spread}, target {row['sign']} {row['limit']}",
            flush=True,
        )
    return result


# Whether both do the same


def make_alike(rows: Rows, y: Labels) -> tuple[SharedEncoder, list[Task]]:
    """The model with equal heads, so that opposite labels pull z in opposite directions."""
    model, tasks = make(rows, y)
    first = next(iter(model.heads.values())).state_dict()
    for head in model.heads.values():
        head.load_state_dict(first)
    return model, tasks


def moved_by_us(rows: Rows, y: Labels, gradients: str) -> tuple[Tensor, SharedEncoder]:
    """What one step of plain descent by ``fit`` takes off the encoder, and the model before it."""
    model, tasks = make_alike(rows, y)
    first = [p.detach().clone() for p in model.shared_parameters()]
    fit(
        model,
        tasks,
        ({"categorical": rows.ids, "numeric": rows.numbers}, y),
        balancing=balancing.UPGrad(),
        gradients=gradients,
        epochs=1,
        batch_size=len(rows.ids),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
    )
    after = model.shared_parameters()
    step = torch.cat([(a - b).detach().flatten() for a, b in zip(first, after, strict=True)])
    return step, make_alike(rows, y)[0]


def copied(model: SharedEncoder, rows: Rows, tasks: list[str]) -> Network:
    """The other side's module with our weights; the order of its shared parameters is ours."""
    net = Network(rows.fields, tasks, one_table=True).to(torch.float64)
    with torch.no_grad():
        for target, source in zip(net.shared(), model.shared_parameters(), strict=True):
            target.copy_(source)
        heads = [p for head in model.heads.values() for p in head.parameters()]
        for target, source in zip(net.heads.parameters(), heads, strict=True):
            target.copy_(source)
    return net


def agreement(tasks: int, n: int = 256) -> list[dict[str, object]]:
    """How far TorchJD's UPGrad takes the encoder elsewhere than ours, in one step in float64.

    Ratings are taken from their mean, purchases are turned into their opposite, and all heads start
    alike, so that gradients conflict; ``conflict`` says how far our step is from the mean of the gradients,
    which it would be if none did.
    """
    from torchjd.aggregation import UPGrad, UPGradWeighting
    from torchjd.linalg import QuadprogProjector

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        rows = Rows(n, FIELDS)
        rows.numbers = rows.numbers.double()
        y = {name: label.double() for name, label in labels(rows, tasks).items()}
        y |= {k: 1 - v if k.startswith("purchase") else v - v.mean() for k, v in y.items()}
        batch = Batch({"categorical": rows.ids, "numeric": rows.numbers}, y, {})
        result: list[dict[str, object]] = []
        exact = QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)
        for where in ("", "sparing", "autogram", "at z"):
            move, model = moved_by_us(rows, y, "representation" if where == "at z" else "parameters")
            row: dict[str, object] = {"tasks": tasks, "where": where, "rows": n}
            for key, options in (("difference", {"projector": exact}), ("as_it_comes", {})):
                net = copied(model, rows, list(y))
                if where == "autogram":
                    backward = by_gram(net, UPGradWeighting(**options))
                elif where == "at z":
                    backward = at_features(UPGrad(**options))
                else:
                    backward = at_parameters(UPGrad(**options), where == "sparing")
                backward(net, batch)
                other = torch.cat([p.grad.flatten() for p in net.shared()])
                row[key] = float(f"{((move - other).norm() / move.norm()).item():.3g}")
            net = copied(model, rows, list(y))
            plain_sum(net, batch)
            mean = torch.cat([p.grad.flatten() for p in net.shared()]) / tasks
            row["conflict"] = float(f"{((move - mean).norm() / move.norm()).item():.3g}")
            result.append(row)
    finally:
        torch.set_default_dtype(usual)
    return result


def check(tasks: int) -> list[dict[str, object]]:
    """Print how well both sides agree, and refuse to time different things."""
    found = agreement(tasks)
    for row in found:
        print(
            f"{tasks} tasks, UPGrad {row['where'] or 'at the parameters'}: ours and TorchJD's step differ by "
            f"{row['difference']:.0e} (regularised as it comes {row['as_it_comes']:.0e}); "
            f"the mean gradient differs by {row['conflict']:.2f}"
        )
        if not row["difference"] < 1e-6 < 1e-2 < row["conflict"]:
            raise SystemExit("ours and TorchJD's UPGrad do not take the same step: nothing was timed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of contestants, separated by semicolons")
    parser.add_argument("--tasks", type=int, choices=[2, 8])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--rows", type=int, help="rows an epoch")
    parser.add_argument("--quick", action="store_true", help="plain sums and UPGrad, three short rounds")
    args = parser.parse_args()
    names = args.only.split(";") if args.only else QUICK if args.quick else list(CONTESTANTS)
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"no contestants {sorted(unknown)}, there are {list(CONTESTANTS)}")
    rounds = args.rounds or (3 if args.quick else 9)
    n = args.rows or (8_192 if args.quick else 49_152)
    there = importlib.util.find_spec("torchjd") is not None
    if not there:
        print("torchjd is not installed (see the head of this script): left out")
        names = [name for name in names if name.startswith("ours")]
    torch.set_num_threads(1)
    stored: dict[str, object] = {"agreement": [], "contest": [], "targets": []}
    for tasks in [args.tasks] if args.tasks else [2, 8]:
        if there:
            stored["agreement"] += check(tasks)  # type: ignore[operator]
        found, asked = contest(names, tasks, n, rounds)
        stored["contest"] += found  # type: ignore[operator]
        stored["targets"] += asked  # type: ignore[operator]
    if args.only or args.quick or args.tasks or not there:
        return
    stored |= {
        "command": " ".join(["python benchmarks/balancing.py", *sys.argv[1:]]),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "torchjd")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    target = ROOT / "data" / "results" / "balancing.json"
    target.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
