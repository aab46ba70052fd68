"""Samples and masks as arrays of pixels: float ``[H, W, 3]`` in [0, 1], or ``[F, H, W, 3]`` for a clip.

Time comes first everywhere: a clip is ``[T, C, H, W]``, as in torchvision, and a mask over it is
``[time, rows, columns]``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polymask.data import evenly
from polymask.errors import UserError

Pixels = npt.NDArray[np.float64]

HIDDEN = (0.16, 0.45, 0.60)
"""Colour laid over hidden sites; seen on black, on white and on skin."""

STRENGTH = 0.72
"""How much of a hidden site is that colour."""

FRAMES, CLIPS = 8, 4
"""How many frames of a clip are shown at most, and how many clips."""


def to_pixels(picture: Tensor, most: int = FRAMES) -> Pixels:
    """Something that can be drawn as colours.

    Args:
        picture: ``[H, W]``, or ``[C, H, W]`` with one channel (grey), two (grey mean), or three
            and more (the first three as red, green, blue); or a clip ``[T, C, H, W]`` with one or three
            channels; in [0, 1], clipped.
        most: evenly spaced frames of a clip that are kept at most.

    Returns:
        ``[H, W, 3]``, or ``[F, H, W, 3]`` for a clip.

    Raises:
        UserError: another shape.
    """
    x = picture.detach().double().cpu()
    if x.dim() == 4 and x.shape[1] in (1, 3):
        return np.stack([to_pixels(x[t]) for t in evenly(len(x), most)])
    x = x[None] if x.dim() == 2 else x
    if x.dim() != 3:
        raise UserError(
            f"cannot draw a tensor of shape {list(picture.shape)}: give a picture [H, W] or [C, H, W], "
            "or a clip [T, C, H, W], time first, with 1 or 3 channels"
        )
    x = x[:3] if len(x) >= 3 else x.mean(dim=0, keepdim=True).expand(3, -1, -1)
    pixels: Pixels = x.nan_to_num(0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    return pixels


def frames(pixels: Pixels) -> int:
    """How many pictures lie side by side: 1, or the frames of a clip."""
    return len(pixels) if pixels.ndim == 4 else 1


def scale(pixels: Pixels, side: int) -> Pixels:
    """Enlarged by a whole factor (crisp pixels), or averaged down, to frames about ``side`` pixels wide."""
    if pixels.ndim == 4:
        return np.stack([scale(frame, side) for frame in pixels])
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
        hidden: ``[rows, columns]``, or ``[columns]`` for sites along the width; bool, or float in [0, 1]
            for a soft mask. With ``[time, rows, columns]`` each frame gets the sites of its time, and a
            picture becomes a clip. Further axes in front count as time.
    """
    if hidden.dim() > 2:
        slots = hidden.flatten(0, -3)
        clip = pixels if pixels.ndim == 4 else [pixels] * min(len(slots), FRAMES)
        return np.stack([overlay(x, slots[k * len(slots) // len(clip)]) for k, x in enumerate(clip)])
    if pixels.ndim == 4:
        return np.stack([overlay(frame, hidden) for frame in pixels])
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


def blank(*size: int) -> Pixels:
    """A plain background for samples that have no picture: ``[*size, 3]``."""
    return np.full((*size, 3), 0.93)


def in_rows(pictures: Sequence[Pixels], large: int = 1000) -> list[list[Pixels]]:
    """Pictures in rows that can be read on a page; of clips the first few, each in a row of its own.

    Args:
        pictures: of one width.
        large: pixels across of a row of large ones, such as text.
    """
    if pictures[0].ndim == 4:
        return [[clip] for clip in pictures[:CLIPS]]
    width = pictures[0].shape[1]
    across = max((1500 if width < 250 else large) // width, 1)
    return [list(pictures[i : i + across]) for i in range(0, len(pictures), across)]


def sheet(rows: Sequence[Sequence[Pixels]], gap: int = 8) -> npt.NDArray[np.float64]:
    """Pictures in rows and columns, float ``[H, W, 4]``; a clip is a film strip; nothing between them."""
    cells = [[sheet([list(x)], gap=2) if x.ndim == 4 else x for x in row] for row in rows]
    tops = np.cumsum([0, *(max(x.shape[0] for x in row) + gap for row in cells)])
    width, columns = max(x.shape[1] for row in cells for x in row), max(len(row) for row in rows)
    canvas = np.zeros((tops[-1] - gap, columns * (width + gap) - gap, 4))
    for top, row in zip(tops, cells, strict=False):
        for c, pixels in enumerate(row):
            left = c * (width + gap)
            cell = canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            cell[..., 3] = 1
            cell[..., : pixels.shape[2]] = pixels
    return canvas


def png(pixels: npt.NDArray[np.float64]) -> bytes:
    """A PNG file of ``[H, W, 3]`` or, with opacity, ``[H, W, 4]``."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.clip(pixels, 0, 1), format="png", metadata={"Software": ""})
    return buffer.getvalue()
