"""What the vision package registers. Strings only: torch is imported when a part is used."""

from __future__ import annotations

from collections.abc import Iterable

from polymask.hookspecs import hookimpl
from polymask.parts import Part

POLYMASK_API = "1.0"


@hookimpl
def polymask_register_tokenizers() -> Iterable[Part]:
    return [
        Part(
            name="patches",
            target="polymask_vision.tokenizers:Patches",
            summary="square patches of raw pixels, any image size and channel count",
            modality="image",
            tags=frozenset({"invertible"}),
        ),
    ]


@hookimpl
def polymask_register_encoders() -> Iterable[Part]:
    return [
        Part(
            name="vit",
            target="polymask_vision.encoders:ViT",
            summary="timm's Vision Transformer on any subset of tokens",
            paper="Dosovitskiy et al. 2020, arXiv 2010.11929",
            modality="image",
        ),
        Part(
            name="swin",
            target="polymask_vision.encoders:Swin",
            summary="timm's Swin Transformer, hierarchical, whole grids only",
            paper="Liu et al. 2021, arXiv 2103.14030",
            modality="image",
            tags=frozenset({"needs-grid"}),
        ),
    ]


@hookimpl
def polymask_register_targets() -> Iterable[Part]:
    return [
        Part(
            name="pixels",
            target="polymask_vision.targets:Pixels",
            summary="pixels of each patch, normalised per patch or not",
            modality="image",
            tags=frozenset({"invertible"}),
        ),
        Part(
            name="variance",
            target="polymask_vision.targets:Variance",
            summary="pixel variance of each patch, a score to hide by",
            modality="image",
            tags=frozenset({"score"}),
        ),
    ]


@hookimpl
def polymask_register_systems() -> Iterable[Part]:
    return [
        Part(
            name="mae",
            target="polymask_vision.systems.mae:MAE",
            summary="encode the visible quarter, regress the rest with a light decoder",
            paper="He et al. 2021, arXiv 2111.06377",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "target": "vision/pixels",
                "target.patch_norm": True,
                "masking": "core/random",
                "objective": "core/mse",
            },
        ),
        Part(
            name="simmim",
            target="polymask_vision.systems.simmim:SimMIM",
            summary="mask tokens in the encoder's input, raw pixels by one linear layer",
            paper="Xie et al. 2021, arXiv 2111.09886",
            modality="image",
            defaults={
                "tokenizer": "vision/patches",
                "encoder": "vision/vit",
                "encoder.positions": "learned",
                "target": "vision/pixels",
                "masking": "core/random",
                "masking.ratio": 0.6,
                "masking.cell": 2,
                "masking.rounding": "up",
                "objective": "core/l1",
            },
        ),
    ]
