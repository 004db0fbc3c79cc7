"""The model: one encoder F, one head G_i per task; and its control, one encoder per task.

Every model of the package keeps one contract. ``encode(x)`` gives ``Encoded(shared, private)``: the tensors
that every task reads, and those that belong to one task. ``decode(encoded)`` gives a raw output per name,
(B,) or (B, K). ``forward`` is the one after the other. ``shared_parameters()`` are those that more than one
task's loss reaches. A model may offer ``penalty(predictions)``, a scalar that is added outside lambda and
outside the Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .encoders import TabularEncoder, perceptron, whole
from .tasks import Task, check_names


class Encoded(NamedTuple):
    """What the decoders read: ``shared`` by every task, ``private[name]`` by one."""

    shared: tuple[Tensor, ...]
    private: dict[str, tuple[Tensor, ...]]


class Head(nn.Module):
    """G_i: hidden layers and a linear output, (B,) for one number and (B, width) for more.

    Its last bias starts at the task's best constant (``Task.fit``), so that training begins at the base rate.
    """

    def __init__(self, width: int, hidden: Sequence[int], task: Task) -> None:
        super().__init__()
        self.hidden = perceptron([width, *hidden])
        self.output = nn.Linear(hidden[-1] if hidden else width, task.width)
        if task.initial:
            with torch.no_grad():
                self.output.bias.copy_(torch.tensor(task.initial))

    def forward(self, z: Tensor) -> Tensor:
        """Map z (B, width) to a raw output."""
        output: Tensor = self.output(self.hidden(z))
        return output.squeeze(1) if output.shape[1] == 1 else output


class ByTask(nn.ModuleDict):
    """Modules by task name. A task may be called ``items``, which ``nn.ModuleDict`` itself refuses."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        """Register a module without asking whether its name is one of a dictionary's methods."""
        self._modules[key] = module


class SharedEncoder(nn.Module):
    """Hard parameter sharing (Caruana, 1997): y_i = G_i(F(x)).

    The cut is at z: ``shared = (z,)``, nothing is private.

    Args:
        encoder: F, a module with ``width``, such as ``TabularEncoder``.
        tasks: One head each.
        head: Widths of the hidden layers of each head.
        stop_gradient: Names of tasks that read z without shaping it.

    Raises:
        ValueError: If two tasks have one name, or ``stop_gradient`` names no task.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tasks: Sequence[Task],
        head: Sequence[int] = (32,),
        stop_gradient: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_names(tasks)
        whole("head", head)
        if isinstance(stop_gradient, str):
            raise ValueError(f"stop_gradient must be a list of names, found {stop_gradient!r}: write a list.")
        unknown = set(stop_gradient) - {task.name for task in tasks}
        if unknown:
            raise ValueError(
                f"stop_gradient names {sorted(unknown)}, the tasks are {[t.name for t in tasks]}: name tasks."
            )
        self.encoder = encoder
        width = _width(encoder)
        self.heads = ByTask({task.name: Head(width, head, task) for task in tasks})
        self.head, self.stop_gradient = tuple(head), frozenset(stop_gradient)
        self.alike = len(tasks) > 1 and len(head) == 1 and all(task.width == 1 for task in tasks)

    @property
    def config(self) -> dict[str, Any]:
        """The model as plain data, for ``build``."""
        return {
            "class": "SharedEncoder",
            "encoder": getattr(self.encoder, "config", None),
            "head": list(self.head),
            "stop_gradient": sorted(self.stop_gradient),
        }

    def encode(self, x: Mapping[str, Tensor]) -> Encoded:
        """Map inputs to z (B, width), which all tasks share."""
        return Encoded(shared=(self.encoder(x),), private={})

    def decode(self, encoded: Encoded) -> dict[str, Tensor]:
        """Map z to one raw output per task."""
        (z,) = encoded.shared
        if self.alike and not self.stop_gradient:
            return _together(self.heads, z)
        return {
            name: head(z.detach() if name in self.stop_gradient else z) for name, head in self.heads.items()
        }

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map inputs to one raw output per task."""
        return self.decode(self.encode(x))

    def check(self, x: Mapping[str, Tensor]) -> None:
        """Refuse inputs that the encoder cannot read (``TabularEncoder.check``)."""
        _check((self.encoder,), x)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters; none where fewer than two tasks shape it."""
        shaping = len(self.heads) - len(self.stop_gradient)
        return list(self.encoder.parameters()) if shaping > 1 else []


class SingleTask(nn.Module):
    """The control: for each task an encoder and a head of its own, built from the same parts.

    The losses touch disjoint parameters, so training the sum trains every task alone, on the same batches.
    Nothing is shared: ``shared`` is empty, ``private[name] = (z_name,)``.

    Args:
        make_encoder: Called once per task; returns a new encoder.
        tasks: One encoder and one head each.
        head: Widths of the hidden layers of each head.

    Raises:
        ValueError: If two tasks have one name, or ``make_encoder`` returns one module twice.
    """

    def __init__(
        self, make_encoder: Callable[[], nn.Module], tasks: Sequence[Task], head: Sequence[int] = (32,)
    ) -> None:
        super().__init__()
        check_names(tasks)
        whole("head", head)
        if isinstance(make_encoder, nn.Module):
            found = type(make_encoder).__name__
            raise TypeError(f"make_encoder must build an encoder, found one: write lambda: {found}(...).")
        self.encoders = ByTask({task.name: make_encoder() for task in tasks})
        if len({id(encoder) for encoder in self.encoders.values()}) != len(tasks):
            problem = "make_encoder must build a new encoder at each call, found the same one twice"
            raise ValueError(f"{problem}: build it inside.")
        self.heads = ByTask({t.name: Head(_width(self.encoders[t.name]), head, t) for t in tasks})
        self.head = tuple(head)

    @property
    def config(self) -> dict[str, Any]:
        """The model as plain data, for ``build``."""
        encoder = next(iter(self.encoders.values()))
        return {"class": "SingleTask", "encoder": getattr(encoder, "config", None), "head": list(self.head)}

    def encode(self, x: Mapping[str, Tensor]) -> Encoded:
        """Map inputs to one z per task."""
        return Encoded(shared=(), private={name: (encoder(x),) for name, encoder in self.encoders.items()})

    def decode(self, encoded: Encoded) -> dict[str, Tensor]:
        """Map each task's z to its raw output."""
        return {name: head(*encoded.private[name]) for name, head in self.heads.items()}

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map inputs to one raw output per task."""
        return self.decode(self.encode(x))

    def check(self, x: Mapping[str, Tensor]) -> None:
        """Refuse inputs that the encoders cannot read (``TabularEncoder.check``)."""
        _check(self.encoders.values(), x)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the empty list: nothing is shared."""
        return []


