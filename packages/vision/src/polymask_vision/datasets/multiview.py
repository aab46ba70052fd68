"""The data set of people filmed by several cameras: the clip of each, and the poses that were found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polymask import Tokens
from polymask.data import FileDataset, SplitName, Splits
from polymask.report.player import Player
from polymask.types import Count
from polymask_vision.datasets.camera_poses import PERSONS, VIEWS, Rooms
from polymask_vision.poses import JOINTS, MIRRORED, SEEN, Figures, Poses
from polymask_vision.stick_figures import storyboards

KEPT = 2**30
"""Bytes of video that are kept in memory at most."""


class MultiViewDataset(FileDataset[Rooms]):
    """Windows of a room seen by V cameras, about which nothing is known.

    Samples are ``{"video": float32 [V, T, 3, H, W], "pose": float32 [V, T, P, 17, 2], "pose_seen": int64
    [V, T, P, 17]}``: clips, normalised; joints of COCO in sides of the frame, x to the right and y down, 0
    where they are not seen; and whether they are. Samples may differ in V.

    Args:
        found: what the reader found.
        size: height and width of a frame, or one number for both.
        views: cameras of a window, at most; 1 for a single view.
        mean: per channel, of values in [0, 1].
        std: standard deviation per channel.
        augment: ``"flip"`` mirrors all views of half of the windows in training, clips and poses alike: what
            was a left joint is a right one then.
        limit: maximum number of windows per split.
    """

    key, what = Poses.key, "windows"

    def __init__(
        self,
        found: Splits[Rooms],
        /,
        *,
        size: Count | Sequence[Count] = 32,
        views: Count = VIEWS,
        mean: Sequence[float] = (0.22, 0.22, 0.22),
        std: Sequence[float] = (0.17, 0.17, 0.17),
        augment: Literal["none", "flip"] = "none",
        limit: Count | None = None,
    ) -> None:
        super().__init__(found, limit=limit)
        height, width = (size, size) if isinstance(size, int) else size
        self.size, self.views, self.augment = (height, width), min(views, VIEWS), augment
        self.mean, self.std = (torch.tensor(x).view(-1, 1, 1) for x in (mean, std))
        frames = found.train.source.frames
        self.provides: dict[str, Any] = {
            "size": self.size,
            "channels": 3,
            "mean": tuple(mean),
            "std": tuple(std),
            "frames": frames,
            "persons": PERSONS,
            "joints": len(JOINTS),
            "views": self.views,
            "samples": len(self.splits["train"]),
            "preparation": {"size": self.size, "views": self.views, "mean": tuple(mean), "std": tuple(std)},
        }
        self._kept, self._most = dict[int, Tensor](), KEPT // (self.views * frames * 3 * height * width)

    def read(self, source: Rooms, number: int, augment: bool) -> dict[str, Tensor]:
        pose, seen = source.poses(number, self.views)
        video = self._kept.get(number)
        if video is None:
            video = (255 * source.video(number, self.views, self.size)).round().to(torch.uint8)
            if len(self._kept) < self._most:
                self._kept[number] = video
        clip = (video.float() / 255 - self.mean) / self.std
        if augment and self.augment == "flip" and bool(torch.rand(()) < 0.5):
            clip, seen = clip.flip(-1), seen[..., list(MIRRORED)]
            pose = mirrored(pose, seen)
        return {"video": clip, self.key: pose, SEEN: seen.long()}

    def lengths(self, name: SplitName) -> Tensor | None:
        """How many views each sample has; None where all have as many."""
        split = self.splits[name]
        views = split.source.views[split.index].clamp(max=self.views)
        return views if bool((views != views[0]).any()) else None

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What can be said of poses without learning, ``[B, 102]``.

        Of each joint its mean place in the box of its person, how that spreads and how it changes in time,
        over views, times and persons, where it is seen.
        """
        figures = Figures.of(batch)
        joints, seen = figures.joints, figures.seen[..., None]
        both = seen[:, :, 1:] & seen[:, :, :-1]
        mean = _mean(joints, seen)
        spread = _mean((joints - mean[:, None, None, None]).square(), seen).sqrt()
        return torch.cat([mean, spread, _mean(joints.diff(dim=2).abs(), both)], dim=-1).flatten(1)

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """Poses as a picture ``[3, H, W]`` in [0, 1]: a row for each camera, times side by side.

        Persons that are hidden, or of whom most joints are, have another colour.
        """
        pose = sample[self.key]
        amount = torch.zeros(pose.shape[:3])
        if tokens is not None and hidden is not None:
            view, time, person = tokens.position[0, :, :3].long().unbind(-1)
            count = torch.zeros_like(amount).index_put_((view, time, person), torch.ones(()), accumulate=True)
            amount.index_put_((view, time, person), hidden.float(), accumulate=True)
            amount = amount / count.clamp(min=1)
        return storyboards(pose[None], sample[SEEN][None] > 0, amount[None], self.views)[0]

    def media(self, sample: Mapping[str, Tensor]) -> dict[str, Player]:
        """The clips, side by side, to be played."""
        video = self.to_image(sample["video"])
        rate = self.splits["train"].source.rate
        return {"cameras": Player(torch.cat(list(video), dim=-1), rate=rate, note="Clips side by side.")}

    def to_image(self, x: Tensor) -> Tensor:
        """Frames ``[..., 3, H, W]`` in [0, 1]."""
        return (x * self.std + self.mean).clamp(0, 1)

    def describe(self) -> dict[str, str]:
        """Cameras, people and frames; reads a few windows."""
        source, split = self.splits["train"].source, self.splits["train"]
        some = [self.read(source, number, False) for number in split.take(16).index.tolist()]
        seen = torch.cat([sample[SEEN].flatten(0, 2) for sample in some])
        video = torch.cat([sample["video"].flatten() for sample in some])
        there = seen.any(-1)
        return {
            "synthetic": source.about,
            "views": f"2 to {VIEWS} cameras, at most {self.views} of them",
            "size": f"{source.frames} frames of {self.size[0]} x {self.size[1]} pixels",
            "frames": f"{source.rate:g} a second",
            "people": f"found in {float(there.float().mean()):.0%} of {PERSONS} places, "
            f"{float(seen[there].float().mean()):.0%} of their joints",
            "normalised": f"mean {video.mean():.2f}, standard deviation {video.std():.2f}",
        }


def mirrored(pose: Tensor, seen: Tensor) -> Tensor:
    """Joints in a mirror, ``[..., 17, 2]``: x from the other side, left joints in the place of right ones.

    Args:
        pose: ``[..., 17, 2]``.
        seen: bool ``[..., 17]``, of the mirrored joints; others are 0.
    """
    turned = pose[..., list(MIRRORED), :] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    return torch.where(seen[..., None], turned, 0)


def _mean(x: Tensor, real: Tensor) -> Tensor:
    """Over views, times and persons, ``[B, 17, 2]``."""
    total = torch.where(real, x, 0).sum((1, 2, 3))
    return total / real.sum((1, 2, 3)).clamp(min=1)
