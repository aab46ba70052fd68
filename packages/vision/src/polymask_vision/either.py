"""Masks of samples that differ in how much is hidden of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask, Tokens


@dataclass(frozen=True, eq=False)
class EitherMask:
    """A mask for each sample that is one of two, so that rows of two lengths share a batch without waiting.

    Args:
        second: which samples have the second, bool ``[B]``.
        one: the first mask of every sample.
        other: the second.
    """

    second: Tensor
    one: Mask
    other: Mask

    @property
    def hidden(self) -> Tensor:
        return torch.where(self.second[:, None], self.other.hidden, self.one.hidden)

    @property
    def valid(self) -> Tensor | None:
        return self.one.valid

    def keep(self, tokens: Tokens) -> Tokens:
        """The visible tokens, the shorter rows padded."""
        one, other = self.one.keep(tokens), self.other.keep(tokens)
        length = max(one.shape[1], other.shape[1])
        real_BK = self._choose(_padded(one.real, length), _padded(other.real, length))
        return Tokens(
            self._choose(_padded(one.values, length), _padded(other.values, length)),
            self._choose(_padded(one.position, length), _padded(other.position, length)),
            valid=None if one.valid is other.valid and one.shape == other.shape else real_BK,
        )

    def restore(self, kept: Tensor, fill: Tensor) -> Tensor:
        """Visible tokens back in their places."""
        one, other = (m.restore(kept[:, : m.visible], fill) for m in (self.one, self.other))
        return self._choose(one, other)

    def _choose(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.where(self.second.view(-1, *(1,) * (one.dim() - 1)), other, one)


def _padded(x: Tensor, length: int) -> Tensor:
    """``[B, K, ...]`` with zeros up to a length."""
    return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, length - x.shape[1]))


def nothing_hidden(tokens: Tokens) -> Mask:
    """A mask that hides nothing."""
    hidden = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.values.device)
    return Mask(hidden, None if tokens.valid is not None else tokens.shape[1], tokens.valid)
