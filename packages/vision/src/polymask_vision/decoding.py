"""How codes are drawn step by step: how many at each step, which ones, and where they are kept.

Shapes: B samples, N tokens, K codes, T steps of decoding, S tokens of a group of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from polymask import Batch, Mask, Tokens
from polymask.maskings.choose import unique_keys
from polymask.maskings.drawn_ratio import Curve, hidden_share

DRAFTED, CHOSEN, DRAWN = 1 << 50, 1 << 51, 1 << 52
"""Streams from here on are those of generation, below are those of masks."""


class Passes(Protocol):
    """Computes logits of several steps of decoding in a row, which ask for the same tokens."""

    def full(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        """``[B, N, K]``, as :meth:`polymask_vision.systems.maskgit.MaskGIT.predict`, at the first step."""

    def light(self, tokens: Tokens, mask: Mask, batch: Batch, asked: Mask) -> Tensor:
        """``[B, S, K]`` at the tokens that ``asked`` shows, at a further step."""


@dataclass(frozen=True)
class Decoding:
    """How codes are drawn; see :meth:`polymask_vision.systems.maskgit.MaskGIT.generate`."""

    temperature: float
    choice_temperature: float
    redraw: bool
    curve: Curve
    rounding: Literal["up", "down"]

    def heat(self, k: int, steps: int) -> float:
        """Temperature of the draws at a step: from 1 down by a root (Ni et al. 2024, arXiv 2406.05478)."""
        return self.temperature + (1 - self.temperature) * (1 - math.sqrt(k / max(steps - 1, 1)))


def left_after(start_B: Tensor, steps: int, how: Decoding) -> Tensor:
    """How many tokens are hidden after each step, int64 ``[T, B]``: fewer each time, and none after the last.

    Args:
        start_B: how many are at first.
        steps: T.
        how: codes are drawn.
    """
    past_T1 = torch.arange(1, steps + 1, device=start_B.device)[:, None]
    exact_TB = hidden_share(past_T1.double() / steps, how.curve) * start_B
    # the cosine of 60 degrees is a little above a half in floating point
    wanted_TB = (exact_TB - 1e-6).ceil() if how.rounding == "up" else (exact_TB + 1e-6).floor()
    wanted_TB = wanted_TB.long().clamp(min=1)
    wanted_TB[-1] = 0
    return (torch.minimum(wanted_TB + past_T1, start_B).cummin(dim=0).values - past_T1).clamp(min=0)


def drawn(logits_BNK: Tensor, uniform_BN: Tensor, temperature: float) -> Tensor:
    """Codes in proportion to their probabilities, int64 ``[B, N]``, by uniform numbers."""
    below_BNK = (logits_BNK.float() / temperature).softmax(-1).cumsum(-1)
    return (below_BNK < (uniform_BN * below_BNK[..., -1])[..., None]).sum(-1)


def doubt(logits_BNK: Tensor, code_BN: Tensor, uniform_BN: Tensor, temperature: float) -> Tensor:
    """Integers that rank codes, from probable to improbable, ``[B, N]``.

    Args:
        logits_BNK: what codes were drawn by.
        code_BN: codes.
        uniform_BN: makes the noise.
        temperature: scale of the Gumbel noise that is added to the logarithm of their probability.
    """
    sure_BN = logits_BNK.float().log_softmax(-1).gather(-1, code_BN[..., None])[..., 0]
    if temperature:
        sure_BN = sure_BN - temperature * (-uniform_BN.log()).log()
    return unique_keys((uniform_BN * 2**24).long() << 8, -sure_BN)
