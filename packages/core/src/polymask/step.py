"""Time and chance: the only carrier of either.

Randomness is a pure function of (seed, step, sample, stream, site), computed with a 64-bit
mixing function (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014, the finaliser of SplitMix64). The same sample at the same step draws the same mask on any
device, in any batch, on any number of processes, before and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from polymask.errors import UserError

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)

_Word = TypeVar("_Word", int, Tensor)
"""An integer of 64 bits; of a number of Python, which never overflows, its lowest 64."""


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Args:
        index: optimiser steps done so far, from 0.
        total: optimiser steps of the whole run; curricula are functions of ``progress``.
        seed: seed of the run, any number of 64 bits with a sign.
    """

    index: int = 0
    total: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not -(1 << 63) <= self.seed < (1 << 63) - 1:
            raise UserError(f"seed {self.seed} does not fit into 64 bits with a sign; choose a smaller one")

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(self.index / max(self.total, 1), 1.0)

    def bits(self, ids: Tensor, sites: int, stream: int = 0) -> Tensor:
        """Random 64-bit integers.

        Args:
            ids: sample ids, int64 ``[B]``; the result is on their device.
            sites: how many numbers each sample needs.
            stream: tells apart draws of one step (several views, several maskings).

        Returns:
            int64 ``[B, sites]``, uniform over all 64-bit patterns.
        """
        key = _mix(self._key(ids, stream) ^ _mix(_spread(ids)))
        return _mix(key[:, None] + _spread(torch.arange(sites, device=ids.device)))

    def noise(self, ids: Tensor, sites: int, stream: int = 0) -> Tensor:
        """Uniform numbers in [0, 1): float32 ``[B, sites]``; arguments as :meth:`bits`."""
        return _shift(self.bits(ids, sites, stream), 40).float() * 2.0**-24

    def normal(self, ids: Tensor, sites: int, stream: int = 0) -> Tensor:
        """Standard normal numbers, all finite: float32 ``[B, sites]``; arguments as :meth:`bits`."""
        return gaussian(self.noise(ids, sites, stream))

    def _key(self, ids: Tensor, stream: int) -> int | Tensor:
        """What all samples of a draw share, 64 bits: one number with a sign, or a tensor in a graph."""
        words = (self.seed, self.index, stream)
        if torch.compiler.is_compiling():
            return _absorb(torch.zeros_like(ids), [torch.full_like(ids, word) for word in words])
        return (_absorb(0, words) + (1 << 63)) % (1 << 64) - (1 << 63)


def gaussian(uniform: Tensor) -> Tensor:
    """Standard normal numbers of what :meth:`Step.noise` gives; the largest is 5.42."""
    # Exact in float32, and never 1 or -1, where the inverse is infinite; half a step added before the
    # subtraction would be rounded up to 1 once in 2^24 numbers
    return 2**0.5 * torch.erfinv(2 * uniform - 1 + 2.0**-24)


def _absorb(key: _Word, words: Iterable[_Word]) -> _Word:
    for word in words:
        key = _mix(key + _spread(word))
    return key


def _shift(x: _Word, k: int) -> _Word:
    """Logical right shift; torch shifts int64 arithmetically."""
    return (x >> k) & ((1 << (64 - k)) - 1)


def _spread(x: _Word) -> _Word:
    """Neighbouring numbers far apart: distinct for distinct x."""
    # The xor is for torch.compile: without it Inductor folds what it multiplies into an expression of
    # loop indices. That overflows on purpose here; GCC takes it for impossible and drops the loop's end.
    return (x ^ 1) * _GAMMA


def _mix(x: _Word) -> _Word:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)
