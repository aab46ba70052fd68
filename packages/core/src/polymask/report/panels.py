"""Charts of what a masking does on average, the same in a picture and on a page."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from polymask.data import evenly
from polymask.report.charts import Ink, style
from polymask.report.drawing import FRAMES
from polymask.report.statistics import MaskStatistics

FloatArray = npt.NDArray[np.float64]

COVERAGE = LinearSegmentedColormap.from_list(
    "coverage", ("#b8612c", "#ecc9a8", "#f4f3f0", "#a9cbdc", "#22688c")
)
"""Less hidden than expected, as expected, more hidden."""


class Panel(NamedTuple):
    """One chart: its title, a line that says what to see, and what draws it."""

    title: str
    note: str
    draw: Callable[[Axes, Ink, MaskStatistics], None]


def panels_of(found: MaskStatistics) -> list[Panel]:
    """The charts that there are data for."""
    sites = found.coverage.numel()
    low, high = (round(float(count)) for count in (found.count.min(), found.count.max()))
    hidden = (
        f"{low:,} of {sites:,} sites in every mask"
        if low == high
        else f"{low:,} to {high:,} of {sites:,} sites"
    )
    panels = [
        Panel(f"Coverage by position{', in slices' * (found.coverage.ndim > 2)}", found.verdict, coverage),
        Panel("Hidden share", hidden, ratios),
    ]
    if found.neighbour_correlation is not None:
        note = (
            f"correlation {found.neighbour_correlation:.2f}, of random masks {found.chance_correlation:.2f}"
        )
        panels.append(Panel("Neighbours hidden together", note, clumping))
    if found.spectrum is not None:
        panels.append(Panel("Spectrum of the masks", _peak(found.spectrum), spectrum))
    return panels


def coverage(axes: Axes, ink: Ink, found: MaskStatistics) -> None:
    """How often each site is hidden: colours around the mean, or a line where sites form a line.

    Sites on three axes are shown as slices along the first, from left to right and from top to bottom.

    The colours reach at least 0.1, and five standard deviations of what chance alone does, to
    either side, so that a uniform masking looks uniform.
    """
    share = found.coverage.numpy()
    mean = float(share.mean())
    reach = max(float(np.abs(share - mean).max()), 5 * found.chance_spread(), 0.1)
    low, high = max(mean - reach, 0.0), min(mean + reach, 1.0)
    if share.ndim == 1:
        style(axes, ink, "site", "share of masks that hide it")
        axes.plot(share, color=ink.series[0], linewidth=1.3)
        axes.axhline(mean, color=ink.muted, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_ylim(low, high)
        return
    if share.size == len(share):  # one site to a row
        style(axes, ink, "share of masks that hide it", "row")
        axes.plot(share.ravel(), np.arange(share.size), color=ink.series[0], linewidth=1.3)
        axes.axvline(mean, color=ink.muted, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(low, high)
        axes.invert_yaxis()
        return
    style(axes, ink)
    share = share if share.ndim == 2 else _slices(share)
    mesh = axes.pcolormesh(
        share, cmap=COVERAGE, vmin=mean - reach, vmax=mean + reach, edgecolors="face", linewidth=0.3
    )
    axes.invert_yaxis()
    axes.set_aspect("equal", anchor="NW")
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.05, 0.0, 0.05, 1.0)))
    bar.ax.set_ylim(low, high)
    bar.set_ticks([low, mean, high], labels=[f"{low:.2f}", f"{mean:.2f} mean", f"{high:.2f}"])
    bar.ax.tick_params(labelsize=8, colors=ink.muted, length=0)
    bar.outline.set_visible(False)


def _slices(share: FloatArray) -> FloatArray:
    """Evenly spaced slices ``[rows, columns]`` of ``[..., rows, columns]`` in one array, NaN between."""
    slices = share.reshape(-1, *share.shape[-2:])
    slices = slices[evenly(len(slices), FRAMES)]
    columns = math.ceil(len(slices) ** 0.5)
    tiles = np.pad(slices, ((0, -len(slices) % columns), (0, 1), (0, 1)), constant_values=np.nan)
    rows = [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    return np.concatenate(rows)[:-1, :-1]


def ratios(axes: Axes, ink: Ink, found: MaskStatistics) -> None:
    """How much a mask hides: one bar where every mask hides the same number of sites."""
    style(axes, ink, "share of sites hidden", "masks")
    bins = np.linspace(0, 1, min(51, found.coverage.numel() + 1)).tolist()
    axes.hist(found.ratio.numpy(), bins=bins, color=ink.series[0], rwidth=0.85)
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def clumping(axes: Axes, ink: Ink, found: MaskStatistics) -> None:
    """Correlation of neighbours on a line from random to one piece."""
    here, chance = found.neighbour_correlation, found.chance_correlation
    assert here is not None
    style(axes, ink, "correlation of neighbouring sites")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set(yticks=[], ylim=(-1, 1), xlim=(min(-0.1, here - 0.1), 1.02))
    axes.plot([chance, here], [0, 0], color=ink.series[0], linewidth=2.5, solid_capstyle="butt")
    axes.plot([chance] * 2, [-0.3, 0.3], color=ink.muted, linewidth=1.2)
    axes.plot([here], [0], "o", markersize=8, color=ink.series[0])
    axes.axhline(0, color=ink.line, linewidth=0.8, zorder=0)


def spectrum(axes: Axes, ink: Ink, found: MaskStatistics) -> None:
    """Power by spatial frequency: low for large pieces, high for even spacing, level at random."""
    assert found.spectrum is not None
    frequency, power = found.spectrum.numpy()
    style(axes, ink, "cycles per site", "power over random")
    axes.axhline(1, color=ink.muted, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(frequency, power, color=ink.series[0], linewidth=1.3, marker="o", markersize=2.5)
    axes.set_xlim(0, None)
    axes.set_ylim(0, max(1.1 * float(power.max()), 2))


def _peak(spectrum: Tensor) -> str:
    frequency, power = spectrum
    if float(power.max()) < 1.25:
        return "no frequency stands out"
    period = 1 / float(frequency[power.argmax()])
    return f"most power at periods of {period:.1f} sites"
