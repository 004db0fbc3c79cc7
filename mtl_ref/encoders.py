"""F: the encoder that turns a row into the representation z which the heads read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


def whole(name: str, values: Sequence[int], least: int = 1) -> None:
    """Refuse sizes that are no whole numbers, or too small.

    Raises:
        ValueError: Names the argument, what was found and what to do.
    """
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    if not listed or any(
        not isinstance(v, int) or isinstance(v, bool) or not least <= v < 2**40 for v in values
    ):
        advice = "correct it" if listed else "write a list or a tuple"
        raise ValueError(f"{name} must be whole numbers of at least {least}, found {values!r}: {advice}.")


class EmbeddingTable(nn.Embedding):
    """A table of vectors, one row per id, whose gradient need not be as large as the table.

    While ``tape`` is a list (``fit`` puts one there), a look-up hands out the vectors as leaves of the graph
    and notes ``(ids, vectors)``: the backward pass ends at the rows that the batch reads, and what becomes
    of their gradients is up to the owner of the tape. Otherwise it is a plain ``nn.Embedding``.

    Args:
        rows: Number of ids.
        dimension: Numbers per id.
    """

    def __init__(self, rows: int, dimension: int) -> None:
        super().__init__(rows, dimension)
        nn.init.normal_(self.weight, std=0.05)
        self.tape: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Map ids (...) to vectors (..., dimension)."""
        if self.tape is None or not torch.is_grad_enabled() or not self.weight.requires_grad:
            return super().forward(input)
        ids = input.flatten()
        vectors = self.weight.detach().index_select(0, ids).requires_grad_()
        self.tape.append((ids, vectors))
        return vectors.view(*input.shape, -1)


class FusedEmbedding(nn.Module):
    """One embedding table for all categorical columns.

    Column c owns the rows ``offset[c] .. offset[c] + sizes[c] - 1`` of the table: one gather for all columns
    instead of one per column, and one gradient for the optimiser to apply.

    Args:
        sizes: Number of ids per column, the reserved bucket 0 included.
        dimension: Numbers per id.

    Raises:
        ValueError: If a size is below one.
    """

    offset: Tensor

    def __init__(self, sizes: Sequence[int], dimension: int) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"every categorical column needs at least one id, found sizes {list(sizes)}.")
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("offset", starts, persistent=False)
        self.table = EmbeddingTable(sum(sizes), dimension)
        self.width = len(sizes) * dimension

    def forward(self, categorical: Tensor) -> Tensor:
        """Map ids (B, C) to (B, C * dimension)."""
        rows: Tensor = self.table(categorical + self.offset)  # (B, C, dimension)
        return rows.flatten(1)


class BagOfTokens(nn.Module):
    """The mean of the embeddings of a text's tokens: gather, mask, mean.

    Token 0 is padding and does not count; a text without tokens gives the zero vector.

    Args:
        vocabulary: Number of token ids, padding (0) and unknown (1) included.
        dimension: Numbers per token.
    """

    def __init__(self, vocabulary: int, dimension: int) -> None:
        super().__init__()
        self.table = EmbeddingTable(vocabulary, dimension)
        self.width = dimension

    def forward(self, text: Tensor) -> Tensor:
        """Map token ids (B, L) to (B, dimension)."""
        if not torch.compiler.is_compiling():  # an exported graph has no length that depends on the data
            used = (text != 0).any(0).nonzero()
            text = text[:, : int(used.max()) + 1 if len(used) else 1]  # shared padding only costs time
        token = (text != 0).to(self.table.weight.dtype).unsqueeze(-1)  # (B, L, 1)
        total: Tensor = (self.table(text) * token).sum(1)  # (B, dimension)
        return total / token.sum(1).clamp_min(1)


def perceptron(widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Stack linear layers with ReLU (and dropout) after each.

    Args:
        widths: Input width, then the width of every layer.
        dropout: Share of hidden units that are zeroed in training.

    Returns:
        The layers; empty (the identity) for a single width.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"dropout must be a number from 0 to below 1, found {dropout!r}: correct it.")
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers)


