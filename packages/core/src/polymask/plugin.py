"""What the core package registers: parts of any modality."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.hookspecs import hookimpl
from polymask.parts import Part

POLYMASK_API = "1.0"


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="random",
            target="polymask.maskings:Random",
            summary="uniformly random sites, or cells of a grid",
            paper="He et al. 2021, arXiv 2111.06377; cells: Xie et al. 2021, arXiv 2111.09886",
            tags=frozenset({"uniform"}),
        ),
        Part(
            name="block",
            target="polymask.maskings:Block",
            summary="rectangles on a grid of any number of axes, hidden or kept",
            paper="Bao et al. 2021, arXiv 2106.08254; kept: Baevski et al. 2022, arXiv 2212.07525",
            tags=frozenset({"grid", "uniform"}),
        ),
        Part(
            name="span",
            target="polymask.maskings:Span",
            summary="runs of neighbouring sites of a sequence",
            paper="Baevski et al. 2020, arXiv 2006.11477",
            tags=frozenset({"sequence", "uniform"}),
        ),
        Part(
            name="top-score",
            target="polymask.maskings:TopScore",
            summary="sites of highest score, or some of them and the rest at random",
            paper="Wang et al. 2023, arXiv 2304.05919",
            tags=frozenset({"score"}),
        ),
        Part(
            name="scheduled",
            target="polymask.maskings:Scheduled",
            summary="another masking, one option of which changes over the run",
            paper="pacing: Diehl Martinez et al. 2023, arXiv 2311.08886",
            defaults={"masking": "core/random"},
            tags=frozenset({"schedule"}),
        ),
        Part(
            name="disjoint",
            target="polymask.maskings:Disjoint",
            summary="several masks of one sample that together hide all of it",
            paper="Ma et al. 2023, arXiv 2301.00230",
            defaults={"masking": "core/random"},
            tags=frozenset({"uniform", "views"}),
        ),
    ]


@hookimpl
def polymask_register_objectives() -> Iterable[Part]:
    return [
        Part(name="mse", target="polymask.objectives:MSE", summary="mean squared error"),
        Part(name="l1", target="polymask.objectives:L1", summary="mean absolute error"),
        Part(name="smooth-l1", target="polymask.objectives:SmoothL1", summary="Huber-like error"),
        Part(name="cosine", target="polymask.objectives:Cosine", summary="one minus cosine similarity"),
        Part(
            name="cross-entropy",
            target="polymask.objectives:CrossEntropy",
            summary="cross-entropy of class ids",
            tags=frozenset({"classes"}),
        ),
    ]
