"""Evaluations beside the probes: what a run is good for, as rows of scores.

A domain registers them as parts of kind ``evaluations``: retrieval with its nDCG, perplexity, word
errors, a dense probe. ``polymask evaluate`` runs one on a run, ``polymask compare --evaluation`` on all
runs of a comparison.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from polymask.config import PartConfig, Source, resolve_part
from polymask.errors import UserError
from polymask.evaluation.intervals import accuracy_interval, jackknife_interval, t_interval
from polymask.evaluation.result import CAVEAT, is_current
from polymask.files import read_json, require_writable, write_json
from polymask.plugins.registry import Registry, default_registry

if TYPE_CHECKING:
    from rich.table import Table

    from polymask.run import Run


@dataclass(frozen=True)
class Measurement:
    """One number.

    Args:
        row: what was measured: ``"pre-trained"``, ``"untrained"``, or a rival that needs no system
            (``"BM25"``).
        metric: ``"nDCG@10"``, ``"perplexity"``.
        value: the number, finite.
        low: lower end of its interval of 95 %, where there is one.
        high: upper end.
    """

    row: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def mean(cls, row: str, metric: str, values: Sequence[float]) -> Measurement:
        """The mean of independent values with Student's t interval, of one value without an interval."""
        found = t_interval(values)
        ends = (found.low, found.high) if len(values) > 1 else (None, None)
        return cls(row, metric, found.mean, *ends)

    @classmethod
    def share(cls, row: str, metric: str, values: Sequence[float]) -> Measurement:
        """The mean of independent values in [0, 1], such as right answers, with Wilson's interval."""
        found = accuracy_interval(torch.tensor([values], dtype=torch.float64))
        return cls(row, metric, found.mean, found.low, found.high)

    @classmethod
    def jackknife(
        cls, row: str, metric: str, value: float, without: Tensor, low: float, high: float
    ) -> Measurement:
        """A statistic of samples with the interval of the delete-one jackknife, if that says anything.

        Args:
            row: what was measured.
            metric: the statistic.
            value: of all samples.
            without: ``[n]``, float64, the same without each of them.
            low: the least that it can be.
            high: the most that it can be.
        """
        found = jackknife_interval(value, without, low, high)
        ends = (found.low, found.high) if math.isfinite(found.error) else (None, None)
        return cls(row, metric, value, *ends)


class Evaluation(Protocol):
    """Measures a run. Options are keyword-only arguments of the constructor."""

    def __call__(self, run: Run) -> Iterable[Measurement]:
        """Scores of the run's system in eval mode, and of what it is to be compared with.

        :meth:`polymask.run.Run.untrained` gives the same system untrained.
        """


