"""The loop: ``fit`` a model on batches by gradient descent, ``predict`` in natural units."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import ranks, runs
from .backpropagation import by_hand
from .batches import Batch, Batches, Source
from .optimisers import Make, Optimiser
from .reproducible import need
from .runs import Run
from .steps import Gradients, backward, check_cut, generators, last_shared, measure, quotient, refuse, totals
from .tasks import Task, check_names
from .weighting import FixedWeights

Data = Source | tuple[Mapping[str, Tensor], ...]


def cosine(progress: float) -> float:
    """Learning-rate factor that falls from 1 to 0 along a half cosine; ``progress`` runs from 0 to 1."""
    return (1 + math.cos(math.pi * progress)) / 2


def fit(
    model: nn.Module,
    tasks: Sequence[Task],
    train: Data,
    validation: Data | None = None,
    *,
    weighting: nn.Module | None = None,
    balancing: nn.Module | None = None,
    gradients: Gradients = "parameters",
    epochs: int = 10,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: Make | None = None,
    lazy_rows: bool = False,
    schedule: Callable[[float], float] | None = None,
    clip: float | None = None,
    patience: int | None = None,
    monitor: str = "loss",
    device: torch.device | str | None = None,
    progress: bool | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
) -> pd.DataFrame:
    """Train a model in place.

    The same arguments, data and initial weights give the same weights: ``seed`` sets the order of the rows
    and dropout, whatever was drawn before. Started by ``torchrun``, all processes train one model together on
    the same batches, each on its rows of them; see ``mtl_ref.ranks``.

    Args:
        model: Keeps the contract of ``mtl_ref.models``; trained in place.
        tasks: The losses, in the order in which rules see them.
        train: ``Batches``, ``Shards``, or ``(x, y)`` or ``(x, y, w)`` as tensors by name.
        validation: The same, measured after every epoch; row weights count as in training.
        weighting: Rule that combines the losses; all lambda one by default. Its parameters are trained too.
        balancing: Rule that maps the Gram matrix G (T, T) of the task gradients to weights (T,), instead.
        gradients: Where G is taken. ``"parameters"`` is exact. ``"representation"`` is an approximation: it
            cannot see two tasks meet in a shared embedding through different rows.
        epochs: Passes over the training rows, at most.
        batch_size: Rows per batch, where ``train`` is not ``Batches`` already.
        learning_rate: Step size of Adam.
        weight_decay: Decoupled weight decay (AdamW; Loshchilov and Hutter, 2019) of all parameters of the
            model.
        optimizer: Builds another optimiser from the parameters; ``learning_rate`` and ``weight_decay`` are
            then its own.
        lazy_rows: Train embedding tables by ``LazyRowAdam``, another algorithm, for very large vocabularies.
        schedule: Maps progress (0 at the first step, towards 1 at the last of all epochs) to a factor of the
            learning rate, such as ``cosine``.
        clip: Largest Euclidean norm of the whole gradient.
        patience: Stop after so many epochs without a better ``monitor``, and return to the best epoch's
            weights.
        monitor: ``"loss"`` (sum of the tasks' validation losses) or a task's name (its main metric).
        device: Where to train; the model's own device by default.
        progress: Show a progress bar; by default on a terminal only.
        seed: Seed of row order and dropout.
        checkpoint: Folder for checkpoints, each written whole or not at all; the newest two are kept.
        checkpoint_every: Steps between two checkpoints; by default one at the end of every epoch.
        resume: Continue from the newest whole checkpoint of the same run, if there is one; the weights at the
            end are those of a run that was never interrupted.

    Returns:
        The history, one row an epoch, with columns ``epoch``, ``learning_rate``, ``train_loss`` (as
        combined), and per task ``train_<task>`` (mean loss over observed labels), ``weight_<task>`` (lambda,
        or the rule's weight), ``validation_<task>`` and ``validation_<task>_<metric>``; ``validation_loss``
        is the sum of the tasks' validation losses.

    Raises:
        ValueError: If arguments contradict each other, the data lack a task, or ``checkpoint`` holds another
            run.
        FloatingPointError: If a loss is not finite; names the task and the step.
        RuntimeError: If another process of the same training stops answering.
    """
    whole = {
        "epochs": epochs,
        "batch_size": batch_size,
        "patience": patience,
        "checkpoint_every": checkpoint_every,
    }
    _check_numbers(whole, {"learning_rate": learning_rate, "weight_decay": weight_decay, "clip": clip}, seed)
    if gradients not in get_args(Gradients):
        raise ValueError(f"gradients must be one of {get_args(Gradients)}, found {gradients!r}: choose one.")
    group = ranks.join()
    batches, held_out = _prepare(model, tasks, train, validation, batch_size, seed)
    names, place = [task.name for task in tasks], _place(model, device)
    rule: Any = _rule(names, weighting, balancing).to(place)
    if patience is not None and held_out is None:
        raise ValueError(f"patience is {patience} and there is no validation part: give one.")
    if monitor != "loss" and monitor not in names:
        raise ValueError(
            f"monitor must be 'loss' or a task among {names}, found {monitor!r}: name one of them."
        )
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every need checkpoint: name the folder to read and write.")
    batches = batches.to(place)  # a table that fits in memory moves once
    batches.part = (group.rank, group.world)
    if balancing is not None:
        check_cut(model, batches.sample(), names, gradients)
    elif hasattr(rule, "from_norms"):
        last_shared(model)
    hand = None if hasattr(rule, "from_norms") else by_hand(model, tasks)
    whole_jacobian = balancing is not None and gradients == "parameters"
    if whole_jacobian and group.world > 1:  # gradients of one task are summed over the ranks first
        hand = None
    by_row = hand is not None or not whole_jacobian
    if lazy_rows and (optimizer is not None or not by_row):
        raise ValueError("lazy_rows has its own Adam and sees rows only: leave out optimizer, or balancing.")
    optimiser = Optimiser(model, rule, optimizer, learning_rate, weight_decay, by_row, lazy_rows)
    settings: dict[str, Any] = {"tasks": names, "rows": batches.n_rows, "batch_size": batches.batch_size}
    settings |= {"epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay}
    settings |= {"clip": clip, "lazy_rows": lazy_rows, "patience": patience, "monitor": monitor, "seed": seed}
    settings |= {"rule": type(balancing or rule).__name__, "gradients": gradients}
    group.agree(settings | {"the first rows": runs.digest(batches)})
    group.copy_first([*model.state_dict().values(), *rule.state_dict().values()])
    steps = epochs * len(batches)
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        optimiser,
        _bar(steps, progress if group.rank == 0 else False) as bar,
    ):
        torch.manual_seed(seed + group.rank)
        run = Run(model, rule, balancing, optimiser, batches, seed, names, patience is not None)
        if (
            checkpoint is not None
            and runs.resume(run, checkpoint, settings, resume, group)
            and bar is not None
        ):
            bar.update(run.steps)
        while run.epoch <= epochs and not run.stopped:
            model.train()
            for batch in batches:
                if schedule is not None:
                    optimiser.set_rate(schedule(run.steps / steps))
                optimiser.zero()
                states = generators(place) if hasattr(rule, "after_update") else []
                losses = backward(model, tasks, batch, rule, balancing, gradients, run.draws, group, hand)
                combined, run.steps, run.in_epoch = losses.combined.item(), run.steps + 1, run.in_epoch + 1
                if not math.isfinite(combined):
                    refuse(names, losses.values, run.epoch, run.steps)
                optimiser.collect(group)
                if clip is not None:
                    optimiser.clip(clip)
                optimiser.step()
                if hasattr(rule, "after_step"):
                    rule.after_step(losses.values)
                if hasattr(rule, "after_update"):
                    rule.after_update(measure(model, tasks, batch, states, group))
                run.count(losses, combined)
                if bar is not None:
                    bar.update(1)
                if checkpoint is not None and checkpoint_every and run.steps % checkpoint_every == 0:
                    runs.checkpoint(run, checkpoint, settings, group)
            means = torch.where(run.seen > 0, run.sums / run.seen, torch.nan)
            if hasattr(rule, "after_epoch"):
                rule.after_epoch(means.to(torch.get_default_dtype()))
            row = run.row(means)
            if held_out is not None:
                row |= group.first(_validate(model, tasks, held_out))
            run.end_epoch(row, None if patience is None else _score(row, tasks, monitor), patience or 0)
            if checkpoint is not None:
                runs.checkpoint(run, checkpoint, settings, group)
    if run.best_state is not None:
        model.load_state_dict(run.best_state)
    model.eval()
    return pd.DataFrame(run.history)


def predict(
    model: nn.Module, tasks: Sequence[Task], x: Mapping[str, Tensor], batch_size: int = 8192
) -> dict[str, NDArray[Any]]:
    """Predict in natural units (probabilities, means in the unit of the label).

    Args:
        model: Any model of the package; left in evaluation mode.
        tasks: Their links; extra outputs of the model are passed on as they are.
        x: Inputs by name, each (N, ...).
        batch_size: Rows at a time.

    Returns:
        (N,) or (N, K) by name.
    """
    links = {task.name: task.link for task in tasks}
    check: Any = getattr(model, "check", None)
    if check is not None:
        check(x)
    outputs, _ = _outputs(model, Batches(x, {}, batch_size=batch_size, shuffle=False))
    natural = {name: links[name](output) if name in links else output for name, output in outputs.items()}
    return {name: values.cpu().numpy() for name, values in natural.items()}


def _outputs(model: nn.Module, batches: Source) -> tuple[dict[str, Tensor], Batch]:
    """Raw outputs for a whole set, in evaluation mode, and its targets and weights in the same order."""
    model.eval()
    place = next(model.parameters()).device
    found: tuple[dict[str, list[Tensor]], ...] = ({}, {}, {})
    with torch.no_grad():
        for batch in batches:
            moved = batch.to(place)
            for parts, new in zip(found, (model(moved.x), moved.y, moved.w), strict=True):
                for name, values in new.items():
                    parts.setdefault(name, []).append(values)
    outputs, y, w = ({name: torch.cat(values) for name, values in part.items()} for part in found)
    return outputs, Batch({}, y, w)


def _validate(model: nn.Module, tasks: Sequence[Task], held_out: Source) -> dict[str, float]:
    """Losses and metrics of every task over the whole validation part."""
    outputs, labels = _outputs(model, held_out.in_order())
    losses = quotient(*totals(tasks, outputs, labels)).tolist()
    row = {"validation_loss": sum(losses)}
    for task, loss in zip(tasks, losses, strict=True):
        row[f"validation_{task.name}"] = loss
        label = labels.y[task.name].cpu().numpy().astype(np.float64)
        weight = labels.w[task.name].cpu().numpy() if task.name in labels.w else None
        found = task.metrics(label, task.link(outputs[task.name]).cpu().numpy(), weight)
        row |= {f"validation_{task.name}_{metric}": value for metric, value in found.items()}
    return row


def _score(row: Mapping[str, float], tasks: Sequence[Task], monitor: str) -> float:
    """What early stopping minimises."""
    if monitor == "loss":
        return row["validation_loss"]
    task = next(task for task in tasks if task.name == monitor)
    value = row[f"validation_{task.name}_{task.main}"]
    return -value if task.higher_is_better else value


def _prepare(
    model: Any, tasks: Sequence[Task], train: Data, validation: Data | None, batch_size: int, seed: int
) -> tuple[Source, Source | None]:
    """Training and validation part as batches, checked against tasks and model."""
    check_names(tasks)
    if not all(hasattr(model, method) for method in ("encode", "decode", "shared_parameters")):
        found = f"found {type(model).__name__}"
        raise TypeError(f"model must have encode, decode and shared_parameters, {found}: see mtl_ref.models.")

    def make(part: str, data: Any, size: int, shuffle: bool) -> Source:
        if isinstance(data, tuple) and len(data) in (2, 3):
            x, y, w = (*data, {})[:3]
            data = Batches(x, y, w, size, shuffle, seed)
        if not hasattr(data, "in_order"):
            found = f"{len(data)} entries" if isinstance(data, tuple) else type(data).__name__
            raise ValueError(
                f"{part} is neither Batches nor Shards, found {found}: give (x, y) or (x, y, w)."
            )
        missing = [task.name for task in tasks if task.name not in data.names]
        if missing:
            has = f"it has {sorted(data.names)}"
            raise ValueError(f"the {part} part has no targets for {missing}, {has}: read them with targets.")
        sample = data.sample()
        for task in tasks:
            task.check(sample.y[task.name])
        if hasattr(model, "check"):
            model.check(sample.x)
        return data  # type: ignore[no-any-return]

    held_out = None if validation is None else make("validation", validation, 8192, False)
    return make("train", train, batch_size, True), held_out


def _check_numbers(whole: Mapping[str, Any], positive: Mapping[str, Any], seed: Any) -> None:
    """Refuse arguments that are no numbers, or out of range, before anything is touched."""
    for name, value in whole.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}: correct it.")
    for name, value in positive.items():
        least = 1e-300 if name == "clip" else 0.0  # clipping to nothing would train nothing
        if value is not None and not (isinstance(value, (int, float)) and least <= value < math.inf):
            raise ValueError(f"{name} must be finite and not negative, found {value!r}: correct it.")
    if not isinstance(seed, int):
        raise ValueError(f"seed must be a whole number, found {seed!r}: correct it.")


def _rule(names: list[str], weighting: nn.Module | None, balancing: nn.Module | None) -> nn.Module:
    """The weighting rule; lambda one where none is given."""
    if weighting is not None and balancing is not None:
        raise ValueError("weighting and balancing exclude each other: give one rule.")
    rule = weighting if weighting is not None else FixedWeights([1.0] * len(names))
    given: object = rule
    if not isinstance(given, nn.Module):
        found = type(given).__name__
        raise TypeError(f"weighting must be a rule, found {found}: write FixedWeights({{'task': 1.0, ...}}).")
    labelled = getattr(rule, "names", None)
    if labelled is not None and list(labelled) != names:
        raise ValueError(
            f"the weights are of {list(labelled)}, the tasks are {names}: use one order of names."
        )
    return rule


def _place(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is not None:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device {device!r} is not to be had here: choose 'cpu' or install it."
            ) from error
    return next(model.parameters()).device


def _bar(steps: int, progress: bool | None) -> Any:
    if progress is None:
        progress = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    return need("tqdm", "plots").tqdm(total=steps, unit="step", leave=False) if progress else nullcontext()
