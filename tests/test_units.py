"""Blocks of encoders and decoders, whichever project wrote them: found, and computed again for backward."""

from __future__ import annotations

import collections
import contextlib
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from polymask import Step
from polymask.registry import default_registry
from polymask.testing.loop import optimiser, total
from polymask.testing.subject import Subject
from polymask.training.units import blocks_of, recomputing


def subject(name: str) -> Subject:
    registry = default_registry()
    return Subject(registry.find("systems", name), registry)


def counts(module: nn.Module) -> dict[str, int]:
    """How many blocks each list has."""
    return dict(collections.Counter(name.rpartition(".")[0] for name in blocks_of(module)))


FOUND = {
    "audio/hubert": {"encoder.extractor.conv_layers": 4, "encoder.encoder.transformer.layers": 2},
    "language/mae": {"encoder.model.encoder.layer": 2, "decoder.blocks": 2},
    "language/meap": {"encoder.model.layers": 2},
    "pointcloud/mae": {"encoder.blocks": 2, "decoder.blocks": 2},
    "vision/ga-dms": {"encoder.vit.blocks": 2, "text_encoder.model.h": 2, "reader.blocks": 1},
    "vision/ijepa": {"encoder.vit.blocks": 2, "predictor.blocks": 2, "teacher.module.vit.blocks": 2},
    "vision/mae": {"encoder.vit.blocks": 2, "decoder.blocks": 2},
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_systems(name: str) -> None:
    assert counts(subject(name).make()) == FOUND[name]


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


@pytest.mark.parametrize("name", [part.full_name for part in default_registry().parts("systems")])
def test_all_weights_have_an_axis_to_shard_along(name: str) -> None:
    assert [key for key, x in subject(name).make().named_parameters() if not x.dim()] == []


@pytest.mark.parametrize("name", ["audio/hubert", "language/mae", "pointcloud/mae", "vision/mae"])
def test_computed_again_all_is_the_same_but_memory(name: str) -> None:
    plain, again = (three_steps(subject(name), held) for held in (False, True))
    for one, other in zip(plain[:-1], again[:-1], strict=True):
        assert one.keys() == other.keys()
        assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []
    assert again[-1] < 0.6 * plain[-1]


def three_steps(made: Subject, again: bool) -> tuple[Any, ...]:
    """Losses and gradients of each step, weights after them, and bytes kept for the last backward."""
    system = made.make().train()
    for part in system.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
        if isinstance(part, DropPath):
            part.drop_prob = 0.2
    batch, optimizer = made.batch_for(system, 4), optimiser(system)
    found: list[dict[str, Tensor]] = []
    with recomputing(system) if again else contextlib.nullcontext():
        for index in range(3):
            kept: dict[int, int] = {}

            def keep(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
                kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            optimizer.zero_grad()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                loss = total(system, batch, Step(index, 30, 0), seed=index)
            torch.autograd.backward(loss)
            grads = {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}
            found.append({"loss": loss.detach(), **grads})
            optimizer.step()
            system.after_step(Step(index, 30, 0))
    return *found, system.state_dict(), sum(kept.values())
