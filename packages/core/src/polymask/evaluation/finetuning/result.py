"""What fine-tuning came to: accuracies by share of the labels, and pre-trained minus from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask.evaluation.intervals import Interval, accuracy_interval, difference_interval
from polymask.evaluation.result import CAVEAT, TRAINED

if TYPE_CHECKING:
    from rich.table import Table

SCRATCH = "from scratch"
STARTS = (SCRATCH, TRAINED)

NOTES = (
    "Both have the same data, seeds, budget and options, but for layer_decay, which is 1 from scratch. "
    "Intervals of 95 % are over seeds and test samples. Differences are paired by both; their intervals hold "
    "for all shares of the labels together. " + CAVEAT
)


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning came to.

    Args:
        source: where the pre-trained encoder is from.
        data: name of the data set.
        config: what all runs share, as in a run's ``config.yaml``.
        shares: of the labels, in the order asked for.
        seeds: of the runs.
        labels: how many training samples have labels, for each share.
        right: by start (``"from scratch"``, ``"pre-trained"``), for each share and each seed, which test
            samples were classified rightly, as a text of ``1`` and ``0``.
        chance: share of the most frequent class among test samples.
        folders: by start, for each share and each seed, the run folder within that of the fine-tuning.
    """

    source: str
    data: str
    config: Mapping[str, Any]
    shares: Sequence[float]
    seeds: Sequence[int]
    labels: Sequence[int]
    right: Mapping[str, Sequence[Sequence[str]]]
    chance: float
    folders: Mapping[str, Sequence[Sequence[str]]]

    @property
    def starts(self) -> list[str]:
        """Those that there are, from scratch first."""
        return [start for start in STARTS if start in self.right]

    @property
    def test(self) -> int:
        """Number of test samples."""
        return len(self.right[TRAINED][0][0])

    def accuracy(self, start: str, place: int) -> Interval:
        """Share of test samples classified rightly, with the share of the labels at a place."""
        return accuracy_interval(self._right(start, place))

    def difference(self, place: int) -> Interval | None:
        """Pre-trained minus from scratch, with the share at a place; None where nothing was from scratch."""
        if SCRATCH not in self.right:
            return None
        return difference_interval(
            self._right(TRAINED, place), self._right(SCRATCH, place), comparisons=len(self.shares)
        )

    def verdict(self, place: int) -> str:
        """The difference in a word: higher, lower, no difference seen; or why there is none."""
        found = self.difference(place)
        if found is None:
            return ""
        return "one seed cannot tell" if len(self.seeds) == 1 else found.verdict

    def _right(self, start: str, place: int) -> Tensor:
        """Bool ``[seeds, samples]``."""
        return torch.tensor([[one == "1" for one in right] for right in self.right[start][place]])

    @property
    def title(self) -> str:
        """What was fine-tuned, on what, how often."""
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"fine-tuning {self.source} on {self.data}, {seeds}"

    def rows(self) -> list[list[str]]:
        """The table as text: a heading, a row for each share."""
        compared = ["difference", "seen"] if SCRATCH in self.right else []
        rows = [["labels", "samples", *self.starts, *compared]]
        for place, (share, count) in enumerate(zip(self.shares, self.labels, strict=True)):
            cells = [share_text(share), f"{count:,}"]
            cells += [self.accuracy(start, place).text() for start in self.starts]
            found = self.difference(place)
            if found is not None:
                cells += [found.text("+.3f"), self.verdict(place)]
            rows.append(cells)
        return rows

    def table(self) -> Table:
        """The table for the terminal."""
        from rich import box
        from rich.table import Table

        heading, *rows = self.rows()
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for k, name in enumerate(heading):
            table.add_column(name, justify="right" if 0 < k < len(heading) - 1 else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        table.caption = f"{self.test:,} test samples; most frequent class {self.chance:.3f}. {NOTES}"
        table.caption_justify = "left"
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings."""
        results = []
        for place, (share, count) in enumerate(zip(self.shares, self.labels, strict=True)):
            row: dict[str, Any] = {"share": share, "labels": count}
            row |= {start: asdict(self.accuracy(start, place)) for start in self.starts}
            if (found := self.difference(place)) is not None:
                row["difference"] = {**asdict(found), "verdict": self.verdict(place)}
            results.append(row)
        fields = {
            name: getattr(self, name) for name in ("source", "data", "config", "shares", "seeds", "labels")
        }
        return {
            **fields,
            "results": results,
            "test": self.test,
            "chance": self.chance,
            "right": self.right,
            "folders": self.folders,
            "notes": NOTES,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Finetuned:
        """The inverse of :meth:`to_json`."""
        return cls(**{name: found[name] for name in cls.__dataclass_fields__})


def share_text(share: float) -> str:
    """A share as a percentage: ``0.5 %``."""
    return f"{100 * share:.4g} %"
