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
from polymask_pointcloud.datasets.raw import Array, Raw, checked, fan, painted
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
    # a list of corners need not come first
    lists = [name for name in faces.data.dtype.names if faces.data[name].dtype == object]
    if not lists:
        return raw
    polygons = faces.data[lists[0]]
    corners: list[Array] = [np.append(face, -1) for face in polygons]
    mesh = Raw(raw.points, raw.features, fan(np.concatenate(corners)))
    if "colour" in raw.features or not {"red", "green", "blue"} <= set(faces.data.dtype.names):
        return mesh
    colours = np.stack([faces.data[name] for name in ("red", "green", "blue")], axis=1)
    return painted(mesh, formats.by_triangle(colours, [len(polygon) for polygon in polygons]))


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


def _e57(path: Path) -> Raw:
    """All scans of a file, at their places in the world; a feature that one of them lacks is none."""
    import pye57

    scans: list[dict[str, Array]] = []
    file = pye57.E57(str(path))
    try:
        for i in range(file.scan_count):
            # a number takes a bit at least
            _require_size(path, file.get_header(i).point_count // 8)
            scans.append(file.read_scan(i, intensity=True, colors=True, ignore_missing_fields=True))
    finally:
        file.close()
    if not scans:
        raise BadSample("holds no scan")
    shared = set.intersection(*map(set, scans))
    joined = {name: np.concatenate([scan[name] for scan in scans]) for name in shared}
    return formats.by_name(
        {name.lower().removeprefix("cartesian").removeprefix("color"): x for name, x in joined.items()}
    )


def _mesh(path: Path) -> Raw:
    import trimesh

    # from memory, where a chunk ends with the file whatever its header claims
    data, kind = io.BytesIO(path.read_bytes()), path.suffix[1:].lower()
    found: Any = trimesh.load(data, file_type=kind, process=False)
    if isinstance(found, trimesh.Scene):
        found = found.to_geometry()
    points, features, visual = np.asarray(found.vertices), {}, found.visual
    if visual.kind == "texture" and getattr(visual.material, "baseColorTexture", None) is not None:
        visual = visual.to_color()
    if visual.kind == "vertex":
        features["colour"] = np.asarray(visual.vertex_colors)[:, :3]
    if not isinstance(found, trimesh.Trimesh) or not len(found.faces):
        return Raw(points, features)
    mesh = Raw(points, features, np.asarray(found.faces))
    return painted(mesh, np.asarray(visual.face_colors)[:, :3]) if visual.kind == "face" else mesh


READERS: Mapping[str, Callable[[Path], Raw]] = {
    ".bin": formats.sweep,
    ".npy": formats.arrays,
    ".npz": formats.arrays,
    ".off": formats.off,
    ".pcd": formats.pcd,
    ".pts": formats.table,
    ".txt": formats.table,
    ".wrl": wrl,
    ".xyz": formats.table,
    ".e57": _e57,
    ".las": _las,
    ".laz": _las,
    ".ply": _ply,
    ".glb": _mesh,
    ".obj": _mesh,
    ".stl": _mesh,
}
"""By ending; those of ``e57``, ``las``, ``ply`` and meshes need the extra ``files``."""