class TabularEncoder(nn.Module):
    """Embeddings of ids, numbers as they are, the mean of a text's tokens; then an MLP.

    Args:
        sizes: ``Features.sizes``: ``"categorical"`` (ids per column), ``"numeric"`` (number of columns),
            ``"text"`` (vocabulary); an absent entry means no such input.
        embedding: Numbers per categorical id.
        hidden: Widths of the layers of the MLP.
        dropout: Share of hidden units that are zeroed in training.
        text_embedding: Numbers per token.

    Attributes:
        width: Width of z.
        config: The arguments, as plain data, from which the encoder can be built again.

    Raises:
        ValueError: If ``sizes`` names no input, or an unknown one.
    """

    def __init__(
        self,
        sizes: Mapping[str, Any],
        embedding: int = 16,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        text_embedding: int = 32,
    ) -> None:
        super().__init__()
        categorical = sizes.get("categorical") or []
        whole("sizes['categorical']", categorical)
        whole("sizes['numeric'] and sizes['text']", [sizes.get("numeric", 0), sizes.get("text", 0)], least=0)
        whole("embedding and text_embedding", [embedding, text_embedding])
        whole("hidden", hidden)
        unknown = set(sizes) - {"categorical", "numeric", "text"}
        if unknown:
            raise ValueError(
                f"sizes may hold categorical, numeric and text, found {sorted(unknown)}: remove it."
            )
        self.config: dict[str, Any] = {
            "class": "TabularEncoder",
            "sizes": {
                key: list(value) if key == "categorical" else int(value) for key, value in sizes.items()
            },
            "embedding": embedding,
            "hidden": list(hidden),
            "dropout": dropout,
            "text_embedding": text_embedding,
        }
        self.embedding = FusedEmbedding(sizes["categorical"], embedding) if sizes.get("categorical") else None
        self.bag = BagOfTokens(sizes["text"], text_embedding) if sizes.get("text") else None
        width = int(sizes.get("numeric", 0)) + sum(part.width for part in (self.embedding, self.bag) if part)
        if width == 0:
            raise ValueError("sizes names no input: give the encoder a categorical, numeric or text column.")
        self.mlp = perceptron([width, *hidden], dropout)
        self.width = hidden[-1] if hidden else width

    def check(self, x: Mapping[str, Tensor]) -> None:
        """Refuse inputs that this encoder cannot read; ``fit`` and ``predict`` call it once per table.

        Raises:
            TypeError: If a part is no tensor.
            ValueError: Names the part, what was found and what to do.
        """
        sizes = self.config["sizes"]
        advice = "give the tensors of the Features that the encoder was sized by."
        if not isinstance(x, Mapping):
            raise TypeError(f"x must be a dictionary of tensors, found {type(x)}: {advice}")
        ids = {"categorical": sizes.get("categorical") or [], "text": [sizes.get("text") or 0]}
        widths = {"categorical": len(ids["categorical"]), "numeric": sizes.get("numeric") or 0}
        for part in [name for name in ("categorical", "numeric", "text") if sizes.get(name)]:
            if part not in x:
                raise ValueError(f"x lacks {part!r}, found {sorted(x)}: {advice}")
            value, width = x[part], widths.get(part)
            if not isinstance(value, Tensor):
                raise TypeError(f"x[{part!r}] must be a tensor, found {type(value)}: {advice}")
            if value.ndim != 2 or value.shape[1] != (width or value.shape[1]):
                wanted = f"(N, {width or 'L'})"
                raise ValueError(f"x[{part!r}] must be {wanted}, found {tuple(value.shape)}: {advice}")
            if value.is_floating_point() != (part == "numeric"):
                wanted = "floats" if part == "numeric" else "whole numbers"
                raise ValueError(f"x[{part!r}] must hold {wanted}, found {value.dtype}: {advice}")
            known = torch.tensor([math.inf] if part == "numeric" else ids[part], device=value.device)
            wrong = ~torch.isfinite(value) if part == "numeric" else (value < 0) | (value >= known)
            if wrong.any():
                row, column = wrong.nonzero()[0].tolist()
                found = f"holds {value[row, column].item()} in column {column}"
                limit = "finite numbers" if part == "numeric" else "ids that the encoder knows"
                raise ValueError(f"x[{part!r}] {found} and may hold {limit} only: {advice}")

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Encode a batch.

        Args:
            x: ``"categorical"`` (B, C) int64, ``"numeric"`` (B, D), ``"text"`` (B, L) int64.

        Returns:
            z, (B, width).
        """
        parts = []
        if self.embedding is not None:
            parts.append(self.embedding(x["categorical"]))
        if "numeric" in self.config["sizes"] and self.config["sizes"]["numeric"]:
            parts.append(x["numeric"])
        if self.bag is not None:
            parts.append(self.bag(x["text"]))
        z: Tensor = self.mlp(torch.cat(parts, dim=1))
        return z
