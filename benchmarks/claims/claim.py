"""A sentence of a paper, and the runs that speak for or against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """What a paper says, as runs.

    Args:
        text: the claim in one sentence.
        config: what all runs share.
        variants: the first is what the others are compared to.
        about: variants that the claim says are better.
        measure: the score that decides; the higher, the better.
        seeds: of the runs.
        evaluation: beside the probes.
        base: a run of a language model that is trained once, before all others, which go on from it.
    """

    text: str
    config: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    about: tuple[str, ...]
    measure: str = "kNN"
    seeds: int = 3
    evaluation: str | Mapping[str, Any] | None = None
    probe: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] | None = None
