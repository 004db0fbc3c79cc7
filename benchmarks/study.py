"""A study: many trainings, stored as rows that can be recomputed one by one.

A study is a function ``unit(replicate, model) -> rows``. ``run`` computes the units that are not stored yet,
so that a study that was cut off continues, and writes two files in ``data/results``: ``NAME.csv`` (one row
per replicate, model, task and metric) and ``NAME.json`` (command, code hash, versions, what was declared
beforehand). The tests recompute a unit chosen at random and refuse results whose code has changed. After a
change that should not matter, ``python benchmarks/NAME.py confirm 5`` recomputes five random units and
accepts the new code only if all agree.

Two processes can share the work: ``run 0 2`` and ``run 1 2`` each take every other replicate and keep what
they have in a file of their own; ``merge`` puts the parts together once all units are there.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtl_ref.reproducible import setup

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
KEY = ["replicate", "model", "task", "metric"]
Rows = list[dict[str, Any]]
# The package files that a training with `fit` depends on, whatever the data.
PIPELINE = (
    *("moments", "features", "batches", "checks", "metrics", "labels", "tasks", "encoders", "models"),
    *("weighting", "ranks", "optimisers", "backpropagation", "steps", "runs", "training"),
)


@dataclass(frozen=True)
class Study:
    """What is computed, how often, and from which code.

    Args:
        name: Stem of the two result files; the script is ``benchmarks/NAME.py``.
        unit: Computes the rows of one model in one replicate.
        models: Names handed to ``unit``.
        replicates: Number of replicates, each a new draw of the data, initial weights and batch order.
        code: Package files that the numbers depend on, without ``.py``.
        trainings: Number of trainings in all, declared before the first run.
        hours: Declared limit in hours on one core.
        data: Data sets it needs (names of ``mtl_ref.datasets``).
    """

    name: str
    unit: Callable[[int, str], Rows]
    models: Sequence[str]
    replicates: int
    code: Sequence[str]
    trainings: int
    hours: float
    data: Sequence[str] = ()

    @property
    def csv(self) -> Path:
        """Where the rows are."""
        return RESULTS / f"{self.name}.csv"

    def code_hash(self) -> str:
        """Hash of the code that makes the numbers; comments, docstrings and layout do not count."""
        files = [
            ROOT / "benchmarks" / f"{self.name}.py",
            *(ROOT / "mtl_ref" / f"{part}.py" for part in self.code),
        ]
        return hashlib.sha256("\n".join(_meaning(path) for path in files).encode()).hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """What stands beside the rows: command, code, what was declared, versions."""
        return {
            "command": f"python benchmarks/{self.name}.py",
            "code": self.code_hash(),
            "declared": {"trainings": self.trainings, "hours": self.hours, "replicates": self.replicates},
            "data": list(self.data),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in ("torch", "numpy", "pandas", "scikit-learn")},
        }

    def run(
        self, replicates: Iterable[int] | None = None, part: tuple[int, int] | None = None
    ) -> pd.DataFrame:
        """Compute what is missing, storing after every unit.

        Args:
            replicates: Which ones; all by default.
            part: (i, n) for the i-th of n processes, which takes the replicates i, i + n, ... and keeps its
                rows in a file of its own, for ``merge``.
        """
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = self.csv if part is None else self._part(*part)
        about, described = self.about(), path.with_suffix(".json")
        stored = pd.DataFrame(columns=[*KEY, "value"])
        if path.exists() and described.exists():
            if json.loads(described.read_text())["code"] == about["code"]:
                stored = pd.read_csv(path)
        if stored.empty:  # rows of other code must never stand beside the new description
            path.unlink(missing_ok=True)
        described.write_text(json.dumps(about, indent=1) + "\n")
        mine = range(self.replicates) if part is None else range(part[0], self.replicates, part[1])
        for replicate in replicates if replicates is not None else mine:
            for model in self.models:
                if ((stored["replicate"] == replicate) & (stored["model"] == model)).any():
                    continue
                fresh = self.compute(replicate, model)
                fresh.insert(0, "replicate", replicate)
                fresh.insert(1, "model", model)
                stored = pd.concat([stored, fresh], ignore_index=True) if len(stored) else fresh
                _write(stored, path)
                print(f"{self.name}: replicate {replicate}, {model}", file=sys.stderr, flush=True)
        stored = self._sorted(stored)
        _write(stored, path)
        return stored

    def merge(self) -> pd.DataFrame:
        """Put the parts together; they are deleted afterwards.

        Raises:
            SystemExit: If a unit is missing or stored twice, or a part is of other code; nothing is changed
                then.
        """
        parts, about = sorted(RESULTS.glob(f"{self.name}.part-*-of-*.csv")), self.about()
        if not parts:
            raise SystemExit(f"{self.name}: there are no parts to merge: run them first.")
        for path in parts:
            if json.loads(path.with_suffix(".json").read_text())["code"] != about["code"]:
                raise SystemExit(f"{self.name}: {path.name} is of other code: run it again.")
        stored = pd.concat([pd.read_csv(path) for path in parts], ignore_index=True)
        found = set(map(tuple, stored[["replicate", "model"]].drop_duplicates().to_numpy().tolist()))
        wanted = {(replicate, model) for replicate in range(self.replicates) for model in self.models}
        if found != wanted or stored.duplicated(KEY).any():
            counts = (
                f"{len(wanted - found)} units are missing, {stored.duplicated(KEY).sum()} rows stand twice"
            )
            raise SystemExit(f"{self.name}: {counts}: run the parts to their end.")
        stored = self._sorted(stored)
        _write(stored, self.csv)
        self.csv.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
        for path in parts:
            path.unlink()
            path.with_suffix(".json").unlink()
        return stored

    def _part(self, position: int, count: int) -> Path:
        """Where one of several processes keeps its rows."""
        if not 0 <= position < count:
            raise SystemExit(f"{self.name}: parts are counted from 0 to {count - 1}, found {position}.")
        return RESULTS / f"{self.name}.part-{position}-of-{count}.csv"

    def _sorted(self, stored: pd.DataFrame) -> pd.DataFrame:
        """By replicate, then in the order of the models."""
        order = {model: position for position, model in enumerate(self.models)}
        stored = stored.sort_values("model", key=lambda m: m.map(order), kind="stable")
        return stored.sort_values("replicate", kind="stable", ignore_index=True)

    def compute(self, replicate: int, model: str) -> pd.DataFrame:
        """The rows of one unit, whatever ran before it in this process.

        Without this call a unit that prepares its data before it calls ``setup`` would do so in float32 when
        it is the first of its process, and in float64 after any other.
        """
        setup(seed=replicate)
        return pd.DataFrame(self.unit(replicate, model))

    def recompute(self, replicate: int, model: str) -> pd.DataFrame:
        """Compute a stored unit again; columns ``task, metric, stored, again``."""
        stored = pd.read_csv(self.csv).query("replicate == @replicate and model == @model")
        again = self.compute(replicate, model)
        both = stored.merge(again, on=["task", "metric"], suffixes=("_stored", "_again"), how="outer")
        return both.rename(columns={"value_stored": "stored", "value_again": "again"})

    def confirm(self, count: int) -> None:
        """Accept changed code for stored rows, if ``count`` random units still agree to 6 digits.

        Raises:
            SystemExit: If a unit differs; nothing is changed then.
        """
        described = self.csv.with_suffix(".json")
        units = pd.read_csv(self.csv)[["replicate", "model"]].drop_duplicates().to_numpy().tolist()
        for replicate, model in random.SystemRandom().sample(units, count):
            both = self.recompute(replicate, model)
            if not np.allclose(both["stored"], both["again"], rtol=1e-6, equal_nan=True):
                raise SystemExit(
                    f"{self.name}: replicate {replicate}, {model} differs: run the study again.\n{both}"
                )
            print(f"{self.name}: replicate {replicate}, {model} agrees", file=sys.stderr, flush=True)
        about = json.loads(described.read_text()) | {"code": self.code_hash(), "confirmed_units": count}
        described.write_text(json.dumps(about, indent=1) + "\n")

    def main(self) -> None:
        """Run the study, or one of several parts (``run I N``), or ``merge``, or ``confirm COUNT``."""
        if sys.argv[1:2] == ["confirm"]:
            self.confirm(int(sys.argv[2]))
        elif sys.argv[1:2] == ["merge"]:
            self.merge()
        elif sys.argv[1:2] == ["run"] and len(sys.argv) == 4:
            self.run(part=(int(sys.argv[2]), int(sys.argv[3])))
        else:
            self.run()


def choose(trials: Sequence[Any], fit: Callable[[Any], tuple[float, Any]]) -> tuple[Any, Any]:
    """Run every trial; return the one with the best validation score, and what it brought.

    Every model of a study gets the same number of trials: that is what "equal budget" means in them.
    """
    scored = [(fit(trial), trial) for trial in trials]
    (_, result), trial = max(scored, key=lambda entry: entry[0][0])
    return trial, result


def _write(rows: pd.DataFrame, path: Path) -> None:
    """Write the whole file or nothing."""
    partial = path.with_suffix(".csv.partial")
    rows.to_csv(partial, index=False, float_format="%.8g")
    os.replace(partial, path)


def _meaning(path: Path) -> str:
    """The syntax tree of a file without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                node.body = body[1:]  # type: ignore[attr-defined]
    return ast.dump(tree)
