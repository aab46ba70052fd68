"""Two views of a cloud: moved, shaken and cut out, each in a way that can be undone.

Which places of two views are the same is then known exactly: what moves a view is one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymask import Batch, Step, UserError, sample_ids
from polymask.data import length_key, valid_of
from polymask_pointcloud.datasets.raw import FEATURES

STREAM = 1 << 16
"""Draws of views are told apart from those of masks, which have low streams."""


@dataclass(frozen=True, eq=False)
class Motion:
    """What moved each cloud of a batch.

    Args:
        matrix: float64 ``[B, 3, 3]``, invertible.
    """

    matrix: Tensor

    def move(self, place: Tensor, sample: Tensor) -> Tensor:
        """Places ``[M, 3]`` of clouds ``[M]`` to where the view has them, float64."""
        return torch.einsum("mij,mj->mi", self.matrix[sample], place.double())

    def undo(self, place: Tensor, sample: Tensor) -> Tensor:
        """Places in the view to where they came from, float64; what shaking did stays."""
        return torch.einsum("mij,mj->mi", torch.linalg.inv(self.matrix)[sample], place.double())


class Views:
    """Draws views of clouds: a pure function of step, sample and view.

    The recipe of Masked Scene Contrast (Wu et al. 2023, arXiv 2303.14191) as far as it concerns places.

    Args:
        features: names of what stands beside the place of a point; normals turn with the cloud.
        turn: largest angle about z, in radians.
        tilt: largest angle about x, and about y, in radians.
        flip: probability of mirroring x, and of mirroring y.
        scale: range of the factor.
        jitter: standard deviation of what shakes each coordinate, in units of the cloud after scaling.
        crop: share of the points of each cloud that a view keeps: those nearest to a random one.
    """

    def __init__(
        self,
        *,
        features: Sequence[str] = (),
        turn: float = math.pi,
        tilt: float = math.pi / 64,
        flip: float = 0.5,
        scale: Sequence[float] = (0.9, 1.1),
        jitter: float = 0.005,
        crop: float = 1.0,
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] or not 0 <= flip <= 1:
            raise UserError(f"scale={tuple(scale)}, flip={flip}: give a range above 0, and a probability")
        if not 0 < crop <= 1 or jitter < 0:
            raise UserError(f"crop={crop}, jitter={jitter}: give a share in (0, 1], and 0 or more")
        self.turn, self.tilt, self.flip, self.jitter, self.crop = turn, tilt, flip, jitter, crop
        self.scale = (float(scale[0]), float(scale[1]))
        self.normals: int | None = None
        if "normals" in features:
            before = list(features)[: list(features).index("normals")]
            self.normals = 3 + sum(FEATURES[name] for name in before)

    def __call__(self, batch: Batch, step: Step, view: int, key: str = "points") -> tuple[Batch, Motion]:
        """A view of each cloud.

        Args:
            batch: clouds ``[B, N, 3 + F]`` under ``key``, with their lengths where they are padded.
            step: the source of chance.
            view: its number; another draws another.
            key: entry of the batch.
        """
        points, ids, stream = batch[key], sample_ids(batch), STREAM + 3 * view
        n = points.shape[1]
        motion = Motion(self.matrix(step.noise(ids, 6, stream).double()))
        # in float64, which autocast leaves alone
        turned = motion.matrix.transpose(1, 2)
        place = (points[..., :3].double() @ turned).to(points.dtype)
        if self.jitter:
            place = place + self.jitter * step.normal(ids, 3 * n, stream + 1).view(-1, n, 3)
        rest = points[..., 3:]
        if self.normals is not None:
            i = self.normals - 3
            facing = torch.nn.functional.normalize(rest[..., i : i + 3].double() @ turned, dim=-1)
            rest = torch.cat([rest[..., :i], facing.to(rest.dtype), rest[..., i + 3 :]], dim=-1)
        moved = {**batch, key: torch.cat([place, rest], dim=-1)}
        return (moved if self.crop == 1 else self.cut(moved, points, step, stream + 2, key)), motion

    def matrix(self, noise: Tensor) -> Tensor:
        """Matrices ``[B, 3, 3]`` for six uniform numbers each."""
        z, x, y = (2 * noise[:, :3] - 1).mul(noise.new_tensor([self.turn, self.tilt, self.tilt])).unbind(1)
        mirror = 1 - 2 * (noise[:, 3:5] < self.flip).to(noise.dtype)
        low, high = self.scale
        factor = low + (high - low) * noise[:, 5]
        mirrored = torch.diag_embed(torch.cat([mirror, torch.ones_like(mirror[:, :1])], dim=1))
        return factor[:, None, None] * (_about(2, z) @ _about(1, y) @ _about(0, x) @ mirrored)

    def cut(self, moved: Batch, points: Tensor, step: Step, stream: int, key: str) -> Batch:
        """The points of each cloud that are nearest to one of them."""
        b, n = points.shape[:2]
        real = valid_of(moved, key)
        length = points.new_full((b,), n, dtype=torch.long) if real is None else real.sum(1)
        chosen = (step.noise(sample_ids(moved), 1, stream)[:, 0].double() * length).long()
        centre = points[torch.arange(b, device=points.device), chosen, :3]
        distance = (points[..., :3] - centre[:, None]).square().sum(-1)
        if real is not None:
            distance = distance.masked_fill(~real, torch.inf)
        kept = (self.crop * length).round().long().clamp(min=1)
        most = max(round(self.crop * n), 1)
        order = distance.argsort(dim=1, stable=True)[:, :most]
        cut = moved[key].gather(1, order[..., None].expand(-1, -1, points.shape[2]))
        inside = torch.arange(most, device=order.device) < kept[:, None]
        return {**moved, key: torch.where(inside[..., None], cut, 0.0), length_key(key): kept.clamp(max=most)}


def _about(axis: int, angle: Tensor) -> Tensor:
    """Turns about an axis, ``[B, 3, 3]``."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        0: (one, zero, zero, zero, c, -s, zero, s, c),
        1: (c, zero, s, zero, one, zero, -s, zero, c),
        2: (c, -s, zero, s, c, zero, zero, zero, one),
    }
    return torch.stack(rows[axis], dim=-1).view(*angle.shape, 3, 3)
