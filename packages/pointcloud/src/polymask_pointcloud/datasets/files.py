"""Files of points and meshes, by their ending."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polymask import UserError
from polymask.data import BadSample
from polymask_pointcloud.datasets import formats
from polymask_pointcloud.datasets.raw import Array, Raw, checked, fan
from polymask_pointcloud.datasets.vrml import wrl


def read(path: Path) -> Raw:
    """A cloud or mesh from a file.

    Raises:
        BadSample: empty, damaged, or nothing in it.
        UserError: its kind needs a package that is not installed.
    """
    try:
        if not path.stat().st_size:
            raise BadSample("is empty")
        return checked(READERS[path.suffix.lower()](path))
    except ImportError as error:
        raise UserError(
            f"{path.name}: {path.suffix} files need {error.name}: pip install 'polymask-pointcloud[files]'"
        ) from error
    except (BadSample, UserError):
        raise
    # readers fail as variously as files do
    except Exception as error:
        raise BadSample(str(error).partition("\n")[0] or type(error).__name__) from error


def _ply(path: Path) -> Raw:
    from plyfile import PlyData

    data = PlyData.read(str(path))
    vertex = data["vertex"].data
    raw = formats.by_name({name: np.asarray(vertex[name]) for name in vertex.dtype.names})
    faces = next((element for element in data.elements if element.name == "face" and len(element.data)), None)
    if faces is None:
        return raw
    corners: list[Array] = [np.append(face, -1) for face in faces.data[faces.data.dtype.names[0]]]
    return Raw(raw.points, raw.features, fan(np.concatenate(corners)))


def _las(path: Path) -> Raw:
    import laspy

    las = laspy.read(path)
    names = set(las.point_format.dimension_names)
    columns = {"x": np.asarray(las.x), "y": np.asarray(las.y), "z": np.asarray(las.z)}
    columns |= {
        name: np.asarray(las[name]) for name in ("red", "green", "blue", "intensity") if name in names
    }
    return formats.by_name(columns)


def _mesh(path: Path) -> Raw:
    import trimesh

    found: Any = trimesh.load(path, process=False)
    if isinstance(found, trimesh.Scene):
        found = found.to_geometry()
    if isinstance(found, trimesh.Trimesh) and len(found.faces):
        return Raw(np.asarray(found.vertices), triangles=np.asarray(found.faces))
    return Raw(np.asarray(found.vertices))


READERS: Mapping[str, Callable[[Path], Raw]] = {
    ".npy": formats.arrays,
    ".npz": formats.arrays,
    ".pcd": formats.pcd,
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
