"""Boxes of objects in images: the entries of a sample, how they move with the image, how a batch holds them.

Shapes: B images, n objects of an image, K vertices of a polygon, C channels, H rows and W columns of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, UserError
from polymask.data import valid_of
from polymask.data.splits import hash_key
from polymask_vision.datasets.place import Prepared

BOXES = "boxes"
"""Float32 ``[n, 4]``: left, top, right, bottom in pixels, 0 the left edge of the first pixel.

A batch holds ``[B, n, 4]`` padded with zeros, and where images differ in how many objects they have
``boxes_length``, int64 ``[B]``: see :func:`boxes_of`.
"""

DISTANCE = "distance"
"""Float32 ``[n]``, from the camera, in the units of the data; NaN unknown."""

POLYGONS = "polygons"
"""Float32 ``[n, K, 2]``, outline of each object, x and y in pixels; a short one repeats its last vertex."""

CLEAN = "clean"
"""The image ``[C, H, W]`` before an augmentation changed its colours, where one did."""

LEAST = 0.25
"""Share of a box that must be left within the image after a crop."""


@runtime_checkable
class Boxed(Protocol):
    """Images with boxes of objects."""

    def objects(self, index: int) -> dict[str, Tensor]:
        """``boxes``, and where known ``distance`` and ``polygons``, in pixels of the image as read."""


def moved(objects: Mapping[str, Tensor], prepared: Prepared, size: tuple[int, int]) -> dict[str, Tensor]:
    """Entries of a sample: objects moved like their image, without those that a crop left out.

    Boxes are cut at the edges of the image, polygons are not. Distances stay as they are: what is scaled up
    looks nearer and is not.

    Args:
        objects: see :class:`Boxed`.
        prepared: the image.
        size: its height and width in pixels.
    """
    corners = prepared.place(objects[BOXES].view(-1, 2, 2))
    low, high = corners.amin(1), corners.amax(1)  # a flip exchanges left and right
    edge = low.new_tensor([size[1], size[0]])
    inside_low, inside_high = low.clamp_min(0), torch.minimum(high, edge)
    area = (high - low).prod(1)
    left = (inside_high - inside_low).clamp_min(0).prod(1)
    kept = (left >= LEAST * area) & (left > 0)
    found = {**objects, BOXES: torch.cat([inside_low, inside_high], dim=1)}
    if POLYGONS in objects:
        found[POLYGONS] = prepared.place(objects[POLYGONS])
    found = {name: x[kept] for name, x in found.items()}
    return found if prepared.clean is None else {**found, CLEAN: prepared.clean}


def boxes_of(batch: Batch, why: str) -> tuple[Tensor, Tensor]:
    """Boxes of a batch, float32 ``[B, n, 4]``, and which are no padding, bool ``[B, n]``; n is at least 1.

    Args:
        batch: what holds them.
        why: what needs boxes, and what to do where there are none.

    Raises:
        UserError: there are none.
    """
    if BOXES not in batch:
        raise UserError(why)
    boxes = batch[BOXES]
    valid = valid_of(batch, BOXES)
    if valid is None:
        valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    missing = max(1 - boxes.shape[1], 0)
    return F.pad(boxes, (0, 0, 0, missing)), F.pad(valid, (0, missing), value=False)


def distances_of(batch: Batch, n: int) -> Tensor:
    """Distances of a batch, float32 ``[B, n]``, NaN where unknown, and in padding.

    Args:
        batch: what may hold them.
        n: objects that :func:`boxes_of` gave.
    """
    boxes = batch[BOXES]
    found = batch.get(DISTANCE)
    if found is None:
        return boxes.new_full((len(boxes), n), torch.nan)
    found = F.pad(found, (0, n - found.shape[1]), value=torch.nan)
    valid = valid_of(batch, DISTANCE)
    return found if valid is None else found.masked_fill(~F.pad(valid, (0, n - valid.shape[1])), torch.nan)


def some_of(names: Sequence[str], share: float) -> Tensor:
    """A share of some samples by a fixed rule of their names, bool ``[n]``; smaller shares lie within larger.

    Args:
        names: of the samples.
        share: in [0, 1], rounded; one sample at least where it is above 0.

    Raises:
        UserError: a share out of range.
    """
    if not 0 <= share <= 1:
        raise UserError(f"labelled={share}: give a share of the images, 0 to 1")
    order = sorted(range(len(names)), key=lambda i: hash_key(names[i]))
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[order[: max(round(share * len(names)), share > 0)]] = True
    return chosen


def outlined(image: Tensor, boxes_Bn4: Tensor, colour: Tensor) -> Tensor:
    """Images ``[B, C, H, W]`` with the edges of boxes in them, one pixel wide.

    Args:
        image: in any units.
        boxes_Bn4: as :func:`boxes_of` gives them.
        colour: in the same units, ``[C, 1, 1]``.
    """
    rows, columns = (torch.arange(k, device=image.device) for k in image.shape[2:])
    left, top, right, bottom = boxes_Bn4.round()[..., None, None].unbind(2)
    x, y = columns[None, None, None], rows[None, None, :, None]
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    within = (x > left) & (x < right - 1) & (y > top) & (y < bottom - 1)
    return torch.where((inside & ~within).any(1, keepdim=True), colour, image)
