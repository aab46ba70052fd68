"""One self-contained HTML page over all runs of a folder: what they are, how good, and at what cost."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polymask.config import CONFIG
from polymask.errors import UserError
from polymask.evaluation.intervals import Interval
from polymask.evaluation.measurements import read_scores
from polymask.evaluation.result import CAVEAT, METHODS, TRAINED, UNTRAINED, read_probe
from polymask.files import read_yaml, write_text
from polymask.report import charts
from polymask.report.charts import PAGE
from polymask.report.progress import Chart
from polymask.report.templates import MARK, named, render
from polymask.training.metrics import read_metrics

DEEPEST = 4
"""Folders between the one that is looked through and a run."""


@dataclass(frozen=True)
class Row:
    """A run, from its files alone.

    Args:
        name: its folder, below the one that is looked through.
        link: its report, or its folder where it has none.
        system: full name.
        data: full name of the data set, with its source.
        preset: that was chosen.
        steps: of ``metrics.csv``.
        losses: the loss at each.
        probes: accuracies on the way, by method, at each.
        minutes: of training.
        parts: masking, encoder and the like, by slot.
        accuracy: of the pre-trained encoder, by method.
        gain: over the same encoder untrained, by method.
        scores: of evaluations, by name.
    """

    name: str
    link: str
    system: str
    data: str
    preset: str
    parts: Mapping[str, str]
    steps: Sequence[float] = ()
    losses: Sequence[float] = ()
    probes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    minutes: float = 0.0
    accuracy: Mapping[str, Interval] = field(default_factory=dict)
    gain: Mapping[str, Interval] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


def write_index(folder: str | Path) -> Path:
    """Write ``index.html`` about all runs below a folder.

    Args:
        folder: that holds runs, comparisons or recipes; runs that cannot be read are left out with a warning.

    Returns:
        Path of the page.

    Raises:
        UserError: there is none, or the page cannot be written.
    """
    folder = Path(folder)
    rows = list(_rows(folder))
    if not rows:
        raise UserError(f"{folder} is no run folder, and holds none: there is no {CONFIG} in it or below it")
    path = folder / "index.html"
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{path} is a page of something else: move it, or give another folder")
    slots = dict.fromkeys(slot for row in rows for slot in row.parts)
    write_text(
        path,
        render(
            "runs.html.j2",
            folder=folder.resolve().name,
            rows=rows,
            varied=[slot for slot in slots if len({row.parts.get(slot) for row in rows}) > 1],
            methods=[method for method in METHODS if any(method in row.accuracy for row in rows)],
            metrics=list(dict.fromkeys(name for row in rows for name in row.scores)),
            pages=[page.relative_to(folder).as_posix() for page in _below(folder, "comparison.html")],
            losses=_charts(rows, "Loss"),
            probes=_charts(rows, METHODS[0]),
            caveat=CAVEAT,
        ),
    )
    return path


def _below(folder: Path, name: str, depth: int = DEEPEST) -> Iterator[Path]:
    """Files of a name in a folder and, where it has none, in those below it."""
    if (folder / name).is_file():
        yield folder / name
    elif depth and folder.is_dir():
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                yield from _below(inner, name, depth - 1)


def _rows(folder: Path) -> Iterator[Row]:
    for path in _below(folder, CONFIG):
        try:
            yield _row(path.parent, folder)
        except UserError as error:
            warnings.warn(f"{path.parent} is left out: {error}", stacklevel=3)


def _row(run: Path, folder: Path) -> Row:
    config, metrics = read_yaml(run / CONFIG), read_metrics(run / "metrics.csv")
    parts = {key: value for key, value in config.items() if isinstance(value, Mapping) and "name" in value}
    report, data, found = run / "report.html", config.get("data"), read_probe(run)
    there = {row.features for row in found.rows} if found else set()
    accuracy = {m: found.accuracy(TRAINED, m) for m in METHODS} if found and TRAINED in there else {}
    gain = {m: found.differences[UNTRAINED, m] for m in METHODS} if found and UNTRAINED in there else {}
    values = {
        f"{scores.evaluation} {score.metric}": score.value
        for scores in read_scores(run)
        for score in scores.scores
        if score.row == TRAINED
    }
    return Row(
        name=run.relative_to(folder).as_posix(),
        link=(report if report.is_file() else run).relative_to(folder).as_posix(),
        system=str(config.get("system") or "built in Python"),
        data=named(data) if data else "given in Python",
        preset=str(config.get("preset") or ""),
        parts={slot: str(part["name"]) for slot, part in parts.items() if slot != "data"},
        steps=[row["step"] for row in metrics],
        losses=[row.get("loss", math.nan) for row in metrics],
        probes={
            m: [row.get(m, math.nan) for row in metrics] for m in METHODS if any(m in r for r in metrics)
        },
        minutes=sum(row.get("seconds", 0.0) for row in metrics) / 60,
        accuracy=accuracy,
        gain=gain,
        scores=values,
    )


def _charts(rows: Sequence[Row], what: str) -> list[Chart]:
    """Lines of runs that can stand beside each other: losses of one system, accuracies on one data set."""
    groups: defaultdict[str, list[tuple[Row, Sequence[float]]]] = defaultdict(list)
    for row in rows:
        line = row.losses if what == "Loss" else row.probes.get(what, ())
        if any(map(math.isfinite, line)):
            groups[f"{row.system} on {row.data}" if what == "Loss" else row.data].append((row, line))
    found = []
    for title, lines in groups.items():
        steps = sorted({step for row, _ in lines for step in row.steps})
        drawn = {}
        for row, line in lines:
            known = dict(zip(row.steps, line, strict=True))
            drawn[row.name] = [known.get(step, math.nan) for step in steps]
        made, axes = charts.panel(5.6, 2.6)
        charts.curves(charts.style(axes, PAGE, "step"), PAGE, steps, drawn)
        if what == "Loss":
            charts.logarithmic(axes)
        note = "loss" if what == "Loss" else f"{what} accuracy of some held-out samples"
        found.append(Chart(title, note, charts.svg(made, f"{title}, {note}")))
    return found
