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

    def text(self, form: str = ".3f") -> str:
        """The mean and, in brackets, the interval: ``0.812 (0.790 to 0.833)``; differences by ``"+.3f"``."""
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"

    @property
    def verdict(self) -> str:
        """For a difference: ``"higher"``, ``"lower"`` or :data:`NOTHING`, which no spread at all says too."""
        # a few values that agree say nothing of how others would spread; sums of floats differ a little
        if not self.error > 1e-9 * abs(self.mean):
            return NOTHING
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
    """Share of correct answers over several tests of other samples, with Wilson's score interval."""
    n = sum(samples)
    share = math.fsum(one.mean * m for one, m in zip(shares, samples, strict=True)) / n
    error = math.hypot(*(one.error * m / n for one, m in zip(shares, samples, strict=True)))
    return _wilson(share, error, n)


def difference_interval(first: Tensor, second: Tensor, comparisons: int = 1) -> Interval:
    """First minus second, paired by sample and by repeat, where both are drawn at random.

    Args:
        first: ``[repeats, samples]`` bool, or shares in [0, 1]: answers of several seeds, or of one encoder
            with several draws of the training samples.
        second: the same for the rival, answers to the same samples.
        comparisons: how many are made side by side; their intervals hold together (Bonferroni).
    """
    mean, error, half = paired(first.double() - second.double(), comparisons)
    return Interval(float(mean), float(error), max(float(mean - half), -1.0), min(float(mean + half), 1.0))


def paired(difference: Tensor, comparisons: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Means of differences, their standard errors, and half their intervals, float64 ``[...]`` each.

    The variance between repeats is added to that between test samples, each with its own quantile of
    Student's t, so that two repeats that agree by chance do not make an interval narrow. One sample more that
    differs is taken for granted: where few do, their spread is known badly.

    Args:
        difference: ``[..., repeats, samples]``, float64.
        comparisons: how many are made side by side.
    """
    *_, repeats, samples = difference.shape
    level = 1 - 0.025 / comparisons
    mean = difference.mean((-2, -1))
    spread = (difference.mean(-2) - mean[..., None]).square().sum(-1) + 1
    variance = spread / samples / max(samples - 1, 1)
    half = float(stdtrit(max(samples - 1, 1), level)) ** 2 * variance
    if repeats > 1:
        between = difference.mean(-1).var(-1) / repeats
        variance, half = variance + between, half + float(stdtrit(repeats - 1, level)) ** 2 * between
    return mean, variance.sqrt(), half.sqrt()


def t_interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """Mean of a few independent runs, with Student's t interval; unbounded for a single value.

    Args:
        values: of the runs.
        comparisons: how many are made side by side; their intervals hold together (Bonferroni).
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, -math.inf, math.inf)
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stdtrit(n - 1, 1 - 0.025 / comparisons)) * error
    return Interval(mean, error, mean - half, mean + half)


def jackknife_interval(
    whole: float, without: Tensor, low: float = -math.inf, high: float = math.inf
) -> Interval:
    """A statistic of independent samples, with the interval of the delete-one jackknife (Tukey 1958).

    One that lies in [0, 1] gets Wilson's interval with the jackknife's error, which is no point at the ends.

    Args:
        whole: the statistic of all samples.
        without: ``[n]``, float64, the same without each of them.
        low: the least that it can be.
        high: the most that it can be.
    """
    n = len(without)
    if n == 1 or not without.isfinite().all():
        return Interval(whole, math.nan, low, high)
    error = math.sqrt(float((without - without.mean()).square().sum()) * (n - 1) / n)
    if (low, high) == (0.0, 1.0):
        return _wilson(whole, error, n)
    half = float(stdtrit(n - 1, 0.975)) * error
    return Interval(whole, error, max(whole - half, low), min(whole + half, high))


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
