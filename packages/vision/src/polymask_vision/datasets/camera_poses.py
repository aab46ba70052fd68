"""People who walk, reach and hand things over, seen by cameras: made up, with nothing to fetch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Step
from polymask.data import Split, Splits
from polymask.types import Count, NotNegative, Share
from polymask_vision.poses import JOINTS
from polymask_vision.stick_figures import draw

MADE_UP = "stick figures that move by rule, not recorded"
ACTIVITIES = ("idle", "walk", "reach", "hand over")
PERSONS, VIEWS = 3, 3
SECONDS = 2.0
BODY, ROOM, EYES, MISSING, SHADES, NOISE = range(6)
"""Streams of chance."""


def camera_poses(
    *,
    windows: Count = 1600,
    test_windows: Count = 400,
    frames: Count = 8,
    cameras: Count = 8,
    noise: NotNegative = 0.01,
    missing: Share = 0.1,
) -> Splits[Rooms]:
    """Windows of two seconds of two or three stick figures, seen by two or three cameras: synthetic.

    People stand, walk, reach out, or hand something over: what one or two of them do, while the others
    stand, is the class. Bodies of 17 joints move by rule, and who they are, where they stand, when and how
    far they move is drawn for each window. Cameras look at the room from all sides; test windows are seen by
    cameras of their own. Video is drawn from the same limbs, at low resolution. Nothing of it is measured,
    and what is learned of it says nothing about real rooms.

    Poses are as of a detector: with noise, without some joints and without some persons; who is which person
    differs from camera to camera, and stays the same in time.

    Args:
        windows: to train on.
        test_windows: to hold out.
        frames: of a window.
        cameras: there are so many to train by, and as many others to test by.
        noise: standard deviation of joints, in sides of the frame.
        missing: share of joints that a detector misses, and of persons.
    """
    number = torch.arange(windows + test_windows)
    activity, train = number % len(ACTIVITIES), number < windows
    body, third = bodies(number, activity, frames)
    source = Rooms(body, third, frames / SECONDS, MADE_UP, train, cameras, noise, missing)
    return Splits(
        train=Split(source, number[train], activity[train]),
        test=Split(source, number[~train], activity[~train]),
        classes=ACTIVITIES,
    )


class Rooms:
    """Windows by number: what cameras see is made at once, video when it is asked for.

    Args:
        body: joints in metres, z up, float32 ``[n, T, P, 17, 3]``.
        third: whether the last person is there, bool ``[n]``.
        rate: frames per second.
        about: what of it is recorded, for reports.
        train: which windows the first cameras see, bool ``[n]``; others see the rest.
        cameras: of each kind.
        noise: of joints, in sides of the frame.
        missing: share of joints and of persons.
    """

    def __init__(
        self,
        body: Tensor,
        third: Tensor,
        rate: float,
        about: str,
        train: Tensor,
        cameras: int,
        noise: float,
        missing: float,
    ) -> None:
        self.rate, self.about = rate, about
        (n, self.frames), step = body.shape[:2], Step()
        ids = torch.arange(n)
        room = step.noise(ids, 2 + VIEWS + VIEWS * PERSONS, ROOM)
        self.views = 2 + (room[:, 0] < 0.5).long()
        # different cameras of a window, of those that its split has
        number = step.noise(ids, cameras, ROOM + 100).argsort(1)[:, torch.arange(VIEWS) % cameras]
        number = number + cameras * ~train[:, None]
        self.clean, self.depth = project(body, number)
        there = torch.ones(n, 1, 1, PERSONS, dtype=torch.bool).repeat(1, VIEWS, self.frames, 1)
        there[..., 2] = third[:, None, None]
        self.there = there
        shape = (n, VIEWS, self.frames, PERSONS, len(JOINTS))
        self.pose = self.clean + noise * step.normal(ids, math.prod(shape[1:]) * 2, NOISE).view(*shape, 2)
        found = step.noise(ids, math.prod(shape[1:]), MISSING).view(shape) >= missing
        met = step.noise(ids, math.prod(shape[1:-1]), MISSING + 100).view(shape[:-1]) >= missing
        inside = ((self.clean > 0) & (self.clean < 1)).all(-1)
        self.seen = found & inside & (there & met)[..., None]
        # a camera has an order of persons of its own
        self.order = room[:, -VIEWS * PERSONS :].view(n, VIEWS, PERSONS).argsort(-1)
        shades = step.noise(ids, 3 * PERSONS + 2 * VIEWS, SHADES)
        self.colours = 0.3 + 0.7 * shades[:, : 3 * PERSONS].view(n, PERSONS, 3)
        self.grounds = 0.35 * shades[:, 3 * PERSONS :].view(n, VIEWS, 2)

    def __len__(self) -> int:
        return len(self.views)

    def name(self, index: int) -> str:
        return f"window {index}"

    def poses(self, index: int, views: int) -> tuple[Tensor, Tensor]:
        """What a detector finds in what the first ``views`` cameras see, or all if there are fewer.

        Returns:
            Joints float ``[V, T, P, 17, 2]`` in sides of the frame, 0 where not seen; and whether they are
            seen, bool ``[V, T, P, 17]``.
        """
        v = min(int(self.views[index]), views)
        order = self.order[index, :v, None, :, None].expand(-1, self.frames, -1, len(JOINTS))
        seen = self.seen[index, :v].gather(2, order)
        pose = self.pose[index, :v].gather(2, order[..., None].expand(*order.shape, 2))
        return torch.where(seen[..., None], pose, 0), seen

    def video(self, index: int, views: int, size: Sequence[int]) -> Tensor:
        """The same as pictures of some height and width, ``[V, T, 3, H, W]`` in [0, 1]."""
        views = min(int(self.views[index]), views)
        rows = torch.linspace(0, 1, size[0])[:, None]
        above, below = self.grounds[index, :views].unbind(-1)
        ground = torch.lerp(above[:, None, None], below[:, None, None], rows.expand(1, *size))
        ground = ground[:, None, None].expand(-1, self.frames, 3, -1, -1).flatten(0, 1)
        shown = self.there[index, :views]
        colours = self.colours[index].expand(views * self.frames, -1, -1)
        drawn = draw(
            self.clean[index, :views].flatten(0, 1),
            shown.flatten(0, 1)[..., None].expand(-1, -1, len(JOINTS)),
            self.depth[index, :views].flatten(0, 1),
            colours,
            ground,
        )
        return drawn.view(views, self.frames, 3, *size)


def bodies(ids: Tensor, activity: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Joints in metres, z up, ``[n, T, P, 17, 3]``; and whether there is a third person, ``[n]``."""
    n = len(ids)
    u = Step().noise(ids, 16 * PERSONS + 16, BODY)
    own, shared = u[:, : 16 * PERSONS].view(n, 1, PERSONS, 16), u[:, 16 * PERSONS :]
    time = torch.linspace(0, SECONDS, frames).view(1, frames, 1)
    # two who face each other, in all classes, and a third
    middle = 1.6 * (shared[:, :2] - 0.5)
    axis = 2 * math.pi * shared[:, 2]
    apart = 0.45 + 0.3 * shared[:, 3]
    way = torch.stack([axis.cos(), axis.sin()], dim=-1)
    aside = torch.stack([-way[:, 1], way[:, 0]], dim=-1) * (1.0 + shared[:, 4, None])
    place = middle[:, None] + torch.stack([-way * apart[:, None], way * apart[:, None], aside], dim=1)
    heading = torch.stack([axis, axis + math.pi, axis + 2 * math.pi * shared[:, 5]], dim=1)[:, None]
    heading = heading + 0.5 * (own[..., 0] - 0.5)
    # everybody sways, and moves arms a little
    sway = (2 * math.pi * (0.5 * time[..., None] * (0.5 + own[..., 1:5]) + own[..., 5:9])).sin()
    arm = 0.15 * sway[..., :2] + 0.5 * (own[..., 9:11] - 0.3)
    bend = 0.3 + 0.15 * sway[..., 2:4] + 0.8 * own[..., 11:13]
    leg = torch.zeros(n, frames, PERSONS, 2)
    lean = 0.05 * sway[..., 0]
    # one walks
    walks = (activity == 1)[:, None, None] & (torch.arange(PERSONS) == 0)
    phase = 2 * math.pi * ((0.8 + 0.4 * shared[:, 6, None, None]) * time + shared[:, 7, None, None])
    swing = torch.where(walks, phase.sin(), 0)[..., None] * torch.tensor([1.0, -1.0])
    leg, arm = leg + 0.5 * swing, arm - 0.4 * swing
    knee = 0.1 + 0.5 * (-swing).clamp(min=0)
    course = 2 * math.pi * shared[:, 8, None, None]
    heading = torch.where(walks, course, heading)
    gone = torch.where(walks, (0.7 + 0.5 * shared[:, 9, None, None]) * (time - SECONDS / 2), 0)
    xy = place[:, None] + gone[..., None] * torch.stack([course.cos(), course.sin()], dim=-1)
    # one reaches out, or two do at the same time, towards each other
    acts = torch.stack([activity >= 2, activity == 3, activity < 0], dim=1)[:, None]
    when, long = 0.4 + 1.2 * shared[:, 10, None, None], 0.35 + 0.3 * shared[:, 11, None, None]
    raised = torch.where(acts, (-(((time - when) / long) ** 2)).exp(), 0)[..., None]
    side = F.one_hot((own[..., 13] < 0.5).long(), 2).float()
    raised = raised * side
    arm = torch.lerp(arm, 1.1 + 0.5 * own[..., 14, None].expand_as(arm), raised)
    bend = torch.lerp(bend, torch.full_like(bend, 0.15), raised)
    lean = lean + 0.25 * raised.amax(-1)
    joints = joints_of(arm, bend, leg, knee, lean) * (0.9 + 0.2 * own[..., 15, None, None])
    cos, sin = heading.cos(), heading.sin()
    x, y, z = joints.unbind(-1)
    cos, sin = cos[..., None], sin[..., None]
    turned = torch.stack([x * cos - y * sin, x * sin + y * cos, z], dim=-1)
    turned[..., :2] += xy.expand(n, frames, PERSONS, 2)[..., None, :]
    return turned, shared[:, 12] < 0.5


