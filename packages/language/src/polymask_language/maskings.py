"""Maskings of text."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask import Mask, Request, UserError

_LARGEST = torch.iinfo(torch.int64).max
_PASSES = 8


class Words:
    """Hide whole words: all pieces of a word or none (Devlin 2019, BERT's second release; PROP).

    Words come in random order, and each is hidden if the number of hidden tokens then is not above what
    the ratio allows; a word that would go beyond it is passed over. So the ratio is one of tokens, rows
    may differ by what was left, and at least one word is hidden.

    Which tokens make a word is told by ``request.position`` ``[B, N, 3]``: place, word, document, as
    :func:`polymask_language.tokenizers.draw` has it. Systems that do not tell are refused.

    Args:
        ratio: share of the tokens to hide, in (0, 1).
        most: tokens of a sample to hide, at most (PROP: 60); None for no bound.
    """

    def __init__(self, *, ratio: float = 0.15, most: int | None = None) -> None:
        if not 0 < ratio < 1:
            raise UserError(f"masking ratio must lie between 0 and 1, got {ratio}")
        if most is not None and most < 1:
            raise UserError(f"most must be 1 or more, got {most}")
        self.ratio, self.most = ratio, most

    def __call__(self, request: Request) -> Mask:
        if request.position is None or request.position.shape[-1] != 3:
            raise UserError(
                "language/words hides whole words, and this system does not tell which tokens make one: use "
                "a system of language with data that has words, or core/span or core/random"
            )
        shape = len(request.ids), request.sites
        valid = request.valid
        valid = torch.ones(shape, dtype=torch.bool, device=request.ids.device) if valid is None else valid
        place = torch.arange(request.sites, device=valid.device).expand(shape)
        first = torch.where(_begins(request.position[..., 1:], valid), place, 0).cummax(dim=1).values
        bits = request.step.bits(request.ids, request.sites, request.stream) & _LARGEST
        # tokens of one word have one key, so that a stable sort leaves them together
        key = torch.where(valid, bits.gather(1, first), _LARGEST)
        order = key.argsort(dim=1, stable=True)
        real = valid.gather(1, order)
        size = torch.zeros_like(place).scatter_add(1, first, valid.long()).gather(1, first.gather(1, order))
        within = (place - first).gather(1, order)
        room = self._count(valid.sum(dim=1, keepdim=True))
        hidden = torch.zeros_like(real)
        left = real
        # What a pass leaves is less than the word it stopped at, so few passes fill a row up.
        for _ in range(_PASSES):
            end = left.cumsum(dim=1) - within + size - 1
            taken = left & (end <= room)
            hidden = hidden | taken
            room = room - taken.sum(dim=1, keepdim=True)
            left = left & ~taken & (size <= room)
        # a row whose every word is longer than that loses the first one, unless it is all there is
        alone = real & (place - within == 0) & (size < valid.sum(dim=1, keepdim=True))
        hidden = torch.where(hidden.any(dim=1, keepdim=True), hidden, alone)
        back = torch.zeros_like(hidden).scatter(1, order, hidden)
        return Mask(back, None, request.valid)

    def _count(self, sites: Tensor) -> Tensor:
        """How many of so many tokens to hide at most, int64 ``[B, 1]``."""
        count = (sites * self.ratio + 0.5).floor().long().clamp(min=1)
        count = count if self.most is None else count.clamp(max=self.most)
        return torch.minimum(count, (sites - 1).clamp(min=0))


class Rates:
    """Hide each token by itself with one of two chances, by its score (CLIMB: words of some classes, others).

    A row of two tokens or more has at least one hidden and one visible.

    Args:
        high: chance of tokens that score above a half.
        low: chance of all others.
    """

    def __init__(self, *, high: float = 0.4, low: float = 0.15) -> None:
        if not 0 < low <= high < 1:
            raise UserError(f"rates must be chances, 0 < low <= high < 1, got low {low} and high {high}")
        self.high, self.low = high, low

    def __call__(self, request: Request) -> Mask:
        if request.score is None:
            raise UserError(
                "language/rates hides by score, and this system computes none; give it one "
                "(--score language/part-of-speech, where the system has that slot) or use core/random"
            )
        if request.sites < 2:
            raise UserError("language/rates leaves one token visible at least: give it two or more")
        chance = torch.where(request.score.detach() > 0.5, self.high, self.low)
        # hidden below 1; the least of a row is hidden anyhow, and the largest is not
        key = request.step.noise(request.ids, request.sites, request.stream) / chance
        valid = torch.ones_like(key, dtype=torch.bool) if request.valid is None else request.valid
        least = torch.where(valid, key, torch.inf).amin(dim=1, keepdim=True)
        largest = torch.where(valid, key, -torch.inf).amax(dim=1, keepdim=True)
        return Mask(valid & ((key < 1) | (key == least)) & (key != largest), None, request.valid)


def _begins(word: Tensor, valid: Tensor) -> Tensor:
    """Where a word begins: its number, or its document's, is another than that of the token before."""
    begins = torch.ones_like(valid)
    begins[:, 1:] = (word[:, 1:] != word[:, :-1]).any(dim=-1) | (valid[:, 1:] != valid[:, :-1])
    return begins
