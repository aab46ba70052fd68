"""Blocks of encoders and decoders are found whichever project wrote them."""

from __future__ import annotations

import collections

import pytest
import timm
from torch import nn

from polymask.registry import default_registry
from polymask.testing.subject import Subject
from polymask.training.units import blocks_of


def made(name: str, **options: object) -> nn.Module:
    registry = default_registry()
    system: nn.Module = Subject(registry.find("systems", name), registry).make(**options)
    return system


def counts(module: nn.Module) -> dict[str, int]:
    """How many blocks each list has."""
    return dict(collections.Counter(name.rpartition(".")[0] for name in blocks_of(module)))


FOUND = {
    "audio/hubert": {"encoder.extractor.conv_layers": 4, "encoder.encoder.transformer.layers": 2},
    "language/mae": {"encoder.model.encoder.layer": 2, "decoder.blocks": 2},
    "language/meap": {"encoder.model.layers": 2},
    "pointcloud/mae": {"encoder.blocks": 2, "decoder.blocks": 2},
    "vision/ga-dms": {"encoder.vit.blocks": 2, "text_encoder.model.h": 2},
    "vision/ijepa": {"encoder.vit.blocks": 2, "predictor.blocks": 2, "teacher.module.vit.blocks": 2},
    "vision/mae": {"encoder.vit.blocks": 2, "decoder.blocks": 2},
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_systems(name: str) -> None:
    assert counts(made(name)) == FOUND[name]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet18", {f"layer{i}": 2 for i in (1, 2, 3, 4)}),
        ("convnext_atto", {f"stages.{i}.blocks": n for i, n in enumerate((2, 2, 6, 2))}),
        ("swin_tiny_patch4_window7_224", {f"layers.{i}.blocks": n for i, n in enumerate((2, 2, 6, 2))}),
        ("vit_tiny_patch16_224", {"blocks": 12}),
    ],
)
def test_backbones_of_timm(name: str, found: dict[str, int]) -> None:
    assert counts(timm.create_model(name)) == found
