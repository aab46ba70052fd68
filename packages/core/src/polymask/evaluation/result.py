"""What a probe found: accuracies with intervals, and paired differences."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymask.errors import UserError
from polymask.evaluation.intervals import Interval
from polymask.files import read_json

if TYPE_CHECKING:
    from rich.table import Table

TRAINED, UNTRAINED, RAW = "pre-trained", "untrained", "raw input"
METHODS = ("kNN", "linear")
PROBE = "probe.json"

CAVEAT = (
    "Measured on this run's data and budget; such figures compare runs with each other "
    "and never stand for those of a paper."
)


@dataclass(frozen=True)
class ProbeRow:
    """Accuracy of one classifier on one kind of features.

    Args:
        features: ``"pre-trained"``, ``"untrained"``, ``"raw input"``, or any name.
        method: ``"kNN"`` or ``"linear"``.
        dim: length of the feature vectors.
        accuracy: share of test samples classified rightly, with its 95 % interval.
        note: chosen regularisation, and whether a fit did not converge.
        right: for each draw of the training samples a text of ``1`` and ``0``, which test samples were
            classified rightly.
    """

    features: str
    method: str
    dim: int
    accuracy: Interval
    note: str = ""
    right: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Args:
        rows: accuracies.
        differences: first features minus each of the others, paired by test sample, by
            ``(others, method)``.
        train: training samples (per draw).
        test: test samples.
        chance: share of the most frequent class among test samples.
        settings: everything else that was chosen.
    """

    rows: list[ProbeRow]
    differences: dict[tuple[str, str], Interval]
    train: int
    test: int
    chance: float
    settings: dict[str, Any] = field(default_factory=dict)

    def accuracy(self, features: str = TRAINED, method: str = "linear") -> Interval:
        """One accuracy of the table."""
        return next(r.accuracy for r in self.rows if (r.features, r.method) == (features, method))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "differences": [
                {"against": name, "method": method, **asdict(value), "verdict": value.verdict}
                for (name, method), value in self.differences.items()
            ],
            "train": self.train,
            "test": self.test,
            "chance": self.chance,
            "settings": self.settings,
            "caveat": CAVEAT,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ProbeResult:
        """The inverse of :meth:`to_json`."""
        ends = ("mean", "error", "low", "high")
        if not found["rows"]:
            raise ValueError("it has no rows")
        return cls(
            rows=[
                ProbeRow(
                    **{**row, "accuracy": Interval(**row["accuracy"]), "right": tuple(row.get("right", ()))}
                )
                for row in found["rows"]
            ],
            differences={
                (d["against"], d["method"]): Interval(**{key: d[key] for key in ends})
                for d in found["differences"]
            },
            train=found["train"],
            test=found["test"],
            chance=found["chance"],
            settings=dict(found["settings"]),
        )

    def table(self) -> Table:
        """A table for the terminal."""
        from rich import box
        from rich.table import Table

        title = "Accuracy of classifiers on frozen features, with intervals of 95 %"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("features")
        for method in METHODS:
            table.add_column(method, justify="right")
        for name in dict.fromkeys(row.features for row in self.rows):
            cells = [self.accuracy(name, method) for method in METHODS]
            table.add_row(name, *(f"{a.mean:.3f} [dim]{a.low:.3f} to {a.high:.3f}[/dim]" for a in cells))
        table.add_row("most frequent class", *(f"{self.chance:.3f}" for _ in METHODS), style="dim")
        began = self.settings.get("init")
        note = f" Untrained is the encoder as this run began, with the weights of {began}." if began else ""
        table.caption = f"{self.train} training, {self.test} test samples.{note} {CAVEAT}"
        table.caption_justify = "left"
        return table


def read_probe(folder: Path) -> ProbeResult | None:
    """What was probed of a run as it is now, if it was.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / PROBE
    found = read_json(path, ProbeResult.from_json) if path.is_file() else None
    return found if found is None or is_current(path, found.settings.get("step")) else None


def is_current(path: Path, step: int | None) -> bool:
    """Whether what was measured of a run at a step is of the run as it is now; a warning says if not.

    Args:
        path: of the result, in the folder of the run.
        step: at which it was measured, if that is known.
    """
    if step is None:
        return True
    from polymask.checkpoints import CHECKPOINT, read_checkpoint
    from polymask.training.metrics import read_metrics

    metrics = path.parent / "metrics.csv"
    rows = read_metrics(metrics) if metrics.is_file() else []
    reached = int(rows[-1]["step"]) if rows else 0
    with contextlib.suppress(UserError):  # it may be gone
        # a run that was stopped has no row since the last of log_every steps
        reached = max(reached, int(read_checkpoint(path.parent / CHECKPOINT).get("global_step", 0)))
    if step >= reached:
        return True
    warnings.warn(
        f"{path} was measured at step {step:,}, and the run is at step {reached:,} now: measure it again",
        stacklevel=2,
    )
    return False
