"""A model as one folder: configuration, features, tasks, weights; raw rows in, predictions and orders out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from . import checks
from .features import Features
from .fusion import Function, Weight, rank
from .models import build
from .tasks import KINDS, Task
from .training import predict

FORMAT = "mtl_ref bundle"
VERSION = 1


@dataclass(frozen=True)
class Bundle:
    """What is needed to score raw rows as in training."""

    model: nn.Module
    features: Features
    tasks: tuple[Task, ...]

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Score raw rows.

        Args:
            table: The columns that the features were fitted on; targets are not needed.

        Returns:
            One row per row of ``table``, with its index: a column per task in natural units, or one per
            class, ``<task>_<class>``, where a task predicts several numbers.

        Raises:
            KeyError: If a feature column is missing; names it.
            ValueError: If two predictions would have one column name.
        """
        if not isinstance(table, pd.DataFrame):
            raise TypeError(
                f"a bundle reads a pandas DataFrame, found {type(table).__name__}: build one of it."
            )
        # A table without rows still has columns to predict: those of a row of which nothing is known.
        rows = table if len(table) else pd.DataFrame([dict.fromkeys(table.columns)])
        with default_dtype(self.dtype):  # a float64 model must not read numbers that passed through float32
            x = self.features.transform(rows)
        columns = split(self.tasks, predict(self.model, self.tasks, x))
        return pd.DataFrame({name: values[: len(table)] for name, values in columns.items()}, table.index)

    def rank(
        self,
        table: pd.DataFrame,
        *,
        value: Mapping[str, Weight] | None = None,
        powers: Mapping[str, float] | None = None,
        function: Function | None = None,
        groups: str | None = None,
        k: int | None = None,
    ) -> pd.DataFrame:
        """Score raw rows and put them in order: ``rank(self.predict(table), table, ...)``, see there."""
        scored = self.predict(table)
        return rank(scored, table, value=value, powers=powers, function=function, groups=groups, k=k)

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights."""
        return next(self.model.parameters()).dtype


def split(tasks: Sequence[Task], natural: Mapping[str, Any]) -> dict[str, Any]:
    """Split predictions in natural units into one (N,) entry per column of ``Bundle.predict``.

    Args:
        tasks: The tasks; they name their parts. Parts of other names are numbered.
        natural: Tensors or arrays, (N,) or (N, K), by name.

    Returns:
        (N,) by column, in order.

    Raises:
        ValueError: If two columns would have one name.
    """
    parts = {task.name: _parts(task) for task in tasks}
    columns: dict[str, Any] = {}
    for name, values in natural.items():
        if values.ndim == 1:
            named = {name: values}
        else:
            labels = parts.get(name) or [str(k) for k in range(values.shape[1])]
            named = {f"{name}_{label}": values[:, k] for k, label in enumerate(labels)}
        if twice := [column for column in named if column in columns]:
            raise ValueError(f"two predictions would be called {twice[0]!r}: rename a task or a class.")
        columns |= named
    return columns


def save(folder: str | os.PathLike[str], model: nn.Module, features: Features, tasks: Sequence[Task]) -> None:
    """Write a bundle: ``config.json``, ``features.json``, ``weights.pt``.

    The folder appears whole or not at all; an older bundle at the same place is replaced only when the new
    one is complete.

    Args:
        folder: Where to write; its parent must exist.
        model: A trained model.
        features: The fitted features.
        tasks: The tasks, as fitted.

    Raises:
        FileExistsError: If the folder exists and is not a bundle.
    """
    target = Path(folder)
    if target.exists() and not (target / "config.json").exists():
        raise FileExistsError(f"{target} exists and is not a bundle: choose another folder or remove it.")
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": getattr(model, "config", {"class": type(model).__name__}),
        "tasks": [{"kind": type(task).__name__, **dataclasses.asdict(task)} for task in tasks],
    }
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        fresh, old = Path(scratch, "new"), Path(scratch, "old")
        fresh.mkdir()
        features.save(fresh / "features.json")
        torch.save({key: value.cpu() for key, value in model.state_dict().items()}, fresh / "weights.pt")
        # A flipped bit in a number would otherwise be read as another number.
        config["sha256"] = {name: _digest(fresh / name) for name in ("features.json", "weights.pt")}
        config["checksum"] = checks.checksum(config)
        (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
        shutil.rmtree(old, ignore_errors=True)


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> Bundle:
    """Read a bundle. Nothing in it is executed: weights are read as tensors only.

    Args:
        folder: Written by ``save``.
        model: For a model of your own class: a new one of the same shape, into which the weights go.

    Returns:
        The bundle, its model in evaluation mode.

    Raises:
        FileNotFoundError: If a file of the bundle is missing.
        ValueError: If the folder is not a bundle, a file is damaged, or the weights do not fit the model.
    """
    source = Path(folder)
    for part in ("config.json", "features.json", "weights.pt"):
        if not (source / part).is_file():
            raise FileNotFoundError(
                f"{source} is not a bundle, {part} is missing: write one with serving.save."
            )
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
        if (config["format"], config["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {config['format']!r} version {config['version']!r}")
        if config["checksum"] != checks.checksum(config):
            raise ValueError("its checksum is another")
        tasks = tuple(_task(entry) for entry in config["tasks"])
        dtype = {"float32": torch.float32, "float64": torch.float64}[config["dtype"]]
        digests = {part: config["sha256"][part] for part in ("features.json", "weights.pt")}
    except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        problem = f"cannot be read as a bundle of version {VERSION} ({str(error).rstrip('.')})"
        raise ValueError(f"{source / 'config.json'} {problem}: save the bundle again.") from error
    try:
        model = model if model is not None else build(config["model"], tasks)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        problem = f"describes no model of this package ({str(error).rstrip('.')})"
        raise ValueError(f"{source / 'config.json'} {problem}: pass the model itself.") from error
    for part, digest in digests.items():
        if _digest(source / part) != digest:
            problem = "does not hold the weights" if part == "weights.pt" else "does not hold the features"
            raise ValueError(f"{source / part} {problem} of this bundle: save the bundle again.")
    try:
        weights = torch.load(source / "weights.pt", weights_only=True, map_location="cpu")
        model.to(dtype).load_state_dict(weights)
    except Exception as error:  # torch raises a dozen kinds, some with bad advice
        problem = "does not hold the weights of this model"
        raise ValueError(f"{source / 'weights.pt'} {problem}: build the model that was saved.") from error
    return Bundle(model.eval(), Features.load(source / "features.json"), tasks)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new float tensors of one type inside a ``with`` block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _task(entry: dict[str, Any]) -> Task:
    kinds = {kind.__name__: kind for kind in KINDS}
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "kind"}
    make: Callable[..., Task] = kinds[entry["kind"]]
    return make(**arguments)


def _parts(task: Task) -> list[str]:
    """Names of the numbers that a task predicts per row, where there are several."""
    if hasattr(task, "classes"):
        return [str(c) for c in task.classes]
    if hasattr(task, "levels"):
        return [f"{level:g}" for level in task.levels]
    return ["mean", "variance"]
