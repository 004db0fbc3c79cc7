"""One step of training: from a batch to losses, and from losses to gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .backpropagation import ByHand, gram
from .batches import Batch
from .encoders import EmbeddingTable
from .models import Encoded
from .ranks import Ranks
from .tasks import Task

Gradients = Literal["parameters", "representation"]


class Losses(NamedTuple):
    """What one batch gave, over all ranks, by task: ``values`` (T,) = ``sums`` (T,) / ``seen`` (T,)."""

    values: Tensor
    sums: Tensor
    seen: Tensor
    weights: Tensor
    combined: Tensor


def totals(tasks: Sequence[Task], predictions: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum the losses of a batch's observed labels, and their weights, by task: two (T,)."""
    found = [task.totals(predictions, batch.y[task.name], batch.w.get(task.name)) for task in tasks]
    return torch.stack([total for total, _ in found]), torch.stack([weight for _, weight in found])


def quotient(sums: Tensor, seen: Tensor) -> Tensor:
    """Mean losses (T,); zero, with zero gradient, where nothing was observed."""
    return sums / torch.where(seen > 0, seen, 1.0)


def backward(
    model: Any,
    tasks: Sequence[Task],
    batch: Batch,
    rule: Any,
    balancing: Any,
    gradients: Gradients,
    generator: torch.Generator,
    ranks: Ranks,
    hand: ByHand | None = None,
) -> Losses:
    """Fill the gradients for one batch (with several ranks: this rank's part of them).

    Args:
        model: Keeps the contract of ``mtl_ref.models``.
        tasks: The losses.
        batch: This rank's rows.
        rule: Weighting rule.
        balancing: Balancing rule, or None.
        gradients: Where a balancing rule's Gram matrix is taken.
        generator: For balancing rules that are random.
        ranks: The processes that share the batch.
        hand: Passes of ``model`` written by hand, which take the place of autograd below the raw outputs.

    Returns:
        Losses over all ranks.
    """
    encoded = read = Encoded((), {})
    if hand is not None:
        predictions = hand.forward(batch.x, apart=balancing is not None)
    else:
        encoded = read = model.encode(batch.x)
        if balancing is not None and gradients == "representation":
            read = Encoded(tuple(z.detach().requires_grad_() for z in encoded.shared), encoded.private)
        predictions = model.decode(read)
    sums, own = totals(tasks, predictions, batch)
    seen = ranks.sum(own)  # before dividing: a rank with few labels counts for few
    losses = quotient(sums, seen)
    all_sums = ranks.sum(sums.detach())
    values = losses.detach() if ranks.world == 1 else quotient(all_sums, seen)
    if not torch.isfinite(values).all():  # ``fit`` refuses it, with the step, before a rule has seen it
        return Losses(values, all_sums, seen, torch.full_like(values, math.nan), values.sum())
    penalty = _penalty(model, predictions, batch, ranks)
    if balancing is None:
        # Rules see the losses of all ranks; the gradient flows through this rank's part of them.
        whole = losses if ranks.world == 1 else losses + (values - losses).detach()
        normed = hasattr(rule, "from_norms")
        combined: Tensor = rule.from_norms(whole, _norms(model, losses, ranks)) if normed else rule(whole)
        combined = combined if penalty is None else combined + penalty
        torch.autograd.backward(combined)
        if hand is not None:
            hand.fill()
        weights = getattr(rule, "weights", torch.full((len(tasks),), math.nan)).detach()
        if penalty is not None and ranks.world > 1:
            combined = combined - penalty + ranks.sum(penalty.detach())
        return Losses(values, all_sums, seen, weights, combined.detach())
    if hand is not None:
        torch.autograd.backward(losses.sum())
        weights = _balance(hand, balancing, gradients, generator, ranks)
        return Losses(values, all_sums, seen, weights, values.sum())
    at = model.shared_parameters() if gradients == "parameters" else list(read.shared)
    rows = [torch.autograd.grad(loss, at, retain_graph=True, materialize_grads=True) for loss in losses]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).double()  # (T, P)
    if gradients == "parameters":
        gram = ranks.sum(jacobian)
        gram = gram @ gram.T
    else:
        gram = ranks.sum(jacobian @ jacobian.T)  # rows of z are a rank's own: products add up
    weights = balancing(gram, generator=generator)
    # Decoders get the plain sum; what is shared gets the weighted sum, and the penalty as it is.
    plain = losses.sum() if penalty is None else losses.sum() + penalty
    torch.autograd.backward(plain, retain_graph=gradients == "representation")
    for position, target in enumerate(at):
        change = sum((a - 1) * row[position] for a, row in zip(weights.to(losses.dtype), rows, strict=True))
        target.grad = change if target.grad is None else target.grad + change
    if gradients == "representation":
        torch.autograd.backward(encoded.shared, [z.grad for z in read.shared])
    combined = values.sum() if penalty is None else values.sum() + ranks.sum(penalty.detach())
    return Losses(values, all_sums, seen, weights.detach(), combined)


