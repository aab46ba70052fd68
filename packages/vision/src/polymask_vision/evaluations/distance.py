"""How well distances of objects are told: in boxes as given, partly covered, and in boxes off the mark.

Shapes: B images, n objects of an image, H rows and W columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymask import Batch, Step, UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED
from polymask.protocols import sample_ids
from polymask.systems.host import implementing
from polymask.types import Count, Share
from polymask_vision.boxes import BOXES, boxes_of, distances_of

if TYPE_CHECKING:
    from polymask.run import Run

CONSTANT, SIZE = "same for all", "height of the box"
"""Rows of what looks at no pixel: the median of the training distances, a power of the height of the box."""

OCCLUDER, JITTER = 0, 1
"""Streams of chance."""


@runtime_checkable
class TellsDistances(Protocol):
    """A system that tells how far away objects in boxes are."""

    def distances(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Distances of the objects of a batch, ``[B, n]``, and which are no padding."""


class Distance:
    """Errors of distances of objects in held-out images: AbsRel, RMSE, the share within a factor of 1.25.

    Beside boxes as they are stand the same with part of each covered by pixels from elsewhere in the image
    (``occluded``), and boxes moved and resized at random (``jittered``). Objects of unknown distance do not
    count. Intervals are over images, since the objects of one are alike. The rows beside the system look at
    no pixel: one distance for all, which is the median of those known in training, and a power of the height
    of the box, fitted to the same.

    Args:
        covered: share of the area of each box that is covered.
        jitter: by which share of its sides a box is moved, and grows or shrinks, at most.
        images: maximum number of test images, evenly spaced.
        batch_size: images per batch.
        seed: of what is covered and how boxes move.
    """

    def __init__(
        self,
        *,
        covered: Share = 0.4,
        jitter: Share = 0.15,
        images: Count | None = 2000,
        batch_size: Count = 32,
        seed: int = 0,
    ) -> None:
        self.covered, self.jitter, self.images = covered, jitter, images
        self.batch_size, self.step = batch_size, Step(0, 1, seed)

    def __call__(self, run: Run) -> Iterator[Measurement]:
        tells: TellsDistances | None = implementing(run.system, TellsDistances)
        if tells is None:
            raise UserError(
                f"{type(run.system).__name__} does not tell distances of objects: take a run of vision/mom"
            )
        rivals = Rivals.of(run, self.images, self.batch_size)
        found: dict[tuple[str, str], list[Tensor]] = {}
        with evaluating(run.system) as system, torch.no_grad():
            for batch in batches(system, run.data, self.images, self.batch_size, whole=True):
                for condition, seen in self.conditions(batch).items():
                    told, valid = tells.distances(seen)
                    truth = distances_of(batch, told.shape[1])
                    known = valid & truth.isfinite()
                    for row, guess in {TRAINED: told, **rivals(seen)}.items():
                        sums = by_image(guess.float(), truth, known).cpu()
                        found.setdefault((row, condition), []).append(sums)
        for (row, condition), parts in found.items():
            sums = torch.cat(parts)
            sums = sums[sums[:, -1] > 0]
            if not len(sums):
                raise UserError(f"{run.name}: no held-out object has a known distance")
            whole, without = scores(sums.sum(0)), scores(sums.sum(0) - sums)
            for metric, value in whole.items():
                name = metric if condition == "clean" else f"{metric}, {condition}"
                most = 1.0 if metric == "within 1.25" else math.inf
                yield Measurement.jackknife(row, name, float(value), without[metric], 0.0, most)

    def conditions(self, batch: Batch) -> Mapping[str, Batch]:
        """The same images and boxes as they are, covered in part, and with other boxes."""
        return {
            "clean": batch,
            "occluded": occluded(batch, self.covered, self.step),
            "jittered": jittered(batch, self.jitter, self.step),
        }


