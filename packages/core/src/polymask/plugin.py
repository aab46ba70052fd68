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
