"""Probes of several label sets of the same data: what an encoder knows of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polymask.config import RUN, build
from polymask.errors import UserError
from polymask.evaluation.features import Known
from polymask.evaluation.intervals import pooled_interval
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.probe import probe
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run

Options = Mapping[str, Any]


class MultiLabelProbe:
    """kNN and linear accuracy on the run's data, opened once more with other options for each label set.

    ``--evaluation core/multi-label-probe --evaluation.sets "{word: {label: word}, voice: {label: speaker}}"``
    measures what an encoder knows of the words, and of the speakers. A set of several options is tested once
    with each, and all answers count together: ``{word: [{label: word, test_voice: fr}, {label: word,
    test_voice: it}]}`` holds out one voice after the other, which the classifiers never hear.

    Args:
        sets: options of the data by name of a label set; a list of options holds out other samples with each.
        limit: most training samples to use, drawn at random; None for all.
        neighbours: votes of the nearest-neighbour classifier.
        pool: ``"mean"`` of the tokens, or ``"prefix"``, the class token.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        sets: Mapping[str, Options | Sequence[Options]] | None = None,
        limit: Count | None = 10_000,
        neighbours: Count = 20,
        pool: str = "mean",
        seed: int = 0,
    ) -> None:
        self.sets = {
            name: [options] if isinstance(options, Mapping) else list(options)
            for name, options in (sets or {}).items()
        }
        self.settings: dict[str, Any] = {
            "limit": limit,
            "neighbours": neighbours,
            "pool": pool,
            "seed": seed,
        }

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if not self.sets or not all(self.sets.values()):
            raise UserError("which label sets? give --sets options of the data, as {word: {label: word}}")
        if run.config is None or run.config.data is None:
            raise UserError(
                "label sets are options of a data set opened by name, and this run's was given in Python"
            )
        data = run.config.data.plain(defaults=False)
        known: defaultdict[str, Known] = defaultdict(dict)
        for name, tests in self.sets.items():
            found = [
                probe(
                    run,
                    data=build({**data, **options}, "datasets", facts={RUN: run.folder}),
                    known=known[options.get("name", data["name"])],
                    **self.settings,
                )
                for options in tests
            ]
            for rows in zip(*(one.rows for one in found), strict=True):
                share = pooled_interval([row.accuracy for row in rows], [one.test for one in found])
                yield Measurement(
                    rows[0].features, f"{name} {rows[0].method}", share.mean, share.low, share.high
                )
