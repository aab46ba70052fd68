"""Anchors of instances: enough for each however long, whose they are, and torchvision's rule beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from polymask_vision.assignment import adaptive_assignment, overlap_assignment
from polymask_vision.proposals import anchors_of

STRIDES = (4, 8, 16)
EACH = [anchors_of((64, 64), stride, 4.0 * stride, (1.0,)) for stride in STRIDES]
ANCHORS, LEVELS = torch.cat(EACH), [len(one) for one in EACH]
RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0)


def long_boxes(n: int = 40) -> Tensor:
    """Of one area and several ratios, anywhere, ``[n, ratios, 4]``."""
    generator = torch.Generator().manual_seed(0)
    ratio = torch.tensor(RATIOS)
    half = 6 * torch.stack([ratio.sqrt(), 1 / ratio.sqrt()], dim=-1)
    centre = 28 + 8 * torch.rand(n, len(RATIOS), 2, generator=generator)
    return torch.cat([centre - half, centre + half], dim=-1)


def counts(owner_BA: Tensor, instances: int) -> Tensor:
    return torch.stack([(owner_BA == g).sum(1) for g in range(instances)], dim=1)


def adaptive(boxes: Tensor, valid: Tensor | None = None, least: int = 4) -> Tensor:
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool) if valid is None else valid
    return adaptive_assignment(ANCHORS, LEVELS, boxes, valid, least=least)


@pytest.mark.parametrize("least", [4, 9])
def test_every_instance_gets_enough_anchors_whatever_its_shape(least: int) -> None:
    """Each alone in its image, so that nobody takes any away; by overlap a long one gets its best alone."""
    boxes = long_boxes().flatten(0, 1)[:, None]
    found = counts(adaptive(boxes, least=least), 1).view(40, len(RATIOS))
    assert (found >= least).all() and (found == least).any()
    fixed = overlap_assignment(ANCHORS, boxes, torch.ones(len(boxes), 1, dtype=torch.bool))
    best = box_iou(boxes[:, 0], ANCHORS).amax(1).view(40, len(RATIOS))
    # a box in a square anchor of its width has an overlap of height over width
    assert (best[:, 2:] < 0.3).all()
    ties = (box_iou(boxes[:, 0], ANCHORS) == best.view(-1, 1)).sum(1).view(40, len(RATIOS))
    assert torch.equal(counts(fixed, 1).view(40, len(RATIOS))[:, 2:], ties[:, 2:])


def test_positive_are_candidates_from_mean_and_deviation_on() -> None:
    """By hand, of one instance."""
    box = torch.tensor([[10.0, 12.0, 30.0, 26.0]])
    centre = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
    apart = (centre - torch.tensor([20.0, 19.0])).norm(dim=1)
    candidates, start = [], 0
    for count in LEVELS:
        candidates += (start + apart[start : start + count].argsort()[:9]).tolist()
        start += count
    overlap = box_iou(box, ANCHORS)[0, candidates]
    wanted = {a for a, one in zip(candidates, overlap, strict=True) if one >= overlap.mean() + overlap.std()}
    assert len(wanted) > 1
    assert set(adaptive(box[None], least=1)[0].eq(0).nonzero()[:, 0].tolist()) == wanted


def test_of_neighbours_that_claim_the_same_anchors_all_get_enough() -> None:
    """An anchor goes to the larger overlap, and who loses it takes the next."""
    lines = torch.tensor([[[10.0, 20.0, 54.0, 25.0], [12.0, 22.0, 50.0, 29.0], [16.0, 24.0, 57.0, 33.0]]])
    owner = adaptive(lines)[0]
    assert counts(owner[None], 3).min() >= 4
    overlap = box_iou(lines[0], ANCHORS)
    claimed = torch.cat([adaptive(lines[:, k : k + 1]) == 0 for k in range(3)])
    contested = (claimed.sum(0) > 1).nonzero()[:, 0]
    assert len(contested) > 4
    said = overlap.masked_fill(~claimed, -1)[:, contested]
    assert (overlap[owner[contested], contested] >= said.amax(0)).all() and (owner[contested] >= 0).all()
    lost = claimed & (owner != torch.arange(3)[:, None])
    assert lost.any() and ((owner >= 0) & ~claimed.any(0)).any()  # some take others in their place


def test_who_overlaps_nothing_gets_the_nearest() -> None:
    """Smaller than the gaps between anchors: those around it, and no others, though all overlap it alike."""
    anchors = anchors_of((64, 64), 8, 2.0, (1.0,))
    box = torch.tensor([[[31.6, 31.6, 32.4, 32.4]]])
    owner = adaptive_assignment(anchors, [64], box, torch.ones(1, 1, dtype=torch.bool))
    centre = (anchors[owner[0] == 0][:, :2] + anchors[owner[0] == 0][:, 2:]) / 2
    assert len(centre) == 4 and (centre - 32).norm(dim=1).max() < 6


def test_padding_and_other_images_change_nothing() -> None:
    boxes = long_boxes(3)[:, :3]
    padded = torch.cat([boxes, torch.zeros(3, 2, 4)], dim=1)
    valid = torch.tensor([[True] * 3 + [False] * 2] * 3)
    for found, alone in (
        (adaptive(padded, valid), adaptive(boxes)),
        (overlap_assignment(ANCHORS, padded, valid), overlap_assignment(ANCHORS, boxes, valid[:, :3])),
    ):
        assert torch.equal(found, alone)
    assert torch.equal(adaptive(boxes[1:2]), adaptive(boxes)[1:2])
    assert (adaptive(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool)) == -1).all()


def test_by_overlap_as_torchvision_does() -> None:
    boxes, matcher = long_boxes(), Matcher(0.7, 0.3, allow_low_quality_matches=True)
    found = overlap_assignment(ANCHORS, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
    for each, owner in zip(boxes, found, strict=True):
        assert torch.equal(matcher(box_iou(each, ANCHORS)), owner)
