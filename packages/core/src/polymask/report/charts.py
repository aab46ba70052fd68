"""Charts in one hand: thin lines, few colours, nothing drawn that does not say something.

Every function draws into axes it is given. Figures are objects of their own, never pyplot's.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from polymask.evaluation.intervals import Interval
from polymask.files import atomic


@dataclass(frozen=True)
class Ink:
    """Colours of a chart, as hexadecimal."""

    text: str
    muted: str
    line: str
    series: tuple[str, ...]


PAPER = Ink("#1d2733", "#66727f", "#d9dee3", ("#2a7399", "#c76f3b", "#5f8f5c", "#8a6bb0", "#a38a3c"))
"""For pictures on white."""

PAGE = Ink("#010001", "#010002", "#010003", ("#010011", "#010012", "#010013", "#010014", "#010015"))
"""For pages that are light or dark: :func:`svg` puts the page's own colours in their place."""


LINES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1.2, 1.2)))
"""Lines of the first round of colours, of the second, of the third."""

ROUND = [1, 2, 2.5, 5, 10]
"""Steps between ticks, times a power of ten."""


def figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, without background."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    made.patch.set_alpha(0)
    return made


def panel(width: float, height: float, left: float = 0.5, bottom: float = 0.42) -> tuple[Figure, Axes]:
    """A figure of one chart whose margins, in inches, do not depend on its labels."""
    made = figure(width, height)
    made.set_layout_engine("none")
    inside = (left / width, bottom / height, 1 - (left + 0.1) / width, 1 - (bottom + 0.1) / height)
    return made, made.add_axes(inside)


def style(axes: Axes, ink: Ink, x: str = "", y: str = "") -> Axes:
    """The quiet look that all charts share."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=ink.line, linewidth=0.8)
    axes.tick_params(which="both", colors=ink.muted, labelsize=8, length=3, width=0.8, color=ink.line)
    axes.grid(axis="y", color=ink.line, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, fontsize=8, color=ink.muted)
    axes.set_ylabel(y, fontsize=8, color=ink.muted)
    return axes


def heading(axes: Axes, ink: Ink, title: str, note: str) -> None:
    """A title, and below it a line that says what to see; for charts that stand outside a page."""
    axes.set_title(title, loc="left", fontsize=9.5, color=ink.text, fontweight="bold", pad=22)
    axes.annotate(
        note, (0, 1), (0, 8), "axes fraction", textcoords="offset points", fontsize=8, color=ink.muted
    )


def curves(axes: Axes, ink: Ink, steps: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None:
    """One line per quantity over training steps; many points are drawn faint under their mean.

    Where there are more lines than colours, those of the next round are dashed.
    """
    for k, (name, values) in enumerate(lines.items()):
        turn, which = divmod(k, len(ink.series))
        colour, dashes = ink.series[which], LINES[turn % len(LINES)]
        x, y = np.asarray(steps, float), np.asarray(values, float)
        x, y = x[np.isfinite(y)], y[np.isfinite(y)]
        window = len(y) // 40
        if window >= 2:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
            kernel = np.ones(window) / window
            x, y = np.convolve(x, kernel, "valid"), np.convolve(y, kernel, "valid")
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=1.5,
            linestyle=dashes,
            label=name,
            marker="o" if len(y) < 6 else None,
            markersize=3.5,
        )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.margins(x=0.01, y=0.08)
    if len(lines) > 1:
        legend(axes, ink)


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis where all values are positive and span more than a factor of three."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if values.size == 0 or values.min() <= 0 or values.max() < 3 * values.min():
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def dots(
    axes: Axes, ink: Ink, rows: Sequence[str], series: Mapping[str, Sequence[Interval]], label: str
) -> None:
    """A dot with its interval for each row, in one colour per series.

    Args:
        axes: where to draw.
        ink: colours.
        rows: names, from the top.
        series: an interval per row, by name.
        label: what is measured.
    """
    style(axes, ink, label)
    for k, (name, values) in enumerate(series.items()):
        y = [row + 0.3 * ((k + 0.5) / len(series) - 0.5) for row in range(len(rows))]
        means = [value.mean for value in values]
        ends = np.array([[v.mean - v.low, v.high - v.mean] for v in values]).T
        # an interval without end is drawn as none
        axes.errorbar(
            means,
            y,
            xerr=np.where(np.isfinite(ends), ends, 0),
            fmt="o",
            color=cycle(ink.series, k + 1)[k],
            markersize=5,
            linewidth=1.6,
            label=name,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=ink.text)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=ink.line, linewidth=0.5, alpha=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    if len(series) > 1:
        legend(axes, ink, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), borderaxespad=0)


def legend(axes: Axes, ink: Ink, **options: Any) -> None:
    """A legend without a frame."""
    axes.legend(frameon=False, fontsize=8, labelcolor=ink.text, handlelength=1.4, **options)


def cycle(colours: Sequence[str], n: int) -> list[str]:
    """The first ``n`` colours, from the front again where there are fewer."""
    return [colours[i % len(colours)] for i in range(n)]


def save(made: Figure, path: Path) -> None:
    """Write a figure on white, as its suffix says; text stays text in SVG and PDF."""
    kind = path.suffix[1:]
    metadata = {"png": {"Software": ""}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    text = rc_context({"svg.fonttype": "none", "svg.hashsalt": "polymask", "pdf.fonttype": 42})
    with text, atomic(path, "wb") as file:
        made.patch.set(alpha=1, facecolor="white")
        made.savefig(file, format=kind, dpi=160, metadata=metadata.get(kind))


def svg(made: Figure, label: str) -> str:
    """A figure drawn with :data:`PAGE` as an element of a page, in the page's colours and font.

    Args:
        made: the figure.
        label: what it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        # savefig draws twice, first to measure what these figures need not have measured
        canvas: Any = FigureCanvasSVG(made)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    head = f'<svg role="img" aria-label="{html.escape(label)}"'
    text = re.sub(r'<svg[^>]*?( viewBox="[^"]*")[^>]*>', lambda found: f"{head}{found[1]}>", text, count=1)
    names = {PAGE.text: "ink", PAGE.muted: "muted", PAGE.line: "line"}
    names |= {colour: f"series-{i + 1}" for i, colour in enumerate(PAGE.series)}
    for colour, name in names.items():
        text = text.replace(colour, f"var(--{name})")
    return text
