"""A folder of point clouds and meshes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from polymask import UserError
from polymask.data import Skipped, class_numbers, whole
from polymask_pointcloud.datasets.base import CloudDataset
from polymask_pointcloud.datasets.files import READERS, read
from polymask_pointcloud.datasets.splits import divide
from polymask_pointcloud.datasets.prepare import Augment, Normalise, Preparation
from polymask_pointcloud.datasets.raw import Raw

_TEST = ("test", "val", "valid", "validation")


class Folder(CloudDataset):
    """Clouds (ply, pcd, las, laz, npy, npz, xyz, txt) and meshes (ply, obj, stl, off, glb, wrl) of a folder.

    Where every file lies in a subfolder, the subfolders right below the folder are the classes; where one
    lies in the folder itself, there are no labels. A subfolder ``train`` holds what to train on, beside it
    ``test``, ``val``, ``valid`` or ``validation`` what to test on; without, a fixed share of each class is
    held out. Meshes are sampled by area. Hidden files and folders are ignored.

    Files that are empty, or no clouds by their ending, are skipped and listed in ``skipped``. Damage that
    shows only on reading does not stop training: another cloud of the class stands in.

    Args:
        source: the folder (``folder:PATH``).
        points: points per sample; None for as many as there are, then samples differ in length.
        features: what to have of a point beside its place: ``normals``, ``colour``, ``intensity``.
        normalise: ``"sphere"``, ``"centre"`` or ``"none"``.
        augment: ``"move"`` turns about z, mirrors and scales in training.
        turn: largest angle of a move, in radians.
        flip: probability of mirroring x, and of mirroring y.
        scale: range of the factor of a move.
        test: share of each class to hold out where there is no folder for it.
        limit: at most so many clouds of each split.
    """

    def __init__(
        self,
        *,
        source: str,
        points: int | None = 1024,
        features: Sequence[str] = (),
        normalise: Normalise = "sphere",
        augment: Augment = "none",
        turn: float = math.pi,
        flip: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        test: float = 0.1,
        limit: int | None = None,
    ) -> None:
        preparation = Preparation(
            points=points,
            features=features,
            normalise=normalise,
            augment=augment,
            turn=turn,
            flip=flip,
            scale=scale,
        )
        root = Path(source).expanduser()
        if not root.is_dir():
            raise UserError(f"folder:{source}: there is no folder {root.absolute()}")
        skipped: Skipped = []
        found = [Files(root, under, skipped) for under in _splits(root)]
        if not found[0].names:
            raise UserError(_nothing(root, skipped))
        columns = [files.classes() for files in found]
        named = [column for column in columns if column is not None]
        classes = sorted({name for column in named for name in column}) if len(named) == len(found) else None
        portions = [
            whole(files, None if classes is None or column is None else class_numbers(column, classes))
            for files, column in zip(found, columns, strict=True)
        ]
        if len(portions) == 1:
            portions = list(divide(portions[0], found[0].names, test))
        super().__init__(portions[0], portions[1], preparation, classes=classes, skipped=skipped, limit=limit)

    @staticmethod
    def example_source(folder: Path) -> str:
        """Boxes and balls of random points, written into an empty folder."""
        random = np.random.default_rng(0)
        for kind in ("ball", "box"):
            (folder / kind).mkdir()
            for i in range(6):
                points = random.standard_normal((200, 3)) if kind == "ball" else random.random((200, 3))
                np.save(folder / kind / f"{i}.npy", points)
        return str(folder)


class Files:
    """The readable files under a folder, by name.

    Args:
        root: the folder that names are relative to.
        under: what part of it to look in, or ``""``.
        skipped: takes what is left out, ``(name, reason)``.
    """

    def __init__(self, root: Path, under: str, skipped: Skipped) -> None:
        self.root, self.under = root, under
        self.names: list[str] = []
        for name in sorted(_walk(root, under)):
            if (root / name).suffix.lower() not in READERS:
                skipped.append((name, "no cloud by its ending"))
            elif not (root / name).stat().st_size:
                skipped.append((name, "is empty"))
            else:
                self.names.append(name)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Raw:
        return read(self.root / self.names[index])

    def name(self, index: int) -> str:
        return self.names[index]

    def classes(self) -> list[str] | None:
        """The class of each file: the folder it lies in, right under the top; None if one lies in none."""
        depth = len(Path(self.under).parts)
        parts = [name.split("/") for name in self.names]
        return None if any(len(part) < depth + 2 for part in parts) else [part[depth] for part in parts]


def _splits(root: Path) -> list[str]:
    """Where to look for what to train on and, if that is another place, for what to test on."""
    folders = {p.name.lower(): p.name for p in root.iterdir() if p.is_dir()}
    if "train" not in folders:
        return [""]
    return [folders["train"], *[folders[name] for name in _TEST if name in folders][:1]]


def _walk(root: Path, under: str) -> Iterator[str]:
    """Files under a folder, relative to ``root`` with slashes; hidden ones left out."""
    for folder, subfolders, files in os.walk(root / under):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        place = Path(folder).relative_to(root)
        yield from ((place / name).as_posix() for name in files if not name.startswith("."))


def _nothing(root: Path, skipped: Skipped) -> str:
    message = f"no clouds or meshes ({', '.join(READERS)}) in {root.absolute()}"
    if skipped:
        message += f"; skipped {len(skipped)} files, first {skipped[0][0]}: {skipped[0][1]}"
    return message
