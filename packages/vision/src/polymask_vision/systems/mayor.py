"""MAYOR: Mask is All You Need, Mask R-CNN for dense text of any shape (Qin et al. 2021, arXiv 2109.03426).

Find lines of text with Mask R-CNN, but draw the mask of a box by layers that see all of it at once, teach
them the shape of the whole instance that the box is of, and give every instance enough anchors.

    polymask pretrain vision/mayor --preset small --data curved-text
    polymask pretrain vision/mayor --preset small-proposals --data curved-text
    polymask evaluate RUN vision/instances

A *mask* is an instance mask here, what is predicted: nothing of the input is hidden.

The text could not be read beyond the abstract, and no code was published. From the abstract are three ideas:
a mask head of an MLP, targets of whole instances, adaptive assignment of anchors. All that has a number, and
the form of each, is our reconstruction from them and from Mask R-CNN (He et al. 2017): the sizes of the head
(:class:`polymask_vision.mask_heads.MaskHead`), the overlap as its loss (``core/dice``; Mask R-CNN has
``core/binary-cross-entropy``), the rule of assignment
(:func:`polymask_vision.assignment.adaptive_assignment`), one square anchor per place, all weights 1, the
optimiser, and what is done with masks in the end.

A box learns its own instance, drawn from that polygon alone: neighbours are ground. ``--learn text`` tells
text from ground, whosever it is, which is what the paper leaves behind. Boxes without a pixel of their
instance do not count. ``--margin`` widens the box that is looked at and drawn in, so that a box which cuts an
instance can still learn its whole shape.

Boxes are ``proposed`` and trained end to end, or ``given``: those of the instances, each side moved at
random, at test too, so that no prior of the centre solves the task. Losses of anchors and boxes are a mean
over images, so that all count alike; that of masks is one over boxes.

Shapes: B images, G instances of an image, V vertices of a polygon, R boxes, D width of the pyramid, m side of
a mask, H rows and W columns of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Losses, Mask, Preview, Step, System, Tokens, UserError
from polymask.data import length_key
from polymask.nn.positions import coordinates
from polymask.protocols import Objective, sample_ids
from polymask.types import Count, Fact, ModelArguments, NotNegative, Positive, Share
from polymask_vision.boxes import BOXES, POLYGONS
from polymask_vision.instance_masks import Detections, in_image, instances, mask_nms, outlined, rasterise
from polymask_vision.mask_heads import Head, MaskHead
from polymask_vision.proposals import Assignment, BoxHead, Draw, ProposalNetwork
from polymask_vision.pyramid import FeaturePyramid, Levels, region_features

IMAGE = "image"

JITTER = 3
"""Stream of how given boxes are moved."""


class MAYOR(System):
    """Boxes of text and the mask of each.

    Args:
        objective: how a mask is scored, one box a site, its cells the numbers of the site.
        model: backbone, any of timm that gives feature maps.
        levels: which of its maps the pyramid is over, from 0.
        arguments: of timm's model.
        pretrained: begin with the weights that timm has.
        width: of the feature pyramid.
        boxes: ``"proposed"`` by a network that is trained along, or ``"given"``.
        jitter: how far each side of a given box is moved at most, as a share of the box.
        margin: what is added to each side of a box before its mask is drawn, as a share of the box.
        learn: a box learns its own ``"instance"``, or what is ``"text"``.
        head: ``"mlp"``, ``"deconv"``, ``"deconv-wide"`` (as many weights) or ``"deconv-coordinates"``.
        roi: rows and columns of features of a box; masks have twice as many.
        depth: convolutions before the head.
        reduced: channels that the MLP sees.
        hidden: width of the MLP.
        assignment: of anchors: ``"adaptive"``, or by a fixed ``"overlap"``.
        least: anchors that every instance gets, of adaptive assignment.
        anchor: side of a square anchor, in strides of its map.
        ratios: heights over widths of the anchors of a place.
        anchors: anchors scored in each image.
        before: proposals of each map before those that overlap are left out.
        after: proposals of each image.
        rois: proposals of each image that are learned from, a quarter of them of text at most.
        box_dim: width of the head of boxes.
        size: image height and width, from the data.
        channels: image channels, from the data.
    """

    finds: bool
    """Whether boxes are proposed."""

    def __init__(
        self,
        *,
        objective: Objective,
        model: str = "resnet50",
        levels: tuple[int, ...] = (1, 2, 3, 4),
        arguments: ModelArguments = None,
        pretrained: bool = False,
        width: Count = 256,
        boxes: Literal["proposed", "given"] = "proposed",
        jitter: Share = 0.1,
        margin: NotNegative = 0.0,
        learn: Literal["instance", "text"] = "instance",
        head: Head = "mlp",
        roi: Count = 14,
        depth: Count = 4,
        reduced: Count = 16,
        hidden: Count = 1024,
        assignment: Assignment = "adaptive",
        least: Count = 4,
        anchor: Positive = 8.0,
        ratios: tuple[Positive, ...] = (1.0,),
        anchors: Count = 256,
        before: Count = 2000,
        after: Count = 1000,
        rois: Count = 512,
        box_dim: Count = 1024,
        size: Fact[tuple[Count, Count]] = (96, 96),
        channels: Fact[Count] = 3,
    ) -> None:
        super().__init__()
        if jitter >= 0.5:
            raise UserError(f"jitter={jitter} would let boxes vanish: give less than 0.5")
        self.objective, self.size, self.channels = objective, (size[0], size[1]), channels
        self.jitter, self.margin, self.learn, self.roi = jitter, margin, learn, roi
        backbone = Levels(
            model=model,
            size=self.size,
            channels=channels,
            levels=levels,
            pretrained=pretrained,
            arguments=arguments,
        )
        self.pyramid = FeaturePyramid(backbone, width)
        self.mask_head = MaskHead(dim=width, roi=roi, kind=head, depth=depth, reduced=reduced, hidden=hidden)
        self.finds = boxes == "proposed"
        self.proposals: ProposalNetwork | None = None
        self.box_head: BoxHead | None = None
        if self.finds:
            strides = self.pyramid.strides
            self.proposals = ProposalNetwork(
                width=width,
                strides=(*strides, 2 * strides[-1]),
                size=self.size,
                side=anchor,
                ratios=ratios,
                assignment=assignment,
                least=least,
                anchors=anchors,
                before=before,
                after=after,
            )
            self.box_head = BoxHead(width=width, strides=strides, size=self.size, dim=box_dim, boxes=rois)

    def forward(self, batch: Batch, step: Step) -> Losses:
        maps = self.pyramid(batch[IMAGE])
        polygons_BGV2, boxes_BG4, valid_BG = instances(batch)
        losses: Losses = {}
        if self.proposals is None or self.box_head is None:
            rois_BR4 = self.jittered(batch, step)
            owner_BR = torch.arange(rois_BR4.shape[1], device=rois_BR4.device).expand_as(valid_BG)
            owner_BR = owner_BR.masked_fill(~valid_BG, -1)
        else:
            draw = Draw(step, sample_ids(batch))
            logit_BA, change_BA4 = self.proposals(self.coarser(maps))
            losses["anchor"], losses["anchor_box"] = self.proposals.losses(
                logit_BA, change_BA4, boxes_BG4, valid_BG, draw
            )
            found = self.proposals.propose(logit_BA, change_BA4)
            chosen = self.box_head.choose(*found, boxes_BG4, valid_BG, draw)
            losses["class"], losses["box"] = self.box_head.losses(maps, *chosen, boxes_BG4)
            rois_BR4, owner_BR = (x[:, : max(self.box_head.boxes // 4, 1)] for x in chosen[:2])
        frames_BR4 = self.framed(rois_BR4)
        truth_BRmm = self.truth(polygons_BGV2, valid_BG, frames_BR4, owner_BR)
        learned = Mask((owner_BR >= 0) & truth_BRmm.flatten(2).any(-1))
        logits_BRmm = self.draw_masks(maps, frames_BR4)
        losses["mask"] = self.objective(logits_BRmm.flatten(2), truth_BRmm.flatten(2).float(), learned)
        return losses

    def coarser(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps and one of twice the last stride, for anchors of large instances."""
        return [*maps, F.max_pool2d(maps[-1], 1, 2)]

    def jittered(self, batch: Batch, step: Step) -> Tensor:
        """The boxes of instances, each side moved by up to a share of the box, ``[B, G, 4]``."""
        _, boxes_BG4, _ = instances(batch)
        extent_BG2 = boxes_BG4[..., 2:] - boxes_BG4[..., :2]
        noise = step.noise(sample_ids(batch), boxes_BG4[0].numel(), JITTER).view_as(boxes_BG4)
        return boxes_BG4 + (2 * noise - 1) * self.jitter * extent_BG2.repeat(1, 1, 2)

    def framed(self, boxes_BR4: Tensor) -> Tensor:
        """Boxes with the margin around them."""
        low, high = boxes_BR4[..., :2], boxes_BR4[..., 2:]
        wider = self.margin * (high - low)
        return torch.cat([low - wider, high + wider], dim=-1)

    def draw_masks(self, maps: Sequence[Tensor], frames_BR4: Tensor) -> Tensor:
        """Logits of the cells of boxes, ``[B, R, m, m]``."""
        features = region_features(maps, self.pyramid.strides, frames_BR4, (self.roi, self.roi))
        logits: Tensor = self.mask_head(features.flatten(0, 1))
        return logits.view(*frames_BR4.shape[:2], *self.mask_head.cells)

    @torch.no_grad()
    def truth(self, polygons_BGV2: Tensor, valid_BG: Tensor, frames_BR4: Tensor, owner_BR: Tensor) -> Tensor:
        """What is to be drawn in boxes: bool ``[B, R, m, m]``.

        Args:
            polygons_BGV2: outlines of instances.
            valid_BG: which of them are real.
            frames_BR4: the boxes.
            owner_BR: the instance of each, or -1.
        """
        frames, cells = frames_BR4.flatten(0, 1), self.mask_head.cells
        if self.learn == "instance":
            own = owner_BR.clamp(min=0)[..., None, None].expand(-1, -1, *polygons_BGV2.shape[2:])
            found = rasterise(polygons_BGV2.gather(1, own).flatten(0, 1), frames, cells)
            return found.view(*owner_BR.shape, *cells)
        union = torch.zeros(len(frames), *cells, dtype=torch.bool, device=frames.device)
        for polygon_BV2, valid_B in zip(polygons_BGV2.unbind(1), valid_BG.unbind(1), strict=True):
            each, there = (x.repeat_interleave(owner_BR.shape[1], dim=0) for x in (polygon_BV2, valid_B))
            union |= rasterise(each, frames, cells) & there[:, None, None]
        return union.view(*owner_BR.shape, *cells)

    @torch.no_grad()
    def detect(
        self, batch: Batch, step: Step, *, score: float = 0.05, overlap: float = 0.5, most: int = 100
    ) -> Detections:
        """Text in images, or the masks of given boxes.

        Args:
            batch: the images, and the instances where boxes are given.
            step: how given boxes are moved.
            score: probability below which a proposal is left out.
            overlap: of masks, above which the less probable of two is left out; of boxes too.
            most: detections of an image.
        """
        if self.proposals is None or self.box_head is None:
            return self.given(batch, step)
        maps = self.pyramid(batch[IMAGE])
        found = self.proposals.propose(*self.proposals(self.coarser(maps)))
        boxes_BR4, score_BR = self.box_head.detect(maps, *found, score=score, overlap=overlap, most=most)
        all_found = self.masks_of(maps, boxes_BR4, score_BR)
        cells = all_found.pasted(self.size).flatten(2) > 0.5
        kept = mask_nms(cells, score_BR, overlap)
        return Detections(boxes_BR4, score_BR * kept, all_found.masks, all_found.frames)

    @torch.no_grad()
    def given(self, batch: Batch, step: Step) -> Detections:
        """The masks of the boxes of instances, each side moved at random."""
        valid_BG = instances(batch)[2]
        return self.masks_of(self.pyramid(batch[IMAGE]), self.jittered(batch, step), valid_BG.float())

    def masks_of(self, maps: Sequence[Tensor], boxes_BR4: Tensor, score_BR: Tensor) -> Detections:
        """The masks of boxes."""
        frames_BR4 = self.framed(boxes_BR4)
        masks_BRmm = self.draw_masks(maps, frames_BR4).float().sigmoid()
        return Detections(boxes_BR4, score_BR, masks_BRmm, frames_BR4)

    def encode(self, batch: Batch) -> Tokens:
        """The coarsest map of the pyramid."""
        last_BDhw = self.pyramid(batch[IMAGE])[-1]
        grid = (last_BDhw.shape[2], last_BDhw.shape[3])
        position = coordinates(grid).to(last_BDhw.device).expand(len(last_BDhw), -1, -1)
        return Tokens(last_BDhw.flatten(2).transpose(1, 2), position, grid)

    def example(self, n: int, seed: int = 0) -> Batch:
        """Noise, with two quadrangles in each image and a third in all but the first."""
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(n, self.channels, *self.size, generator=generator)
        corner = torch.tensor([[0.0, 0.0], [1.0, 0.2], [0.9, 1.0], [0.1, 0.8]])
        extent = torch.tensor([self.size[1], self.size[0]]) / 3
        start = torch.rand(n, 3, 1, 2, generator=generator) * extent
        polygons = start + corner * extent * (1 + torch.rand(n, 3, 1, 2, generator=generator))
        boxes = torch.cat([polygons.amin(2), polygons.amax(2)], dim=-1)
        length = torch.tensor([2, *[3] * (n - 1)])
        lengths = {length_key(name): length for name in (BOXES, POLYGONS)}
        return {IMAGE: image, BOXES: boxes, POLYGONS: polygons, **lengths}

    @torch.no_grad()
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The mean overlap of the masks of given boxes, moved, with their instances."""
        polygons_BGV2, _, valid_BG = instances(batch)
        found = self.given(batch, step)
        owner_BG = torch.arange(valid_BG.shape[1], device=valid_BG.device).expand_as(valid_BG)
        truth_BGn = self.truth(polygons_BGV2, valid_BG, found.frames, owner_BG).flatten(2)
        said_BGn = found.masks.flatten(2) > 0.5
        both, either = (said_BGn & truth_BGn).sum(-1), (said_BGn | truth_BGn).sum(-1)
        return {"mask_iou": Mask(valid_BG).mean(both / either.clamp(min=1))}

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        found, scale = self.detect(batch, step, score=0.5), 3
        said = (found.pasted(self.size, scale) > 0.5) & (found.score > 0)[..., None, None]
        polygons_BGV2, _, valid_BG = instances(batch)
        truth = in_image(polygons_BGV2, valid_BG, self.size, scale)
        image = F.interpolate(batch[IMAGE], scale_factor=scale)
        return Preview({"predicted": outlined(image, said), "true": outlined(image, truth)})
