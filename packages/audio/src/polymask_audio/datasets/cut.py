"""From a recording as it is to what a system is given: one rate, a length."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.transforms import Resample

from polymask import UserError


class Cut:
    """Resamples recordings and cuts them to length.

    Args:
        rate: samples per second to resample to.
        seconds: longer recordings are cut to so many; None keeps them whole.
        min_seconds: shorter recordings are left out.
        pad: add silence after recordings shorter than ``seconds``, so that all are equally long and
            tokens lie on a grid.
    """

    def __init__(
        self, *, rate: int = 16000, seconds: float | None = None, min_seconds: float = 0.0, pad: bool = False
    ) -> None:
        if rate < 1:
            raise UserError(f"rate is a number of samples per second, got {rate}")
        if seconds is not None and round(seconds * rate) < 1:
            raise UserError(f"seconds={seconds} at {rate} Hz is no sample: give more, or none to cut nothing")
        if seconds is not None and min_seconds > seconds:
            raise UserError(f"min_seconds={min_seconds} is longer than recordings are cut to, {seconds} s")
        if pad and seconds is None:
            raise UserError("pad takes the length to fill up to: give seconds too (--data.seconds 2)")
        self.rate, self.seconds, self.min_seconds, self.pad = rate, seconds, min_seconds, pad
        self.most = None if seconds is None else round(seconds * rate)

    def window(self, frames: int, rate: int, random: bool) -> tuple[int, int]:
        """Start and length of what to read of a recording: its middle, or anywhere by torch's generator."""
        if self.most is None:
            return 0, frames
        wanted = math.ceil(self.most / ratio(rate, self.rate))
        spare = max(frames - wanted, 0)
        start = int(torch.randint(spare + 1, ())) if random and spare else spare // 2
        return start, min(frames, wanted)

    def __call__(self, sound: Tensor, rate: int) -> Tensor:
        """``[t]`` at a rate to ``[T]`` at the rate asked for, in [-1, 1]."""
        step = ratio(rate, self.rate)
        if step != 1:
            sound = _resampler(step.denominator, step.numerator)(sound)
        sound = sound[: self.most].clamp(-1, 1)  # band limits make resampled peaks overshoot
        return F.pad(sound, (0, self.most - len(sound))) if self.pad and self.most else sound

    def lengths(self, frames: Tensor, rates: Tensor) -> Tensor:
        """How long recordings come out: int64 ``[n]`` of samples at their own rates to the same at ours."""
        out = frames.clone()
        for rate in set(rates.tolist()):
            step, mine = ratio(rate, self.rate), rates == rate
            out[mine] = (frames[mine] * step.numerator + step.denominator - 1) // step.denominator
        if self.most is None:
            return out
        return torch.full_like(out, self.most) if self.pad else out.clamp(max=self.most)


@functools.lru_cache(maxsize=64)
def ratio(old: int, new: int) -> Fraction:
    """Samples after resampling per sample before.

    Two rates without a common divisor would need a filter for each of thousands of phases; the nearest
    ratio of small numbers is off in pitch by a few parts in a million.
    """
    return Fraction(new, old).limit_denominator(1000) or Fraction(new, old)


@functools.lru_cache(maxsize=16)
def _resampler(old: int, new: int) -> Resample:
    return Resample(old, new)
