"""Samples and masks as arrays of pixels: float ``[H, W, 3]`` in [0, 1]."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[np.float64]

HIDDEN = (0.16, 0.45, 0.60)
"""Colour laid over hidden sites; seen on black, on white and on skin."""

STRENGTH = 0.72
"""How much of a hidden site is that colour."""


def to_pixels(picture: Tensor) -> Pixels:
    """Something that can be drawn as colours.

    Args:
        picture: ``[H, W]``, or ``[C, H, W]`` with one channel (grey), two (grey mean), or three
            and more (the first three as red, green, blue); in [0, 1], clipped.
    """
    x = picture.detach().double().cpu()
    x = x[None] if x.dim() == 2 else x
    if x.dim() != 3:
        raise ValueError(f"a picture is [H, W] or [C, H, W], got {list(picture.shape)}")
    x = x[:3] if len(x) >= 3 else x.mean(dim=0, keepdim=True).expand(3, -1, -1)
    pixels: Pixels = x.nan_to_num(0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    return pixels


def scale(pixels: Pixels, side: int) -> Pixels:
    """Enlarged by a whole factor (crisp pixels), or averaged down, to about ``side`` pixels wide."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        factor = max(1, round(side / max(height, width)))
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    share = side / max(height, width)
    size = (max(1, round(height * share)), max(1, round(width * share)))
    shrunk = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(pixels).permute(2, 0, 1), size)
    result: Pixels = shrunk.permute(1, 2, 0).numpy()
    return result


def overlay(pixels: Pixels, hidden: Tensor) -> Pixels:
    """A picture with its hidden sites under hatched colour, separated by thin lines.

    Args:
        pixels: the picture, already of the size it is shown in.
        hidden: ``[rows, columns]``, or ``[columns]`` for sites along the width (further axes in
            front count as rows); bool, or float in [0, 1] for a soft mask.
    """
    height, width = pixels.shape[:2]
    grid = hidden.double().cpu().numpy().reshape(-1, hidden.shape[-1])
    row = np.arange(height) * grid.shape[0] // height
    column = np.arange(width) * grid.shape[1] // width
    amount = grid[np.ix_(row, column)]
    # hatch lines fall from left to right, about five to a site
    pitch = max(4, math.ceil(min(height / grid.shape[0], width / grid.shape[1]) / 4))
    line = (np.add.outer(np.arange(height), np.arange(width)) % pitch) < max(1, pitch // 4)
    colour = np.where(line[..., None], 0.35 + 0.65 * np.array(HIDDEN), HIDDEN)
    alpha = STRENGTH * amount[..., None]
    result: Pixels = pixels * (1 - alpha) + colour * alpha
    # the border between two hidden sites stays visible, so that sites can be counted
    edge = np.zeros((height, width), dtype=bool)
    if height >= 6 * grid.shape[0]:
        edge[1:] |= np.diff(row)[:, None] > 0
    if width >= 6 * grid.shape[1]:
        edge[:, 1:] |= np.diff(column)[None] > 0
    result[edge] += (1.0 - result[edge]) * 0.25 * amount[edge][:, None]
    return result


def blank(height: int, width: int) -> Pixels:
    """A plain background for samples that have no picture."""
    return np.full((height, width, 3), 0.93)


def sheet(rows: Sequence[Sequence[Pixels]], gap: int = 8) -> npt.NDArray[np.float64]:
    """Pictures of equal size in rows and columns, float ``[H, W, 4]``; nothing between them."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    canvas = np.zeros((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            canvas[top : top + height, left : left + width, :3] = pixels
            canvas[top : top + height, left : left + width, 3] = 1
    return canvas


def png(pixels: npt.NDArray[np.float64]) -> bytes:
    """A PNG file of ``[H, W, 3]`` or, with opacity, ``[H, W, 4]``."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.clip(pixels, 0, 1), format="png", metadata={"Software": ""})
    return buffer.getvalue()
