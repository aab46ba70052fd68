"""A U-Net over the rows of a plan (PDPP, after Janner et al. 2022, arXiv 2205.09991)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.nn.positions import sincos

LEVELS = (1, 2, 4)
"""Widths of the levels over that of the first."""


class Rows(nn.Module):
    """Two convolutions over three rows each, told a time, beside a shortcut."""

    def __init__(self, width: int, out: int, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(width, out, 3, padding=1), nn.Conv1d(out, out, 3, padding=1)
        self.norm_1, self.norm_2 = nn.GroupNorm(8, out), nn.GroupNorm(8, out)
        self.time = nn.Linear(dim, out)
        self.shortcut = nn.Identity() if width == out else nn.Conv1d(width, out, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """``[B, width, T]`` to ``[B, out, T]``."""
        y = F.mish(self.norm_1(self.first(x))) + self.time(F.mish(told))[..., None]
        out: Tensor = F.mish(self.norm_2(self.second(y))) + self.shortcut(x)
        return out


class Planner(nn.Module):
    """Predicts the steps of plans from their rows: widths rise and fall, the few rows stay as many.

    Args:
        width: numbers of a row.
        out: numbers to predict for each.
        dim: width of the first level, a multiple of 8.
    """

    def __init__(self, width: int, out: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.time = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
        widths = [width, *(dim * level for level in LEVELS)]
        self.down: Any = nn.ModuleList(
            nn.ModuleList([Rows(a, b, dim), Rows(b, b, dim)]) for a, b in pairwise(widths)
        )
        self.middle = nn.ModuleList([Rows(widths[-1], widths[-1], dim) for _ in range(2)])
        self.up: Any = nn.ModuleList(
            nn.ModuleList([Rows(2 * b, a, dim), Rows(a, a, dim)])
            for a, b in zip(widths[1:-1][::-1], widths[2:][::-1], strict=True)
        )
        self.head = nn.Sequential(
            nn.Conv1d(dim, dim, 3, padding=1), nn.GroupNorm(8, dim), nn.Mish(), nn.Conv1d(dim, out, 1)
        )

    def features(self, rows: Tensor, time: Tensor) -> Tensor:
        """``[B, T, width]`` at times ``[B]`` to ``[B, T, dim]``, what the head reads."""
        told = self.time(sincos(time[:, None].float(), self.dim))
        x, skips = rows.transpose(1, 2), list[Tensor]()
        for one, two in self.down:
            x = two(one(x, told), told)
            skips.append(x)
        for block in self.middle:
            x = block(x, told)
        for (one, two), skip in zip(self.up, skips[:0:-1], strict=True):
            x = two(one(torch.cat([x, skip], dim=1), told), told)
        return x.transpose(1, 2)

    def forward(self, rows: Tensor, time: Tensor) -> Tensor:
        """``[B, T, width]`` at times ``[B]`` to ``[B, T, out]``."""
        out: Tensor = self.head(self.features(rows, time).transpose(1, 2)).transpose(1, 2)
        return out
