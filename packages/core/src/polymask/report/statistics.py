"""What a masking does on average: where, how much, and in how large pieces it hides.

Nothing is known about a masking here but the masks it draws, so these figures hold for any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import chdtrc
from torch import Tensor

from polymask.errors import UserError
from polymask.protocols import Masking, Request
from polymask.step import Step


@dataclass(frozen=True, eq=False)
class MaskStatistics:
    """Statistics of many masks of one masking.

    Args:
        coverage: float64 ``[*grid]`` share of masks that hide each site.
        ratio: float64 ``[n]`` share of sites that each mask hides.
        count: float64 ``[n]`` sites that each mask hides; one that a soft mask hides by half is half of one.
        neighbour_correlation: correlation between hiding a site and hiding the next along an
            axis, over all masks and pairs; None without a grid.
        chance_correlation: the same for uniformly random masks of fixed count, -1 / (N - 1).
        chi2: statistic of the test that every site is hidden equally often.
        dof: its degrees of freedom, N - 1 where sites are hidden independently, fewer where
            they are hidden in pieces.
        p_value: chance of a larger statistic if coverage is uniform.
        spectrum: float64 ``[2, K]``, cycles per site and the power of the masks there over that of
            uniformly random ones, averaged over directions; None without a grid.
    """

    coverage: Tensor
    ratio: Tensor
    count: Tensor
    neighbour_correlation: float | None
    chance_correlation: float
    chi2: float
    dof: float
    p_value: float
    spectrum: Tensor | None = None

    @property
    def masks(self) -> int:
        """How many masks were drawn."""
        return len(self.ratio)

    @property
    def uniform(self) -> bool:
        """False when coverage differs between sites by more than chance (p below 1e-4)."""
        return self.p_value >= 1e-4

    @property
    def spread(self) -> tuple[float, float]:
        """Least and largest coverage of any site."""
        return float(self.coverage.min()), float(self.coverage.max())

    @property
    def verdict(self) -> str:
        """Coverage in words."""
        low, high = self.spread
        p = "p < 0.0001" if self.p_value < 1e-4 else f"p = {self.p_value:.2g}"
        if self.uniform:
            return f"no bias in {self.masks:,} masks ({p})"
        return f"not uniform: {low:.2f} to {high:.2f} ({p})"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists; an infinite statistic becomes None."""
        return {
            "masks": self.masks,
            "ratio": float(self.ratio.mean()),
            "hidden": [round(float(self.count.min())), round(float(self.count.max()))],
            "coverage": self.coverage.tolist(),
            "neighbour_correlation": self.neighbour_correlation,
            "chance_correlation": self.chance_correlation,
            "chi2": self.chi2 if math.isfinite(self.chi2) else None,
            "dof": self.dof,
            "p_value": self.p_value,
            "uniform": self.uniform,
            "spectrum": None if self.spectrum is None else self.spectrum.tolist(),
        }

    def chance_spread(self) -> float:
        """Standard deviation of a site's coverage over this many masks, if coverage is uniform."""
        ratio = float(self.ratio.mean())
        return math.sqrt(ratio * (1 - ratio) / self.masks)


