"""A folder of one's own motion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from polymask import UserError
from polymask.data import BadSample, Split, Splits, reading
from polymask.data.folders import read_folder
from polymask.data.splits import Names, divide
from polymask.types import Count, Positive, Share
from polymask_pointcloud.datasets.motions import Array, Motions
from polymask_pointcloud.skeleton import Skeleton

SUFFIXES = (".npy", ".npz")


def clips(
    *,
    source: str,
    frames: Count = 125,
    rate: Positive = 50.0,
    recorded: Positive | None = None,
    stride: Count = 25,
    unit: Positive = 1.0,
    up: Literal["z", "y"] = "z",
    parents: Sequence[int] = (),
    feet: Sequence[int] = (),
    test: Share = 0.1,
) -> Splits[Files]:
    """Motion from files: places of joints ``[T, J, 3]``, the root first.

    A ``.npy`` file is that array; a ``.npz`` file holds it as ``motion``, and may hold ``rate``, its frames
    per second, and ``parents``, the number of each joint's parent, -1 of the root. Folders are splits and
    classes as in other data: see ``folder``. A file is cut into windows, those of one file stay on one side;
    one that is shorter than a window is left out, and so is one with other joints than the first.

    Args:
        source: the folder (``clips:PATH``).
        frames: of a window.
        rate: frames per second to have; recordings are interpolated.
        recorded: frames per second of files that do not say; those to have by default.
        stride: frames from one window to the next.
        unit: metres that a unit of the files is: 0.001 for millimetres.
        up: axis that points up.
        parents: the number of each joint's parent, of files that do not say; without, no bones are drawn or
            measured.
        feet: numbers of the joints that stand on the ground.
        test: share of the files of each class to hold out where there is no folder for it.

    Raises:
        UserError: no such folder, no motion in it, or parents that are none of these joints.
    """

    def look(path: Path) -> Recording:
        return Recording.of(path, rate if recorded is None else recorded, rate, frames)

    found = read_folder(source, SUFFIXES, "motion", look)
    skipped, first = list(found.skipped), found.looks[0].joints
    own = next((r.parents for r in found.looks if r.parents), tuple(parents))
    if own and (len(own) != first or any(not -1 <= p < i for i, p in enumerate(own)) or own[0] != -1):
        raise UserError(
            f"clips: {first} joints need as many parents, the root's -1 and each joint's one of those before "
            f"it; got {list(own)}"
        )
    if any(not 0 <= i < first for i in feet):
        raise UserError(f"clips: feet are numbers of joints, 0 to {first - 1}; got {list(feet)}")
    if other := [n for n, r in zip(found.names, found.looks, strict=True) if r.joints != first]:
        skipped += [(name, f"other joints than the {first} of {found.names[0]}") for name in other]
    kept = [i for i, r in enumerate(found.looks) if r.joints == first]
    counts = torch.tensor([found.looks[i].windows(frames, stride) for i in kept])
    names = [f"joint {i}" for i in range(first)]
    windows = Files(
        found.root,
        [found.names[i] for i in kept],
        [found.looks[i] for i in kept],
        counts.cumsum(0).tolist(),
        frames,
        stride,
        rate,
        unit,
        up,
        Skeleton(names, list(own), tuple(feet)),
    )
    labels = None if found.labels is None else found.labels[kept]
    if found.test is None:
        held = torch.zeros(len(kept), dtype=torch.bool)
        held[divide(Split(windows.files, torch.arange(len(kept)), labels), test)[1].index] = True
    else:
        held = found.test[kept]
    side = held.repeat_interleave(counts)
    all_labels = None if labels is None else labels.repeat_interleave(counts)
    whole = Split(windows, torch.arange(int(counts.sum())), all_labels)
    return Splits(train=whole.at(~side), test=whole.at(side), classes=found.classes, skipped=skipped)


def example_source(folder: Path) -> str:
    """Three joints on a string that sways."""
    for i in range(8):
        sway = 0.2 * np.sin(np.arange(150) / 8 + i)[:, None, None] * np.arange(4)[:, None]
        motion = np.concatenate([sway, 0 * sway, np.ones_like(sway) - 0.3 * np.arange(4)[:, None]], axis=-1)
        np.savez(folder / f"{i}.npz", motion=motion.astype(np.float32), rate=50.0, parents=[-1, 0, 1, 2])
    return str(folder)


@dataclass(frozen=True)
class Recording:
    """What a file says without its places.

    Args:
        length: frames, at the rate to have.
        joints: how many.
        rate: frames per second that were recorded.
        parents: of the joints; empty where the file does not say.
    """

    length: int
    joints: int
    rate: float
    parents: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, recorded: float, rate: float, frames: int) -> Recording:
        """Of a file.

        Raises:
            BadSample: it holds no motion, or less than a window.
        """
        with _opened(path) as (motion, said):
            own = float(said["rate"]) if "rate" in said else recorded
            parents = tuple(int(p) for p in said["parents"]) if "parents" in said else ()
            if not own > 0:
                raise BadSample(f"its rate is {own:g} frames a second")
            if motion.ndim != 3 or motion.shape[2] != 3 or motion.shape[1] < 2:
                raise BadSample(
                    f"an array {list(motion.shape)}; motion is [frames, joints, 3], 2 joints or more"
                )
            length = int((len(motion) - 1) / own * rate + 1e-6) + 1
            if length < frames:
                raise BadSample(f"{len(motion)} frames, {length} at {rate:g} a second, fewer than {frames}")
            return cls(length, motion.shape[1], own, parents)

    def windows(self, frames: int, stride: int) -> int:
        """How many windows there are."""
        return (self.length - frames) // stride + 1


class Files(Motions):
    """Windows of files.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        recordings: what is known of them.
        ends: number of windows up to each file and with it.
        frames: of a window.
        stride: from one window to the next.
        rate: frames per second to have.
        unit: metres that a unit is.
        up: axis that points up.
        skeleton: joints and bones.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        recordings: Sequence[Recording],
        ends: Sequence[int],
        frames: int,
        stride: int,
        rate: float,
        unit: float,
        up: Literal["z", "y"],
        skeleton: Skeleton,
    ) -> None:
        self.root, self.files, self.recordings, self.ends = root, _Files(names), recordings, ends
        self.frames, self.stride, self.rate, self.skeleton = frames, stride, rate, skeleton
        self.unit, self.up = unit, up

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, index: int) -> str:
        file, window = self._where(index)
        return f"{self.files.name(file)}, window {window}"

    def read(self, index: int) -> Array:
        file, window = self._where(index)
        with _opened(self.root / self.files.name(file)) as (motion, _):
            at = (window * self.stride + np.arange(self.frames)) * self.recordings[file].rate / self.rate
            before = at.astype(int).clip(0, len(motion) - 2)
            share = (at - before)[:, None, None]
            one, other = (np.asarray(motion[before + k], dtype=np.float64) for k in (0, 1))
            place: Array = self.unit * (one + share * (other - one))
        if not np.isfinite(place).all():
            raise BadSample("places that are not finite")
        return place if self.up == "z" else np.stack([place[..., 0], -place[..., 2], place[..., 1]], axis=-1)

    def _where(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.ends, index, side="right"))
        return file, index - (self.ends[file - 1] if file else 0)


class _Files:
    """Files by number, as the rule that holds some out asks for them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The array of a file, and what else it says."""
    with reading():
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            yield found, {}
            return
        with found:
            if "motion" not in found:
                raise BadSample(f"it holds {', '.join(found) or 'nothing'}, not 'motion'")
            yield found["motion"], found
