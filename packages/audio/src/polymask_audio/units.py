"""What systems that predict class numbers of sound share: reading them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymask import Batch, Tokens, UserError


def streams_of(target: Any) -> int:
    """How many classes a target tells of each token."""
    return getattr(target, "streams", 1)


def read(system: str, target: Any, batch: Batch, tokens: Tokens) -> Tensor:
    """The classes of each token, int64 ``[B, N, J]``.

    Raises:
        UserError: the target gives something else.
    """
    labels: Tensor = target(batch, tokens)
    streams = streams_of(target)
    if labels.dtype != torch.int64 or labels.numel() != tokens.shape[0] * tokens.shape[1] * streams:
        raise UserError(
            f"{system} predicts classes, {streams} for each of {tokens.shape[1]} tokens, and "
            f"{type(target).__name__} gives {labels.dtype} {list(labels.shape)}: use a target "
            "tagged 'classes', at the rate of the tokens"
        )
    return labels.view(*tokens.shape, streams)
