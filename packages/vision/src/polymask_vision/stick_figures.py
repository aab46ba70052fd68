"""Stick figures as pictures: people of whom joints are known, drawn as soft lines and a disc for the head."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask_vision.poses import LIMBS

HEAD, SHOULDERS, HIPS = [0, 3, 4], [5, 6], [11, 12]
THICK, TRUNK = 0.12, 0.15
"""Half of the thickness of a limb, in lengths of the trunk as it is seen; that of who shows none."""

HIDDEN, VISIBLE, GROUND, EDGE, SIDE = (0.85, 0.25, 0.1), (0.35, 0.75, 0.95), 0.12, 0.3, 64
"""Colours and size of frames of a storyboard."""


def draw(
    joints: Tensor,
    shown: Tensor,
    depth: Tensor,
    colours: Tensor,
    ground: Tensor,
) -> Tensor:
    """Frames with figures drawn over a ground, those far away first.

    Args:
        joints: float ``[F, P, 17, 2]``, in sides of the frame.
        shown: bool ``[F, P, 17]``; a limb is drawn where both ends are shown.
        depth: float ``[F, P]``, distance from the camera.
        colours: float ``[F, P, 3]`` in [0, 1].
        ground: float ``[F, 3, H, W]`` in [0, 1].

    Returns:
        float ``[F, 3, H, W]`` in [0, 1].
    """
    height, width = ground.shape[-2:]
    x = ((torch.arange(width) + 0.5) / width).view(1, width)
    y = ((torch.arange(height) + 0.5) / height).view(height, 1)

    def ends(which: int) -> tuple[Tensor, Tensor]:
        places = joints[:, :, [pair[which] for pair in LIMBS], None, None]
        return places[..., 0], places[..., 1]

    # squared distance of each pixel from each line, [F, P, limbs, H, W], in as few passes as it takes
    (one_x, one_y), (other_x, other_y) = ends(0), ends(1)
    along_x, along_y = other_x - one_x, other_y - one_y
    length = (along_x.square() + along_y.square()).clamp(min=1e-9)
    share = (x - one_x) * (along_x / length) + (y - one_y) * (along_y / length)
    share.clamp_(0, 1)
    square = (x - one_x - share * along_x).square_() + (y - one_y - share.mul_(along_y)).square_()
    both = shown[:, :, [a for a, _ in LIMBS]] & shown[:, :, [b for _, b in LIMBS]]
    limbs = square.masked_fill_(~both[..., None, None], torch.inf).amin(2).sqrt()
    (above, upper), (below, lower), (middle, faces) = (
        _middle(joints[:, :, part], shown[:, :, part]) for part in (SHOULDERS, HIPS, HEAD)
    )
    trunk = torch.where(upper & lower, (above - below).norm(dim=-1), TRUNK)
    half = (THICK * trunk).clamp(0.004, 0.1)[..., None, None]
    middle = middle[..., None, None, :]
    head = ((x - middle[..., 0]).square() + (y - middle[..., 1]).square()).sqrt() - 1.2 * half
    head = head.masked_fill(~faces[..., None, None], torch.inf)
    cover = (0.5 - torch.minimum(limbs - half, head) * max(height, width)).clamp(0, 1)
    cover = cover.flatten(2)
    order = depth.argsort(dim=1, descending=True)
    frame, picture = torch.arange(len(joints)), ground.flatten(2)
    for rank in range(joints.shape[1]):
        who = order[:, rank]
        alpha = cover[frame, who][:, None]
        picture = torch.lerp(picture, colours[frame, who][..., None].expand_as(picture), alpha)
    return picture.view(-1, 3, height, width)


def storyboards(pose: Tensor, seen: Tensor, amount: Tensor | None = None, views: int = 0) -> Tensor:
    """Persons of several cameras and times as pictures: a row for each camera, times side by side.

    Args:
        pose: ``[B, V, T, P, 17, 2]``, in sides of the frame.
        seen: bool ``[B, V, T, P, 17]``, what to draw.
        amount: ``[B, V, T, P]`` in [0, 1], how much of the second colour a person has; none by default.
        views: rows at least; those without a camera stay empty.

    Returns:
        float ``[B, 3, V * SIDE, T * SIDE]`` on the CPU, in [0, 1].
    """
    b, v, t, persons = pose.shape[:4]
    share = torch.zeros(b, v, t, persons) if amount is None else amount.float().cpu()
    colours = torch.lerp(torch.tensor(VISIBLE), torch.tensor(HIDDEN), share[..., None])
    ground = torch.full((b * v * t, 3, SIDE, SIDE), GROUND)
    ground[..., 0] = EDGE
    far = torch.zeros(b * v * t, persons)
    joints, shown = (x.detach().cpu().flatten(0, 2) for x in (pose.float(), seen))
    frames = draw(joints, shown, far, colours.flatten(0, 2), ground).view(b, v, t, 3, SIDE, SIDE)
    rows = frames.permute(0, 3, 1, 4, 2, 5).reshape(b, 3, v * SIDE, t * SIDE)
    blank = torch.full((b, 3, max(views - v, 0) * SIDE, t * SIDE), GROUND)
    return torch.cat([rows, blank], dim=2)


def _middle(joints: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of those joints that are shown, ``[F, P, 2]``, and whether any is, bool ``[F, P]``."""
    total = torch.where(shown[..., None], joints, 0).sum(2)
    return total / shown.sum(2, keepdim=True).clamp(min=1), shown.any(2)
