"""Proposals and boxes against torchvision's, what is drawn, and what counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from polymask import Step, UserError
from polymask_vision.proposals import BoxHead, Draw, ProposalNetwork, anchors_of, best_boxes

SIZE, STRIDES, WIDTH = (64, 96), (8, 16), 4
DRAW = Draw(Step(3, 10, seed=1), torch.tensor([5, 9]))


def network(**options: Any) -> ProposalNetwork:
    torch.manual_seed(0)
    given = {"width": WIDTH, "strides": STRIDES, "size": SIZE, "side": 4.0, "before": 40, "after": 12}
    return ProposalNetwork(**{**given, **options}).eval()


def maps(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, WIDTH, SIZE[0] // s, SIZE[1] // s, generator=generator) * 3 for s in STRIDES]


BOXES = torch.tensor(
    [[[8.0, 10.0, 50.0, 34.0], [30.0, 30.0, 80.0, 44.0]], [[4.0, 40.0, 60.0, 60.0], [0.0, 0.0, 0.0, 0.0]]]
)
VALID = torch.tensor([[True, True], [True, False]])


@pytest.mark.parametrize("ratios", [(1.0,), (0.5, 1.0, 2.0)])
def test_anchors_are_those_of_torchvision_moved_to_centres(ratios: tuple[float, ...]) -> None:
    generator = AnchorGenerator(((32,), (64,)), (ratios,) * 2)
    images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])
    (expected,) = generator(images, [torch.zeros(1, 1, SIZE[0] // s, SIZE[1] // s) for s in STRIDES])
    found = [anchors_of(SIZE, s, 4.0 * s, ratios) - s / 2 for s in STRIDES]
    # theirs are rounded to whole pixels
    torch.testing.assert_close(torch.cat(found), expected, atol=0.5, rtol=0)


def test_proposals_are_those_of_torchvision() -> None:
    """The same boxes in the same order, and nothing beside them; boxes of other maps do not compete."""
    ours = network(overlap=0.2)
    theirs = RegionProposalNetwork(
        AnchorGenerator(), ours.head, 0.7, 0.3, 256, 0.5, dict.fromkeys(("training", "testing"), 40),
        dict.fromkeys(("training", "testing"), 12), 0.2,
    ).eval()  # fmt: skip
    logit, change = ours(maps())
    decoded = theirs.box_coder.decode(change.detach().flatten(0, 1), [ours.places] * 2).view(2, -1, 4)
    expected, scores = theirs.filter_proposals(decoded, logit.detach().flatten(), [SIZE] * 2, ours.levels)
    boxes, real = ours.propose(logit, change)
    for each, there, other in zip(boxes, real, expected, strict=True):
        torch.testing.assert_close(each[there], other)
    assert not boxes.requires_grad and len(scores) == 2


def test_losses_of_anchors_by_hand() -> None:
    """By overlap, all anchors counted: the box is a mean over positive ones, of each image by itself."""
    ours = network(assignment="overlap", anchors=10_000)
    logit, change = ours(maps())
    for row in range(2):
        boxes, draw = BOXES[row][VALID[row]], Draw(DRAW.step, DRAW.ids[row : row + 1])
        score, fit = ours.losses(
            logit[row : row + 1], change[row : row + 1], boxes[None], torch.ones(1, len(boxes)).bool(), draw
        )
        overlap = box_iou(boxes, ours.places)
        most, of = overlap.max(0)
        best = (overlap == overlap.amax(1, keepdim=True)).any(0)
        positive = (most >= 0.7) | best
        counted = positive | (most < 0.3)
        expected = F.binary_cross_entropy_with_logits(logit[row][counted], positive[counted].float())
        torch.testing.assert_close(score, expected)
        wanted = ours.coder.encode([boxes[of][positive]], [ours.places[positive]])[0]
        smooth = F.smooth_l1_loss(change[row][positive], wanted, beta=1 / 9, reduction="sum")
        torch.testing.assert_close(fit, smooth / positive.sum())


def test_what_is_drawn_is_as_many_as_asked_and_of_each_sample_alone() -> None:
    positive = torch.zeros(2, 60, dtype=torch.bool)
    positive[0, :3], positive[1, :40] = True, True
    negative = ~positive
    negative[:, 50:] = False
    chosen, other = DRAW.sample(positive, negative, 20, 0.25, 1)
    assert chosen.sum(1).tolist() == [3, 5] and other.sum(1).tolist() == [17, 10]
    assert not (chosen & ~positive).any() and not (other & ~negative).any()
    alone = Draw(DRAW.step, DRAW.ids[1:]).sample(positive[1:], negative[1:], 20, 0.25, 1)
    assert torch.equal(alone[0][0], chosen[1]) and torch.equal(alone[1][0], other[1])
    later = Draw(Step(4, 10, seed=1), DRAW.ids).sample(positive, negative, 20, 0.25, 1)
    assert not torch.equal(later[0], chosen)
    often = sum(
        Draw(Step(k, 400, seed=0), DRAW.ids).sample(positive, negative, 20, 0.25, 1)[0][1].float()
        for k in range(400)
    )
    assert isinstance(often, Tensor)
    assert (often[:40] / 400 - 5 / 40).abs().max() < 5 * (0.125 * 0.875 / 400) ** 0.5


def box_head(**options: Any) -> BoxHead:
    torch.manual_seed(0)
    given = {"width": WIDTH, "strides": STRIDES, "size": SIZE, "dim": 16, "roi": 3, "boxes": 8}
    return BoxHead(**{**given, **options}).eval()


def test_chosen_boxes_are_positive_first_and_know_their_instance() -> None:
    head = box_head()
    generator = torch.Generator().manual_seed(0)
    near = BOXES[:, :1] + torch.randn(2, 3, 4, generator=generator)
    far = torch.tensor([70.0, 46.0, 90.0, 62.0]) + torch.rand(2, 9, 4, generator=generator)
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, 10:] = False
    rois, owner, scored = head.choose(torch.cat([near, far], dim=1), real, BOXES, VALID, DRAW)
    assert rois.shape == (2, 8, 4) and scored.all()
    # a quarter of 8 at most, and the instances are among the candidates
    assert (owner[:, :2] >= 0).all() and (owner[:, 2:] == -1).all()
    for row in range(2):
        overlap = box_iou(rois[row], BOXES[row][VALID[row]])
        assert all(overlap[k].argmax() == owner[row, k] and overlap[k].max() >= 0.5 for k in range(2))
        assert (overlap[2:] < 0.5).all()
    # with another image that has more instances the padding is longer, and nothing else changes
    longer = F.pad(BOXES, (0, 0, 0, 3)), F.pad(VALID, (0, 3))
    again = head.choose(torch.cat([near, far], dim=1), real, *longer, DRAW)
    assert torch.equal(again[0], rois) and torch.equal(again[1], owner)


def test_losses_of_boxes_by_hand_and_padding_counts_nowhere() -> None:
    head, given = box_head(), maps()
    rois = torch.cat([BOXES[:, :1] + 2, torch.rand(2, 3, 4) * 20 + torch.tensor([0.0, 0, 30, 30])], dim=1)
    owner = torch.tensor([[0, -1, -1, -1], [0, -1, -1, -1]])
    scored = torch.tensor([[True, True, True, True], [True, True, False, False]])
    score, fit = head.losses(given, rois, owner, scored, BOXES)
    logit, change = head(given, rois)
    each = [
        F.binary_cross_entropy_with_logits(logit[b][scored[b]], (owner[b] >= 0)[scored[b]].float())
        for b in range(2)
    ]
    torch.testing.assert_close(score, torch.stack(each).mean())
    wanted = head.coder.encode([BOXES[0, :1], BOXES[1, :1]], [rois[0, :1], rois[1, :1]])
    smooth = [F.smooth_l1_loss(change[b, :1], wanted[b], beta=1 / 9, reduction="sum") for b in range(2)]
    torch.testing.assert_close(fit, (smooth[0] / 4 + smooth[1] / 2) / 2)


def test_detected_boxes_are_as_many_as_are_probable_and_do_not_overlap() -> None:
    head, given = box_head(), maps()
    proposals = torch.rand(2, 20, 4) * 30 + torch.tensor([0.0, 0, 30, 30])
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, 4:] = False
    share = head(given, proposals)[0].sigmoid()
    least = share.median().item()
    boxes, score = head.detect(given, proposals, real, score=least, overlap=0.5, most=15)
    assert boxes.shape == (2, 15, 4)
    for row in range(2):
        there = score[row] > 0
        assert (score[row][there] > least).all() and there.sum() <= ((share[row] > least) & real[row]).sum()
        overlap = box_iou(boxes[row][there], boxes[row][there]) - torch.eye(int(there.sum()))
        assert (overlap <= 0.5).all() and there.any() and (boxes >= 0).all()


def test_boxes_of_other_groups_and_images_do_not_compete() -> None:
    boxes = torch.tensor([0.0, 0, 10, 10]).expand(2, 4, 4)
    score = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.5, -torch.inf, 0.7, 0.6]])
    group = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]])
    _, found = best_boxes(boxes, score, group, 0.5, 3)
    assert found.tolist() == [pytest.approx([0.4, 0.3, -torch.inf]), pytest.approx([0.7, 0.6, -torch.inf])]


def test_gradients_reach_the_head_and_the_maps() -> None:
    net, given = network(), [each.requires_grad_() for each in maps()]
    score, fit = net.losses(*net(given), BOXES, VALID, DRAW)
    (score + fit).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert all(each.grad is not None and each.grad.any() for each in given)


def test_an_unknown_assignment_is_refused() -> None:
    with pytest.raises(UserError, match="'adaptive' or 'overlap'"):
        network(assignment="nearest")
