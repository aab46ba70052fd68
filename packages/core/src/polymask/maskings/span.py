"""Spans of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.maskings.choose import check_ratio, site_bits, unique_keys
from polymask.maskings.ranking import Ranking
from polymask.protocols import Request
from polymask.types import Count


class Span(Ranking):
    """Hide spans of neighbouring sites of a sequence, exactly the given share of each sample.

    Spans of one length are laid one after another, where they may overlap, until the count is
    reached; the last one is trimmed to what is still missing. (Where the number of spans is
    computed instead, as in wav2vec 2.0 and data2vec 2.0, overlaps hide less than asked: 38.5 %
    for 50 %.) The end of a sample joins its beginning, so every site is exactly equally likely
    to be hidden. In a padded batch each sample has its own count, in proportion to its length.

    A grid of several axes is taken in row-major order.

    Args:
        ratio: share of sites to hide, in (0, 1).
        length: sites per span.
    """

    def __init__(self, *, ratio: float = 0.5, length: Count = 10) -> None:
        if length < 1:
            raise UserError(f"length must be 1 or more, got {length}")
        self.ratio, self.length = check_ratio(ratio), length

    def rank(self, request: Request) -> Tensor:
        """Sites by the first span that covers them, then by their place in it."""
        if self.length > request.sites:
            raise UserError(
                f"spans of {self.length} do not fit into {request.sites} sites; choose a shorter length"
            )
        room = site_bits(self.length)
        bits = request.step.bits(request.ids, request.sites, request.stream)
        # One span starts at every site; the smallest key is laid first. Whatever a key gains in its
        # low bits on the way is the place within the span.
        first = unique_keys(bits, room=room)
        if request.valid is None:
            return -_window(first, self.length, None)
        real = request.valid.sum(dim=1, keepdim=True).clamp(min=1)
        place = (request.valid.cumsum(dim=1) - 1).clamp(min=0)
        return -_window(first, self.length, real).gather(1, place)


def _window(keys: Tensor, length: int, real: Tensor | None) -> Tensor:
    """Minimum over the ``length`` keys that end at each site, each plus its distance, round the row."""
    site = torch.arange(keys.shape[1], device=keys.device)

    def behind(x: Tensor, distance: int) -> Tensor:
        if real is None:
            return x.roll(distance, dims=1) + distance
        return x.gather(1, (site - distance) % real) + distance

    width = 1
    while 2 * width <= length:
        keys = torch.minimum(keys, behind(keys, width))
        width *= 2
    if width < length:
        keys = torch.minimum(keys, behind(keys, length - width))
    return keys
