"""People who move as was captured, put in rooms together and seen by synthetic cameras."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Step, default_registry
from polymask.data import Split, Splits
from polymask.types import Count, NotNegative, Positive, Share
from polymask_vision.datasets.camera_poses import PERSONS, Rooms, face
from polymask_vision.poses import JOINTS

MOTIONS = "pointcloud/mocap"
"""The data set of captured motions. Its package is not one that this one needs."""

ABOUT = "captured motions of single persons, put in rooms together; cameras and pictures are synthetic"
PLACES = 200
"""Stream of chance; :mod:`.camera_poses` has others."""


def recorded_poses(
    *,
    source: str | None = None,
    windows: Count = 80,
    test_windows: Count = 20,
    frames: Count = 8,
    seconds: Positive = 1.0,
    cameras: Count = 8,
    noise: NotNegative = 0.01,
    missing: Share = 0.1,
) -> Splits[Rooms]:
    """Windows of two or three people who do one of 20 captured motions, seen by two or three cameras.

    The motion is real: it is that of ``pointcloud/mocap`` (extra ``motion``, polymask-pointcloud),
    which says what motions there are. What is synthetic: who is in a room with whom, each person doing the
    motion from another beginning, at another speed and heading; the place of nose, eyes and ears, which was
    not captured, on a head that looks where the shoulders do; the cameras, and what they show, which is as
    in ``camera-poses``, noise and missing joints included. People stay where they are on the whole: a window
    is moved so that its middle lies at the place of the person.

    Test windows are other beginnings of the same motions, seen by cameras of their own: this says how well
    known motions are told by new cameras, and nothing of new ones. Classes are the motions.

    Args:
        source: folder of motions, as ``pointcloud/mocap`` takes it (``recorded-poses:FOLDER``).
        windows: of each motion to train on.
        test_windows: of each motion to hold out.
        frames: of a window.
        seconds: that a window lasts.
        cameras: there are so many to train by, and as many others to test by.
        noise: standard deviation of joints, in sides of the frame.
        missing: share of joints that a detector misses, and of persons.

    Raises:
        UserError: polymask-pointcloud is not installed, or there are no motions.
    """
    mocap: Any = default_registry().get("datasets", MOTIONS)
    rate = frames / seconds
    found = mocap(
        source=source,
        frames=frames,
        rate=rate,
        windows=PERSONS * windows,
        test_windows=PERSONS * test_windows,
    )
    recorded: Any = found.train.source
    index = torch.cat([found.train.index, found.test.index])
    labels = torch.cat([found.train.labels, found.test.labels])[::PERSONS]
    captured = torch.from_numpy(np.stack([recorded.read(number) for number in index.tolist()])).float()
    joints = as_coco(captured, recorded.skeleton.names)
    # those of a room do the same motion
    body = joints.view(-1, PERSONS, frames, len(JOINTS), 3).transpose(1, 2)
    number = torch.arange(len(body))
    where, third = places(number)
    middle = body[..., [11, 12], :2].mean((1, -2), keepdim=True)
    body = torch.cat([body[..., :2] - middle + where[:, None, :, None], body[..., 2:]], dim=-1)
    train = number < len(found.train.index) // PERSONS
    rooms = Rooms(body, third, rate, ABOUT, train, cameras, noise, missing)
    return Splits(
        train=Split(rooms, number[train], labels[train]),
        test=Split(rooms, number[~train], labels[~train]),
        classes=found.classes,
        skipped=found.skipped,
    )


def example_source(folder: Path) -> str:
    """Motions as ``pointcloud/mocap`` has them."""
    mocap = default_registry().get("datasets", MOTIONS)
    made: str = sys.modules[mocap.__module__].example_source(folder)
    return made


def as_coco(place: Tensor, names: list[str]) -> Tensor:
    """Joints of COCO ``[..., 17, 3]`` of captured ones ``[..., J, 3]``, those of the face made of the head.

    Args:
        place: in metres, z up.
        names: of the joints, those below the face by the names of COCO, and ``neck`` and ``head``, which is
            the middle of the head.
    """
    at = {name: place[..., number, :] for number, name in enumerate(names)}
    left = F.normalize(at["left shoulder"] - at["right shoulder"], dim=-1)
    up = F.normalize(at["head"] - at["neck"], dim=-1)
    ahead = F.normalize(torch.linalg.cross(left, up), dim=-1)
    limbs = torch.stack([at[name] for name in JOINTS[5:]], dim=-2)
    return torch.cat([face(at["head"], ahead, left, up), limbs], dim=-2)


def places(number: Tensor) -> tuple[Tensor, Tensor]:
    """Where the people of rooms are, ``[n, P, 2]``, at least a metre apart; and whether the third is there.

    Args:
        number: int64 ``[n]``, of the rooms.
    """
    u = Step().noise(number, 4 + PERSONS, PLACES)
    angle = 2 * math.pi * (u[:, :1] + torch.arange(PERSONS) / PERSONS)
    away = 0.7 + 0.5 * u[:, 4:]
    around = torch.stack([away * angle.cos(), away * angle.sin()], dim=-1)
    return around + 0.4 * (u[:, None, 1:3] - 0.5), u[:, 3] < 0.5
