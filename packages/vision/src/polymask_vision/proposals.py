"""Boxes where there may be an object: a region proposal network and the head that classifies its boxes.

The networks are those of torchvision (Ren et al. 2015, Faster R-CNN, arXiv 1506.01497; He et al. 2017, Mask
R-CNN, arXiv 1703.06870), of one class. What is drawn, matched and scored stands here, in batches: torchvision
draws its samples from the global generator.

Shapes: B images, A anchors of all levels, G instances of an image, P proposals, all padded to one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from polymask import Step, UserError
from polymask.maskings import ranks
from polymask_vision.assignment import NEGATIVE, adaptive_assignment, overlap_assignment
from polymask_vision.pyramid import region_features

Assignment = Literal["adaptive", "overlap"]

ANCHORS, ROIS = 1, 2
"""Streams of what is drawn."""


class ProposalNetwork(nn.Module):
    """Anchors on maps of several strides, which of them hold an object, and boxes that fit better.

    Args:
        width: of the maps.
        strides: of the maps, in pixels.
        size: image height and width.
        side: of a square anchor, in strides of its map.
        ratios: heights over widths of anchors of equal area.
        assignment: ``"adaptive"``, see :func:`adaptive_assignment`, or ``"overlap"``, see
            :func:`overlap_assignment`.
        least: anchors that every instance gets, of adaptive assignment.
        anchors: that are scored in each image, at most half of them positive.
        before: proposals of each level before those that overlap are left out.
        after: proposals of an image.
        overlap: above which one of two proposals of a level is left out.
    """

    def __init__(
        self,
        *,
        width: int,
        strides: Sequence[int],
        size: tuple[int, int],
        side: float = 8.0,
        ratios: Sequence[float] = (1.0,),
        assignment: Assignment = "adaptive",
        least: int = 4,
        anchors: int = 256,
        before: int = 2000,
        after: int = 1000,
        overlap: float = 0.7,
    ) -> None:
        super().__init__()
        if assignment not in get_args(Assignment):
            raise UserError(f"assignment={assignment!r}: choose 'adaptive' or 'overlap'")
        self.assignment, self.least, self.anchors, self.size = assignment, least, anchors, size
        self.before, self.after, self.overlap = before, after, overlap
        self.head = RPNHead(width, len(ratios))
        self.coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        each = [anchors_of(size, stride, side * stride, ratios) for stride in strides]
        self.levels = [len(one) for one in each]
        self.register_buffer("places", torch.cat(each), persistent=False)
        self.places: Tensor

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``[B, A]`` and changes of anchors ``[B, A, 4]``, both float32."""
        logits, changes = self.head(list(maps))
        logit_BA = torch.cat([one.permute(0, 2, 3, 1).flatten(1) for one in logits], dim=1)
        change_BA4 = torch.cat([one.permute(0, 2, 3, 1).reshape(len(one), -1, 4) for one in changes], dim=1)
        return logit_BA.float(), change_BA4.float()

    def losses(
        self, logit_BA: Tensor, change_BA4: Tensor, boxes_BG4: Tensor, valid_BG: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the anchors drawn, and smooth L1 of the positive ones, each a mean over images."""
        if self.assignment == "adaptive":
            owner_BA = adaptive_assignment(self.places, self.levels, boxes_BG4, valid_BG, least=self.least)
        else:
            owner_BA = overlap_assignment(self.places, boxes_BG4, valid_BG)
        positive_BA, negative_BA = draw.sample(
            owner_BA >= 0, owner_BA == NEGATIVE, self.anchors, 0.5, ANCHORS
        )
        score_BA = F.binary_cross_entropy_with_logits(logit_BA, positive_BA.float(), reduction="none")
        wanted_BA4 = _encoded(self.coder, _owned(boxes_BG4, owner_BA), self.places.expand_as(change_BA4))
        fit_BA = F.smooth_l1_loss(change_BA4, wanted_BA4, beta=1 / 9, reduction="none").sum(-1)
        return _mean(score_BA, positive_BA | negative_BA), _mean(fit_BA, positive_BA)

    @torch.no_grad()
    def propose(self, logit_BA: Tensor, change_BA4: Tensor) -> tuple[Tensor, Tensor]:
        """The best boxes ``[B, P, 4]`` within the image, and which are real, ``[B, P]``."""
        taken, level_of, start = [], [], 0
        for level, count in enumerate(self.levels):
            best = logit_BA[:, start : start + count].topk(min(self.before, count)).indices
            taken.append(best + start)
            level_of.append(torch.full_like(best, level))
            start += count
        taken_BP, level_BP = torch.cat(taken, dim=1), torch.cat(level_of, dim=1)
        score_BP = logit_BA.gather(1, taken_BP)
        change_BP4 = change_BA4.gather(1, taken_BP[..., None].expand(-1, -1, 4))
        boxes_BP4 = clip_boxes_to_image(_decoded(self.coder, change_BP4, self.places[taken_BP]), self.size)
        boxes_BP4, score_BP = best_boxes(boxes_BP4, score_BP, level_BP, self.overlap, self.after)
        return boxes_BP4, score_BP.isfinite()


class BoxHead(nn.Module):
    """Says of a box whether it holds an object, and which box would fit better.

    Args:
        width: of the maps.
        strides: of the maps, in pixels.
        size: image height and width.
        dim: width of its two layers.
        roi: rows and columns of features of a box.
        boxes: that are scored in each image, a quarter of them positive at most.
        overlap: from which a proposal is positive.
    """

    def __init__(
        self,
        *,
        width: int,
        strides: Sequence[int],
        size: tuple[int, int],
        dim: int = 1024,
        roi: int = 7,
        boxes: int = 512,
        overlap: float = 0.5,
    ) -> None:
        super().__init__()
        self.strides, self.size, self.roi = tuple(strides), size, roi
        self.boxes, self.overlap = boxes, overlap
        self.layers = TwoMLPHead(width * roi**2, dim)
        self.predictor = FastRCNNPredictor(dim, 1)
        self.coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))

    def forward(self, maps: Sequence[Tensor], boxes_BP4: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, P]`` and changes of boxes ``[B, P, 4]``, both float32."""
        features = region_features(maps, self.strides, boxes_BP4, (self.roi, self.roi))
        logit, change = self.predictor(self.layers(features.flatten(0, 1)))
        b, p, _ = boxes_BP4.shape
        return logit.float().view(b, p), change.float().view(b, p, 4)

    def losses(
        self, maps: Sequence[Tensor], rois_BP4: Tensor, owner_BP: Tensor, scored_BP: Tensor, boxes_BG4: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of RoIs that :meth:`choose` chose and smooth L1 of the positive ones, per image."""
        logit_BP, change_BP4 = self(maps, rois_BP4)
        positive_BP = scored_BP & (owner_BP >= 0)
        score_BP = F.binary_cross_entropy_with_logits(logit_BP, positive_BP.float(), reduction="none")
        wanted_BP4 = _encoded(self.coder, _owned(boxes_BG4, owner_BP), rois_BP4)
        fit_BP = F.smooth_l1_loss(change_BP4, wanted_BP4, beta=1 / 9, reduction="none").sum(-1)
        # as many RoIs as were scored, as in Fast R-CNN
        return _mean(score_BP, scored_BP), _mean(fit_BP * positive_BP, scored_BP)

    @torch.no_grad()
    def choose(
        self, proposals_BP4: Tensor, real_BP: Tensor, boxes_BG4: Tensor, valid_BG: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor, Tensor]:
        """RoIs to learn from, positive ones first: ``[B, R, 4]``, their instances or -1, which of them count.

        Instances are proposals too (Mask R-CNN), so that there are positive ones from the first step. They
        come last: what is drawn of an image must not depend on how many the others have.
        """
        rois_BP4 = torch.cat([proposals_BP4, boxes_BG4], dim=1)
        real_BP = torch.cat([real_BP, valid_BG], dim=1)
        most_BP, of_BP = box_iou(rois_BP4, boxes_BG4).masked_fill(~valid_BG[:, None], -1).max(dim=-1)
        near_BP = (most_BP >= self.overlap) & real_BP
        positive_BP, negative_BP = draw.sample(near_BP, real_BP & ~near_BP, self.boxes, 0.25, ROIS)
        order_BP = (2 * positive_BP.int() + negative_BP.int()).argsort(dim=1, descending=True, stable=True)
        order_BR = order_BP[:, : self.boxes]
        owner_BP = of_BP.masked_fill(~positive_BP, NEGATIVE)
        scored_BP = positive_BP | negative_BP
        rois_BR4 = rois_BP4.gather(1, order_BR[..., None].expand(-1, -1, 4))
        return rois_BR4, owner_BP.gather(1, order_BR), scored_BP.gather(1, order_BR)

    @torch.no_grad()
    def detect(
        self,
        maps: Sequence[Tensor],
        proposals_BP4: Tensor,
        real_BP: Tensor,
        *,
        score: float,
        overlap: float,
        most: int,
    ) -> tuple[Tensor, Tensor]:
        """Boxes ``[B, P, 4]`` and probabilities ``[B, P]``, 0 of those that are none.

        Args:
            maps: of the images.
            proposals_BP4: boxes.
            real_BP: False on padding.
            score: probability below which a box is left out.
            overlap: above which the less probable of two is left out.
            most: boxes of an image.
        """
        logit_BP, change_BP4 = self(maps, proposals_BP4)
        boxes_BP4 = clip_boxes_to_image(_decoded(self.coder, change_BP4, proposals_BP4), self.size)
        share_BP = logit_BP.sigmoid()
        kept_BP = torch.where(real_BP & (share_BP > score), share_BP, -torch.inf)
        boxes_BP4, share_BP = best_boxes(boxes_BP4, kept_BP, torch.zeros_like(kept_BP), overlap, most)
        return boxes_BP4, share_BP.clamp(min=0)


class Draw:
    """Chance of one step, for the samples of a batch.

    Args:
        step: where it comes from.
        ids: of the samples, int64 ``[B]``.
    """

    def __init__(self, step: Step, ids: Tensor) -> None:
        self.step, self.ids = step, ids

    def sample(
        self, positive: Tensor, negative: Tensor, count: int, share: float, stream: int
    ) -> tuple[Tensor, Tensor]:
        """At most ``count`` of each row, at most a share of them positive, the rest negative: bool each."""
        noise = self.step.noise(self.ids, positive.shape[1], stream)

        def first(those: Tensor, most: Tensor | int) -> Tensor:
            return those & (ranks(noise.masked_fill(~those, 2)) < most)

        chosen = first(positive, int(share * count))
        return chosen, first(negative, count - chosen.sum(1, keepdim=True))


def anchors_of(size: tuple[int, int], stride: int, side: float, ratios: Sequence[float]) -> Tensor:
    """Anchors of one map, ``[rows * columns * ratios, 4]``, around the centres of its places."""
    rows, columns = (torch.arange(-(-n // stride)) * stride + stride / 2 for n in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    ratio = torch.tensor(list(ratios))
    half = torch.stack([side / ratio.sqrt(), side * ratio.sqrt()], dim=-1) / 2
    centre = torch.stack([x, y], dim=-1)[:, :, None]
    return torch.cat([centre - half, centre + half], dim=-1).view(-1, 4)


def best_boxes(
    boxes_BP4: Tensor, score_BP: Tensor, group_BP: Tensor, overlap: float, most: int
) -> tuple[Tensor, Tensor]:
    """The boxes of highest score that none better of their image and group overlaps, sorted.

    Args:
        boxes_BP4: left, top, right, bottom.
        score_BP: of each; minus infinity leaves it out.
        group_BP: boxes of other groups do not compete.
        overlap: above which they do.
        most: how many of an image; fewer are filled up with others, of score minus infinity.
    """
    b, p = score_BP.shape
    image_B1 = torch.arange(b, device=score_BP.device)[:, None]
    apart = (group_BP.long() * b + image_B1).flatten()
    wide_BP = (boxes_BP4[..., 2:] > boxes_BP4[..., :2]).all(-1)
    score_BP = score_BP.masked_fill(~wide_BP, -torch.inf)
    found = batched_nms(boxes_BP4.flatten(0, 1), score_BP.flatten(), apart, overlap)
    kept_BP = torch.zeros(b * p, dtype=torch.bool, device=found.device).index_fill(0, found, True).view(b, p)
    best = score_BP.masked_fill(~kept_BP, -torch.inf).topk(min(most, p))
    return boxes_BP4.gather(1, best.indices[..., None].expand(-1, -1, 4)), best.values


def _owned(boxes_BG4: Tensor, owner_BA: Tensor) -> Tensor:
    """The box of the instance of each anchor, ``[B, A, 4]``; of anchors without one the first."""
    return boxes_BG4.gather(1, owner_BA.clamp(min=0)[..., None].expand(-1, -1, 4))


def _encoded(coder: BoxCoder, wanted: Tensor, given: Tensor) -> Tensor:
    """Changes that lead from one box to another, finite for boxes without area too."""
    two = (torch.cat([x[..., :2], torch.maximum(x[..., 2:], x[..., :2] + 1e-3)], -1) for x in (wanted, given))
    changes: Tensor = coder.encode_single(*(x.reshape(-1, 4) for x in two))
    return changes.view_as(wanted)


def _decoded(coder: BoxCoder, changes: Tensor, given: Tensor) -> Tensor:
    boxes: Tensor = coder.decode_single(changes.reshape(-1, 4), given.reshape(-1, 4))
    return boxes.view_as(given)


def _mean(x_BP: Tensor, counted_BP: Tensor) -> Tensor:
    """The mean over what counts of each image, then over images; of an image where nothing counts, 0."""
    each_B = (x_BP * counted_BP).sum(1) / counted_BP.sum(1).clamp(min=1)
    return each_B.mean()
