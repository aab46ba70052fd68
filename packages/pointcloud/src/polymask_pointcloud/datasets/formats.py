"""Readers of the small formats: PCD, OFF, text, numpy, sweeps of a laser scanner."""

from __future__ import annotations

import itertools
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polymask.data import BadSample
from polymask_pointcloud.datasets.raw import FEATURES, Array, Raw, fan, painted

_COLUMNS = {
    "normals": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
    "colour": (("red", "green", "blue"), ("r", "g", "b"), ("rf", "gf", "bf")),
    "intensity": (("intensity",), ("scalar_intensity",), ("reflectance",), ("i",)),
}
"""Names of columns, lower case, that make a feature; the first that are there."""

_OFF = re.compile(r"(ST)?(C?)(N?)OFF\b(.*)|OFF(.*)", re.IGNORECASE)
"""The first line of a mesh in OFF: coordinates of textures, colours, normals; the counts may stick to it."""

_NO_NAME = re.compile(r"#|//|[,;]")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+(e[-+]?[0-9]+)?,?", re.IGNORECASE)
_COMMAS, _DECIMAL_COMMAS = str.maketrans(",", " "), str.maketrans(";,", " .")


def pcd(path: Path) -> Raw:
    """The Point Cloud Library's format: text, binary, or compressed."""
    data = path.read_bytes()
    head: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in head:
        end = data.find(b"\n", start)
        if end < 0:
            raise BadSample("its header has no end")
        word, *rest = data[start:end].decode("latin-1").split() or [""]
        head[word.upper()], start = rest, end + 1
    counts = [int(count) for count in head.get("COUNT") or ["1"] * len(head["FIELDS"])]
    names = [f"{name}{i}" if name == "_" else name for i, name in enumerate(head["FIELDS"])]
    types = [f"<{kind.lower()}{size}" for kind, size in zip(head["TYPE"], head["SIZE"], strict=True)]
    dtype = np.dtype([(n, t, (c,)) for n, t, c in zip(names, types, counts, strict=True)])
    rows = int(head["POINTS"][0]) if "POINTS" in head else int(head["WIDTH"][0]) * int(head["HEIGHT"][0])
    match head["DATA"]:
        case ["ascii"]:
            table = np.array(data[start:].split(), dtype=np.float64).reshape(rows, -1)
            columns = np.split(table, np.cumsum(counts)[:-1], axis=1)
            named = {n: x.astype(t) for n, t, x in zip(names, types, columns, strict=True)}
        case ["binary"]:
            found = np.frombuffer(data, dtype, rows, start)
            named = {name: found[name].reshape(rows, -1) for name in names}
        case ["binary_compressed"]:
            packed, size = np.frombuffer(data, "<u4", 2, start).tolist()
            if size != rows * dtype.itemsize:
                raise BadSample(f"{size} bytes are not {rows} points of {dtype.itemsize}")
            plain = _decompressed(data[start + 8 : start + 8 + packed], size)
            # all of one column, then all of the next
            ends = np.cumsum([rows * dtype[name].itemsize for name in names])
            columns = np.split(np.frombuffer(plain, np.uint8), ends[:-1])
            named = {n: x.view(t).reshape(rows, -1) for n, t, x in zip(names, types, columns, strict=True)}
        case other:
            raise BadSample(f"its data are {' '.join(other)}, not ascii, binary or binary_compressed")
    return by_name({name: x[:, 0] for name, x in named.items()})


