"""What a comparison found: means over seeds with intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from polymask.evaluation.intervals import NOTHING, Interval, difference_interval, t_interval
from polymask.evaluation.result import CAVEAT, METHODS, RAW, UNTRAINED
from polymask.report.curves import ROWS
from polymask.report.templates import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType
    from torch import Tensor

    from polymask.report.charts import Ink
    from polymask.report.curves import Curves

LOSS, COST = "loss", "ms per sample"

DASHES = ((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)))
"""Lines of what variants are to be seen beside."""

NOTES = (
    "Means have 95 % t intervals over seeds. Differences are paired by seed, and by test sample where its "
    "answers were kept; their intervals of 95 % hold for all variants together, and those off 0 are called "
    "higher or lower, unless all seeds agree, which says nothing about spread. "
    "The loss is the mean over the last tenth of the run; losses of different targets, objectives "
    "or maskings measure different things. Milliseconds are the median over the run, beside whatever "
    "else the machine did. " + CAVEAT
)


@dataclass(frozen=True)
class Comparison:
    """Several variants, each trained and probed with the same seeds.

    Args:
        config: what all variants share.
        variants: what each changes, by label; the first is what others are compared to.
        seeds: of the runs.
        values: by label, for each seed in order: accuracies by method (``"kNN"``, ``"linear"``),
            the same of the untrained encoder (``"untrained kNN"``, ...), ``"loss"`` and
            ``"ms per sample"``.
        reference: accuracies of the raw input, by method.
        rivals: what needs no system reaches in an evaluation, by name and metric.
        folders: by label, run folders within that of the comparison, one per seed.
        curves: accuracies on the way, where runs were probed there (``probe_every``).
        answers: by label and method, for each seed in order and each draw of training samples, which test
            samples a probe classified rightly, as a text of ``1`` and ``0``.
    """

    config: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    values: Mapping[str, list[dict[str, float]]]
    reference: Mapping[str, float] = field(default_factory=dict)
    rivals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    folders: Mapping[str, list[str]] = field(default_factory=dict)
    curves: Curves | None = None
    answers: Mapping[str, Mapping[str, list[list[str]]]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The variant that others are compared to."""
        return next(iter(self.variants))

    @property
    def measures(self) -> list[str]:
        """What was measured of every run: accuracies and scores first, then loss and cost."""
        known = self.values[self.first][0]
        return [*self.scores, *(name for name in (LOSS, COST) if name in known)]

    @property
    def scores(self) -> list[str]:
        """What tells how good a run's encoder is: accuracies of probes, metrics of an evaluation."""
        known = self.values[self.first][0]
        return [name for name in known if name not in (LOSS, COST) and not name.startswith(f"{UNTRAINED} ")]

    def mean(self, label: str, measure: str) -> Interval:
        """Mean over seeds, with its t interval."""
        return t_interval([value[measure] for value in self.values[label]])

    def difference(self, label: str, measure: str, comparisons: int | None = None) -> Interval:
        """A variant minus the first, paired by seed, and by test sample where these are known.

        The interval is one of ``comparisons``, of all variants with the first by default.
        """
        comparisons = comparisons or len(self.variants) - 1
        ours, theirs = (self.answers.get(name, {}).get(measure, []) for name in (label, self.first))
        if len(ours) == len(theirs) == len(self.seeds):
            return difference_interval(_shares(ours), _shares(theirs), comparisons)
        pairs = zip(self.values[label], self.values[self.first], strict=True)
        return t_interval([one[measure] - other[measure] for one, other in pairs], comparisons)

    def verdict(self, label: str, measure: str) -> str:
        """The difference in a word: higher, lower, no difference seen; or why there is none."""
        if label == self.first:
            return "compared to"
        if len(self.seeds) == 1:
            return "one seed cannot tell"
        return self.difference(label, measure).verdict

    def claimed(self, about: Sequence[str], measure: str, lower: bool = False) -> str:
        """Whether a claim is supported that some variants are better than the first.

        Intervals hold for these variants together, whatever others were run. Where variants encode other
        numbers of rows in a step, said at equal steps and at equal rows.

        Args:
            about: the variants.
            measure: the score that decides.
            lower: whether a lower one is better.
        """
        if len(self.seeds) == 1:
            return "one seed cannot tell"
        found = [self.difference(label, measure, len(about)) for label in about]
        said = _said([one.verdict for one in found], lower)
        rows = self.curves.rows if self.curves is not None else {}
        if self.curves is None or len({rows.get(label) for label in (self.first, *about)}) < 2:
            return said
        found = [
            self.curves.difference(label, self.first, measure, ROWS, comparisons=len(about))
            for label in about
        ]
        return f"{said} at equal steps, {_said([one.verdict for one in found], lower)} at equal rows encoded"

    @property
    def title(self) -> str:
        """What is compared, on what, how often."""
        data = self.config.get("data", "")
        data = data.get("name", "") if isinstance(data, Mapping) else data
        what = str(self.config.get("system") or " and ".join(self.variants))
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds each"
        return f"{what} on {data}, {seeds}" if data else f"{what}, {seeds}"

    def rows(self) -> list[list[str]]:
        """Means as text: a heading, a row per variant, then the untrained encoder and the raw input."""
        rows = [["variant", *self.measures]]
        rows += [[label, *(_text(self.mean(label, m), m) for m in self.measures)] for label in self.variants]
        levels = {m: self._levels(m) for m in self.measures}
        for name in dict.fromkeys(name for found in levels.values() for name in found):
            rows.append([name, *(f"{found[name]:.3f}" if name in found else "" for found in levels.values())])
        return rows

    def differences(self) -> list[list[str]]:
        """Accuracies and scores minus those of the first variant as text: a heading, a row per variant.

        What intervals of several seeds leave no doubt of is said in a word: higher or lower.
        """
        doubt = " (one seed cannot tell)" if len(self.seeds) == 1 else ""
        others = [label for label in self.variants if label != self.first] if self.scores else []
        return [
            [f"minus {self.first}{doubt}", *self.scores],
            *([label, *(self._difference_text(label, m) for m in self.scores)] for label in others),
        ]

    def _difference_text(self, label: str, measure: str) -> str:
        found = self.difference(label, measure)
        half = found.high - found.mean
        spread = f" ± {half:.3f}" if math.isfinite(half) else ""
        seen = f" {found.verdict}" if len(self.seeds) > 1 and found.verdict != NOTHING else ""
        return f"{found.mean:+.3f}{spread}{seen}"

    def tables(self) -> list[list[list[str]]]:
        """Means, differences and, where there are curves, those at equal budgets, as text; none is empty."""
        found = [self.rows(), self.differences()]
        if self.curves is not None:
            found.append(self.curves.table(self.first))
        return [table for table in found if len(table) > 1]

    def table(self) -> RenderableType:
        """All tables for the terminal."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        tables: list[Table] = []
        for heading, *rows in self.tables():
            title = None if tables else self.title
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
            for k, name in enumerate(heading):
                table.add_column(name, justify="right" if k else "left", overflow="fold")
            for row in rows:
                table.add_row(*row, style=None if row[0] in self.variants else "dim")
            tables.append(table)
        return Group(*tables, NOTES)

    def markdown(self) -> str:
        """All tables in Markdown."""
        parts = [f"# {self.title}"]
        parts += map(markdown_table, self.tables())
        return "\n\n".join([*parts, NOTES]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings; what is unbounded or unknown becomes None."""
        more: dict[str, Any] = {} if self.curves is None else {"curves": asdict(self.curves)}
        if self.answers:
            more["answers"] = {label: dict(found) for label, found in self.answers.items()}
        return {
            "config": dict(self.config),
            "variants": {label: dict(change) for label, change in self.variants.items()},
            "seeds": list(self.seeds),
            "reference": dict(self.reference),
            "rivals": {name: dict(found) for name, found in self.rivals.items()},
            "results": {
                label: {
                    "runs": self.folders.get(label, []),
                    "values": self.values[label],
                    "mean": {m: _plain(self.mean(label, m)) for m in self.measures},
                    "difference": {
                        m: {**_plain(self.difference(label, m)), "verdict": self.verdict(label, m)}
                        for m in self.measures
                        if label != self.first
                    },
                }
                for label in self.variants
            },
            **more,
            "notes": NOTES,
        }

    def draw(self, ink: Ink) -> Figure:
        """Scores (or, where there are none, losses) of the variants with their intervals and seeds."""
        from polymask.report import charts

        measures = self.scores or [LOSS]
        labels = list(self.variants)
        made = charts.figure(1.6 + 3.4 * len(measures), 0.9 + 0.42 * len(labels))
        for axes, measure in zip(
            made.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True
        ):
            label = f"{measure} accuracy" if measure in METHODS else measure
            charts.dots(axes, ink, labels, {measure: [self.mean(name, measure) for name in labels]}, label)
            for row, name in enumerate(labels):
                points = [value[measure] for value in self.values[name]]
                axes.plot(points, [row + 0.2] * len(points), "o", markersize=3, color=ink.muted, alpha=0.7)
            for k, (name, value) in enumerate(self._levels(measure).items()):
                axes.axvline(
                    value, color=ink.muted, linewidth=0.9, linestyle=DASHES[k % len(DASHES)], label=name
                )
        if self._levels(measures[0]):
            handles = [h for h in made.axes[0].lines if not str(h.get_label()).startswith("_")]
            made.legend(
                handles=handles,
                frameon=False,
                fontsize=8,
                labelcolor=ink.text,
                loc="outside upper right",
                ncols=2,
            )
        return made

    def _levels(self, measure: str) -> dict[str, float]:
        """What untrained and raw features reach, and rivals that need no system."""
        levels = {}
        if f"{UNTRAINED} {measure}" in self.values[self.first][0]:
            levels[UNTRAINED] = self.mean(self.first, f"{UNTRAINED} {measure}").mean
        if measure in self.reference:
            levels[RAW] = self.reference[measure]
        return levels | {name: found[measure] for name, found in self.rivals.items() if measure in found}


def _said(verdicts: Sequence[str], lower: bool) -> str:
    """What verdicts about some variants say of a claim that they are better."""
    better, worse = ("lower", "higher") if lower else ("higher", "lower")
    if better in verdicts and worse in verdicts:
        return "mixed"
    for verdict, word in ((better, "supports"), (worse, "contradicts")):
        if count := list(verdicts).count(verdict):
            return word if count == len(verdicts) else f"{word} in {count} of {len(verdicts)}"
    return NOTHING


def _shares(answers: list[list[str]]) -> Tensor:
    """Share of the draws with a right answer, ``[seeds, samples]``."""
    import torch

    rows = [torch.tensor([[int(right) for right in draw] for draw in seed]) for seed in answers]
    return torch.stack([row.double().mean(0) for row in rows])


def _text(value: Interval, measure: str) -> str:
    digits = {LOSS: 3, COST: 2}.get(measure, 3)
    half = value.high - value.mean
    return f"{value.mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def _plain(value: Interval) -> dict[str, float | None]:
    return {key: number if math.isfinite(number) else None for key, number in asdict(value).items()}
