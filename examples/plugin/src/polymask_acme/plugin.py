"""What this package registers: names and where to import them, nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from polymask import Part, hookimpl

POLYMASK_API = "1.0"

CNP = {
    # digits of 8 x 8 pixels, half a minute on two cores
    "small": {
        "tokenizer.patch_size": 2,
        "encoder.dim": 64,
        "encoder.depth": 2,
        "encoder.heads": 4,
        "steps": 600,
        "batch_size": 64,
        "base_lr": 4e-3,
    },
    # what the conformance suite builds
    "tiny": {"encoder.dim": 32, "encoder.depth": 1, "encoder.heads": 2, "width": 32, "steps": 10},
}


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
            presets=CNP,
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
