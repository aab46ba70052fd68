"""Heads that say which token it is."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask.protocols import Encoder


def embedding_of(encoder: Encoder) -> Tensor:
    """The embedding matrix of ids ``[V, D]``, of the width of the encoder's states.

    Raises:
        UserError: it has none.
    """
    weight = getattr(encoder, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape[1] != encoder.out_dim:
        raise UserError(
            f"a head is tied to the embedding of ids, and {type(encoder).__name__} has none of its width: "
            "choose --encoder language/transformer"
        )
    return weight


class TiedHead(nn.Module):
    """BERT's head: a layer, and the likeness to the embedding of each id.

    Args:
        encoder: whose embedding matrix it is, as ``weight`` ``[V, D]``.

    Raises:
        UserError: the encoder has none.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.layer = _layer(encoder.out_dim)
        self.bias = nn.Parameter(torch.zeros(len(embedding_of(encoder))))

    def forward(self, states: Tensor, encoder: Any) -> Tensor:
        """``[..., D]`` to logits ``[..., V]``."""
        return F.linear(self.layer(states), encoder.weight, self.bias)


class ClassHead(nn.Module):
    """The same with weights of its own, for classes of any kind.

    Args:
        dim: width of the states.
        classes: how many there are.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.layer, self.last = _layer(dim), nn.Linear(dim, classes)
        nn.init.normal_(self.last.weight, std=0.02)
        nn.init.zeros_(self.last.bias)

    def forward(self, states: Tensor, encoder: Any = None) -> Tensor:
        """``[..., D]`` to logits ``[..., classes]``; the encoder is what heads that are tied ask for."""
        logits: Tensor = self.last(self.layer(states))
        return logits


def _layer(dim: int) -> nn.Sequential:
    first = nn.Linear(dim, dim)
    nn.init.normal_(first.weight, std=0.02)
    nn.init.zeros_(first.bias)
    return nn.Sequential(first, nn.GELU(), nn.LayerNorm(dim, eps=1e-12))
