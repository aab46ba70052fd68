"""Masks of instances: from outlines, in boxes and in images, and which of them stay.

Shapes: B images, G instances of an image, R boxes, V vertices of a polygon, m side of a mask, H rows and W
columns of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, UserError
from polymask_vision.boxes import POLYGONS, boxes_of


@dataclass(frozen=True, eq=False)
class Detections:
    """What is found in images, padded to one number.

    Args:
        boxes: left, top, right, bottom in pixels, ``[B, R, 4]``.
        score: probability that there is text, ``[B, R]``, 0 of padding.
        masks: probability of each cell, ``[B, R, m, m]``.
        frames: the boxes that the masks fill, ``[B, R, 4]``.
    """

    boxes: Tensor
    score: Tensor
    masks: Tensor
    frames: Tensor

    def pasted(self, size: tuple[int, int], scale: int = 1) -> Tensor:
        """Masks in images of a size, enlarged, ``[B, R, H, W]``."""
        large = (size[0] * scale, size[1] * scale)
        found = paste(self.masks.flatten(0, 1), self.frames.flatten(0, 1) * scale, large)
        return found.view(*self.score.shape, *large)


def instances(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Outlines ``[B, G, V, 2]``, boxes ``[B, G, 4]``, and which are no padding, ``[B, G]``; G is at least 1.

    Raises:
        UserError: the samples have none.
    """
    why = (
        f"masks of instances are learned from their outlines, and samples of this data have "
        f"{', '.join(sorted(set(batch) - {'id'}))} alone: use data whose samples have {POLYGONS!r}, such as "
        "curved-text"
    )
    if POLYGONS not in batch:
        raise UserError(why)
    boxes, valid = boxes_of(batch, why)
    polygons = batch[POLYGONS].float()
    return F.pad(polygons, (0, 0, 0, 0, 0, boxes.shape[1] - polygons.shape[1])), boxes, valid


def rasterise(polygons_RV2: Tensor, boxes_R4: Tensor, cells: tuple[int, int]) -> Tensor:
    """Which cells of a grid over each box have their centre within its polygon: bool ``[R, rows, columns]``.

    Args:
        polygons_RV2: x and y of the vertices in pixels, in order, by the rule of even and odd; a vertex that
            stands twice changes nothing.
        boxes_R4: left, top, right, bottom. The polygon may reach beyond.
        cells: rows and columns of the grid.
    """
    extent_R12 = (boxes_R4[:, None, 2:] - boxes_R4[:, None, :2]).clamp(min=1e-6)
    corner = (polygons_RV2 - boxes_R4[:, None, :2]) / extent_R12
    other = corner.roll(-1, dims=1)
    down, across = (
        (torch.arange(n, device=corner.device, dtype=corner.dtype)[:, None] + 0.5) / n for n in cells
    )
    (x0, y0), (x1, y1) = corner[:, None].unbind(-1), other[:, None].unbind(-1)
    # an edge crosses the row of a centre or it does not, and where it does it lies to the right of some
    crosses_RrV = (y0 > down) != (y1 > down)
    at_RrV = x0 + (down - y0) / torch.where(y1 == y0, 1, y1 - y0) * (x1 - x0)
    right_RrcV = crosses_RrV[:, :, None] & (at_RrV[:, :, None] > across)
    return right_RrcV.sum(-1) % 2 == 1


def in_image(polygons_BGV2: Tensor, valid_BG: Tensor, size: tuple[int, int], scale: int = 1) -> Tensor:
    """Masks of instances in images of a size, enlarged, bool ``[B, G, H, W]``."""
    large = (size[0] * scale, size[1] * scale)
    image = polygons_BGV2.new_tensor([0, 0, size[1], size[0]]).expand(valid_BG.numel(), 4)
    found = rasterise(polygons_BGV2.flatten(0, 1), image, large)
    return found.view(*valid_BG.shape, *large) & valid_BG[..., None, None]


def paste(masks_Rmm: Tensor, boxes_R4: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of boxes as masks of the image, ``[R, H, W]``, bilinear between centres of cells, 0 outside.

    Args:
        masks_Rmm: values of cells.
        boxes_R4: left, top, right, bottom in pixels.
        size: image height and width.
    """
    rows, columns = (torch.arange(n, device=masks_Rmm.device) + 0.5 for n in size)
    low, extent = boxes_R4[:, :2], (boxes_R4[:, 2:] - boxes_R4[:, :2]).clamp(min=1e-6)
    x = (columns - low[:, :1]) / extent[:, :1] * 2 - 1
    y = (rows - low[:, 1:]) / extent[:, 1:] * 2 - 1
    grid = torch.stack(
        [x[:, None].expand(-1, len(rows), -1), y[:, :, None].expand(-1, -1, len(columns))], dim=-1
    )
    pasted = F.grid_sample(masks_Rmm[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    within = (grid.abs() <= 1).all(-1)
    return pasted * within


def outline_of(mask: Tensor) -> np.ndarray[Any, Any] | None:
    """The longest outline of a mask ``[H, W]`` of probabilities at 0.5: x and y in pixels; None of none."""
    try:
        from skimage import measure
    except ImportError as error:
        raise missing() from error
    # a border of nothing closes what reaches the edge of the image
    find: Any = measure.find_contours
    contours = find(np.pad(mask.numpy(), 1), 0.5)
    if not contours:
        return None
    longest = max(contours, key=len)
    outline: np.ndarray[Any, Any] = longest[:, ::-1] - 0.5
    return outline if len(outline) >= 4 else None


def missing() -> UserError:
    """What to install."""
    return UserError(
        "outlines of masks are found by scikit-image and compared by shapely: pip install "
        "'polymask-vision[instances]'"
    )


def mask_nms(masks_BPn: Tensor, score_BP: Tensor, overlap: float) -> Tensor:
    """Which masks stay, bool ``[B, P]``: those that none of higher score overlaps.

    Args:
        masks_BPn: bool, all pixels of the image in a row.
        score_BP: 0 of those that are none, and stay out.
        overlap: intersection over union above which the lower goes.
    """
    order = score_BP.argsort(dim=1, descending=True, stable=True)
    cells = masks_BPn.gather(1, order[..., None].expand_as(masks_BPn)).float()
    common = cells @ cells.transpose(1, 2)
    area = cells.sum(-1)
    shared = common / (area[:, :, None] + area[:, None] - common).clamp(min=1)
    kept = score_BP.gather(1, order) > 0
    for k in range(kept.shape[1]):
        beaten = (shared[:, k, :k] > overlap) & kept[:, :k]
        kept[:, k] &= ~beaten.any(-1)
    return torch.zeros_like(kept).scatter(1, order, kept)


def outlined(image_BCHW: Tensor, masks_BRHW: Tensor) -> Tensor:
    """Images with the border of each mask in them, in the brightest and darkest values of each."""
    inner = -F.max_pool2d(-masks_BRHW.float(), 3, 1, 1)
    line = (masks_BRHW & (inner < 1)).any(1, keepdim=True)
    ends = [one(image_BCHW.flatten(1), dim=1)[:, None, None] for one in (torch.amax, torch.amin)]
    colour = torch.stack([ends[k > 0] for k in range(image_BCHW.shape[1])], dim=1)
    return torch.where(line, colour, image_BCHW)
