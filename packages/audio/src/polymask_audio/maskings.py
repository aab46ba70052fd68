"""Spans as HuBERT draws them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask, Request, UserError

_LAST = torch.iinfo(torch.int64).max


class HubertSpan:
    """Hide spans that begin at distinct random tokens and may overlap (wav2vec 2.0, HuBERT).

    Of N tokens about ``probability * N / length`` begin a span (rounded up or down at random, at least
    ``least``), so that less than ``probability`` is hidden: 57 % at the defaults and N = 500, where
    core/span hides its ratio exactly. A span begins ``length`` tokens before the end at the latest,
    and as in the released code the very last token is never hidden, the first ones are more rarely.
    A row in which spans leave nothing visible keeps one token at random, which the published code does
    not see to.

    With ``trim`` each row gives hidden tokens back, at random, until all rows of the batch hide as many
    as the least of them. That is published too: 52 %, with holes in the spans, and what one sample hides
    depends on the others.

    Args:
        probability: of a token to lie in a span if none overlapped.
        length: tokens per span.
        least: spans per row at least.
        trim: hide equally many in every row of a batch.
    """

    def __init__(
        self, *, probability: float = 0.8, length: int = 10, least: int = 2, trim: bool = False
    ) -> None:
        if not 0 < probability < 1:
            raise UserError(f"probability must lie between 0 and 1, got {probability}")
        if length < 1 or least < 1:
            raise UserError(f"length and least must be 1 or more, got {length} and {least}")
        self.probability, self.length, self.least, self.trim = probability, length, least, trim

    def __call__(self, request: Request) -> Mask:
        sites, valid = request.sites, request.valid
        if sites < 2:
            raise UserError("one token cannot be hidden in part: use longer sounds, or shorter tokens")
        bits = request.step.bits(request.ids, 1 + 2 * sites, request.stream)[:, 1:]
        keys, other = bits.view(-1, sites, 2).unbind(2)
        site = torch.arange(sites, device=bits.device)
        size = valid.sum(1, keepdim=True) if valid is not None else site.new_full((len(bits), 1), sites)
        chance = request.step.noise(request.ids, 1, request.stream)
        spans = (self.probability * size / self.length + chance).long().clamp(min=self.least)
        room = torch.where(size - self.length > spans, size - self.length, spans + 1)
        starts = _first(keys, (site < room) & (site < size), torch.minimum(spans, size - 1))
        begun = starts.cumsum(1)
        hidden = begun > F.pad(begun, (self.length, 0))[:, :sites]
        real = site < size
        hidden = hidden & real
        whole = hidden.sum(1, keepdim=True) == size
        hidden = hidden & ~(whole & _first(other, real, torch.ones_like(size)))
        if self.trim:
            hidden = _first(other, hidden, hidden.sum(1, keepdim=True).amin(0, keepdim=True).expand_as(size))
        if valid is None:
            return Mask(hidden)
        place = (valid.cumsum(1) - 1).clamp(min=0)
        return Mask(hidden.gather(1, place) & valid, valid=valid)


def _first(keys: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The ``count [B, 1]`` sites of smallest key among some: bool ``[B, N]``."""
    keys = torch.where(among, keys, _LAST)
    last = keys.sort(1).values.gather(1, (count - 1).clamp(min=0))
    return among & (keys <= last) & (count > 0)