def errors(told: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Of each object: relative error, squared error, and whether it is within a factor of 1.25."""
    off = torch.maximum(told.clamp_min(1e-6) / truth, truth / told.clamp_min(1e-6))
    return {
        "AbsRel": (told - truth).abs() / truth,
        "RMSE": (told - truth).square(),
        "within 1.25": (off < 1.25).float(),
    }


def by_image(told: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Sums of :func:`errors` over the objects of each image, and how many there are, float64 ``[B, 4]``.

    Args:
        told: ``[B, n]``.
        truth: ``[B, n]``.
        known: which count, bool ``[B, n]``.
    """
    found = [torch.where(known, error, 0.0).sum(1) for error in errors(told, truth).values()]
    return torch.stack([*found, known.sum(1)], dim=1).double()


def scores(sums: Tensor) -> dict[str, Tensor]:
    """Scores by metric of such sums, ``[..., 4]`` to ``[...]`` each."""
    relative, squared, within = (sums[..., :3] / sums[..., 3:]).unbind(-1)
    return {"AbsRel": relative, "RMSE": squared.sqrt(), "within 1.25": within}


def occluded(batch: Batch, share: float, step: Step, key: str = "image") -> Batch:
    """A batch with a rectangle in each box, of the shape of the box and anywhere in it, of other pixels.

    These are what the image has half of its width away; where boxes overlap, they are covered alike.

    Args:
        batch: with boxes.
        share: of the area of each box.
        step: the source of chance.
        key: entry of the images.
    """
    boxes, valid = boxes_of(batch, "what is to be covered lies in boxes")
    image = batch[key]
    low, high = boxes.view(*valid.shape, 2, 2).unbind(2)
    side = (high - low) * share**0.5
    draws = step.noise(sample_ids(batch).to(image.device), 2 * valid.shape[1], OCCLUDER)
    corner = low + draws.view(*valid.shape, 2) * (high - low - side)
    (left, top), (right, bottom) = (
        corner[..., None, None].unbind(2),
        (corner + side)[..., None, None].unbind(2),
    )
    rows, columns = (torch.arange(n, device=image.device) + 0.5 for n in image.shape[2:])
    x, y = columns[None, None, None], rows[None, None, :, None]
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom) & valid[..., None, None]
    return {**batch, key: torch.where(inside.any(1, keepdim=True), image.roll(image.shape[3] // 2, 3), image)}


def jittered(batch: Batch, share: float, step: Step, key: str = "image") -> Batch:
    """A batch whose boxes are off: moved by up to a share of their sides, these scaled by up to as much.

    Args:
        batch: with boxes.
        share: of the sides.
        step: the source of chance.
        key: entry of the images, at whose edges boxes are cut.
    """
    boxes, valid = boxes_of(batch, "what is to be moved are boxes")
    low, high = boxes.view(*valid.shape, 2, 2).unbind(2)
    draws = step.noise(sample_ids(batch).to(boxes.device), 4 * valid.shape[1], JITTER).view(
        *valid.shape, 2, 2
    )
    shift, growth = (share * (2 * draws - 1)).unbind(2)
    middle, half = (low + high) / 2 + shift * (high - low), (high - low) * (1 + growth) / 2
    edge = boxes.new_tensor([batch[key].shape[3], batch[key].shape[2]])
    corners = torch.stack([middle - half, middle + half], dim=2).clamp_min(0)
    return {**batch, BOXES: torch.minimum(corners, edge).flatten(2)[:, : batch[BOXES].shape[1]]}


@dataclass(frozen=True)
class Rivals:
    """Distances told without a look at pixels.

    Args:
        median: of the distances known in training.
        slope: of their logarithm over that of the height of the box.
        intercept: where the height is one pixel.
    """

    median: float
    slope: float
    intercept: float

    @classmethod
    def of(cls, run: Run, images: int | None, batch_size: int) -> Rivals:
        """Fitted to the training images of a run.

        Raises:
            UserError: none of their objects has a known distance.
        """
        away, tall = [], []
        for batch in batches(run.system, run.data, images, batch_size, "train", whole=True):
            boxes, valid = boxes_of(batch, f"{run.name}: its samples have no boxes")
            truth = distances_of(batch, boxes.shape[1])
            known = valid & truth.isfinite()
            away.append(truth[known].cpu())
            tall.append(_height(boxes)[known].cpu())
        x, y = torch.cat(tall).log(), torch.cat(away)
        if not len(y):
            raise UserError(f"{run.name}: no object in training has a known distance")
        log = y.clamp_min(1e-6).log()
        spread = (x - x.mean()).square().mean()
        slope = float(((x - x.mean()) * log).mean() / spread) if spread > 0 else 0.0
        return cls(float(y.median()), slope, float(log.mean()) - slope * float(x.mean()))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """What they tell of a batch, ``[B, n]`` each."""
        height = _height(boxes_of(batch, "no boxes")[0])
        return {
            CONSTANT: torch.full_like(height, self.median),
            SIZE: (self.intercept + self.slope * height.log()).exp(),
        }


def _height(boxes_Bn4: Tensor) -> Tensor:
    return (boxes_Bn4[..., 3] - boxes_Bn4[..., 1]).clamp_min(1)
