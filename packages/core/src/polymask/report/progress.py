"""Charts of how a run went: losses, measures on the way, speed, and what it changes by design."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from polymask.evaluation.result import METHODS
from polymask.report import charts
from polymask.report.charts import PAGE
from polymask.step import Step
from polymask.systems.base import System
from polymask.training.collapse import RANK, SPREAD

SPEED = ("lr", "grad_norm", "seconds", "samples_per_second", "data_wait", "padding")
"""Columns of ``metrics.csv`` that are neither losses nor measures of features."""

Metrics = dict[str, list[float]]
"""Columns of ``metrics.csv``, NaN where a row says nothing."""


class Chart(NamedTuple):
    """A chart on the page: its title, a line that says what to see, and its SVG."""

    title: str
    note: str
    svg: str


def training(metrics: Metrics) -> list[Chart]:
    """Losses, what was measured on the way, and speed."""
    found = []
    watched = [name for name in metrics if name.endswith(("_std", "_rank"))]
    gauges = _ending("_gauge", list(metrics))
    terms = [name for name in metrics if name not in (*SPEED, *METHODS, *watched, *gauges, "step", "loss")]
    losses, said = [*terms, "loss"], "weighted terms and their sum"
    if len(terms) == 1:
        losses, said = terms, terms[0]
    groups = (
        ("Loss", said, losses),
        ("Probes on the way", "accuracy on some held-out samples", list(METHODS)),
        ("Learning rate", "at its largest", ["lr"]),
        ("Gradient", "norm before clipping", ["grad_norm"]),
        ("Spread of features", f"below {SPREAD} they have collapsed", _ending("_std", watched)),
        ("Rank of features", f"directions in use; below {RANK} collapsed", _ending("_rank", watched)),
        *((_in_words(name.removesuffix("_gauge")), "of the samples watched", [name]) for name in gauges),
        ("Throughput", "samples per second", ["samples_per_second"]),
        ("Waiting for data", "share of the time", ["data_wait"]),
        ("Padding", "share of what is computed", ["padding"]),
    )
    for title, note, names in groups:
        lines = {name: metrics[name] for name in names if np.isfinite(metrics.get(name, math.nan)).any()}
        if not lines:
            continue
        made, axes = charts.panel(*((9.3, 2.6) if title == "Loss" else (2.9, 1.9)))
        charts.curves(charts.style(axes, PAGE, "step"), PAGE, metrics["step"], lines)
        if title == "Loss":
            charts.logarithmic(axes)
        elif title not in ("Learning rate", "Gradient", "Probes on the way"):
            values = list(lines.values())
            axes.set_ylim(1.1 * min(0.0, float(np.nanmin(values))), 1.1 * float(np.nanmax(values)) or 1)
        found.append(Chart(title, note, charts.svg(made, f"{title}, {note}")))
    return found


def _in_words(name: str) -> str:
    """A name of code as a title."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def schedule(system: System, total: int) -> list[Chart]:
    """What the system changes over the run, drawn over all of it, whether it is finished or not."""
    marks = sorted({round(k * total / 60) for k in range(61)})
    found = [system.schedule(Step(index, total)) for index in marks]
    if not found[0]:
        return []
    made, axes = charts.panel(9.3, 2.2)
    lines = {name: [values[name] for values in found] for name in found[0]}
    charts.curves(charts.style(axes, PAGE, "step"), PAGE, marks, lines)
    axes.set_ylim(-0.03, 1.08)
    note = "what the system changes over the run, by design"
    return [Chart("Schedule", note, charts.svg(made, f"Schedule, {note}"))]


def columns(rows: list[dict[str, float]]) -> Metrics:
    """Rows of ``metrics.csv`` by column."""
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def _ending(end: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(end)]
