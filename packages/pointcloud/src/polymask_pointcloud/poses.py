"""A motion as tokens: its frames, or each joint of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from polymask import Batch, Tokens
from polymask.nn.positions import coordinates
from polymask.types import Count, Fact


class Poses:
    """Frames of a motion, or joints of frames, as tokens.

    Args:
        each: what a token is: ``"joint"``, 3 numbers on a grid of frames and joints, or ``"frame"``, the 3 J
            numbers of a pose.
        frames: of a sample, from the data.
        joints: of a frame, from the data.
    """

    key = "motion"

    def __init__(
        self,
        *,
        each: Literal["joint", "frame"] = "joint",
        frames: Fact[Count] = 20,
        joints: Fact[Count] = 6,
    ) -> None:
        self.frames, self.joints = frames, joints
        self.grid: tuple[int, ...] = (frames, joints) if each == "joint" else (frames,)

    @property
    def provides(self) -> dict[str, Any]:
        width = 3 if len(self.grid) == 2 else 3 * self.joints
        return {"in_dim": width, "grid": self.grid, "frames": self.frames, "joints": self.joints}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        motion = batch[self.key]
        place = coordinates(self.grid).to(motion.device)
        values = motion.reshape(len(motion), len(place), -1)
        return Tokens(values, place.expand(len(motion), -1, -1), self.grid)

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` back to a motion ``[B, frames, joints, 3]``."""
        return values.reshape(len(values), self.frames, self.joints, 3)

    def example(self, n: int, seed: int = 0) -> Batch:
        """Joints that swing about random places: ``[n, frames, joints, 3]``."""
        generator = torch.Generator().manual_seed(seed)
        place, swing, phase = torch.rand(3, n, 1, self.joints, 3, generator=generator) - 0.5
        time = torch.arange(self.frames)[:, None, None] / self.frames
        return {self.key: place + swing * torch.sin(6 * (time + phase))}