def build(config: Mapping[str, Any], tasks: Sequence[Task]) -> SharedEncoder | SingleTask:
    """Build a model from its ``config``.

    Raises:
        ValueError: If the configuration names a class that this package does not have.
    """
    part = config.get("encoder") if isinstance(config, Mapping) else None
    if not isinstance(part, Mapping):
        raise ValueError(f"cannot build a model from {str(config)[:80]!r}: pass the model itself.")
    if config.get("class") not in ("SharedEncoder", "SingleTask") or part.get("class") != "TabularEncoder":
        raise ValueError(
            f"cannot build a {config.get('class')!r} with a {part.get('class')!r} encoder: "
            "pass the model itself (its weights are loaded into it)."
        )
    arguments = {key: value for key, value in part.items() if key != "class"}
    if config["class"] == "SingleTask":
        return SingleTask(lambda: TabularEncoder(**arguments), tasks, config["head"])
    return SharedEncoder(TabularEncoder(**arguments), tasks, config["head"], config["stop_gradient"])


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that training may change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _together(heads: ByTask, z: Tensor) -> dict[str, Tensor]:
    """Run heads of one hidden layer and one output, all alike, as two products instead of two per head."""
    modules: Any = heads.values()
    layers = [(head.hidden[0], head.output) for head in modules]
    weight = torch.cat([hidden.weight for hidden, _ in layers])  # (T * H, width)
    hidden = torch.relu(nn.functional.linear(z, weight, torch.cat([layer.bias for layer, _ in layers])))
    output = torch.cat([output.weight for _, output in layers])  # (T, H)
    by_task = (hidden.view(len(z), *output.shape) * output).sum(2)  # (B, T, H) to (B, T)
    columns = (by_task + torch.cat([output.bias for _, output in layers])).unbind(1)
    return dict(zip(heads.keys(), columns, strict=True))


def _check(encoders: Iterable[nn.Module], x: Mapping[str, Tensor]) -> None:
    for encoder in encoders:
        check: Any = getattr(encoder, "check", None)
        if check is not None:
            check(x)


def _width(encoder: nn.Module) -> int:
    width = getattr(encoder, "width", None)
    if not isinstance(width, int):
        raise ValueError(f"{type(encoder).__name__} needs an integer attribute 'width', the width of z.")
    return width
