"""Probes of several label sets of the same data: what an encoder knows of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from polymask.errors import UserError
from polymask.evaluation.probe import measure
from polymask.evaluation.scores import Score

if TYPE_CHECKING:
    from polymask.run import Run


class Labels:
    """kNN and linear accuracy for each label set that an option of the data set chooses.

    ``--evaluation core/labels --evaluation.sets "[word, language]"`` opens the run's data once with
    ``label=word`` and once with ``label=language``, and probes both: what is said, and by whom.

    Args:
        sets: the label sets, values of the option.
        option: of the data set, which chooses the labels.
        limit: most training samples to use, drawn at random; None for all.
        neighbours: votes of the nearest-neighbour classifier.
        pool: ``"mean"`` of the tokens, or ``"prefix"``, the class token.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        sets: tuple[str, ...] = (),
        option: str = "label",
        limit: int | None = 10_000,
        neighbours: int = 20,
        pool: str = "mean",
        seed: int = 0,
    ) -> None:
        self.sets, self.option = tuple(sets), option
        self.settings: dict[str, Any] = {
            "limit": limit,
            "neighbours": neighbours,
            "pool": pool,
            "seed": seed,
        }

    def __call__(self, run: Run) -> Iterator[Score]:
        from polymask.run import open_data_of

        if not self.sets:
            raise UserError(f"which label sets? give --sets, values of the data's option {self.option!r}")
        chosen = run.config["data"]
        options = dict(chosen) if isinstance(chosen, Mapping) else {"name": chosen}
        for value in self.sets:
            found = measure(run, open_data_of({**options, self.option: value}), **self.settings)
            for row in found.rows:
                ends = row.accuracy
                yield Score(row.features, f"{value} {row.method}", ends.mean, ends.low, ends.high)
