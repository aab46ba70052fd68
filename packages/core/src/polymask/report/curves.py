"""How soon which variant of a comparison is how good: accuracy against what it took to get there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from polymask.evaluation.intervals import Interval, t_interval
from polymask.evaluation.result import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from polymask.report.charts import Ink

STEPS, ROWS, SECONDS = "steps", "rows encoded", "seconds"

Line = Mapping[str, Sequence[float]]
"""Columns of one run: what it had taken, ``steps`` and ``seconds``, and the accuracies it had reached."""


def line_of(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The curve of a run that was probed on the way, no columns where it was not.

    Args:
        rows: of ``metrics.csv``; seconds are those of training alone, without probes and start.
    """
    line: dict[str, list[float]] = {STEPS: [], SECONDS: [], **{method: [] for method in METHODS}}
    seconds = 0.0
    for row in rows:
        seconds += row["seconds"]
        if METHODS[0] in row:
            for name, value in ((STEPS, row["step"]), (SECONDS, seconds), *((m, row[m]) for m in METHODS)):
                line[name].append(value)
    return line if line[STEPS] else {}


@dataclass(frozen=True)
class Curves:
    """Accuracies on the way, of several variants and seeds.

    Args:
        lines: by label, for each seed in order.
        rows: how many rows a step encodes, by label, where variants differ in that; a method that encodes
            two views of a sample takes twice as many as one of the same batch size that encodes one.
    """

    lines: Mapping[str, Sequence[Line]]
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def axes(self) -> list[str]:
        """What can be a budget."""
        return [STEPS, *([ROWS] if self.rows else []), SECONDS]

    def at_cost(self, seconds: Mapping[str, float]) -> Curves:
        """The same where a step takes so many seconds, by label, whatever the machine did meanwhile."""
        lines = {
            label: [{**line, SECONDS: [step * seconds[label] for step in line[STEPS]]} for line in found]
            for label, found in self.lines.items()
        }
        return replace(self, lines=lines)

    def budget(self, label: str, seed: int, axis: str) -> np.ndarray:
        """What a run had taken at each of its points."""
        line = self.lines[label][seed]
        if axis == ROWS:
            return np.asarray(line[STEPS], float) * self.rows[label]
        return np.asarray(line[axis], float)

    def shared(self, seed: int, axis: str) -> float:
        """The largest budget that every variant has been given with a seed."""
        return float(min(self.budget(label, seed, axis)[-1] for label in self.lines))

    def reached(self, label: str, seed: int, measure: str, axis: str) -> float:
        """Accuracy at the shared budget, on the line between the points beside it."""
        budget = self.budget(label, seed, axis)
        return float(np.interp(self.shared(seed, axis), budget, self.lines[label][seed][measure]))

    def area(self, label: str, seed: int, measure: str, axis: str) -> float:
        """Mean accuracy on the way, from the first budget that all variants have a point at to the shared."""
        budget = self.budget(label, seed, axis)
        start = max(self.budget(other, seed, axis)[0] for other in self.lines)
        grid = np.linspace(start, self.shared(seed, axis), 200)
        return float(np.interp(grid, budget, self.lines[label][seed][measure]).mean())

    def difference(
        self,
        label: str,
        first: str,
        measure: str,
        axis: str,
        area: bool = False,
        comparisons: int | None = None,
    ) -> Interval:
        """A variant minus another at equal budget, or of mean accuracies up to there, paired by seed.

        The interval is one of ``comparisons``, of all variants with the first by default.
        """
        value = self.area if area else self.reached
        seeds = range(len(self.lines[label]))
        return t_interval(
            [value(label, k, measure, axis) - value(first, k, measure, axis) for k in seeds],
            comparisons or len(self.lines) - 1,
        )

    def table(self, first: str) -> list[list[str]]:
        """Differences to a variant as text, with a heading."""
        rows = [["variant", "at equal", *(f"{m}{what}" for m in METHODS for what in ("", ", on the way"))]]
        for label, axis in itertools.product([label for label in self.lines if label != first], self.axes):
            found = [self.difference(label, first, m, axis, area) for m in METHODS for area in (False, True)]
            rows.append([label, axis, *(_text(one) for one in found)])
        return rows

    def draw(self, ink: Ink) -> Figure:
        """Accuracy against each kind of budget: the mean over seeds, and every seed faintly."""
        from polymask.report import charts

        made = charts.figure(3.4 * len(self.axes), 2.5 * len(METHODS))
        grid = made.subplots(len(METHODS), len(self.axes), sharey="row", sharex="col", squeeze=False)
        colours = charts.cycle(ink.series, len(self.lines))
        for (row, measure), (column, axis) in itertools.product(enumerate(METHODS), enumerate(self.axes)):
            below, beside = row == len(METHODS) - 1, column == 0
            axes = charts.style(
                grid[row, column], ink, axis if below else "", f"{measure} accuracy" if beside else ""
            )
            for (label, lines), colour in zip(self.lines.items(), colours, strict=True):
                budgets = [self.budget(label, k, axis) for k in range(len(lines))]
                for budget, line in zip(budgets, lines, strict=True):
                    axes.plot(budget, line[measure], color=colour, linewidth=0.6, alpha=0.35)
                mean = np.mean([line[measure] for line in lines], axis=0)
                axes.plot(np.mean(budgets, axis=0), mean, color=colour, linewidth=1.7, label=label)
            axes.set_xlim(left=0)
        made.legend(
            *grid[0, 0].get_legend_handles_labels(),
            frameon=False,
            fontsize=8,
            labelcolor=ink.text,
            loc="outside upper left",
            ncols=len(self.lines),
        )
        return made


def _text(value: Interval) -> str:
    half = value.high - value.mean
    return f"{value.mean:+.3f}" + (f" ± {half:.3f}" if np.isfinite(half) else "")
