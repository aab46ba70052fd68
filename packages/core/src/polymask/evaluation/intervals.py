"""Intervals of 95 %, in closed form, so that the same numbers give the same interval everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

NOTHING = "no difference seen"


@dataclass(frozen=True)
class Interval:
    """A mean with a 95 % confidence interval.

    Args:
        mean: the estimate.
        error: its standard error; NaN where one value says nothing about spread.
        low: lower end.
        high: upper end.
    """

    mean: float
    error: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """For a difference: ``"higher"``, ``"lower"`` or :data:`NOTHING`."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else NOTHING


def accuracy_interval(correct: Tensor) -> Interval:
    """Share of correct answers, with Wilson's score interval (Wilson 1927).

    With several draws of the training samples, the variance between draws is added to that
    between test samples, and Wilson's formula takes the number of independent answers that would
    have that variance.

    Args:
        correct: ``[draws, samples]`` bool or 0/1.
    """
    return _wilson(*_mean_and_error(correct.double()), correct.shape[1])


def pooled_interval(shares: Sequence[Interval], samples: Sequence[int]) -> Interval:
    """Share of correct answers over several tests of other samples, with Wilson's score interval.

    Args:
        shares: of each test.
        samples: of each test.
    """
    n = sum(samples)
    share = math.fsum(one.mean * m for one, m in zip(shares, samples, strict=True)) / n
    error = math.hypot(*(one.error * m / n for one, m in zip(shares, samples, strict=True)))
    return _wilson(share, error, n)


def difference_interval(first: Tensor, second: Tensor) -> Interval:
    """First minus second, paired by sample (and by draw), with a normal interval.

    Args:
        first: ``[draws, samples]`` bool or 0/1.
        second: the same for the rival, answers to the same samples.
    """
    mean, error = _mean_and_error(first.double() - second.double())
    return Interval(mean, error, mean - Z * error, mean + Z * error)


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of a few independent runs, with Student's t interval; unbounded for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, -math.inf, math.inf)
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stdtrit(n - 1, 0.975)) * error
    return Interval(mean, error, mean - half, mean + half)


def _wilson(share: float, error: float, samples: int) -> Interval:
    n = samples if error == 0 else share * (1 - share) / error**2
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + (Z / (2 * n)) ** 2)
    # rounding may put an end of 0 or 1 on the wrong side of the share
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return Interval(share, error, min(low, share), max(high, share))


def _mean_and_error(x: Tensor) -> tuple[float, float]:
    draws, samples = x.shape
    variance = x.mean(dim=0).var(unbiased=False) / samples
    if draws > 1:
        variance = variance + x.mean(dim=1).var(unbiased=True) / draws
    return float(x.mean()), float(torch.sqrt(variance))
