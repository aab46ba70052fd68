"""The data set of motion: windows of skeletons that move, seen from their root, turned and mirrored."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polymask import Tokens
from polymask.data import FileDataset, Splits, read_some, span
from polymask.types import Count
from polymask_pointcloud.animation import Animation
from polymask_pointcloud.datasets.draw import poses
from polymask_pointcloud.skeleton import Skeleton, bone_lengths, moving

Array = npt.NDArray[np.float64]

_LOOK = 32


class Motions:
    """Windows of motion by number; sources are its subclasses.

    Attributes:
        skeleton: joints and bones, the root first.
        frames: of each window.
        rate: frames per second.
    """

    skeleton: Skeleton
    frames: int
    rate: float

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Name of a window in messages, and in the rule that divides train from test."""
        raise NotImplementedError

    def read(self, index: int) -> Array:
        """Places of the joints in metres, z up: ``[frames, joints, 3]``.

        Raises:
            BadSample: it is damaged.
        """
        raise NotImplementedError


class MotionDataset(FileDataset[Motions]):
    """What a reader of motion found, as samples ``{"motion": float32 [L, J, 3]}``, in metres, z up.

    Joints are seen from the root, which is left out, as the papers have it: the body moves in place.

    Args:
        found: what the reader found.
        root: have the root too, as the first joint: its way from where it is in the first frame.
        augment: ``"move"`` turns about z by any angle, and mirrors x and y with probability 0.5 each, in
            training; left and right limbs keep their names.
        limit: maximum number of windows per split.
    """

    key, what = "motion", "windows of motion"

    def __init__(
        self,
        found: Splits[Motions],
        /,
        *,
        root: bool = False,
        augment: Literal["none", "move"] = "none",
        limit: Count | None = None,
    ) -> None:
        super().__init__(found, limit=limit)
        source = found.train.source
        self.root, self.augment = root, augment
        self.skeleton = source.skeleton if root else source.skeleton.without_root()
        self.rate = source.rate
        self.provides: dict[str, Any] = {
            "frames": source.frames,
            "joints": len(self.skeleton.names),
            "parents": tuple(self.skeleton.parents),
            "rooted": root,
            "rate": source.rate,
            "samples": len(self.splits["train"]),
            "preparation": {"root": root, "frames": source.frames, "rate": source.rate},
        }

    def read(self, source: Motions, number: int, augment: bool) -> dict[str, Tensor]:
        place = torch.from_numpy(source.read(number))
        root = place[:, :1]
        seen = place[:, 1:] - root
        if self.root:
            seen = torch.cat([root - root[:1], seen], dim=1)
        if augment and self.augment == "move":
            seen = seen @ _turned_and_mirrored()
        return {self.key: seen.float()}

    def describe(self) -> dict[str, str]:
        """Frames, joints, bones and speed; reads a few windows."""
        train = self.splits["train"]
        some, bad = read_some(train, _LOOK, functools.partial(self.read, augment=False))
        frames, joints = train.source.frames, len(self.skeleton.names)
        lines = {
            "frames": f"{frames} at {self.rate:g} a second, {frames / self.rate:g} s",
            "joints": f"{joints}, {'the first is the root' if self.root else 'root left out'}",
        }
        if not some:
            return lines | bad
        motion = torch.stack([sample[self.key] for sample in some])
        lines["speed of joints"] = f"{float(moving(motion, self.rate).mean()):.3g} m/s on average"
        if self.skeleton.bones:
            lines["bones"] = f"{span(bone_lengths(motion, self.skeleton).flatten(), 3)} m"
        return lines | bad

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """Poses of the window side by side, hidden joints in colour: a picture ``[3, H, W]`` in [0, 1]."""
        motion, amount = sample[self.key], None
        if hidden is not None:
            amount = hidden.float().reshape(len(motion), -1).expand(motion.shape[:2])
        return poses(motion, self.skeleton, amount)

    def media(self, sample: Mapping[str, Tensor]) -> dict[str, Animation]:
        """The motion, to be played."""
        return {"motion": Animation({"motion": sample[self.key]}, self.skeleton, rate=self.rate)}

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What can be said of a motion without learning, ``[B, 4 J]``.

        Of each joint its mean height and distance from the z axis, the spread of its places and its speed.
        """
        motion = batch[self.key].float()
        away = motion[..., :2].norm(dim=-1)
        told = (
            *(motion[..., 2].mean(1), away.mean(1), motion.std(1).norm(dim=-1)),
            moving(motion, self.rate).mean(1),
        )
        return torch.cat(told, dim=1)


class Windows(Motions):
    """Windows in memory.

    Args:
        places: float32 ``[n, frames, joints, 3]``.
        names: of the windows.
        skeleton: joints and bones.
        rate: frames per second.
    """

    def __init__(
        self, places: npt.NDArray[Any], names: Sequence[str], skeleton: Skeleton, rate: float
    ) -> None:
        self.places, self.names, self.skeleton, self.rate = places, list(names), skeleton, rate
        self.frames = places.shape[1]

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Array:
        found: Array = self.places[index].astype(np.float64)
        return found


def _turned_and_mirrored() -> Tensor:
    """What rows of places are multiplied by, float64 ``[3, 3]``; from torch's generator."""
    angle, one, other = torch.rand(3, dtype=torch.float64).tolist()
    cos, sin = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
    x, y = (-1.0 if u < 0.5 else 1.0 for u in (one, other))
    rows = [[x * cos, y * sin, 0], [-x * sin, y * cos, 0], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)
