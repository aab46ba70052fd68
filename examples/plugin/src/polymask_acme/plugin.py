"""What this package registers: names and where to import them, nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from polymask import Part, hookimpl

POLYMASK_API = "1.0"


@hookimpl
def polymask_register_maskings() -> Iterable[Part]:
    return [
        Part(
            name="stripes",
            target="polymask_acme.maskings:Stripes",
            summary="whole lines of a grid, across one axis",
        ),
    ]


@hookimpl
def polymask_register_targets() -> Iterable[Part]:
    return [
        Part(
            name="edges",
            target="polymask_acme.targets:Edges",
            summary="how much each patch changes downwards and across",
            modality="image",
        ),
    ]


@hookimpl
def polymask_register_systems() -> Iterable[Part]:
    return [
        Part(
            name="cnp",
            target="polymask_acme.cnp:CNP",
            summary="predict any hidden token from one mean of the visible ones",
            paper="Garnelo et al. 2018, arXiv 1807.01613",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "masking": "acme/stripes",
                "objective": "core/mse",
            },
        ),
    ]
