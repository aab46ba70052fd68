"""Readers of the small formats: PCD, text, numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polymask.data import BadSample
from polymask_pointcloud.datasets.raw import FEATURES, Array, Raw


def pcd(path: Path) -> Raw:
    """The Point Cloud Library's format: text, or binary; compressed ones are refused."""
    data = path.read_bytes()
    head: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in head:
        end = data.find(b"\n", start)
        if end < 0:
            raise BadSample("its header has no end")
        word, *rest = data[start:end].decode("latin-1").split() or [""]
        head[word.upper()], start = rest, end + 1
    counts = head.get("COUNT") or ["1"] * len(head["FIELDS"])
    columns = list(zip(head["FIELDS"], head["TYPE"], head["SIZE"], counts, strict=True))
    dtype = np.dtype(
        [
            (f"{name}{i}" if name == "_" else name, f"<{kind.lower()}{size}", (int(count),))
            for i, (name, kind, size, count) in enumerate(columns)
        ]
    )
    rows = int(head["POINTS"][0]) if "POINTS" in head else int(head["WIDTH"][0]) * int(head["HEIGHT"][0])
    match head["DATA"]:
        case ["ascii"]:
            table = np.array(data[start:].split(), dtype=np.float64).reshape(rows, -1)
            widths = np.cumsum([int(count) for count in counts])[:-1]
            named = dict(zip(head["FIELDS"], np.split(table, widths, axis=1), strict=True))
        case ["binary"]:
            found = np.frombuffer(data, dtype, rows, start)
            named = {name: found[name].reshape(rows, -1) for name in dtype.names or ()}
        case other:
            raise BadSample(f"data are {' '.join(other)}; only ascii and binary can be read")
    return by_name({name: x[:, 0] for name, x in named.items()})


def by_name(columns: dict[str, Array]) -> Raw:
    """A cloud of named columns, as tables of points call them."""
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise BadSample(f"has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    features = {}
    for name, choices in {
        "normals": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
        "colour": (("red", "green", "blue"), ("r", "g", "b")),
        "intensity": (("intensity",), ("scalar_intensity",)),
    }.items():
        for choice in choices:
            if all(column in columns for column in choice):
                features[name] = np.stack([_unit(columns[column], name) for column in choice], axis=1)
                break
    return Raw(np.stack([columns[axis] for axis in "xyz"], axis=1), features)


def _unit(x: Array, name: str) -> Array:
    """Colours and intensities in whole numbers, to [0, 1] by the width of their type."""
    if name == "normals" or not np.issubdtype(x.dtype, np.integer):
        return np.asarray(x, dtype=np.float64)
    return np.asarray(x / np.iinfo(x.dtype).max, dtype=np.float64)


def table(path: Path) -> Raw:
    """Text, a point in each line: x, y, z, and normals where there are three more; ``#`` for comments."""
    return from_array(np.loadtxt(path, dtype=np.float64, ndmin=2, delimiter=_delimiter(path)))


def _delimiter(path: Path) -> str | None:
    with path.open(encoding="latin-1") as file:
        return "," if "," in next((line for line in file if not line.startswith("#")), "") else None


def arrays(path: Path) -> Raw:
    """An array ``[n, 3]``, or ``[n, 6]`` with normals; or an archive of ``points`` and features by name."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return from_array(loaded)
    with loaded:
        if "points" not in loaded:
            raise BadSample(f"has no array 'points'; it has {', '.join(loaded) or 'none'}")
        features = {name: loaded[name] for name in FEATURES if name in loaded}
        return Raw(loaded["points"], features, loaded.get("triangles"))


def from_array(x: Array) -> Raw:
    """Columns x, y, z, and normals where there are six or more."""
    if x.ndim != 2 or x.shape[1] < 3:
        raise BadSample(f"an array of shape {list(x.shape)} is no cloud")
    features = {"normals": x[:, 3:6]} if x.shape[1] >= 6 else {}
    return Raw(x[:, :3], features)