def mask_statistics(
    masking: Masking,
    grid: tuple[int, ...],
    *,
    n: int = 2048,
    step: Step | None = None,
    score: Tensor | None = None,
    position: Tensor | None = None,
) -> MaskStatistics:
    """Draw masks for ``n`` samples and describe them.

    Args:
        masking: what draws.
        grid: lengths of the axes of the sites; one axis for a sequence.
        n: masks to draw, of samples 0..n-1.
        step: when; the start of a run by default.
        score: float ``[n, sites]`` for maskings that hide by score.
        position: ``[n, sites, P]`` for maskings that go by place; the grid's own by default.
    """
    sites = math.prod(grid)
    step = step or Step(0, 1, 0)
    if position is None:
        axes = [torch.arange(k, dtype=torch.float32) for k in grid]
        position = torch.cartesian_prod(*axes).view(sites, len(grid)).expand(n, -1, -1)
    drawn = []
    for rows in torch.split(torch.arange(n), max(1, 2**20 // sites)):
        request = Request(
            ids=rows,
            sites=sites,
            step=step,
            grid=tuple(grid),
            score=None if score is None else score[rows],
            position=position[rows],
        )
        drawn.append(masking(request).hidden.flatten(1))
    return describe(torch.cat(drawn), grid)


def describe(hidden: Tensor, grid: tuple[int, ...] | None, valid: Tensor | None = None) -> MaskStatistics:
    """Statistics of masks that are already drawn.

    The test of uniform coverage is Pearson's, with the second-order correction of Rao and Scott
    (1984) for sites that are hidden together: a block masking of uniform coverage passes, and one
    that misses the border does not.

    Args:
        hidden: ``[n, sites]`` bool, or float in [0, 1].
        grid: lengths of the axes, or None where sites fill no grid.
        valid: bool ``[n, sites]``, False where a mask has no such site to hide (padding, special
            tokens); sites that no mask has are left out.

    Raises:
        UserError: fewer than two masks.
    """
    n = len(hidden)
    if n < 2:
        raise UserError(f"statistics need two masks or more, got {n}")
    real = torch.ones(hidden.shape, dtype=torch.bool) if valid is None else valid
    if valid is not None and valid.any():  # where nothing may be hidden, nothing is, anywhere
        there = valid.any(dim=0)
        hidden, real = hidden[:, there], valid[:, there]
        grid = grid if there.all() else None
    sites = hidden.shape[1]
    x = hidden.double()
    coverage = x.sum(dim=0) / real.sum(dim=0).clamp(min=1)
    ratio = x.sum(dim=1) / real.sum(dim=1).clamp(min=1)
    # Deviation of each site from its mask's own ratio: the mean over masks is 0 everywhere if,
    # and only if, coverage is uniform, and nothing else about the masking is assumed.
    y = torch.where(real, x - ratio[:, None], 0.0)
    mean = y.mean(dim=0)
    covariance = (y - mean).T @ (y - mean) / (n - 1)
    trace = float(covariance.trace())
    squared = float(covariance.square().sum()) - trace**2 / (n - 1)
    squared = max(squared, trace**2 / max(sites - 1, 1))
    shift = n * float(mean.square().sum())
    if trace > 1e-12:
        chi2, dof = shift * trace / squared, trace**2 / squared
    else:
        # One and the same mask each time: uniform only if it hides all or nothing.
        chi2, dof = (math.inf if shift > 1e-12 else 0.0), 1.0
    shape = tuple(grid) if grid else (sites,)
    return MaskStatistics(
        coverage=coverage.view(shape),
        ratio=ratio,
        count=x.sum(dim=1),
        neighbour_correlation=neighbour_correlation(x.view(n, *shape)) if grid else None,
        chance_correlation=-1 / (sites - 1) if sites > 1 else 0.0,
        chi2=chi2,
        dof=dof,
        p_value=float(chdtrc(dof, chi2)),
        spectrum=radial_spectrum(y.view(n, *shape)) if grid else None,
    )


def neighbour_correlation(hidden: Tensor) -> float:
    """Correlation between a site and the next along an axis: 1 in one piece, near 0 at random.

    Args:
        hidden: float ``[n, *grid]``.
    """
    pairs = [
        (hidden.narrow(axis, 0, length - 1).flatten(), hidden.narrow(axis, 1, length - 1).flatten())
        for axis, length in enumerate(hidden.shape)
        if axis > 0 and length > 1
    ]
    if not pairs:
        return 0.0
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    # either site of a pair may come first, so both have one mean and one variance
    mean = (first.mean() + second.mean()) / 2
    a, b = first - mean, second - mean
    variance = float((a.square().mean() + b.square().mean()) / 2)
    return float((a * b).mean()) / variance if variance > 1e-12 else 0.0


def radial_spectrum(hidden: Tensor) -> Tensor | None:
    """Power of masks by spatial frequency: large and low where they hide in pieces, 1 all over at random.

    Args:
        hidden: float64 ``[n, *grid]``, the share that each mask hides subtracted.

    Returns:
        float64 ``[2, K]``: cycles per site, and the mean over masks and directions of the power there
        over its mean over all frequencies, which is what uniformly random masks of as many hidden
        sites have everywhere; None where masks hide all or nothing.
    """
    grid = hidden.shape[1:]
    power = torch.fft.fftn(hidden, dim=tuple(range(1, hidden.dim()))).abs().square().mean(dim=0).flatten()
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in grid]
    frequency = torch.cartesian_prod(*axes).view(power.numel(), -1).square().sum(dim=1).sqrt()
    if power.numel() < 2 or power[1:].mean() < 1e-12:
        return None
    power = power / power[1:].mean()
    ring = (frequency * max(grid)).round().long()
    size = torch.bincount(ring)
    kept = size.nonzero()[:, 0]
    kept = kept[kept > 0]  # frequency 0 is the share hidden
    means = [torch.bincount(ring, x)[kept] / size[kept] for x in (frequency, power)]
    return torch.stack(means)
