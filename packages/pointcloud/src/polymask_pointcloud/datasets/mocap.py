"""Motion of people, captured, as pybullet ships it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymask import UserError
from polymask.data import Split, Splits
from polymask.data.cache import cache_folder
from polymask.types import Count, Positive
from polymask_pointcloud.datasets.motions import Array, Windows
from polymask_pointcloud.datasets.pypi import unpacked
from polymask_pointcloud.skeleton import Skeleton

PACKAGE, VERSION = "pybullet", "3.2.7"
SHA256 = "5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff"
INSIDE = "pybullet_data/data/motions"

# name, parent, place in the parent's frame in metres (y up, of the package's humanoid.urdf at its scale of
# 0.25), and how many numbers a frame holds for its turn: 4, a quaternion; 1, an angle about z; 0, none
_LIMB = ((-0.421546, -0.40987), (-0.274788, -0.258947))
_HEAD = 0.175
JOINTS: tuple[tuple[str, int, tuple[float, float, float], int], ...] = (
    ("root", -1, (0.0, 0.0, 0.0), 4),
    ("chest", 0, (0.0, 0.236151, 0.0), 4),
    ("neck", 1, (0.0, 0.223894, 0.0), 4),
    ("right hip", 0, (0.0, 0.0, 0.084887), 4),
    ("right knee", 3, (0.0, _LIMB[0][0], 0.0), 1),
    ("right ankle", 4, (0.0, _LIMB[0][1], 0.0), 4),
    ("right shoulder", 1, (-0.02405, 0.2435, 0.18311), 4),
    ("right elbow", 6, (0.0, _LIMB[1][0], 0.0), 1),
    ("right wrist", 7, (0.0, _LIMB[1][1], 0.0), 0),
    ("left hip", 0, (0.0, 0.0, -0.084887), 4),
    ("left knee", 9, (0.0, _LIMB[0][0], 0.0), 1),
    ("left ankle", 10, (0.0, _LIMB[0][1], 0.0), 4),
    ("left shoulder", 1, (-0.02405, 0.2435, -0.18311), 4),
    ("left elbow", 12, (0.0, _LIMB[1][0], 0.0), 1),
    ("left wrist", 13, (0.0, _LIMB[1][1], 0.0), 0),
    ("head", 2, (0.0, _HEAD, 0.0), 0),
)
SKELETON = Skeleton([j[0] for j in JOINTS], [j[1] for j in JOINTS], feet=(5, 11))
NUMBERS = 1 + 3 + sum(j[3] for j in JOINTS)


def mocap(
    *,
    source: str | None = None,
    frames: Count = 125,
    rate: Positive = 50.0,
    windows: Count = 100,
    test_windows: Count = 20,
    slowest: Positive = 0.8,
    fastest: Positive = 1.25,
) -> Splits[Windows]:
    """Windows of 20 captured motions of people: walking, turning, running, dancing, rolling, kicking, ...

    The motions of DeepMimic (Peng et al. 2018, arXiv 1804.02717), about 40 seconds in all, from the wheel of
    pybullet 3.2.7 (zlib licence), fetched once with ``pip download`` (103 MB, of which 2 MB are kept); 16
    joints with the tip of the head. A window begins anywhere in a motion, is played at any speed within a
    range and faces anywhere. Motions that loop go on, with their way and heading carried over; others end,
    and their last pose is held.

    All motions are trained on. What is held out are other beginnings, speeds and headings of them: this says
    how well known motions are continued, and nothing of new ones. Classes are the motions.

    Args:
        source: folder that holds ``humanoid3d_*.txt`` and ``walker/*.txt`` (``mocap:FOLDER``).
        frames: of a window.
        rate: frames per second.
        windows: of each motion to train on.
        test_windows: of each motion to hold out.
        slowest: least speed, in that of the recording.
        fastest: greatest speed.

    Raises:
        UserError: there are no motions, or the speeds are out of order.
    """
    if slowest > fastest:
        raise UserError(f"mocap: the slowest speed is {slowest:g} and the fastest {fastest:g}: exchange them")
    root = Path(source).expanduser() if source is not None else _fetched()
    paths = sorted((*root.glob("humanoid3d_*.txt"), *root.glob("walker/*.txt")))
    if not paths:
        raise UserError(f"mocap: there are no motions (humanoid3d_*.txt, walker/*.txt) in {root.absolute()}")
    clips = [Clip.read(path) for path in paths]
    names = [path.stem.removeprefix("humanoid3d_").lstrip("0").replace("_", " ") for path in paths]
    each = windows + test_windows
    speeds = (slowest, fastest)
    places = [
        windows_of(clip, name, each, frames, rate, speeds).astype(np.float32)
        for clip, name in zip(clips, names, strict=True)
    ]
    called = [f"{name} {k}" for name in names for k in range(each)]
    found = Windows(np.concatenate(places), called, SKELETON, rate)
    index = torch.arange(len(found))
    train = index % each < windows
    return Splits(
        train=Split(found, index[train], index[train] // each),
        test=Split(found, index[~train], index[~train] // each),
        classes=names,
    )


def example_source(folder: Path) -> str:
    """Two motions, one that loops: joints that swing on a root that goes ahead."""
    for k, loop in enumerate(("wrap", "none")):
        rows = []
        for t in range(12):
            angle = 0.4 * np.sin(2 * np.pi * t / 12 + k)
            turn = [np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)]
            row = [1 / 30, 0.1 * t, 0.9, 0.0]
            for *_, numbers in JOINTS:
                row += {4: turn, 1: [angle], 0: []}[numbers]
            rows.append([float(x) for x in row])
        (folder / f"humanoid3d_{loop}.txt").write_text(json.dumps({"Loop": loop, "Frames": rows}))
    return str(folder)


class Clip:
    """A captured motion.

    Args:
        duration: seconds until the next frame, ``[T]``.
        root: places of the root in metres, y up, ``[T, 3]``.
        turn: of each joint against its parent, unit quaternions, real part first, ``[T, J, 4]``.
        loops: whether the first frame follows the last.
    """

    def __init__(self, duration: Array, root: Array, turn: Array, loops: bool) -> None:
        self.root, self.turn, self.loops = root, turn, loops
        duration = np.where(duration > 0, duration, duration[0])
        self.start = np.concatenate([[0.0], duration.cumsum()])
        change = _product(turn[-1, 0], _conjugate(turn[0, 0]))
        self.heading = 2 * np.arctan2(change[2], change[0])
        # the way from the last frame to the first that follows is as long as others are on average
        self.step = (root[-1] - root[0]) * (1, 0, 1) * len(root) / (len(root) - 1)

    @classmethod
    def read(cls, path: Path) -> Clip:
        """Of a file.

        Raises:
            UserError: it is no motion of a humanoid.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            rows = np.array(found["Frames"], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"mocap: {path} is no captured motion: {error}") from error
        if rows.ndim != 2 or rows.shape[1] != NUMBERS or len(rows) < 2 or not np.isfinite(rows).all():
            raise UserError(
                f"mocap: {path} holds frames of shape {list(rows.shape)}, those of a humanoid are "
                f"[2 or more, {NUMBERS}]"
            )
        turn, at = np.zeros((len(rows), len(JOINTS), 4)), 4
        turn[..., 0] = 1.0
        for number, (*_, numbers) in enumerate(JOINTS):
            told = rows[:, at : at + numbers]
            if numbers == 4:
                turn[:, number] = told / np.linalg.norm(told, axis=1, keepdims=True)
            elif numbers == 1:
                turn[:, number, 0], turn[:, number, 3] = np.cos(told[:, 0] / 2), np.sin(told[:, 0] / 2)
            at += numbers
        return cls(rows[:, 0], rows[:, 1:4], turn, found.get("Loop") == "wrap")

    def at(self, times: Array) -> Array:
        """Places of all joints at times in seconds, y up: ``[n]`` to ``[n, J, 3]``."""
        length = len(self.root)
        if self.loops:
            cycle, times = np.divmod(times, self.start[-1])
        else:
            cycle, times = np.zeros_like(times), times.clip(0, self.start[-2])
        before = (np.searchsorted(self.start, times, side="right") - 1).clip(0, length - 1)
        share = (times - self.start[before]) / (self.start[before + 1] - self.start[before])
        after = before + 1
        one = self._carried(before % length, cycle)
        other = self._carried(after % length, cycle + after // length if self.loops else cycle)
        root = one[0] + share[:, None] * (other[0] - one[0])
        turn = _between(one[1], other[1], share[:, None, None])
        place: Array = root[:, None] + joints_at(turn)
        return place

    def _carried(self, frame: Any, cycle: Array) -> tuple[Array, Array]:
        """Root and turns of frames, in the cycle that each is of."""
        root, turn = self.root[frame] - self.root[0] * (1, 0, 1), self.turn[frame].copy()
        angle = self.heading * cycle
        half = np.stack([np.cos(angle / 2), 0 * angle, np.sin(angle / 2), 0 * angle], axis=-1)
        turn[:, 0] = _product(half, turn[:, 0])
        whole = np.arange(int(cycle.max(initial=0)) + 1)[:, None] * self.heading
        steps = np.concatenate([np.zeros((1, 3)), _turned(self.step, whole[:, 0]).cumsum(0)])
        return _turned(root, angle) + steps[cycle.astype(int)], turn


def windows_of(
    clip: Clip, name: str, count: int, frames: int, rate: float, speeds: tuple[float, float]
) -> Array:
    """Windows of a motion, beginnings, speeds and headings drawn by its name, ``[count, frames, J, 3]``.

    Those of motions that do not loop begin in the first half, so that there is something to see.
    """
    digest = hashlib.sha256(name.encode()).digest()
    start, pace, heading = np.random.default_rng(list(digest)).random((count, 3)).T
    begin = start * clip.start[-1] * (1 if clip.loops else 0.5)
    speed = speeds[0] * (speeds[1] / speeds[0]) ** pace
    times = begin[:, None] + np.arange(frames) / rate * speed[:, None]
    place = clip.at(times.flatten()).reshape(count, frames, len(JOINTS), 3)
    return _z_up(_turned(place, 2 * np.pi * heading[:, None, None]))


def _fetched() -> Path:
    found = unpacked(
        PACKAGE,
        VERSION,
        SHA256,
        cache=cache_folder("mocap"),
        wanted=lambda name: name.startswith(f"{INSIDE}/") and name.endswith(".txt"),
        advice="Or give the folder of its motions: mocap:FOLDER.",
    )
    return found / INSIDE


def joints_at(turn: Array) -> Array:
    """Places of joints seen from the root, of their turns ``[n, J, 4]``: ``[n, J, 3]``, y up."""
    facing, place = np.empty_like(turn), np.zeros((*turn.shape[:2], 3))
    for number, (_, parent, offset, _) in enumerate(JOINTS):
        if parent < 0:
            facing[:, number] = turn[:, number]
            continue
        place[:, number] = place[:, parent] + _rotated(facing[:, parent], np.array(offset))
        facing[:, number] = _product(facing[:, parent], turn[:, number])
    return place


def _between(one: Array, other: Array, share: Array) -> Array:
    """Unit quaternions on the shorter way between two."""
    other = np.where((one * other).sum(-1, keepdims=True) < 0, -other, other)
    mixed = one + share * (other - one)
    unit: Array = mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)
    return unit


def _product(one: Array, other: Array) -> Array:
    """Hamilton's product of quaternions ``[..., 4]``."""
    a, b, c, d = np.moveaxis(one, -1, 0)
    e, f, g, h = np.moveaxis(other, -1, 0)
    return np.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ],
        axis=-1,
    )


def _conjugate(one: Array) -> Array:
    return one * (1, -1, -1, -1)


def _rotated(turn: Array, place: Array) -> Array:
    """Places ``[3]`` turned by quaternions ``[n, 4]``."""
    pure = np.broadcast_to(np.concatenate([[0.0], place]), turn.shape)
    return _product(_product(turn, pure), _conjugate(turn))[..., 1:]


def _turned(place: Array, angle: Array) -> Array:
    """Places ``[..., 3]`` turned about y by angles that broadcast to ``[...]``."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(place, -1, 0)
    return np.stack(np.broadcast_arrays(cos * x + sin * z, y, cos * z - sin * x), axis=-1)


def _z_up(place: Array) -> Array:
    x, y, z = np.moveaxis(place, -1, 0)
    return np.stack([x, -z, y], axis=-1)
