"""A folder of point clouds and meshes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polymask.data import Splits
from polymask.data.folders import read_folder
from polymask.data.splits import Names
from polymask.types import Share
from polymask_pointcloud.datasets.base import Clouds
from polymask_pointcloud.datasets.files import READERS, read
from polymask_pointcloud.datasets.raw import Raw


def folder(*, source: str, test: Share = 0.1) -> Splits[Files]:
    """Clouds and meshes of a folder.

    Clouds are ply, pcd, las, laz, e57, npy, npz, xyz, txt, pts and bin (KITTI, nuScenes); meshes are ply,
    obj, stl, off, glb and wrl. Colours of corners are read, and textures within glb.

    Where every file lies in a subfolder, the subfolders right below the folder are the classes; where one
    lies in the folder itself, there are no labels. A subfolder ``train`` holds what to train on, beside it
    ``test``, ``val``, ``valid`` or ``validation`` what to test on; without, a fixed share of each class is
    held out. Links are followed, hidden files and folders ignored.

    Files that are empty, or no clouds by their suffix, are skipped and listed in ``skipped``. Damage that
    shows only on reading does not stop training: another cloud of the class stands in.

    Args:
        source: the folder (``folder:PATH``).
        test: share of each class to hold out where there is no folder for it.
    """
    found = read_folder(source, READERS, "clouds or meshes", lambda path: None)
    return found.splits(Files(found.root, found.names), test)


def example_source(folder: Path) -> str:
    """Boxes and balls of random points."""
    random = np.random.default_rng(0)
    for kind in ("ball", "box"):
        (folder / kind).mkdir()
        for i in range(6):
            points = random.standard_normal((200, 3)) if kind == "ball" else random.random((200, 3))
            np.save(folder / kind / f"{i}.npy", points)
    return str(folder)


class Files(Clouds):
    """Files of clouds and meshes by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Raw:
        return read(self.root / self.names[index])

    def name(self, index: int) -> str:
        return self.names[index]