def joints_of(arm: Tensor, bend: Tensor, leg: Tensor, knee: Tensor, lean: Tensor) -> Tensor:
    """Joints in metres of a body that looks along x, its left along y: ``[..., 17, 3]``.

    Args:
        arm: angles of left and right upper arm ahead of hanging down, ``[..., 2]``.
        bend: how far elbows are bent from there.
        leg: angles of the thighs.
        knee: how far knees are bent back from there.
        lean: of the trunk, ahead, ``[...]``.
    """
    side = torch.tensor([1.0, -1.0])

    def hanging(angle: Tensor, length: float) -> Tensor:
        return length * torch.stack([angle.sin(), torch.zeros_like(angle), -angle.cos()], dim=-1)

    def beside(middle: Tensor, width: float) -> Tensor:
        return middle[..., None, :] + torch.stack([0 * side, width * side, 0 * side], dim=-1)

    up = torch.stack([lean.sin(), torch.zeros_like(lean), lean.cos()], dim=-1)
    hip = torch.tensor([0.0, 0.0, 0.9]).expand(up.shape)
    neck = hip + 0.52 * up
    head = neck + 0.2 * up
    shoulders, hips = beside(neck, 0.19), beside(hip, 0.11)
    elbows = shoulders + hanging(arm, 0.29)
    wrists = elbows + hanging(arm + bend, 0.26)
    knees = hips + hanging(leg, 0.44)
    ankles = knees + hanging(leg - knee, 0.42)
    ahead = torch.tensor([1.0, 0.0, 0.0])
    left = torch.tensor([0.0, 1.0, 0.0])
    parts = (shoulders, elbows, wrists, hips, knees, ankles)
    limbs = torch.cat([part.expand(*lean.shape, -1, 3) for part in parts], dim=-2)
    return torch.cat([face(head, ahead, left, up), limbs], dim=-2)


