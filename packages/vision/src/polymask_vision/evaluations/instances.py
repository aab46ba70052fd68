"""How well masks fit instances that lie close together, and how many instances are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from polymask import Batch, Step, UserError
from polymask.data import evenly
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count, Share
from polymask_vision.instance_masks import Detections, in_image, instances, missing, outline_of, paste

if TYPE_CHECKING:
    from polymask.run import Run

WHOLE = "whole box"
"""Row of what looks at no image: all of a box is the instance."""

CROWDED = 0.1
"""Share of a box from which what neighbours have of it makes an instance crowded."""


@runtime_checkable
class Segments(Protocol):
    """A system that draws masks of instances.

    Attributes:
        finds: whether it finds them by itself.
    """

    finds: bool

    def given(self, batch: Batch, step: Step) -> Detections:
        """The masks of the boxes of instances, moved at random."""

    def detect(self, batch: Batch, step: Step, *, score: float) -> Detections:
        """Instances of at least some probability, those that overlap left out; 0 in place of a score."""


class Instances:
    """Masks of instances, of boxes that are given, and instances found.

    Masks are compared at the pixels of the image, at a probability of 0.5: their intersection over union with
    the instance, and the leak, the share that is marked of the pixels which neighbours alone have in the box.
    Crowded instances are those of whose box neighbours have a tenth or more; instances alone have no
    neighbour there. Figures are means over the instances of an image, intervals over images. Boxes are moved
    as in training, the same ones for every row.

    Of systems that find instances by themselves the outline of each mask is compared with the outlines of the
    data: precision, recall and their harmonic mean over all images, where each detection, the most probable
    first, finds the instance that it overlaps most of those not found yet, from an intersection over union
    of polygons (shapely) on. Of instances the part within the image counts, and a detection whose mask is
    empty finds none. There are no intervals of these.

    Args:
        images: maximum number of test images, evenly spaced.
        score: probability from which a detection counts.
        overlap: of polygons, from which one is found.
        seed: of how boxes are moved.
        batch_size: images per batch.
    """

    def __init__(
        self,
        *,
        images: Count | None = 500,
        score: Share = 0.5,
        overlap: Share = 0.5,
        seed: int = 0,
        batch_size: Count = 16,
    ) -> None:
        self.images, self.score, self.overlap = images, score, overlap
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if implementing(run.system, Segments) is None:
            raise UserError(
                f"{type(run.system).__name__} draws no masks of instances: take a run of one that does, such "
                "as vision/mayor"
            )
        samples = run.data.split("test")
        index, step = evenly(len(samples), self.images), Step(0, 1, self.seed)
        found: dict[tuple[str, str], list[float]] = {}
        counts: dict[str, Tensor] = {}
        with evaluating(run.system) as one, evaluating(run.untrained()) as two:
            rows: dict[str, Any] = {
                TRAINED: implementing(one, Segments),
                UNTRAINED: implementing(two, Segments),
            }
            for batch in batches(samples, index, batch_size=self.batch_size):
                seen: Any = on_device(batch, one)
                polygons, _, valid = instances(seen)
                for name, system in rows.items():
                    drawn = system.given(seen, step)
                    size = tuple(seen["image"].shape[2:])
                    boxes = paste(
                        torch.ones_like(drawn.masks).flatten(0, 1), drawn.frames.flatten(0, 1), size
                    )
                    boxes = boxes.view(*valid.shape, *size) > 0.5
                    truth = in_image(polygons, valid, size)
                    said = {name: drawn.pasted(size) > 0.5}
                    for row, masks in (said if name == UNTRAINED else {**said, WHOLE: boxes}).items():
                        for metric, values in fits(masks, truth, boxes, valid).items():
                            found.setdefault((row, metric), []).extend(values)
                    if system.finds:
                        got = matched(
                            system.detect(seen, step, score=self.score), polygons, valid, size, self
                        )
                        counts[name] = counts.get(name, 0) + got
        for (row, metric), values in found.items():
            if values:
                yield Measurement.share(row, metric, values)
        for row, (hits, said_count, there) in ((row, x.tolist()) for row, x in counts.items()):
            yield Measurement(row, "precision", hits / max(said_count, 1))
            yield Measurement(row, "recall", hits / max(there, 1))
            yield Measurement(row, "hmean", 2 * hits / max(said_count + there, 1))


def fits(said: Tensor, truth: Tensor, boxes: Tensor, valid: Tensor) -> dict[str, list[float]]:
    """Figures of each image that has such instances.

    Args:
        said: masks, bool ``[B, G, H, W]``.
        truth: masks of the instances.
        boxes: which pixels are of the box that was drawn in.
        valid: which instances are real, ``[B, G]``.
    """
    size = truth.flatten(2).sum(-1)
    union = (said | truth).flatten(2).sum(-1).clamp(min=1)
    iou = (said & truth).flatten(2).sum(-1) / union
    near = (truth.sum(1, keepdim=True) > truth.long()) & boxes
    theirs, room = near.flatten(2).sum(-1), boxes.flatten(2).sum(-1)
    others = near & ~truth
    leak = (others & said).flatten(2).sum(-1) / others.flatten(2).sum(-1).clamp(min=1)
    real = valid & (size > 0)
    crowded = real & (theirs >= CROWDED * room) & (theirs > 0)
    of = {
        "mask IoU": (iou, real),
        "mask IoU, crowded": (iou, crowded),
        "mask IoU, alone": (iou, real & (theirs == 0)),
        "leak, crowded": (leak, crowded & others.flatten(2).any(-1)),
    }
    return {name: _by_image(values, counted) for name, (values, counted) in of.items()}


def _by_image(values: Tensor, counted: Tensor) -> list[float]:
    there = counted.any(1)
    means: list[float] = ((values * counted).sum(1) / counted.sum(1).clamp(min=1))[there].tolist()
    return means


def matched(
    found: Detections, polygons: Tensor, valid: Tensor, size: tuple[int, int], asked: Instances
) -> Tensor:
    """How many detections found an instance, how many there are, and how many instances: int64 ``[3]``."""
    masks = found.pasted(size).cpu()
    total = torch.zeros(3, dtype=torch.int64)
    for masks_RHW, score_R, outline_GV2, real_G in zip(
        masks, found.score.cpu(), polygons.cpu(), valid.cpu(), strict=True
    ):
        kept = score_R > 0
        order = score_R[kept].argsort(descending=True, stable=True)
        outlines = [outline for mask in masks_RHW[kept][order] if (outline := outline_of(mask)) is not None]
        overlaps = polygon_overlaps(outlines, [one.numpy() for one in outline_GV2[real_G]], size)
        total += torch.tensor([hits(overlaps, asked.overlap), int(kept.sum()), int(real_G.sum())])
    return total


def hits(overlaps: np.ndarray[Any, Any], least: float) -> int:
    """How many detections, in this order, find an instance that none before has found.

    Args:
        overlaps: of detections with instances, ``[detections, instances]``.
        least: from which it is found.
    """
    free = np.ones(overlaps.shape[1], dtype=bool)
    for row in overlaps:
        left = np.where(free, row, -1.0)
        if len(left) and left.max() >= least:
            free[left.argmax()] = False
    return int((~free).sum())


def polygon_overlaps(
    first: Sequence[np.ndarray[Any, Any]], second: Sequence[np.ndarray[Any, Any]], size: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """Intersection over union of outlines within images of a size, ``[first, second]``, by shapely."""
    try:
        import shapely
    except ImportError as error:
        raise missing() from error
    image = shapely.box(0, 0, size[1], size[0])
    one, two = (
        shapely.intersection([shapely.make_valid(shapely.Polygon(x)) for x in some], image)
        for some in (first, second)
    )
    if not len(one) or not len(two):
        return np.zeros((len(one), len(two)))
    common = shapely.area(shapely.intersection(one[:, None], two))
    union = shapely.area(one)[:, None] + shapely.area(two) - common
    found: np.ndarray[Any, Any] = common / np.maximum(union, np.finfo(float).tiny)
    return found