def _decompressed(data: bytes, size: int) -> bytes:
    """What LZF made smaller: literal runs, and copies of what came before."""
    out, at = bytearray(), 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
        else:
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            back = ((control & 31) << 8) + data[at] + 1
            at, length, start = at + 1, length + 2, len(out) - back
            if start < 0:
                raise BadSample("its compressed data refer to bytes before their start")
            # a copy may reach into itself
            out += (out[start:] * (length // back + 1))[:length]
        if len(out) > size:
            break
    if len(out) != size:
        raise BadSample(f"its compressed data are not the {size} bytes they should be")
    return bytes(out)


def by_name(columns: dict[str, Array]) -> Raw:
    """A cloud of named columns, as tables of points call them, in letters of either case."""
    columns = {name.lower(): x for name, x in columns.items()}
    missing = [axis for axis in "xyz" if axis not in columns]
    if missing:
        raise BadSample(f"has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}")
    for name in ("rgb", "rgba"):
        if name in columns and columns[name].dtype.itemsize == 4:
            packed = np.ascontiguousarray(columns[name]).view(np.uint32)
            columns |= {
                c: (packed >> shift).astype(np.uint8) for c, shift in zip("rgb", (16, 8, 0), strict=True)
            }
    features = {}
    for name, choices in _COLUMNS.items():
        for choice in choices:
            if all(column in columns for column in choice):
                features[name] = np.stack([columns[column] for column in choice], axis=1)
                break
    return Raw(np.stack([columns[axis] for axis in "xyz"], axis=1), features)


def off(path: Path) -> Raw:
    """Corners and polygons in text; colours of either, and normals in ``NOFF``."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    rows = [words for line in text.splitlines() if (words := line.partition("#")[0].split())]
    head = _OFF.fullmatch(" ".join(rows[0])) if rows else None
    if head is None:
        raise BadSample(
            f"begins with {' '.join(rows[0])[:20] if rows else 'nothing'!r}, not with OFF, COFF or NOFF"
        )
    counts = (head[4] or head[5] or "").split()
    rows = [counts, *rows[1:]] if counts else rows[1:]
    if not rows or len(rows[0]) < 2 or not all(word.isdigit() for word in rows[0][:2]):
        raise BadSample("does not say how many corners and faces it has in text")
    corners, end = int(rows[0][0]), 1 + int(rows[0][0]) + int(rows[0][1])
    if len(rows) < end:
        raise BadSample(f"claims {end - 1} corners and faces, and has {len(rows) - 1}")
    if len({len(row) for row in rows[1 : 1 + corners]}) > 1:
        raise BadSample("its corners differ in how many numbers they have")
    table, faces = np.array(rows[1 : 1 + corners], dtype=np.float64), rows[1 + corners : end]
    raw = from_array(table[:, :6])
    if head[2] or head[3]:
        width = 6 if head[3] else 3
        ends = {"normals": (3, width), "colour": (width, width + 3)}
        wanted = {name: at for name, at in ends.items() if (head[3] if name == "normals" else head[2])}
        raw = Raw(raw.points, {n: table[:, a:b] for n, (a, b) in wanted.items() if table.shape[1] >= b})
    if not faces:
        return raw
    sizes = [int(face[0]) for face in faces]
    named = [[*map(int, face[1 : 1 + n]), -1] for face, n in zip(faces, sizes, strict=True)]
    mesh = Raw(raw.points, raw.features, fan(np.concatenate(named)))
    colours = [face[1 + n : 4 + n] for face, n in zip(faces, sizes, strict=True)]
    if "colour" in mesh.features or any(len(colour) < 3 for colour in colours):
        return mesh
    return painted(mesh, by_triangle(np.array(colours, dtype=np.float64), sizes))


def by_triangle(x: Array, sizes: Sequence[int]) -> Array:
    """What holds for polygons of so many corners, for the triangles that :func:`fan` makes of them."""
    return np.repeat(x, np.maximum(np.asarray(sizes) - 2, 0), axis=0)


def table(path: Path) -> Raw:
    """Text, a point in each line; the line before the first point may name the columns, ``#`` is a comment.

    Between numbers are spaces, commas, or semicolons, with which a comma is a decimal point; commas within
    what spaces separate are refused, as they may be either. Without names,
    columns are as :func:`from_array` takes them, and x, y, z, intensity, red, green, blue in ``.pts``.
    """
    header: list[str] = []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            swap = _DECIMAL_COMMAS if ";" in line else _COMMAS
            words = line.translate(swap).split()
            # a line of one number counts the points
            if len(words) > 1 and all(map(_is_number, words)):
                break
            header = _NO_NAME.sub(" ", line).lower().split() or header
        else:
            raise BadSample("has no line of numbers")
        spaced = line.split()
        if swap is _COMMAS and len(spaced) > 1 and any(map(_DECIMAL_COMMA.fullmatch, spaced)):
            raise BadSample(
                f"has spaces between numbers and commas within them, {line.strip()[:40]!r}: write decimal "
                "points, or semicolons between the numbers"
            )
        rows = (row.translate(swap) for row in itertools.chain([line], file))
        found = np.loadtxt(rows, dtype=np.float64, ndmin=2, comments=("#", "//"))
    if path.suffix.lower() == ".pts" and found.shape[1] == 7:
        header = header if {"x", "y", "z"} <= set(header) else ["x", "y", "z", "i", "r", "g", "b"]
    if {"x", "y", "z"} <= set(header) and len(header) == found.shape[1]:
        return by_name(dict(zip(header, found.T, strict=True)))
    return from_array(found)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def sweep(path: Path) -> Raw:
    """A turn of a laser scanner, float32: x, y, z, intensity (KITTI); a ring in ``.pcd.bin`` (nuScenes)."""
    columns = 5 if path.name.lower().endswith(".pcd.bin") else 4
    found = np.fromfile(path, "<f4")
    if len(found) % columns or path.stat().st_size % 4:
        raise BadSample(f"{path.stat().st_size} bytes are no points of {columns} float32 numbers")
    return from_array(found.reshape(-1, columns)[:, :4])


def arrays(path: Path) -> Raw:
    """An array, as :func:`from_array` takes it; or an archive of ``points`` and features by name."""
    if path.suffix.lower() == ".npy":
        # mapped, so that a shape beyond the file's size takes no memory
        return from_array(np.load(path, mmap_mode="r", allow_pickle=False))
    _require_honest(path)
    with np.load(path, allow_pickle=False) as loaded:
        if "points" not in loaded:
            raise BadSample(f"has no array 'points'; it has {', '.join(loaded) or 'none'}")
        features = {name: loaded[name] for name in FEATURES if name in loaded}
        raw = from_array(loaded["points"])
        return Raw(raw.points, {**raw.features, **features}, loaded.get("triangles"))


def _require_honest(path: Path) -> None:
    """Refuse an archive with an array larger than its entry, before memory is taken for it."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise BadSample(
                    f"{entry.filename} claims a shape of {list(shape)} in {entry.file_size} bytes"
                )


def from_array(x: Array) -> Raw:
    """Columns x, y, z, then an intensity, or three of normals or colours.

    Three numbers are colours where all of them are 0 to 255 and not all of length one. Other columns have no
    name that is sure, and are left out.
    """
    if x.ndim != 2 or x.shape[1] < 3:
        raise BadSample(f"an array of shape {list(x.shape)} is no cloud")
    points, rest = x[:, :3], np.asarray(x[:, 3:])
    if rest.shape[1] == 1:
        return Raw(points, {"intensity": rest})
    three = rest[:, :3]
    if three.shape[1] < 3 or not np.isfinite(three).any():
        return Raw(points)
    length = np.linalg.norm(three.astype(np.float64), axis=1)
    is_normal = np.abs(length - 1) < 0.01
    # a scanner gives points without a neighbour a normal of zeros
    if is_normal.any() and (is_normal | (length == 0) | ~np.isfinite(length)).all():
        return Raw(points, {"normals": three})
    if rest.shape[1] == 3 and np.nanmin(three) >= 0 and np.nanmax(three) <= 255:
        return Raw(points, {"colour": three})
    return Raw(points)
