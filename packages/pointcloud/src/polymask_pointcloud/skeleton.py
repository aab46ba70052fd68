"""Joints and the bones between them, and what tells whether something moves like one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Skeleton:
    """What the places of a window are.

    Args:
        names: of the joints.
        parents: the number of each joint's parent, -1 for one that hangs on no other; empty where bones are
            not known.
        feet: numbers of the joints that stand on the ground.
        rooted: whether the first joint is the root, of which the others are seen from.
    """

    names: Sequence[str]
    parents: Sequence[int] = ()
    feet: Sequence[int] = ()
    rooted: bool = True

    @property
    def bones(self) -> list[tuple[int, int]]:
        """Pairs of a joint and its parent, but for those that hang on the root."""
        return [(i, p) for i, p in enumerate(self.parents) if p >= int(self.rooted)]

    @property
    def limbs(self) -> list[int]:
        """Joints that hang on the root."""
        return [i for i, p in enumerate(self.parents) if p == int(self.rooted) - 1]

    def placed(self, motion: Tensor) -> Tensor:
        """Places of the root and all other joints: ``[..., L, J, 3]`` to ``[..., L, joints with root, 3]``.

        Args:
            motion: joints as seen from the root, the way of the root first if the skeleton has it.
        """
        if not self.rooted:
            return F.pad(motion, (0, 0, 1, 0))
        return torch.cat([motion[..., :1, :], motion[..., 1:, :] + motion[..., :1, :]], dim=-2)

    @property
    def drawn(self) -> list[tuple[int, int]]:
        """Bones with those that hang on the root, by the numbers of :meth:`placed`."""
        ahead = int(not self.rooted)
        return [(i + ahead, p + ahead) for i, p in enumerate(self.parents) if p + ahead >= 0]

    def without_root(self) -> Skeleton:
        """The same without its first joint, in whose place the origin is."""
        return Skeleton(
            self.names[1:],
            [p - 1 for p in self.parents[1:]],
            [i - 1 for i in self.feet if i],
            rooted=False,
        )


def bone_lengths(motion: Tensor, skeleton: Skeleton) -> Tensor:
    """Length of each bone, those from the root last: ``[..., L, J, 3]`` to ``[..., L, bones]``."""
    bones = skeleton.bones
    one, other = [i for i, _ in bones], [p for _, p in bones]
    between = (motion[..., one, :] - motion[..., other, :]).norm(dim=-1)
    return torch.cat([between, motion[..., skeleton.limbs, :].norm(dim=-1)], dim=-1)


def moving(motion: Tensor, rate: float) -> Tensor:
    """Speed of each joint between frames: ``[..., L, J, 3]`` to ``[..., L - 1, J]``, metres a second."""
    speed: Tensor = motion.diff(dim=-3).norm(dim=-1) * rate
    return speed


def skating(motion: Tensor, skeleton: Skeleton, rate: float, near: float = 0.03) -> Tensor:
    """How fast feet slide over the ground while they stand on it, metres a second: ``[...]``.

    A foot stands between two frames in which it is within ``near`` metres of the lowest place of any foot
    of the motion. 0 where none does.

    Args:
        motion: ``[..., L, J, 3]``, with its root.
        skeleton: whose first joint is the root, and which has feet.
        rate: frames per second.
        near: in metres.
    """
    feet = motion[..., list(skeleton.feet), :] + motion[..., :1, :]
    height = feet[..., 2]
    stands = height - height.amin(dim=(-2, -1), keepdim=True) < near
    stands = stands[..., 1:, :] & stands[..., :-1, :]
    slide = feet[..., :2].diff(dim=-3).norm(dim=-1) * rate
    return torch.where(stands, slide, 0).sum((-2, -1)) / stands.sum((-2, -1)).clamp(min=1)
