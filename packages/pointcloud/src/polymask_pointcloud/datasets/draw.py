"""A cloud as a picture."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from polymask import Tokens
from polymask_pointcloud.operations import nearest
from polymask_pointcloud.tokenizers import UNIT

SIDE = 200
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
    around, down = np.radians(30.0), np.radians(25.0)
    x = place[:, 0] * np.cos(around) + place[:, 1] * np.sin(around)
    away = -place[:, 0] * np.sin(around) + place[:, 1] * np.cos(around)
    y = place[:, 2] * np.cos(down) + away * np.sin(down)
    depth = away * np.cos(down) - place[:, 2] * np.sin(down)
    share = np.zeros(len(place)) if amount is None else amount.detach().cpu().double().numpy()
    colour = (1 - share[:, None]) * np.array(SEEN) + share[:, None] * np.array(HIDDEN)
    shade = (0.85 + 0.15 * depth)[:, None].clip(0.7, 1)
    order = np.argsort(-depth, kind="stable")
    figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(-1.05, 1.05)
    axes.scatter(x[order], y[order], c=(colour * shade)[order].clip(0, 1), s=6, linewidths=0)
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