def _balance(
    hand: ByHand, balancing: Any, gradients: Gradients, generator: torch.Generator, ranks: Ranks
) -> Tensor:
    """Fill the gradients by hand and return the weights (T,), as ``backward`` does by autograd."""
    apart = hand.at_latent()  # (T, B, width)
    if gradients == "representation":
        weights: Tensor = balancing(ranks.sum(gram(apart.flatten(1))), generator=generator)
        hand.fill_weighted(apart, weights)
    else:
        jacobian = hand.jacobian(apart)
        weights = balancing(jacobian.gram(), generator=generator)
        hand.fill_combined(jacobian, weights)
    return weights.detach()


def last_shared(model: Any) -> Tensor:
    """Return the weight of the last layer that the tasks share, where GradNorm compares gradients.

    Raises:
        ValueError: If no layer after the embeddings is shared.
    """
    tables = {id(part.weight) for part in model.modules() if isinstance(part, EmbeddingTable)}
    layers: list[Tensor] = [p for p in model.shared_parameters() if p.ndim > 1 and id(p) not in tables]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} shares no layer after its embeddings: give it hidden layers."
        )
    return layers[-1]


def _norms(model: Any, losses: Tensor, ranks: Ranks) -> Tensor:
    """Norms (T,) of the gradients of the losses, over all ranks, at the last shared layer."""
    at = last_shared(model)
    rows = [torch.autograd.grad(loss, at, retain_graph=True, materialize_grads=True)[0] for loss in losses]
    gradients = ranks.sum(torch.stack([row.flatten() for row in rows]))
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return norms


def generators(place: torch.device) -> list[Tensor]:
    """States of the generators from which dropout draws."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(place)] if place.type == "cuda" else [])


def set_generators(states: Sequence[Tensor], place: torch.device) -> None:
    """Let dropout draw on from ``states``."""
    torch.set_rng_state(states[0])
    if place.type == "cuda":
        torch.cuda.set_rng_state(states[1], place)


def measure(
    model: Any, tasks: Sequence[Task], batch: Batch, states: Sequence[Tensor], ranks: Ranks
) -> Tensor:
    """Compute the losses (T,) of a batch once more, with the dropout that was drawn from ``states``."""
    place = next(model.parameters()).device
    with torch.no_grad(), torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        set_generators(states, place)
        sums, own = totals(tasks, model(batch.x), batch)
    return quotient(ranks.sum(sums), ranks.sum(own))


def _penalty(model: Any, predictions: Mapping[str, Tensor], batch: Batch, ranks: Ranks) -> Tensor | None:
    """This rank's share of the model's penalty, a mean over rows."""
    if not hasattr(model, "penalty"):
        return None
    penalty: Tensor = model.penalty(predictions)
    if ranks.world == 1:
        return penalty
    rows = torch.tensor(float(len(next(iter(batch.x.values())))))
    return penalty * (rows / ranks.sum(rows).clamp(min=1)).to(penalty)


def check_cut(model: Any, sample: Batch, names: Sequence[str], gradients: Gradients) -> None:
    """Refuse to balance what is not shared; warn where the representation cannot see a conflict.

    Raises:
        ValueError: If the model shares nothing at the place where gradients are to be compared.
    """
    if gradients == "parameters":
        if not model.shared_parameters():
            raise ValueError(f"{type(model).__name__} shares no parameter to balance: leave balancing out.")
        return
    with torch.no_grad():
        if not model.encode({key: value[:2] for key, value in sample.x.items()}).shared:
            raise ValueError(
                f"{type(model).__name__} has no shared representation: use gradients='parameters'."
            )
    seen = torch.stack([~torch.isnan(sample.y[name]) for name in names]).sum(0)
    overlap = (seen > 1).sum().item() / max((seen > 0).sum().item(), 1)
    if overlap < 0.5:
        warnings.warn(
            f"only {overlap:.0%} of the labelled rows have more than one label: at the representation, tasks "
            "on different rows look orthogonal and all becomes the plain sum; use gradients='parameters'.",
            stacklevel=3,
        )


def refuse(names: Sequence[str], losses: Tensor, epoch: int, step: int) -> None:
    """Stop at a loss that is not finite.

    Raises:
        FloatingPointError: Always; names the tasks and the step.
    """
    found = dict(zip(names, losses.tolist(), strict=True))
    wrong = ", ".join(f"{name!r} is {loss}" for name, loss in found.items() if not math.isfinite(loss))
    raise FloatingPointError(
        f"the loss of task {wrong or 'weights or penalty'} at step {step} (epoch {epoch}): look for "
        "infinite inputs, lower the learning rate, or clip the gradient (clip=1.0)."
    )
