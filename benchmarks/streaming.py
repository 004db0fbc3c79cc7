"""Training from Parquet shards beside training in memory: peak memory and rows per second of ``fit``.

    python benchmarks/streaming.py                        the table (about ten minutes on one core)
    python benchmarks/streaming.py --sizes 200000 1000000 --rounds 5

The rows are those of ``benchmarks/training.py``: eight categorical fields with 76,180 ids, log-uniform;
eight numbers; a rating (30 % missing) and a purchase. They are drawn, counted by ``Features.fit`` and
written as shards part by part, so that no step ever holds them all.

- Memory: for each size a fresh process makes the shards and another one trains an epoch on them; reported
  is the largest resident set of each (VmHWM), and how much the largest size needs beyond the smallest.
- Speed: at ``--speed-rows`` rows, in one process, float32, one thread, batch 1,024: an epoch in memory and
  an epoch of streaming in turn, the order changing every round; a ratio is taken within a round, so that a
  busy machine hits both sides. Reading alone, without training, is timed too. Medians, with the order
  statistics that hold the true median with 95 % confidence.

The files are read from the operating system's cache where they fit: what a slow disk adds is not measured
here.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
sys.path[:0] = [str(ROOT)]

from mtl_ref import shards  # noqa: E402
from mtl_ref.batches import Batches  # noqa: E402
from mtl_ref.encoders import TabularEncoder  # noqa: E402
from mtl_ref.features import Features  # noqa: E402
from mtl_ref.models import SharedEncoder  # noqa: E402
from mtl_ref.tasks import Binary, Regression, Task  # noqa: E402
from mtl_ref.training import fit  # noqa: E402

FIELDS = [50_000, 20_000, 5_000, 1_000, 100, 50, 20, 10]
IDS, NUMBERS = [f"c{c}" for c in range(len(FIELDS))], [f"n{k}" for k in range(8)]
EMBEDDING, HIDDEN, HEAD = 16, (128, 64), 32
TASKS: list[Task] = [Regression("rating"), Binary("purchase")]
PART = 65_536  # rows drawn at a time


def draws(n: int) -> Iterator[pd.DataFrame]:
    """Raw rows, a part at a time; part p is drawn from seed p, whatever the size of the whole."""
    for number, start in enumerate(range(0, n, PART)):
        draw, rows = np.random.default_rng(number), min(PART, n - start)
        ids = [np.exp(draw.uniform(0, np.log(size + 1), rows)).astype(np.int64) - 1 for size in FIELDS]
        ids = [values.clip(0, size - 1) for values, size in zip(ids, FIELDS, strict=True)]
        numbers = draw.standard_normal((rows, len(NUMBERS)), dtype=np.float32)
        score = numbers[:, :3].sum(1) + 0.3 * (ids[-1] % 3)
        rating = np.where(draw.random(rows) < 0.3, np.nan, score + draw.standard_normal(rows))
        purchase = draw.random(rows) < 1 / (1 + np.exp(2 - score))
        columns = dict(zip(IDS, ids, strict=True)) | dict(zip(NUMBERS, numbers.T, strict=True))
        yield pd.DataFrame(columns | {"rating": rating, "purchase": purchase.astype(float)})


def prepare(n: int, folder: Path) -> dict[str, Any]:
    """One pass that learns the features, one that writes the shards."""
    start = time.perf_counter()
    features = Features(IDS, NUMBERS).fit(draws(n))
    middle = time.perf_counter()
    shards.write(folder, draws(n), features, TASKS)
    end = time.perf_counter()
    return {
        "fit_rows_per_second": round(n / (middle - start)),
        "write_rows_per_second": round(n / (end - middle)),
    }


def train(n: int, folder: Path) -> dict[str, Any]:
    """One epoch of ``fit`` on the shards."""
    train_on, model = shards.Shards(folder), new_model(folder)
    start = time.perf_counter()
    history = fit(model, TASKS, train_on, epochs=1, progress=False)
    seconds = time.perf_counter() - start
    return {
        "train_rows_per_second": round(n / seconds),
        "train_loss": round(float(history["train_loss"].iloc[-1]), 4),
    }


def new_model(folder: Path) -> SharedEncoder:
    torch.manual_seed(0)
    sizes = Features.load(folder / "features.json").sizes
    return SharedEncoder(TabularEncoder(sizes, EMBEDDING, HIDDEN), TASKS, (HEAD,))


def peak_mib() -> float:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def fresh(step: str, n: int, folder: Path) -> dict[str, Any]:
    """Run one step in a process of its own; return what it measured."""
    command = [sys.executable, __file__, "--step", step, "--sizes", str(n), "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and the order statistics that hold the true median with at least 95 % confidence."""
    ordered, n = sorted(values), len(values)
    k = max(int(binom.ppf(0.025, n, 0.5)), 1)
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def speed(n: int, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Rows per second in memory, streaming, and reading alone; ratios within a round."""
    if not (folder / "shards.json").exists():
        fresh("prepare", n, folder)
    stream = shards.Shards(folder)
    whole = [batch for batch in shards.Shards(folder).in_order()]
    parts = [
        {key: torch.cat([getattr(b, role)[key] for b in whole]) for key in getattr(whole[0], role)}
        for role in "xy"
    ]
    memory = Batches(*parts)
    del whole
    models = {"memory": new_model(folder), "streaming": new_model(folder)}

    def read() -> None:
        for _ in shards.Shards(folder):
            pass

    runs: dict[str, Callable[[], object]] = {
        "memory": lambda: fit(models["memory"], TASKS, memory, epochs=1, progress=False),
        "streaming": lambda: fit(models["streaming"], TASKS, stream, epochs=1, progress=False),
        "reading alone": read,
    }
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, rounds):  # the first round is not measured
        for name in names if turn % 2 else names[::-1]:
            gc.collect()
            start = time.perf_counter()
            runs[name]()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    table = []
    for name in names:
        median, low, high = interval([n / t for t in times[name]])
        ratio = interval([m / t for m, t in zip(times["memory"], times[name], strict=True)])
        row = {"measure": "speed", "what": name, "rows": n, "rounds": rounds}
        row |= {"rows_per_second": round(median), "speed_low": round(low), "speed_high": round(high)}
        table.append(row | dict(zip(("of_memory", "low", "high"), (round(r, 3) for r in ratio), strict=True)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--speed-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-store", action="store_true", help="print only")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=["prepare", "train"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    if args.step:
        measured = {"prepare": prepare, "train": train}[args.step](args.sizes[0], args.folder)
        print(json.dumps(measured | {"peak_mib": round(peak_mib(), 1)}))
        return
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="streaming-") as scratch:
        for n in args.sizes:
            folder = Path(scratch, "shards")
            shutil.rmtree(folder, ignore_errors=True)
            for step in ("prepare", "train"):
                measured = fresh(step, n, folder)
                table.append({"measure": "memory", "what": step, "rows": n} | measured)
                print(f"{n:>12,} rows, {step:<8} {measured}", flush=True)
            if n == args.speed_rows:
                shutil.move(folder, Path(scratch, "speed"))
        table += speed(args.speed_rows, Path(scratch, "speed"), args.rounds)
    for row in table[-3:]:
        bounds = f"[{row['speed_low'] / 1e3:.1f}, {row['speed_high'] / 1e3:.1f}]"
        share = f"{row['of_memory']:.2f} of memory [{row['low']:.2f}, {row['high']:.2f}]"
        print(f"{row['what']:<14} {row['rows_per_second'] / 1e3:8.1f}k rows/s {bounds:<18} {share}")
    for step in ("prepare", "train"):
        peaks = {row["rows"]: row["peak_mib"] for row in table if row["what"] == step}
        least, most = min(peaks), max(peaks)
        print(f"{step}: {most:,} rows peak {peaks[most] - peaks[least]:+.0f} MiB beside {least:,} rows")
    if not args.no_store:
        store(table)


def store(table: list[dict[str, Any]]) -> None:
    """Keep the table, and with what it was made."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(RESULTS / "streaming.csv", index=False)
    packages = ("torch", "numpy", "pandas", "pyarrow")
    about = {
        "command": " ".join(["python", "benchmarks/streaming.py", *sys.argv[1:]]),
        "threads": 1,
        "batch_size": 1024,
        "window_rows": 65_536,
        "dtype": "float32",
        "versions": {"python": platform.python_version()}
        | {p: importlib.metadata.version(p) for p in packages},
    }
    (RESULTS / "streaming.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
