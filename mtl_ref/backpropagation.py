"""Backpropagation written out for F and its heads: one pass for the sum, one wider pass for all T gradients.

Autograd serves every model, at a price: it books each operation, and T task gradients cost it T walks
through the encoder and T gradients as large as the embedding table, nearly all zeros. For an encoder of
embeddings and linear layers the chain rule is a dozen lines. With the tasks side by side in one tensor
(B, T, width), the T backward passes of a layer are one matrix product each, and of the table only those rows
appear that the batch reads.

    h_k = relu(W_k h_{k-1} + b_k)                                        forward, z = h_K
    delta_k = (delta_{k+1} W_{k+1}) where h_k > 0, else 0                 backward
    dL/dW_k = delta_k' h_{k-1},   dL/db_k = sum of delta_k                Rumelhart et al. (1986)

The numbers are those of autograd up to rounding; tests hold them together. A model that this file does not
know, or that carries hooks, is left to autograd (``by_hand`` returns None).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .encoders import EmbeddingTable, FusedEmbedding, TabularEncoder
from .models import Encoded, SharedEncoder
from .tasks import Task

_relu_backward: Any = torch.ops.aten.threshold_backward


def by_hand(model: nn.Module, tasks: Sequence[Task]) -> ByHand | None:
    """Return the hand-written passes of a model, or None where autograd must do it.

    Known are ``SharedEncoder`` with a ``TabularEncoder`` that has hidden layers and reads no text, where all
    parameters are trained, no module is derived from another or has hooks, and each task's loss reads its
    own output only.
    """
    if not all(type(task).totals is Task.totals for task in tasks):
        return None
    if type(model) is not SharedEncoder or type(model.encoder) is not TabularEncoder:
        return None
    encoder = model.encoder
    known = {nn.Linear, nn.ReLU, nn.Dropout, nn.Sequential, EmbeddingTable, FusedEmbedding}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = list(encoder.modules())[1:]
    if encoder.bag is not None or not len(encoder.mlp) or not {type(part) for part in parts} <= known:
        return None
    if any(getattr(part, hook) for part in model.modules() for hook in hooks):
        return None
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return None
    return None if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda") else ByHand(model)


class ByHand:
    """The passes of one model; keeps what the forward pass found until the backward pass has used it.

    Args:
        model: One for which ``by_hand`` returns this object.
    """

    def __init__(self, model: SharedEncoder) -> None:
        encoder: Any = model.encoder
        self.model, self.embedding = model, encoder.embedding
        self.numeric = bool(encoder.config["sizes"].get("numeric"))
        self.dropout: float = encoder.config["dropout"]
        linear = [part for part in encoder.mlp if isinstance(part, nn.Linear)]
        self.layers: list[tuple[Tensor, Tensor]] = [(part.weight, part.bias) for part in linear]
        heads: list[Any] = list(model.heads.values())
        self.names = list(model.heads)
        self.together = model.alike and not model.stop_gradient
        if self.together:  # of every head: hidden weight and bias, output weight and bias
            modules = [(head.hidden[0], head.output) for head in heads]
            self.heads = [(h.weight, h.bias, o.weight, o.bias) for h, o in modules]
        self.ids: Tensor | None = None
        self.below: list[Tensor] = []  # input of every layer, and z at the end
        self.rooms: dict[tuple[int | str, ...], Tensor] = {}

    def forward(self, x: Mapping[str, Tensor], apart: bool = False) -> dict[str, Tensor]:
        """Predict; the graph begins at the raw outputs (heads alike) or at z.

        Args:
            x: Inputs of the model.
            apart: Whether each task reads a z of its own, so that its gradient can be told from the others'.

        Returns:
            Raw outputs by task; autograd may be asked for gradients down to where the graph begins.
        """
        with torch.no_grad():
            blocks = []
            if self.embedding is not None:
                table = self.embedding.table
                self.ids = (x["categorical"] + self.embedding.offset).flatten()
                blocks.append(table.weight.index_select(0, self.ids).view(len(x["categorical"]), -1))
            h = torch.cat([*blocks, x["numeric"]], 1) if self.numeric else blocks[0]
            self.below = [h]
            for weight, bias in self.layers:
                h = torch.addmm(bias, h, weight.t()).relu_()
                h = nn.functional.dropout(h, self.dropout, self.model.training) if self.dropout else h
                self.below.append(h)
        if not self.together:
            count = len(self.names) if apart else 1
            self.latent = [h.detach().requires_grad_() for _ in range(count)]
            if not apart:
                return self.model.decode(Encoded((self.latent[0],), {}))
            found = {}
            for z, (name, head) in zip(self.latent, self.model.heads.items(), strict=True):
                found[name] = head(z.detach() if name in self.model.stop_gradient else z)
            return found
        with torch.no_grad():
            # (T * H, width of z), (T * H,), (T, H), (T,)
            self.weight, first, self.output, last = map(torch.cat, zip(*self.heads, strict=True))
            hidden = torch.addmm(first, h, self.weight.t()).relu_()
            self.hidden = hidden.view(len(h), *self.output.shape)  # (B, T, H)
            self.outputs = (self.hidden * self.output).sum(2).add_(last)  # (B, T)
        columns = self.outputs.requires_grad_().unbind(1)
        return dict(zip(self.names, columns, strict=True))

    def room(self, name: int | str, *shape: int) -> Tensor:
        """Memory that is kept from step to step: what is asked of the system anew must be cleared by it."""
        key = (name, *shape)
        if key not in self.rooms:
            self.rooms = {kept: tensor for kept, tensor in self.rooms.items() if kept[0] != name}
            self.rooms[key] = torch.empty(shape, dtype=self.below[0].dtype, device=self.below[0].device)
        return self.rooms[key]

    def fill(self) -> None:
        """Fill all gradients with that of a sum of losses, of which autograd gave the part above.

        A table gets its gradient by rows, through its tape.
        """
        self._fill(self._at_latent(apart=False)[0])

    def at_latent(self) -> Tensor:
        """Fill the heads' gradients, the plain sum, and return those of each task at z, (T, B, width)."""
        return self._at_latent(apart=True)

    def fill_weighted(self, apart: Tensor, weights: Tensor) -> None:
        """Fill the encoder's gradients from a weighted sum (T,) of the gradients (T, B, width) at z."""
        self._fill(torch.tensordot(weights.to(apart.dtype), apart, 1))

    def jacobian(self, apart: Tensor) -> Jacobian:
        """Gradients of all tasks at the encoder's parameters from those at z, (T, B, width)."""
        layers, delta = self._encoder(
            self.room("z", len(apart[0]), len(apart), apart.shape[2]).copy_(apart.transpose(0, 1))
        )
        if delta is None or self.ids is None:
            return Jacobian(layers, None, None)
        rows, tasks, _ = delta.shape
        dimension = self.embedding.table.embedding_dim
        # Row sums: what the occurrences of one id add up to, all tasks beside each other.
        columns = delta.shape[2] // dimension
        by_id = self.room("ids", rows, columns, tasks, dimension)
        by_id.copy_(delta.view(rows, tasks, columns, dimension).transpose(1, 2))
        distinct, position = torch.unique(self.ids, return_inverse=True)
        table = self.room("table", len(self.ids), tasks * dimension)[: len(distinct)].zero_()
        table.index_add_(0, position, by_id.view(len(self.ids), -1))
        return Jacobian(layers, distinct, table.view(len(distinct), tasks, dimension))

    def fill_combined(self, jacobian: Jacobian, weights: Tensor) -> None:
        """Fill the encoder's gradients with a weighted sum (T,) of the tasks' gradients."""
        for parameter, rows in jacobian.layers:
            parameter.grad = torch.tensordot(weights.to(rows.dtype), rows, 1)
        if jacobian.table is not None and jacobian.ids is not None:
            change = torch.einsum("t,utd->ud", weights.to(jacobian.table.dtype), jacobian.table)
            self._note(jacobian.ids, change)

    def _at_latent(self, apart: bool) -> Tensor:
        """The heads' backward pass: gradients at z, (T, B, width), or (1, B, width) of the sum."""
        if not self.together:
            return torch.stack([torch.zeros_like(z) if z.grad is None else z.grad for z in self.latent])
        z, above = self.below[-1], self.outputs.grad
        above = torch.zeros_like(self.outputs) if above is None else above
        delta = _relu_backward(above.unsqueeze(2) * self.output, self.hidden, 0)  # (B, T, H)
        flat = delta.view(len(z), -1)
        weight, bias = (flat.t() @ z).view(*self.output.shape, -1), flat.sum(0).view(self.output.shape)
        output = torch.bmm(above.t().unsqueeze(1), self.hidden.transpose(0, 1))  # (T, 1, H)
        parts = zip(
            weight.unbind(), bias.unbind(), output.unbind(), above.sum(0).view(-1, 1).unbind(), strict=True
        )
        for head, gradients in zip(self.heads, parts, strict=True):
            for parameter, gradient in zip(head, gradients, strict=True):
                parameter.grad = gradient
        if not apart:
            return torch.mm(flat, self.weight)[None]
        by_task = self.room("heads", *delta.transpose(0, 1).shape[:2], z.shape[1])
        torch.bmm(delta.transpose(0, 1), self.weight.view(*self.output.shape, -1), out=by_task)
        return by_task

    def _encoder(self, delta: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """Gradients (K, ...) of the layers' parameters, and (B, K, C * dimension) at the embedding vectors.

        ``delta`` (B, K, width) holds the gradients of K losses at z, and is used up.
        """
        found: list[tuple[Tensor, Tensor]] = []
        rows, losses, _ = delta.shape
        kept = 1 - self.dropout if self.model.training else 1.0
        width = 0 if self.embedding is None else self.embedding.width
        for k in range(len(self.layers) - 1, -1, -1):
            (weight, bias), below, h = self.layers[k], self.below[k], self.below[k + 1]
            # In place: zero where the unit was off, or dropped.
            _relu_backward.grad_input(delta, h.unsqueeze(1).expand_as(delta), 0, grad_input=delta)
            delta = delta.div_(kept) if kept < 1 else delta
            flat = delta.view(rows, -1)  # (B, K * out): the K products are one
            found.append((weight, (flat.t() @ below).view(losses, *weight.shape)))
            found.append((bias, flat.sum(0).view(losses, -1)))
            used = weight.detach() if k else weight.detach()[:, :width]  # nobody asks for those of numbers
            out = self.room(k, rows * losses, used.shape[1])
            delta = torch.mm(delta.view(rows * losses, -1), used, out=out).view(rows, losses, -1)
        return found, None if self.embedding is None else delta

    def _fill(self, delta: Tensor) -> None:
        """The encoder's backward pass for one gradient (B, width) at z."""
        layers, below = self._encoder(delta.unsqueeze(1))
        for parameter, rows in layers:
            parameter.grad = rows[0]
        if below is not None and self.ids is not None:
            self._note(self.ids, below.view(len(self.ids), -1))

    def _note(self, ids: Tensor, gradient: Tensor) -> None:
        """Hand rows of the table's gradient to the owner of its tape."""
        rows = gradient.detach()
        rows.grad = gradient
        self.embedding.table.tape.append((ids, rows))


class Jacobian:
    """J (T, P) of an encoder without its zeros.

    Args:
        layers: Parameters of the linear layers, each with its gradients (T, ...).
        ids: Distinct ids (U,) that the batch read from the embedding table, if there is one.
        table: Their gradients (U, T, dimension).
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]], ids: Tensor | None, table: Tensor | None) -> None:
        self.layers, self.ids, self.table = layers, ids, table

    def gram(self) -> Tensor:
        """G = J J' (T, T), in float64."""
        tasks = len(self.layers[0][1])
        blocks = [rows.view(tasks, -1) for _, rows in self.layers]
        if self.table is not None:
            parts = range(0, len(self.table), 1024)
            blocks += [self.table[k : k + 1024].transpose(0, 1).reshape(tasks, -1) for k in parts]
        return torch.stack([gram(block) for block in blocks]).sum(0)


def gram(rows: Tensor) -> Tensor:
    """Inner products (T, T) of rows (T, P), summed in float64; by parts, which fit in the cache."""
    parts = [rows[:, k : k + 16384].double() for k in range(0, rows.shape[1], 16384)]
    return torch.stack([part @ part.T for part in parts]).sum(0)
