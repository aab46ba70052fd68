"""Where attention of a language model may go, and what it did."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.protocols import Attended
from polymask_language.taps import Taps

ATTENDED = ("query", "key", "value", "mixed")
"""Kinds of activations that tell what attention did."""


def place_of(position: Tensor) -> Tensor:
    """The place of each token in its document, int64 ``[B, K]``."""
    return position[..., 0].round().long()


def attention(place: Tensor, document: Tensor | None, valid: Tensor | None, causal: bool) -> Tensor:
    """Where attention may go: bool ``[B, 1, K, K]``, queries before keys.

    Args:
        place: int64 ``[B, K]`` within the document.
        document: ``[B, K]``, which document each token is of; None for one.
        valid: bool ``[B, K]``, False on padding; None for none.
        causal: only to places that are not later.
    """
    query, key = place[:, None, :, None], place[:, None, None, :]
    reach = query >= key if causal else torch.ones_like(query == key)
    if document is not None:
        reach = reach & (document[:, None, :, None] == document[:, None, None, :])
    if valid is not None:
        # a query of padding that reaches nothing would come out as NaN
        itself = torch.eye(place.shape[1], dtype=torch.bool, device=place.device)
        reach = (reach & valid[:, None, None, :]) | itself
    return reach


def attended(taps: Taps, reach: Tensor, heads: int, last: int) -> list[Attended]:
    """What attention did in the last blocks of a model, of what was recorded of all.

    Args:
        taps: activations of the kinds of :data:`ATTENDED`.
        reach: bool ``[B, 1, K, K]``, where attention might go.
        heads: attention heads of a block.
        last: of how many blocks; all there are where it is more.
    """
    found = []
    for query, key, value, mixed in list(zip(*(taps[kind] for kind in ATTENDED), strict=True))[-last:]:
        q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = logits.masked_fill(~reach, -torch.inf).softmax(dim=-1)
        found.append(Attended(query, key, value, mixed, weights))
    return found
