"""A cloud, or a skeleton that moves, as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from polymask import Tokens
from polymask.data import evenly
from polymask_pointcloud.operations import nearest
from polymask_pointcloud.skeleton import Skeleton
from polymask_pointcloud.tokenizers import UNIT

Array = npt.NDArray[Any]

SIDE = 200
POSES = (2, 4)
"""Rows and columns of the poses of a motion."""
POSE = 64
"""Side of one of them."""
HIDDEN, SEEN = (0.10, 0.46, 0.68), (0.79, 0.79, 0.79)


def scatter(points: Tensor, amount: Tensor | None = None) -> Tensor:
    """Points ``[N, 3]`` seen from above the front, the nearer the darker, float32 ``[3, SIDE, SIDE]``.

    Args:
        points: z is up.
        amount: ``[N]`` in [0, 1], how much of each is coloured as hidden.
    """
    place = points.detach().cpu().double().numpy()
    place = place - (place.max(0) + place.min(0)) / 2
    place = place / max(float(np.linalg.norm(place, axis=1).max()), 1e-12)
    x, y, depth = _seen(place)
    share = np.zeros(len(place)) if amount is None else amount.detach().cpu().double().numpy()
    colour = (1 - share[:, None]) * np.array(SEEN) + share[:, None] * np.array(HIDDEN)
    shade = (0.85 + 0.15 * depth)[:, None].clip(0.7, 1)
    order = np.argsort(-depth, kind="stable")
    canvas, axes = _canvas()
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(-1.05, 1.05)
    axes.scatter(x[order], y[order], c=(colour * shade)[order].clip(0, 1), s=6, linewidths=0)
    return _pixels(canvas)


def poses(motion: Tensor, skeleton: Skeleton, amount: Tensor | None = None) -> Tensor:
    """Eight poses of a motion in two rows, one after the other, float32 ``[3, 2 POSE, 4 POSE]``.

    Args:
        motion: ``[L, J, 3]``, z up.
        skeleton: of its joints.
        amount: ``[L, J]`` in [0, 1], how much of each joint is coloured as hidden.
    """
    rows, columns = POSES
    when = evenly(len(motion), rows * columns)
    place = skeleton.placed(motion.detach().cpu().double())[when]
    share = torch.zeros(place.shape[:2], dtype=torch.double)
    if amount is not None:
        share[:, -motion.shape[1] :] = amount.detach().cpu().double()[when]
    place = place - place[:, :1] * place.new_tensor([1, 1, 0])
    x, y, _ = _seen(place.numpy())
    y = y - (y.max() + y.min()) / 2
    size = 2.1 * max(float(np.abs(x).max()), float(np.abs(y).max()), 1e-12)
    x = x + size * (np.arange(len(when)) % columns)[:, None]
    y = y - size * (np.arange(len(when)) // columns)[:, None]
    colour = (1 - share.numpy()[..., None]) * 0.75 * np.array(SEEN) + share.numpy()[..., None] * HIDDEN
    canvas, axes = _canvas(POSE * columns, POSE * rows)
    axes.set_xlim(-size / 2, size * (columns - 0.5))
    axes.set_ylim(-size * (rows - 0.5), size / 2)
    axes.set_aspect("equal")
    child, parent = ([bone[end] for bone in skeleton.drawn] for end in (0, 1))
    ends = np.stack([np.stack([x, y], -1)[:, child], np.stack([x, y], -1)[:, parent]], axis=2)
    axes.add_collection(LineCollection(list(ends.reshape(-1, 2, 2)), colors=colour[:, child].reshape(-1, 3)))
    axes.scatter(x.flatten(), y.flatten(), c=colour.reshape(-1, 3), s=4, linewidths=0)
    return _pixels(canvas)


def _seen(place: Array) -> tuple[Array, Array, Array]:
    """What is right, up and away as seen from above the front, of places ``[..., 3]``."""
    around, down = np.radians(30.0), np.radians(25.0)
    x = place[..., 0] * np.cos(around) + place[..., 1] * np.sin(around)
    away = -place[..., 0] * np.sin(around) + place[..., 1] * np.cos(around)
    y = place[..., 2] * np.cos(down) + away * np.sin(down)
    return x, y, away * np.cos(down) - place[..., 2] * np.sin(down)


def _canvas(width: int = SIDE, height: int = SIDE) -> tuple[FigureCanvasAgg, Axes]:
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return canvas, axes


def _pixels(canvas: FigureCanvasAgg) -> Tensor:
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def by_token(points: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor:
    """How much each point ``[N, 3]`` is hidden, ``[N]``: as much as the token whose centre is nearest."""
    centre = tokens.position[:, :, :3] * UNIT
    # tokens of fewer axes, pillars, are nearest in those
    place = torch.nn.functional.pad(points[None, :, : centre.shape[2]], (0, 3 - centre.shape[2]))
    centre = torch.nn.functional.pad(centre.to(place.dtype), (0, 3 - centre.shape[2]))
    _, index = nearest(place, centre, 1, tokens.valid)
    return hidden.to(place.dtype).flatten()[index.flatten()]