@dataclass(frozen=True)
class Measurements:
    """What an evaluation found.

    Args:
        evaluation: its full name.
        scores: in the order of its rows.
        settings: options that were set.
        step: optimiser steps behind the weights that were measured, where that is known.
    """

    evaluation: str
    scores: Sequence[Measurement]
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in order."""
        return list(dict.fromkeys(score.metric for score in self.scores))

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in order."""
        return list(dict.fromkeys(score.row for score in self.scores))

    def score(self, row: str, metric: str) -> Measurement | None:
        """One number, if there is one."""
        return next((s for s in self.scores if (s.row, s.metric) == (row, metric)), None)

    def row(self, name: str) -> dict[str, float]:
        """Values of one row by metric."""
        return {score.metric: score.value for score in self.scores if score.row == name}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings."""
        return {
            "evaluation": self.evaluation,
            "scores": [asdict(score) for score in self.scores],
            "settings": dict(self.settings),
            "step": self.step,
            "caveat": CAVEAT,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Measurements:
        """The inverse of :meth:`to_json`."""
        scores = [Measurement(**score) for score in found["scores"]]
        return cls(found["evaluation"], scores, found["settings"], found.get("step"))

    def table(self) -> Table:
        """A table for the terminal, the longer of rows and metrics down its side."""
        from rich import box
        from rich.table import Table

        turned = len(self.metrics) > len(self.rows)
        across, down = (self.rows, self.metrics) if turned else (self.metrics, self.rows)
        between = " " if len(across) <= 2 else "\n"
        table = Table(title=self.evaluation, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("", overflow="fold")
        for name in across:
            table.add_column(name, justify="right", overflow="fold")
        for name in down:
            pairs = ((other, name) if turned else (name, other) for other in across)
            table.add_row(name, *(_cell(self.score(*pair), between) for pair in pairs))
        table.caption, table.caption_justify = CAVEAT, "left"
        return table


def evaluate_run(
    run: Run | str | Path,
    evaluation: str | Mapping[str, Any] | PartConfig,
    registry: Registry | None = None,
) -> Measurements:
    """Run one evaluation on a run, and write ``evaluation-<plugin>-<name>.json`` into its folder.

    With other options than its own defaults the file has a digest of them in its name, so that what was found
    with some is not lost to what is found with others.

    Args:
        run: a run or its folder.
        evaluation: its name, a mapping with a ``name`` and options, or its configuration.
        registry: where to look it up; the installed plugins by default.

    Raises:
        UserError: no such evaluation, options it refuses, a run it cannot measure, or a score that is
            not finite.
    """
    from polymask.evaluation.features import evaluating
    from polymask.run import Run

    config = evaluation if isinstance(evaluation, PartConfig) else chosen(evaluation, registry)
    measure: Evaluation = config.build()
    opened = Run.open(run, registry=registry) if isinstance(run, str | Path) else run
    require_writable(opened.folder)
    with evaluating(opened.system):
        given: Any = measure(opened)
        scores = list(given) if isinstance(given, Iterable) else []
    if isinstance(given, Iterable) and not scores:
        raise UserError(f"{config.name} found nothing to measure in the test samples of {opened.folder}")
    if not scores or not all(isinstance(score, Measurement) for score in scores):
        raise UserError(f"{config.name} measured nothing: it gave {given!r}, not a list of Measurement")
    scores = [_plain(score, config.name) for score in scores]
    found = Measurements(config.name, scores, settings_of(config), opened.step)
    if broken := [score for score in found.scores if not math.isfinite(score.value)]:
        raise UserError(f"{config.name}: {broken[0].metric} of {broken[0].row!r} is {broken[0].value}")
    write_json(stored_at(opened.folder, config), found.to_json())
    return found


def _plain(score: Measurement, evaluation: str) -> Measurement:
    """With numbers that JSON knows.

    Raises:
        UserError: a name that is no text, or a number that is none.
    """
    names: list[Any] = [score.row, score.metric]
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        raise UserError(f"{evaluation}: rows and metrics are called by a line of text, got {score!r}")
    ends = (score.low, score.high)
    try:
        low, high = (None if end is None or math.isnan(end) else float(end) for end in ends)
        return Measurement(score.row, score.metric, float(score.value), low, high)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{evaluation}: a measurement and the ends of its interval are numbers, got {score!r}"
        ) from error


def chosen(evaluation: str | Mapping[str, Any], registry: Registry | None = None) -> PartConfig:
    """The configuration of an evaluation, given by name or as a mapping with a ``name``."""
    registry = registry or default_registry()
    asked = {"name": evaluation} if isinstance(evaluation, str) else dict(evaluation)
    if "name" not in asked:
        raise UserError("which evaluation? give its name beside its options")
    part = registry.find("evaluations", asked.pop("name"))
    return resolve_part(part, Source("arguments", asked), registry=registry).require()


def settings_of(config: PartConfig) -> dict[str, Any]:
    """Options of an evaluation that differ from its defaults, plain."""
    assert config.part is not None
    usual = resolve_part(config.part, registry=default_registry()).tree.plain()
    return {name: value for name, value in config.plain().items() if usual.get(name) != value}


def stored_at(folder: Path, config: PartConfig) -> Path:
    """Where a run keeps what an evaluation found with these options."""
    settings = settings_of(config)
    told = json.dumps(settings, sort_keys=True)
    digest = f"-{hashlib.sha256(told.encode()).hexdigest()[:8]}" if settings else ""
    return folder / f"evaluation-{config.name.replace('/', '-')}{digest}.json"


def read_scores(folder: Path) -> list[Measurements]:
    """What evaluations found about a run as it is now, by name; damaged files and old ones are told."""
    found = []
    for path in sorted(folder.glob("evaluation-*.json")):
        try:
            one = read_json(path, Measurements.from_json)
            if is_current(path, one.step):
                found.append(one)
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def _cell(score: Measurement | None, between: str) -> str:
    if score is None:
        return ""
    text = _number(score.value, 4)
    if score.low is None or score.high is None:
        return text
    return f"{text}{between}[dim]{_number(score.low, 3)} to {_number(score.high, 3)}[/dim]"


def _number(value: float, digits: int) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
