"""The loop: ``fit`` a model on batches by gradient descent, ``predict`` in natural units."""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .batches import Batch, Batches
from .models import Encoded
from .reproducible import need
from .tasks import Task, check_names
from .weighting import FixedWeights

Data = Batches | tuple[Mapping[str, Tensor], ...]
Gradients = Literal["parameters", "representation"]


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
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    schedule: Callable[[float], float] | None = None,
    clip: float | None = None,
    patience: int | None = None,
    monitor: str = "loss",
    device: torch.device | str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a model in place.

    The same arguments, data and initial weights give the same weights: ``seed`` sets the order of the rows
    and dropout, whatever was drawn before.

    Args:
        model: Keeps the contract of ``mtl_ref.models``; trained in place.
        tasks: The losses, in the order in which rules see them.
        train: ``Batches``, or ``(x, y)`` or ``(x, y, w)`` as tensors by name.
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
            then
            its own.
        schedule: Maps progress (0 at the first step, towards 1 at the last of all epochs) to a factor of the
            learning rate, such as ``cosine``.
        clip: Largest Euclidean norm of the whole gradient.
        patience: Stop after so many epochs without a better ``monitor``, and return to the best epoch's
            weights.
        monitor: ``"loss"`` (sum of the tasks' validation losses) or a task's name (its main metric).
        device: Where to train; the model's own device by default.
        progress: Show a progress bar; by default on a terminal only.
        seed: Seed of row order and dropout.

    Returns:
        The history, one row an epoch, with columns ``epoch``, ``learning_rate``, ``train_loss`` (as
        combined), and per task ``train_<task>`` (mean loss over observed labels), ``weight_<task>`` (lambda,
        or the rule's weight), ``validation_<task>`` and ``validation_<task>_<metric>``; ``validation_loss``
        is the sum of the tasks' validation losses.

    Raises:
        ValueError: If arguments contradict each other or the data lack a task.
        FloatingPointError: If a loss is not finite; names the task and the step.
    """
    names = [task.name for task in tasks]
    batches, held_out = _prepare(tasks, train, validation, batch_size, seed)
    if weighting is not None and balancing is not None:
        raise ValueError("give a weighting rule or a balancing rule, not both.")
    if epochs < 1 or (patience is not None and (patience < 1 or held_out is None)):
        raise ValueError("epochs and patience must be at least 1, and patience needs a validation part.")
    if monitor != "loss" and monitor not in names:
        raise ValueError(f"monitor must be 'loss' or a task among {names}, found {monitor!r}.")
    rule: Any = weighting if weighting is not None else FixedWeights([1.0] * len(tasks))
    labelled = getattr(rule, "names", None)
    if labelled is not None and list(labelled) != names:
        raise ValueError(
            f"the weights are named {list(labelled)}, the tasks {names}: use one order of names."
        )
    if device is not None:
        model.to(device)
    place = next(model.parameters()).device
    rule.to(place)
    batches = batches.to(place)  # a table that fits in memory moves once
    if balancing is not None:
        _check_cut(model, batches, names, gradients)
    stepper = _optimizer(model, rule, optimizer, learning_rate, weight_decay)
    base_rates = [group["lr"] for group in stepper.param_groups]
    trained = [p for group in stepper.param_groups for p in group["params"]]
    draws = torch.Generator().manual_seed(seed)  # for balancing rules that are random
    history: list[dict[str, Any]] = []
    best, best_epoch, best_state = math.inf, 0, copy.deepcopy(model.state_dict()) if patience else None
    steps, done = epochs * len(batches), 0
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), _bar(steps, progress) as bar:
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            model.train()
            total, in_epoch, sums, counts = 0.0, 0, torch.zeros(len(tasks)), torch.zeros(len(tasks))
            for batch in batches:
                if schedule is not None:
                    for group, rate in zip(stepper.param_groups, base_rates, strict=True):
                        group["lr"] = rate * schedule(done / steps)
                stepper.zero_grad(set_to_none=True)
                losses, combined, weights = _backward(model, tasks, batch, rule, balancing, gradients, draws)
                done, in_epoch = done + 1, in_epoch + 1
                if not math.isfinite(combined):
                    _refuse(names, losses, epoch, done)
                if clip is not None:
                    nn.utils.clip_grad_norm_(trained, clip)
                stepper.step()
                if hasattr(rule, "after_step"):
                    rule.after_step(losses)
                seen = _label_weight(batch, names)
                total, sums, counts = total + combined, sums + losses.cpu() * seen, counts + seen
                if bar is not None:
                    bar.update(1)
            means = torch.where(counts > 0, sums / counts, torch.nan)
            if hasattr(rule, "after_epoch"):
                rule.after_epoch(means.to(place))
            row = {
                "epoch": epoch,
                "learning_rate": stepper.param_groups[0]["lr"],
                "train_loss": total / in_epoch,
            }
            row |= {f"train_{name}": value for name, value in zip(names, means.tolist(), strict=True)}
            row |= {f"weight_{name}": value for name, value in zip(names, weights.tolist(), strict=True)}
            if held_out is not None:
                row |= _validate(model, tasks, held_out)
            history.append(row)
            if patience is None:
                continue
            if (score := _score(row, tasks, monitor)) < best:
                best, best_epoch, best_state = score, epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    model.eval()
    return pd.DataFrame(history)


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
    outputs = _outputs(model, x, batch_size)
    natural = {name: links[name](output) if name in links else output for name, output in outputs.items()}
    return {name: values.cpu().numpy() for name, values in natural.items()}


def _outputs(model: nn.Module, x: Mapping[str, Tensor], batch_size: int) -> dict[str, Tensor]:
    """Raw outputs for a whole set, in evaluation mode."""
    model.eval()
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for batch in Batches(x, {}, batch_size=batch_size, shuffle=False):
            for name, output in model(batch.to(next(model.parameters()).device).x).items():
                found.setdefault(name, []).append(output)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _prepare(
    tasks: Sequence[Task], train: Data, validation: Data | None, batch_size: int, seed: int
) -> tuple[Batches, Batches | None]:
    check_names(tasks)

    def make(part: str, data: Data, size: int, shuffle: bool) -> Batches:
        if not isinstance(data, Batches):
            if len(data) not in (2, 3):
                raise ValueError(f"{part} must be Batches, (x, y) or (x, y, w), found {len(data)} entries.")
            x, y, w = (*data, {})[:3]
            data = Batches(x, y, w, size, shuffle, seed)
        missing = [task.name for task in tasks if task.name not in data.data.y]
        if missing:
            raise ValueError(f"the {part} part has no targets for {missing}; it has {sorted(data.data.y)}.")
        return data

    held_out = None if validation is None else make("validation", validation, 8192, False)
    return make("train", train, batch_size, True), held_out


def _optimizer(
    model: nn.Module,
    rule: nn.Module,
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    own = [p for p in model.parameters() if p.requires_grad]
    rules = list(rule.parameters())
    if make is not None:
        return make([*own, *rules])
    groups: list[dict[str, Any]] = [{"params": own, "weight_decay": weight_decay}]
    if rules:
        groups.append({"params": rules, "weight_decay": 0.0})  # decay would drag lambda towards one
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)  # without decay this is Adam


def _losses(tasks: Sequence[Task], predictions: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Losses of all tasks, (T,)."""
    return torch.stack([task.loss(predictions, batch.y[task.name], batch.w.get(task.name)) for task in tasks])


def _label_weight(batch: Batch, names: Sequence[str]) -> Tensor:
    """Sum of the weights of the observed labels, (T,): what turns batch means into an epoch's mean."""
    seen = [(~torch.isnan(batch.y[n])) * batch.w.get(n, torch.ones(())).to(batch.y[n].device) for n in names]
    return torch.stack([s.sum() for s in seen]).cpu().to(torch.get_default_dtype())


def _backward(
    model: Any,
    tasks: Sequence[Task],
    batch: Batch,
    rule: Any,
    balancing: Any,
    gradients: Gradients,
    generator: torch.Generator,
) -> tuple[Tensor, float, Tensor]:
    """Fill the gradients for one batch; return the losses (T,), what was minimised, and the weights (T,)."""
    encoded = model.encode(batch.x)
    read = encoded
    if balancing is not None and gradients == "representation":
        read = Encoded(tuple(z.detach().requires_grad_() for z in encoded.shared), encoded.private)
    predictions = model.decode(read)
    losses = _losses(tasks, predictions, batch)
    penalty = model.penalty(predictions) if hasattr(model, "penalty") else losses.new_zeros(())
    if balancing is None:
        combined: Tensor = rule(losses) + penalty
        torch.autograd.backward(combined)
        weights = getattr(rule, "weights", torch.full((len(tasks),), math.nan))
        return losses.detach(), combined.item(), weights.detach()
    at = model.shared_parameters() if gradients == "parameters" else list(read.shared)
    rows = [torch.autograd.grad(loss, at, retain_graph=True, materialize_grads=True) for loss in losses]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).double()  # (T, P)
    weights = balancing(jacobian @ jacobian.T, generator=generator)
    # Decoders get the plain sum; what is shared gets the weighted sum, and the penalty as it is.
    torch.autograd.backward(losses.sum() + penalty, retain_graph=gradients == "representation")
    for position, target in enumerate(at):
        change = sum((a - 1) * row[position] for a, row in zip(weights.to(losses.dtype), rows, strict=True))
        target.grad = change if target.grad is None else target.grad + change
    if gradients == "representation":
        torch.autograd.backward(encoded.shared, [z.grad for z in read.shared])
    return losses.detach(), (losses.sum() + penalty).item(), weights.detach()


def _check_cut(model: Any, batches: Batches, names: Sequence[str], gradients: Gradients) -> None:
    """Refuse to balance what is not shared; warn where the representation cannot see a conflict."""
    if gradients == "parameters":
        if not model.shared_parameters():
            raise ValueError(f"{type(model).__name__} shares no parameter: there is nothing to balance.")
        return
    with torch.no_grad():
        one = batches.data.x
        if not model.encode({key: value[:2] for key, value in one.items()}).shared:
            raise ValueError(
                f"{type(model).__name__} has no shared representation: use gradients='parameters'."
            )
    seen = torch.stack([~torch.isnan(batches.data.y[name]) for name in names]).sum(0)
    overlap = (seen > 1).sum().item() / max((seen > 0).sum().item(), 1)
    if overlap < 0.5:
        warnings.warn(
            f"only {overlap:.0%} of the labelled rows have more than one label: at the representation, tasks "
            "on different rows look orthogonal and all becomes the plain sum; use gradients='parameters'.",
            stacklevel=3,
        )


def _refuse(names: Sequence[str], losses: Tensor, epoch: int, step: int) -> None:
    found = dict(zip(names, losses.tolist(), strict=True))
    wrong = ", ".join(f"{name!r} is {loss}" for name, loss in found.items() if not math.isfinite(loss))
    raise FloatingPointError(
        f"the loss of task {wrong or 'weights or penalty'} at step {step} (epoch {epoch}): look for "
        "infinite inputs, lower the learning rate, or clip the gradient (clip=1.0)."
    )


def _validate(model: nn.Module, tasks: Sequence[Task], held_out: Batches) -> dict[str, float]:
    """Losses and metrics of every task over the whole validation part."""
    x, y, w = held_out.data
    outputs = _outputs(model, x, held_out.batch_size)
    losses = _losses(tasks, outputs, Batch(x, y, w).to(next(model.parameters()).device)).tolist()
    row = {"validation_loss": sum(losses)}
    for task, loss in zip(tasks, losses, strict=True):
        row[f"validation_{task.name}"] = loss
        label = y[task.name].cpu().numpy().astype(np.float64)
        weight = w[task.name].cpu().numpy() if task.name in w else None
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


def _bar(steps: int, progress: bool | None) -> Any:
    if progress is None:
        progress = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    return need("tqdm", "plots").tqdm(total=steps, unit="step", leave=False) if progress else nullcontext()
