"""A sentence of a paper, and the runs that speak for or against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymask import Run, RunConfig
from polymask.training import fit


@dataclass(frozen=True)
class Claim:
    """What a paper says, as runs.

    Args:
        text: the claim in one sentence.
        config: what all runs share.
        variants: the first is what the others are compared to.
        about: variants that the claim says are better.
        measure: the score that decides.
        lower: the lower it is, the better (perplexity); otherwise the higher.
        seeds: of the runs.
        evaluation: beside the probes; one or several.
        probe: options of the probes.
        rows: encoded in a step, by variant, where the claim is about cost: runs are then probed on the way
            (``probe_every`` in ``config``), and compared at equal steps, rows and seconds.
        may_differ: parts of the budget that variants set on purpose, where something else is held equal.
        within: rows of the evaluation that are compared, the first with the others, where a claim is about
            what one and the same run does; ``about`` names some of them, and ``variants`` is left out.
        runs: name of the claim whose runs these are, where one comparison speaks of several claims.
        prepare: makes what variants need (codebooks, a teacher, a language model), or what is left of it,
            given the folder of the comparison, beside which it belongs; tells what to add to ``config``.
    """

    text: str
    config: Mapping[str, Any]
    about: tuple[str, ...]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"all": {}})
    within: tuple[str, ...] = ()
    measure: str = "kNN"
    lower: bool = False
    seeds: int = 3
    evaluation: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None
    probe: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    may_differ: tuple[str, ...] = ()
    runs: str | None = None
    prepare: Callable[[Path], Mapping[str, Any]] | None = None


def trained(config: Mapping[str, Any], folder: Path, name: str) -> Run:
    """A run that those of a comparison begin with, trained, or what is left of it.

    Args:
        config: of the run.
        folder: of the comparison; the run lies beside.
        name: of the run, behind that of the comparison.
    """
    beside = folder.with_name(f"{folder.name}-{name}")
    fit(run := Run.create(RunConfig.resolve(config), beside), resume=None)
    return run
