"""Skeletons that are made up: limbs that swing."""

from __future__ import annotations

import numpy as np
import torch

from polymask.data import Split, Splits
from polymask.types import Count, Positive
from polymask_pointcloud.datasets.motions import Array, Windows
from polymask_pointcloud.skeleton import Skeleton

SKELETON = Skeleton(
    ("root", "head", "left knee", "left foot", "right knee", "right foot"),
    (-1, 0, 0, 2, 0, 4),
    feet=(3, 5),
)
TRUNK, THIGH, SHIN = 0.6, 0.42, 0.41
KINDS = ("steady", "fading", "growing")
CHANGE = 0.35
"""Share of a window after which nothing foretells whether limbs go on as fast, faster or slower."""


def skeletons(
    *, frames: Count = 50, rate: Positive = 25.0, windows: Count = 600, test_windows: Count = 150
) -> Splits[Windows]:
    """Two legs and a trunk that swing, made up: synthetic, for trials and tests without a network.

    Hips swing as pendulums, the legs against each other, knees bend twice as fast, and the trunk nods.
    Rhythm, strength, heading and bending are drawn for each window; the class is whether the swing is
    steady, fades or grows. At 35 % of a window the rhythm may change, to nothing, by half, or by twice, as
    likely, and nothing before tells which: a past has several futures.

    Args:
        frames: of a window.
        rate: frames per second.
        windows: to train on.
        test_windows: to hold out.
    """
    number = np.arange(windows + test_windows)
    places = np.stack([_window(int(i), frames, rate) for i in number]).astype(np.float32)
    found = Windows(places, [f"window {i}" for i in number], SKELETON, rate)
    index, kind = torch.from_numpy(number), torch.from_numpy(number % len(KINDS))
    train = index < windows
    return Splits(
        train=Split(found, index[train], kind[train]),
        test=Split(found, index[~train], kind[~train]),
        classes=KINDS,
    )


def _window(number: int, frames: int, rate: float) -> Array:
    """Places of the joints, ``[frames, 6, 3]``."""
    random = np.random.default_rng(number)
    phase, pace, heading, strength, bend, nod = random.random(6)
    time = np.arange(frames) / rate
    speed = 2 * np.pi * (0.6 + 0.8 * pace) * np.ones(frames)
    speed[int(CHANGE * frames) :] *= random.choice((0.0, 0.5, 1.0, 2.0))
    angle = 2 * np.pi * phase + np.concatenate([[0.0], speed[:-1].cumsum() / rate])
    length = frames / rate
    swell = (np.ones(frames), np.exp(-2 * time / length), 0.3 + 0.7 * time / length)[number % len(KINDS)]
    hip = (0.3 + 0.4 * strength) * swell * np.sin(angle)
    lean = 0.15 * nod * np.sin(2 * angle)
    root = np.stack(
        [0.5 * hip.std() * speed.cumsum() / rate, 0 * time, 0.8 + 0.02 * np.cos(2 * angle)], axis=-1
    )
    joints = [root, root + TRUNK * _down(np.pi + lean)]
    for side in (1, -1):
        knee = (0.2 + 0.6 * bend) * swell * (1 - np.cos(2 * angle)) / 2
        thigh = joints[0] + THIGH * _down(side * hip) + (0.0, 0.1 * side, 0.0)
        joints += [thigh, thigh + SHIN * _down(side * hip - knee)]
    place = np.stack(joints, axis=1)
    cos, sin = np.cos(2 * np.pi * heading), np.sin(2 * np.pi * heading)
    found: Array = place @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return found


def _down(angle: Array) -> Array:
    """Directions from hanging down, turned ahead by angles: ``[n, 3]``."""
    return np.stack([np.sin(angle), 0 * angle, -np.cos(angle)], axis=-1)