def face(head: Tensor, ahead: Tensor, left: Tensor, up: Tensor) -> Tensor:
    """Nose, eyes and ears ``[..., 5, 3]`` of a head, its middle ``[..., 3]`` in metres.

    Args:
        head: its middle.
        ahead: where it looks, of length 1, as the others.
        left: its left.
        up: where the trunk or the neck points.
    """
    eyes, ears = head + 0.08 * ahead + 0.04 * up, head + 0.02 * up
    places = (
        head + 0.1 * ahead,
        eyes + 0.035 * left,
        eyes - 0.035 * left,
        ears + 0.08 * left,
        ears - 0.08 * left,
    )
    return torch.stack(places, dim=-2)


def project(body: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Places in frames, ``[n, V, T, P, 17, 2]`` in sides of them, and distances, ``[n, V, T, P]``.

    Args:
        body: ``[n, T, P, 17, 3]``.
        number: int64 ``[n, V]``, which cameras.
    """
    u = Step(seed=1).noise(number.flatten(), 8).view(*number.shape, 8)
    angle, away = 2 * math.pi * u[..., 0], 4.0 + 2.0 * u[..., 1]
    where = torch.stack([away * angle.cos(), away * angle.sin(), 1.2 + 1.8 * u[..., 2]], dim=-1)
    target = torch.stack([0.6 * (u[..., 3] - 0.5), 0.6 * (u[..., 4] - 0.5), 0.8 + 0.3 * u[..., 5]], dim=-1)
    ahead = F.normalize(target - where, dim=-1)
    right = F.normalize(torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0]).expand_as(ahead)), dim=-1)
    down = torch.linalg.cross(ahead, right)
    roll, focus = 0.15 * (u[..., 6, None] - 0.5), 1.3 + 0.4 * u[..., 7]
    right, down = roll.cos() * right + roll.sin() * down, roll.cos() * down - roll.sin() * right
    axes = torch.stack([right, down, ahead], dim=-1)  # [n, V, 3, 3]
    away_from = body[:, None] - where[:, :, None, None, None]
    x, y, depth = torch.einsum("nvtpjk,nvkd->nvtpjd", away_from, axes).unbind(-1)
    scale = focus[..., None, None, None] / depth.clamp(min=0.1)
    return 0.5 + torch.stack([x * scale, y * scale], dim=-1), depth.mean(-1)
