"""What a comparison found: means over seeds with intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from polymask.evaluation.intervals import Interval, t_interval
from polymask.evaluation.probe import CAVEAT, METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from polymask.report.charts import Ink

LOSS, COST = "loss", "ms per step"

NOTES = (
    "95 % t intervals over seeds; differences are paired by seed, each interval stands for itself. "
    "The loss is the mean over the last tenth of the run; losses of different targets, objectives "
    "or maskings measure different things. " + CAVEAT
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
            ``"ms per step"``.
        reference: accuracies of the raw input, by method, and ``"chance"``.
        folders: by label, run folders within that of the comparison, one per seed.
    """

    config: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    values: Mapping[str, list[dict[str, float]]]
    reference: Mapping[str, float] = field(default_factory=dict)
    folders: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The variant that others are compared to."""
        return next(iter(self.variants))

    @property
    def measures(self) -> list[str]:
        """What was measured of every run: accuracies first, then loss and cost."""
        known = self.values[self.first][0]
        return [name for name in (*METHODS, LOSS, COST) if name in known]

    def mean(self, label: str, measure: str) -> Interval:
        """Mean over seeds, with its t interval."""
        return t_interval([value[measure] for value in self.values[label]])

    def difference(self, label: str, measure: str) -> Interval:
        """A variant minus the first, paired by seed."""
        pairs = zip(self.values[label], self.values[self.first], strict=True)
        return t_interval([one[measure] - other[measure] for one, other in pairs])

    def verdict(self, label: str, measure: str) -> str:
        """The difference in a word: higher, lower, no difference seen; or why there is none."""
        if label == self.first:
            return "compared to"
        if len(self.seeds) == 1:
            return "one seed cannot tell"
        return self.difference(label, measure).verdict

    def rows(self) -> list[list[str]]:
        """A table as text: a heading, a row per variant, then the untrained encoder and the raw input."""
        heading = ["variant"]
        for measure in self.measures:
            heading += [measure, "difference"] if measure in METHODS else [measure]
        rows = [heading]
        for label in self.variants:
            row = [label]
            for measure in self.measures:
                row.append(_text(self.mean(label, measure), measure))
                if measure in METHODS:
                    row.append(self._difference_text(label, measure))
            rows.append(row)
        for name, found in self._references().items():
            row = [name]
            for measure in self.measures:
                row += [found[measure], ""] if measure in METHODS else [""]
            rows.append(row)
        return rows

    def table(self) -> Table:
        """A table for the terminal."""
        from rich.table import Table

        heading, *rows = self.rows()
        table = Table(title=self.title, title_justify="left", caption=NOTES, caption_justify="left")
        for name in heading:
            table.add_column(name, justify="left" if name == "variant" else "right")
        for row in rows:
            table.add_row(*row, style=None if row[0] in self.variants else "dim")
        return table

    @property
    def title(self) -> str:
        """What is compared, on what, how often."""
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        data = self.config.get("data", "")
        data = data.get("name", "") if isinstance(data, Mapping) else data
        parts = [str(self.config.get("system", "")), f"on {data}" if data else "", f"{seeds} each"]
        return ", ".join(part for part in parts if part)

    def markdown(self) -> str:
        """The table in Markdown."""
        heading, *rows = self.rows()
        lines = [heading, ["---", *("---:" for _ in heading[1:])], *rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)
        return f"# {self.title}\n\n{table}\n\n{NOTES}\n"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings; what is unbounded or unknown becomes None."""
        return {
            "config": dict(self.config),
            "variants": {label: dict(change) for label, change in self.variants.items()},
            "seeds": list(self.seeds),
            "reference": dict(self.reference),
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
            "notes": NOTES,
        }

    def draw(self, ink: Ink) -> Figure:
        """Accuracies (or, without labels, losses) of the variants with their intervals and seeds."""
        from polymask.report import charts

        measures = [m for m in self.measures if m in METHODS] or [LOSS]
        labels = list(self.variants)
        made = charts.figure(1.6 + 3.4 * len(measures), 0.9 + 0.42 * len(labels))
        for axes, measure in zip(made.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
            label = f"{measure} accuracy" if measure in METHODS else measure
            charts.dots(axes, ink, labels, {measure: [self.mean(name, measure) for name in labels]}, label)
            for row, name in enumerate(labels):
                points = [value[measure] for value in self.values[name]]
                axes.plot(points, [row + 0.2] * len(points), "o", markersize=3, color=ink.muted, alpha=0.7)
            for k, (name, value) in enumerate(self._levels(measure).items()):
                axes.axvline(value, color=ink.muted, linewidth=0.9, linestyle=((0, (4, 3)), (0, (1, 2)))[k], label=name)
        if len(self._levels(measures[0])):
            handles = [h for h in made.axes[0].lines if not str(h.get_label()).startswith("_")]
            made.legend(handles=handles, frameon=False, fontsize=8, labelcolor=ink.text, loc="outside upper right", ncols=2)
        return made

    def _levels(self, measure: str) -> dict[str, float]:
        """What untrained and raw features reach."""
        levels = {}
        if f"untrained {measure}" in self.values[self.first][0]:
            levels["untrained"] = self.mean(self.first, f"untrained {measure}").mean
        if measure in self.reference:
            levels["raw input"] = self.reference[measure]
        return levels

    def _references(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for measure in (m for m in self.measures if m in METHODS):
            for name, value in self._levels(measure).items():
                found.setdefault(name, {})[measure] = f"{value:.3f}"
        return found

    def _difference_text(self, label: str, measure: str) -> str:
        if label == self.first:
            return ""
        difference = self.difference(label, measure)
        if len(self.seeds) == 1:
            return f"{difference.mean:+.3f}, {self.verdict(label, measure)}"
        half = difference.high - difference.mean
        return f"{difference.mean:+.3f} ± {half:.3f}, {difference.verdict}"


def _text(value: Interval, measure: str) -> str:
    digits = {LOSS: 4, COST: 1}.get(measure, 3)
    half = value.high - value.mean
    return f"{value.mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def _plain(value: Interval) -> dict[str, float | None]:
    return {key: number if math.isfinite(number) else None for key, number in asdict(value).items()}
