"""Masks from outlines, in boxes and in images, and which of them stay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from polymask import UserError
from polymask_vision.instance_masks import (
    Detections,
    in_image,
    instances,
    mask_nms,
    outlined,
    paste,
    rasterise,
)


def stars(n: int) -> Tensor:
    """Outlines that are not convex, ``[n, 10, 2]``."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.arange(10) / 10 * 2 * math.pi
    far = 4 + 12 * torch.rand(n, 10, 1, generator=generator)
    centre = 20 + 20 * torch.rand(n, 1, 2, generator=generator)
    return centre + far * torch.stack([angle.cos(), angle.sin()], dim=-1)


def around(polygons: Tensor) -> Tensor:
    return torch.cat([polygons.amin(-2), polygons.amax(-2)], dim=-1)


@pytest.mark.parametrize("cells", [(12, 12), (9, 14)])
def test_cells_are_those_whose_centre_lies_within(cells: tuple[int, int]) -> None:
    """As scikit-image counts points in polygons; boxes cut the outline, or are larger."""
    measure = pytest.importorskip("skimage.measure")
    polygons = stars(6)
    boxes = around(polygons) + torch.tensor([3.0, -4.0, 5.0, -6.0])
    found = rasterise(polygons, boxes, cells)
    for polygon, (left, top, right, bottom), mask in zip(polygons, boxes.tolist(), found, strict=True):
        y = top + (torch.arange(cells[0]) + 0.5) / cells[0] * (bottom - top)
        x = left + (torch.arange(cells[1]) + 0.5) / cells[1] * (right - left)
        points = torch.cartesian_prod(y, x).flip(1)
        expected = measure.points_in_poly(points.numpy(), polygon.numpy())
        assert torch.equal(mask.flatten(), torch.from_numpy(expected))
    twice = torch.cat([polygons, polygons[:, -1:].expand(-1, 3, -1)], dim=1)
    assert torch.equal(rasterise(twice, boxes, cells), found)


def test_masks_of_images_are_those_of_a_box_as_large() -> None:
    polygons, valid = stars(4).view(2, 2, 10, 2), torch.tensor([[True, True], [True, False]])
    found = in_image(polygons, valid, (48, 64))
    assert found.shape == (2, 2, 48, 64) and not found[1, 1].any()
    box = torch.tensor([[0.0, 0.0, 64.0, 48.0]])
    assert torch.equal(found[0, 1], rasterise(polygons[0, 1:2], box, (48, 64))[0])
    large = in_image(polygons, valid, (48, 64), scale=3)
    assert torch.equal(large[..., 1::3, 1::3], found)  # the middle of three pixels is that of one


def test_neighbouring_lines_have_targets_of_their_own_that_do_not_meet_in_the_image() -> None:
    """Boxes of slanted lines overlap; the masks in them, pasted, do not."""
    line = torch.tensor([[4.0, 10.0], [50.0, 30.0], [48.0, 36.0], [2.0, 16.0]])
    lines = torch.stack([line, line + torch.tensor([0.0, 8.0])])
    boxes = around(lines)
    masks = rasterise(lines, boxes, (28, 28))
    assert boxes[1, 1] < boxes[0, 3]
    again = rasterise(lines[:1], boxes[1:], (28, 28))[0]
    assert again.any() and not (again & masks[1]).any()  # in the box of its neighbour it lies elsewhere
    pasted = paste(masks.float(), boxes, (64, 64)) > 0.5
    assert not (pasted[0] & pasted[1]).any()
    truth = in_image(lines[None], torch.ones(1, 2, dtype=torch.bool), (64, 64))[0]
    iou = (pasted & truth).flatten(1).sum(1) / (pasted | truth).flatten(1).sum(1)
    assert (iou > 0.85).all()


def test_a_pasted_ramp_is_the_ramp_and_nothing_outside() -> None:
    """Values at pixels are those between centres of cells; no cell reaches out of its box."""
    ramp = (torch.arange(8.0) + 0.5).expand(1, 8, 8) / 8
    found = paste(ramp, torch.tensor([[10.0, 4.0, 42.0, 20.0]]), (24, 48))[0]
    column = (torch.arange(48.0) + 0.5 - 10) / 32
    inner = (column > 1 / 16) & (column < 15 / 16)
    torch.testing.assert_close(found[10, inner], column[inner])
    outside = torch.ones(24, 48, dtype=torch.bool)
    outside[4:20, 10:42] = False
    assert not found[outside].any() and (found[4:20, 10:42] > 0).all()


def test_masks_that_are_boxes_are_left_out_as_boxes_are() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 20, (3, 12, 2), generator=generator)
    boxes = torch.cat([low, low + torch.randint(4, 12, (3, 12, 2), generator=generator)], dim=-1)
    score = torch.rand(3, 12, generator=generator)
    score[:, 5] = 0
    place = torch.arange(32)
    across = (place >= boxes[..., :1]) & (place < boxes[..., 2:3])
    down = (place >= boxes[..., 1:2]) & (place < boxes[..., 3:])
    masks = (down[..., None] & across[..., None, :]).flatten(2)
    kept = mask_nms(masks, score, 0.3)
    for each, scores, found in zip(boxes, score, kept, strict=True):
        real = scores > 0
        expected = real.nonzero()[:, 0][nms(each[real].float(), scores[real], 0.3)]
        assert sorted(expected.tolist()) == found.nonzero()[:, 0].tolist()


def test_a_batch_without_outlines_is_refused_and_one_without_objects_is_padded() -> None:
    with pytest.raises(UserError, match="curved-text"):
        instances({"image": torch.zeros(2, 3, 8, 8), "boxes": torch.zeros(2, 1, 4)})
    none = {"boxes": torch.zeros(2, 0, 4), "polygons": torch.zeros(2, 0, 16, 2)}
    polygons, boxes, valid = instances(none)
    assert polygons.shape == (2, 1, 16, 2) and boxes.shape == (2, 1, 4) and not valid.any()


def test_lines_are_drawn_at_the_border_of_masks() -> None:
    mask = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    mask[0, 1, 2:6, 2:7] = True
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = (outlined(image, mask) != image).any(1)[0]
    border = mask[0, 1].clone()
    border[3:5, 3:6] = False
    assert torch.equal(changed, border)


def test_detections_are_pasted_image_by_image() -> None:
    masks, frames = torch.rand(2, 3, 4, 4), torch.tensor([2.0, 1.0, 10.0, 13.0]).expand(2, 3, 4)
    found = Detections(frames, torch.ones(2, 3), masks, frames)
    assert torch.equal(found.pasted((16, 12))[1, 2], paste(masks[1, 2:], frames[1, 2:], (16, 12))[0])
    large = paste(masks[1, 2:], 2 * frames[1, 2:], (32, 24))[0]
    assert torch.equal(found.pasted((16, 12), 2)[1, 2], large)
