"""Rendered rooms: that depth and cameras agree with what is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import UserError
from polymask.data import open_data
from polymask.testing import check_part
from polymask_vision.datasets.rendered_rooms import FOCUS, Camera, RenderedRooms, rendered_rooms


def test_the_reader_keeps_the_promises_of_data_sets() -> None:
    found = check_part("vision/rendered-rooms", kind="datasets")
    assert found and not [result for result in found if result.outcome != "passed"]


def seen_by_the_second(source: RenderedRooms, index: int) -> tuple[torch.Tensor, ...]:
    """Where points of the first view lie in the second, in [-1, 1], how far from it, and how far it sees."""
    boxes, (one, two) = source.room(index)
    rays = one.rays(source.pixels)
    points = one.place + source.maps(index)["value_map"].flatten()[:, None] * rays
    right, down, ahead = ((points - two.place) @ two.axes.T).unbind(1)
    place = torch.stack([right, down], dim=1) * FOCUS / ahead[:, None]
    sees = boxes.cast(two.place, (points - two.place) / ahead[:, None])[0]
    return place, ahead, sees


def test_points_of_one_view_lie_where_depth_puts_them_in_the_other() -> None:
    source = rendered_rooms(count=20, pixels=64).train.source
    shares = []
    for index in range(20):
        place, ahead, sees = seen_by_the_second(source, index)
        inside = (place.abs() < 1).all(1) & (ahead > 0)
        # what lies before a point is nearer; nothing that is seen lies behind it
        assert (sees <= ahead + 1e-3)[inside].all()
        visible = inside & (sees > ahead - 1e-3)
        shares.append(visible.float().mean())
        one, two = (x.float() / 255 for x in (source.read(index), source.other(index)))
        there = F.grid_sample(two[None], place[None, None], align_corners=False)[0, :, 0]
        here = one.flatten(1)
        right = (there - here).abs().mean(0)[visible].mean()
        assert right < 0.5 * (there.roll(64 * 7 + 9, 1) - here).abs().mean(0)[visible].mean()
    assert 0.7 < torch.stack(shares).mean() < 0.8 and min(shares) > 0.35


def test_depth_is_that_of_a_wall_and_of_a_box_before_it() -> None:
    source = rendered_rooms(count=1, pixels=32, boxes=(1, 1)).train.source
    boxes, _ = source.room(0)
    boxes.heading[:] = 0.0
    boxes.centre[1], boxes.half[1] = torch.tensor([0.0, 0.0, 0.5]), torch.tensor([0.5, 0.5, 0.5])
    camera = Camera.at(torch.tensor([2.2, 0.0, 0.5]), torch.tensor([0.0, 0.0, 0.5]))
    depth, which, face, _ = boxes.cast(camera.place, camera.rays(32))
    depth, which = depth.view(32, 32), which.view(32, 32)
    middle, corner = (16, 16), (0, 0)
    assert which[middle] == 1 and depth[middle] == pytest.approx(2.2 - 0.5, abs=1e-5)
    # the box is seen by 1.7 metres, and is 1 metre wide and as high as the middle is from the floor
    width = int((which[16] == 1).sum())
    assert width == pytest.approx(32 * FOCUS / 2 / 1.7, abs=1)
    assert which[corner] == 0 and face.view(32, 32)[middle] == 1
    wall = face.view(32, 32)[6, 16]
    assert wall == 0 and depth[6, 16] == pytest.approx(2.2 + float(boxes.half[0, 0]), abs=1e-4)
    away = Camera.at(camera.place, torch.tensor([4.0, 0.0, 0.5]))
    depth, which, *_ = boxes.cast(away.place, away.rays(32))
    assert (which == 0).all() and (depth > 0).all()  # the box is behind it


def test_held_out_rooms_are_covered_with_other_columns_and_rooms_are_fixed() -> None:
    source, again = (rendered_rooms(count=n, pixels=16).train.source for n in (10, 10))
    assert torch.equal(source.read(3), again.read(3)) and not torch.equal(source.read(3), source.read(4))
    before = source.read(3), source.read(11)
    source.textures[1].zero_()
    source._kept.clear()
    assert torch.equal(source.read(3), before[0]) and source.read(11).max() == 0 < before[1].max()


def test_views_and_depth_are_one_sample_and_options_are_checked() -> None:
    data: Any = open_data("vision/rendered-rooms", count=10, pixels=32)
    sample = data.split("train")[0]
    assert sample["image"].shape == sample["other"].shape == (3, 32, 32)
    assert sample["value_map"].shape == (32, 32) and sample["value_map"].min() > 0.3
    assert len(data.split("test")) == 2
    with pytest.raises(UserError, match="boxes=5,2: give the smaller number first"):
        open_data("vision/rendered-rooms", boxes=(5, 2))
    with pytest.raises(UserError, match="3 metres apart at most"):
        open_data("vision/rendered-rooms", baseline=(1, 5))
