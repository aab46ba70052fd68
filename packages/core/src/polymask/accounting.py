"""What a mean over a mask is divided by: what a whole step scored, where a step is computed in pieces.

A step is computed in parts one after the other, and by several processes. Each piece knows only what it
scored itself, and the mean of such means weighs a site by how few others its piece had. In a
:func:`counting` scope, which the training adapter opens around ``forward``, :meth:`polymask.Mask.mean`
divides by an even share of what all pieces scored, so that the mean over the pieces is the mean over the
sites of the whole step. Loops of one's own open none, and divide by what they scored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Share = Callable[[int, Tensor], Tensor]
"""``(number of the mean, what this piece scored) -> what to divide by``, scalars."""

_share: Share | None = None
_counts: list[Tensor] = []


@contextlib.contextmanager
def counting(share: Share | None = None) -> Iterator[list[Tensor]]:
    """Count what each mean scores, in the order of the calls; and divide by ``share``, where it is given."""
    global _share, _counts
    before = _share, _counts
    _share, _counts = share or (lambda number, count: count), []
    try:
        yield _counts
    finally:
        _share, _counts = before


def divisor(count: Tensor) -> Tensor:
    """What a mean that scored ``count`` divides by; ``count`` itself outside of a scope.

    Counts that carry gradient (learned soft masks) stay as they are, and so do all in a compiled forward.
    """
    if torch.compiler.is_compiling() or _share is None or count.requires_grad:
        return count
    _counts.append(count)
    return _share(len(_counts) - 1, count)
