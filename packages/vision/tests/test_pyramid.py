"""Maps of timm's backbones, the pyramid over them, and features of boxes, against torchvision's."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from polymask import UserError
from polymask_vision.pyramid import FeaturePyramid, Levels, join_levels, region_features

CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}


def levels(model: str = "convnext_atto", size: tuple[int, int] = (64, 96), **options: Any) -> Levels:
    torch.manual_seed(0)
    return Levels(model=model, size=size, **{"arguments": CONVNEXT, **options}).eval()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("convnext_atto", {"levels": (1, 2), "channels": 1}),
        ("resnet10t", {"arguments": None}),
        (
            "swin_tiny_patch4_window7_224",
            {"arguments": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}},
        ),
        ("vit_tiny_patch16_224", {"arguments": {"embed_dim": 24, "depth": 3, "num_heads": 2}}),
    ],
)
def test_maps_have_the_widths_and_strides_that_they_say(model: str, options: dict[str, Any]) -> None:
    net = levels(model, **options)
    maps = net(torch.randn(2, options.get("channels", 3), 64, 96))
    shapes = [(2, width, 64 // s, 96 // s) for width, s in zip(net.channels, net.strides, strict=True)]
    assert [tuple(each.shape) for each in maps] == shapes
    if options.get("levels"):
        assert net.strides == (8, 16)
    torch.stack([each.square().sum() for each in maps]).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_what_timm_cannot_build_is_refused() -> None:
    with pytest.raises(UserError, match="'no_such_model'"):
        levels("no_such_model")
    with pytest.raises(UserError, match="60, 96"):
        levels("vit_tiny_patch16_224", size=(60, 96), arguments=None, levels=(20,))


def test_finer_maps_of_the_pyramid_are_told_what_coarser_ones_saw_and_not_the_other_way() -> None:
    backbone = levels()
    pyramid = FeaturePyramid(backbone, width=6).eval()
    picture = torch.randn(1, 3, 64, 96)
    maps = pyramid(picture)
    assert [tuple(each.shape) for each in maps] == [(1, 6, 64 // s, 96 // s) for s in pyramid.strides]
    assert pyramid.channels == (6, 6, 6, 6) and pyramid.strides == (4, 8, 16, 32)
    seen = backbone(picture)
    for changed in range(4):
        other = [each + (k == changed) for k, each in enumerate(seen)]
        told = pyramid.fpn(OrderedDict((str(k), each) for k, each in enumerate(other))).values()
        differs = [not torch.equal(a, b) for a, b in zip(maps, told, strict=True)]
        assert differs == [k <= changed for k in range(4)]


def test_joined_maps_keep_their_places() -> None:
    ramp = [torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8) * 2 + 1, torch.ones(1, 2, 2, 4)]
    ramp.append(torch.arange(2.0).view(1, 1, 1, 2).expand(1, 1, 1, 2) * 8 + 4)
    joined = join_levels(ramp, 1)
    assert joined.shape == (1, 4, 2, 4) and torch.equal(joined[:, 1:3], ramp[1])
    # values are the column of a place's centre: those between the centres of the ends are exact
    torch.testing.assert_close(joined[0, 0, 0, 1:3], torch.tensor([6.0, 10.0]))
    torch.testing.assert_close(joined[0, 3, 0, 1:3], torch.tensor([6.0, 10.0]))


def boxes() -> Tensor:
    torch.manual_seed(1)
    start = torch.rand(2, 5, 2) * 200
    return torch.cat([start, start + torch.tensor([8.0, 60.0, 130.0, 270.0, 800.0])[:, None]], dim=-1)


@pytest.mark.parametrize("strides", [(8,), (4, 8, 16, 32)])
def test_features_are_those_of_torchvision(strides: tuple[int, ...]) -> None:
    maps = [torch.randn(2, 3, 512 // s, 1024 // s) for s in strides]
    known = OrderedDict((str(k), each) for k, each in enumerate(maps))
    names = list(known)
    align = MultiScaleRoIAlign(names, output_size=(4, 6), sampling_ratio=2)
    expected = align(known, list(boxes()), [(512, 1024)] * 2).view(2, 5, 3, 4, 6)
    # its corners are half a place of the map away from those of the pixels
    mapper = LevelMapper(k_min=2, k_max=5)
    chosen = mapper(list(boxes())).view(2, 5) if len(strides) > 1 else torch.zeros(2, 5, dtype=torch.int64)
    moved = boxes() + torch.tensor(strides)[chosen][..., None] / 2
    found = region_features(maps, strides, moved, (4, 6))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(chosen.unique()) == (1 if len(strides) == 1 else 4)


def test_a_ramp_is_read_at_its_places_and_padding_is_finite() -> None:
    columns = (torch.arange(32.0) * 4 + 2).expand(1, 1, 16, 32)  # the centre of each place, in pixels
    given = torch.tensor([[[20.0, 8.0, 84.0, 40.0], [0.0, 0.0, 0.0, 0.0]]])
    found = region_features([columns], [4], given, (2, 4))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([28.0, 44.0, 60.0, 76.0]).expand(2, 4))
    assert torch.isfinite(found).all()
    half = region_features([columns.bfloat16()], [4], given, (2, 4))
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), found, atol=0.5)
