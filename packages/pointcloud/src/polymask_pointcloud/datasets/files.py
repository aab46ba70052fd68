"""Files of points and meshes, by their ending."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polymask import UserError
from polymask.data import BadSample
from polymask_pointcloud.datasets import formats
from polymask_pointcloud.datasets.raw import Array, Raw, checked, fan
from polymask_pointcloud.datasets.vrml import wrl

_LAZ = 10_000
"""How much smaller than its points a compressed LAS file can be, and more."""


def read(path: Path) -> Raw:
    """A cloud or mesh from a file.

    Raises:
        BadSample: empty, damaged, or nothing in it.
        UserError: its kind needs a package that is not installed.
    """
    try:
        if not path.is_file():
            raise BadSample("is no regular file")
        if not path.stat().st_size:
            raise BadSample("is empty")
        return checked(READERS[path.suffix.lower()](path))
    except ImportError as error:
        raise UserError(
            f"{path.name}: {path.suffix} files need {error.name}: pip install 'polymask-pointcloud[files]'"
        ) from error
    # no file is to blame for too little memory: what files claim is checked before
    except (BadSample, UserError, MemoryError):
        raise
    # readers fail as variously as files do
    except Exception as error:
        raise BadSample(str(error).partition("\n")[0] or type(error).__name__) from error


def _ply(path: Path) -> Raw:
    from plyfile import PlyData

    least = count = 0
    with path.open("rb") as file:
        for line in file:
            match line.split():
                case [b"element", _, number]:
                    count = int(number)
                case [b"property", *_]:
                    least += count
                case [b"end_header"]:
                    break
    _require_size(path, least)
    data = PlyData.read(str(path))
    vertex = data["vertex"].data
    raw = formats.by_name({name: np.asarray(vertex[name]) for name in vertex.dtype.names})
    faces = next((element for element in data.elements if element.name == "face" and len(element.data)), None)
    if faces is None:
        return raw
    corners: list[Array] = [np.append(face, -1) for face in faces.data[faces.data.dtype.names[0]]]
    return Raw(raw.points, raw.features, fan(np.concatenate(corners)))


def _require_size(path: Path, least: int) -> None:
    """Refuse a file that claims more than it can hold, before memory is taken for it."""
    size = path.stat().st_size
    if least > size:
        raise BadSample(f"its header claims {least} bytes or more, and the file has {size}")


def _las(path: Path) -> Raw:
    import laspy

    with laspy.open(path) as head:
        count, width = head.header.point_count, head.header.point_format.size
    _require_size(path, count * width // (_LAZ if path.suffix.lower() == ".laz" else 1))
    las = laspy.read(path)
    names = set(las.point_format.dimension_names)
    columns = {"x": np.asarray(las.x), "y": np.asarray(las.y), "z": np.asarray(las.z)}
    columns |= {
        name: np.asarray(las[name]) for name in ("red", "green", "blue", "intensity") if name in names
    }
    return formats.by_name(columns)


def _mesh(path: Path) -> Raw:
    import trimesh

    # from memory, where a chunk ends with the file whatever its header claims
    data, kind = io.BytesIO(path.read_bytes()), path.suffix[1:].lower()
    found: Any = trimesh.load(data, file_type=kind, process=False)
    if isinstance(found, trimesh.Scene):
        found = found.to_geometry()
    points, features = np.asarray(found.vertices), {}
    if found.visual.kind in ("face", "vertex"):
        features["colour"] = np.asarray(found.visual.vertex_colors)[:, :3]
    if isinstance(found, trimesh.Trimesh) and len(found.faces):
        return Raw(points, features, np.asarray(found.faces))
    return Raw(points, features)


READERS: Mapping[str, Callable[[Path], Raw]] = {
    ".bin": formats.sweep,
    ".npy": formats.arrays,
    ".npz": formats.arrays,
    ".pcd": formats.pcd,
    ".pts": formats.table,
    ".txt": formats.table,
    ".wrl": wrl,
    ".xyz": formats.table,
    ".las": _las,
    ".laz": _las,
    ".ply": _ply,
    ".glb": _mesh,
    ".obj": _mesh,
    ".off": _mesh,
    ".stl": _mesh,
}
"""By ending; those of ``las``, ``ply`` and meshes need the extra ``files``."""
