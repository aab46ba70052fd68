"""People seen by several cameras as tokens: each person at each time, or each joint of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from polymask import Batch, Tokens
from polymask.nn.positions import coordinates
from polymask.types import Count, Fact

JOINTS = (
    *("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder"),
    *("left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip"),
    *("left knee", "right knee", "left ankle", "right ankle"),
)
"""Those of COCO, in its order."""

LIMBS = (
    *((5, 7), (7, 9), (6, 8), (8, 10), (5, 6), (5, 11), (6, 12), (11, 12)),
    *((11, 13), (13, 15), (12, 14), (14, 16), (0, 5), (0, 6)),
)
"""Pairs of joints that a line is drawn between."""

MIRRORED = tuple(
    JOINTS.index(name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right"))
    for name in JOINTS
)
"""The joint that each one is in a mirror."""

SEEN = "pose_seen"
"""Entry of a batch beside ``pose``: int64 ``[..., joints]``, 1 where a detector found the joint."""

LEAST = 0.01
"""Side of a box at least, in sides of the frame."""


@dataclass(frozen=True, eq=False)
class Figures:
    """Persons, each in a square box around the joints that are seen of it.

    Args:
        joints: float ``[..., joints, 2]``, from -0.5 to 0.5 in the box, x to the right and y down; 0 where
            they are not seen.
        seen: bool ``[..., joints]``.
        centre: float ``[..., 2]``, of the box, in sides of the frame.
        side: float ``[..., 1]``, of the box, in sides of the frame.
    """

    joints: Tensor
    seen: Tensor
    centre: Tensor
    side: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> Figures:
        """Persons of ``pose``, float ``[..., joints, 2]``, and :data:`SEEN`, without which all are seen."""
        pose = batch[Poses.key]
        seen = batch[SEEN] > 0 if SEEN in batch else torch.ones_like(pose[..., 0], dtype=torch.bool)
        low = torch.where(seen[..., None], pose, torch.inf).amin(-2, keepdim=True)
        high = torch.where(seen[..., None], pose, -torch.inf).amax(-2, keepdim=True)
        there = seen.any(-1)[..., None, None]
        low, high = torch.where(there, low, 0), torch.where(there, high, 0)
        centre, side = (low + high) / 2, (high - low).amax(-1, keepdim=True).clamp(min=LEAST)
        joints = torch.where(seen[..., None], (pose - centre) / side, 0)
        return cls(joints, seen, centre[..., 0, :], side[..., 0, :])

    @property
    def box(self) -> Tensor:
        """Centre and side as an input, ``[..., 3]``: about 0, and of a size about 1; 0 where nobody is."""
        there = self.seen.any(-1, keepdim=True)
        return torch.where(there, torch.cat([2 * self.centre - 1, 2 * self.side - 1], dim=-1), 0)

    def placed(self, joints: Tensor) -> Tensor:
        """Joints in these boxes, back in sides of the frame."""
        return joints * self.side[..., None, :] + self.centre[..., None, :]


class Poses:
    """Persons at times, or their joints, in the order view, time, person, joint.

    A person is what is seen of its joints in its box, 2 numbers each, and whether each is seen; a joint is
    2 numbers. Who is not seen is padding.

    Args:
        each: what a token is: ``"person"`` or ``"joint"``.
        box: add the centre and the side of a person's box, without which it is unknown where people are.
        persons: places for persons in a frame, from the data.
        joints: of a person, from the data.
        frames: of a window, from the data.
        views: cameras at most, from the data.
    """

    key = "pose"

    def __init__(
        self,
        *,
        each: Literal["person", "joint"] = "person",
        box: bool = True,
        persons: Fact[Count] = 3,
        joints: Fact[Count] = 17,
        frames: Fact[Count] = 8,
        views: Fact[Count] = 3,
    ) -> None:
        self.each, self.box = each, box
        self.persons, self.joints, self.frames, self.views = persons, joints, frames, views

    @property
    def provides(self) -> dict[str, Any]:
        width = 2 if self.each == "joint" else 3 * self.joints + 3 * self.box
        shape = {"persons": self.persons, "joints": self.joints, "frames": self.frames, "views": self.views}
        return {"in_dim": width, "grid": None, **shape}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``pose`` float ``[B, V, T, P, joints, 2]`` and :data:`SEEN` to tokens ``[B, N, D]``."""
        figures = Figures.of(batch)
        shape = figures.seen.shape[1:-1]
        if self.each == "joint":
            values, valid, shape = figures.joints, figures.seen, figures.seen.shape[1:]
        else:
            values, valid = features(figures, self.box), figures.seen.any(-1)
        place = coordinates(tuple(shape)).to(values.device)
        return Tokens(
            values.reshape(len(values), len(place), -1),
            place.expand(len(values), -1, -1),
            valid=valid.flatten(1),
        )

    def example(self, n: int, seed: int = 0) -> Batch:
        """Joints at random places, some of them unseen, and the second person missing at times."""
        generator = torch.Generator().manual_seed(seed)
        shape = (n, self.views, self.frames, self.persons, self.joints)
        seen = torch.rand(shape, generator=generator) < 0.9
        there = torch.rand(shape[:-1], generator=generator) < 0.7
        there[..., 0] = True
        pose = torch.rand(*shape, 2, generator=generator)
        return {self.key: pose, SEEN: (seen & there[..., None]).long()}


def features(figures: Figures, box: bool) -> Tensor:
    """Persons as vectors, ``[..., 3 joints (+ 3)]``: places of joints, whether each is seen, and boxes."""
    parts = [figures.joints.flatten(-2), figures.seen.to(figures.joints.dtype)]
    return torch.cat([*parts, figures.box] if box else parts, dim=-1)
