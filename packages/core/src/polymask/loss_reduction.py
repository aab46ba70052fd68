"""What a mean over a mask is divided by, where a step is computed in several parts.

Gradient accumulation computes a step in parts one after the other, several processes compute parts side by
side. A mean over each part would weigh a site by how few others its part scored. In a :func:`counting` scope,
which the training adapter opens around ``forward``, :meth:`polymask.Mask.mean` divides by an equal share of
the count of all parts, so that the mean over the parts is the mean over the sites of the whole step. Training
loops without that scope divide by the count of their batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Share = Callable[[int, Tensor], Tensor]
"""``(index of the mean, count of this part) -> divisor``, scalars."""


@dataclass(frozen=True)
class Mean:
    """A mean that was taken: over how many sites, and what it is, scalars."""

    count: Tensor
    value: Tensor


_share: Share | None = None
_means: list[Mean] = []


@contextlib.contextmanager
def counting(share: Share | None = None) -> Iterator[list[Mean]]:
    """Record each mean, in the order of the calls; divide by ``share`` if it is given."""
    global _share, _means
    before = _share, _means
    _share, _means = share or (lambda number, count: count), []
    try:
        yield _means
    finally:
        _share, _means = before


def mean(total: Tensor, count: Tensor) -> Tensor:
    """A sum over ``count`` sites divided by their number, or by another in a scope; 0 over none.

    Counts with gradient (learned soft masks) stay as they are, and so do all in a compiled forward.
    """
    if torch.compiler.is_compiling() or _share is None or count.requires_grad:
        return divided(total, count)
    value = divided(total, _share(len(_means), count))
    _means.append(Mean(count, value))
    return value


def divided(total: Tensor, divisor: Tensor) -> Tensor:
    """A sum divided by a count; 0 over none."""
    return total / torch.where(divisor > 0, divisor, 1.0)
