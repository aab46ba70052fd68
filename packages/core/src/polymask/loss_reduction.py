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

import torch
from torch import Tensor

Share = Callable[[int, Tensor], Tensor]
"""``(index of the mean, count of this part) -> divisor``, scalars."""

_share: Share | None = None
_counts: list[Tensor] = []


@contextlib.contextmanager
def counting(share: Share | None = None) -> Iterator[list[Tensor]]:
    """Record the count of each mean, in the order of the calls; divide by ``share`` if it is given."""
    global _share, _counts
    before = _share, _counts
    _share, _counts = share or (lambda number, count: count), []
    try:
        yield _counts
    finally:
        _share, _counts = before


def divisor(count: Tensor) -> Tensor:
    """The divisor of a mean over ``count`` sites; ``count`` itself outside of a scope.

    Counts with gradient (learned soft masks) stay as they are, and so do all in a compiled forward.
    """
    if torch.compiler.is_compiling() or _share is None or count.requires_grad:
        return count
    _counts.append(count)
    return _share(len(_counts) - 1, count)
