"""VRML 2, as CAD programs write it: indexed face sets, each where the nodes around it put it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from polymask.data import BadSample
from polymask_pointcloud.datasets.raw import Array, Raw, fan

_UNREAD = re.compile(r'"(?:\\.|[^"\\])*"|#[^\n]*')
_PART = re.compile(
    r"(?:\bDEF\s+(?P<name>\S+)\s+)?\b(?P<kind>\w+)\s*\{"
    r"|(?P<close>\})"
    r"|\bUSE\s+(?P<use>[^\s,{}\[\]]+)"
    r"|\bcoordIndex\s*\[(?P<faces>[^\]]*)\]"
    r"|\bpoint\s*\[(?P<corners>[^\]]*)\]"
    r"|\b(?P<motion>translation|rotation|scaleOrientation|scale|center)\s+(?P<numbers>[-+.\deE\s,]*)"
)

Shape = tuple[Array, Array]
"""Corners ``[n, 3]`` and triangles ``[m, 3]`` between them."""


@dataclass
class _Node:
    """One that is open: what it says of itself, and how many shapes there were before it."""

    kind: str
    name: str | None
    before: int
    faces: Array | None = None
    corners: Array | None = None
    motion: dict[str, Array] = field(default_factory=dict)


def wrl(path: Path) -> Raw:
    """The face sets of a file, all together, with their transformations applied.

    A node that is named and used again is there again. All that a ``LOD`` or ``Switch`` can choose is there.

    Raises:
        BadSample: no VRML 2, or face sets and corners that do not fit.
    """
    text = path.read_text(encoding="latin-1")
    if not text.startswith("#VRML V2"):
        raise BadSample("does not begin as VRML 2 does")
    shapes = _shapes(_UNREAD.sub("", text))
    if not shapes:
        raise BadSample("holds no face set")
    before = np.cumsum([0, *(len(corners) for corners, _ in shapes)])
    triangles = [faces + start for (_, faces), start in zip(shapes, before, strict=False)]
    return Raw(np.concatenate([corners for corners, _ in shapes]), triangles=np.concatenate(triangles))


def _shapes(text: str) -> list[Shape]:
    shapes: list[Shape] = []
    named: dict[str, list[Shape]] = {}
    corners_named: dict[str, Array] = {}
    nodes = [_Node("", None, 0)]
    for found in _PART.finditer(text):
        node = nodes[-1]
        if found["kind"]:
            nodes.append(_Node(found["kind"], found["name"], len(shapes)))
        elif found["use"]:
            if found["use"] in corners_named:
                node.corners = corners_named[found["use"]]
            shapes += named.get(found["use"], [])
        elif found["faces"] is not None:
            node.faces = fan(_numbers(found["faces"]).astype(np.int64))
        elif found["corners"] is not None:
            if node.kind == "Coordinate":  # others are of textures
                node.corners = _numbers(found["corners"]).reshape(-1, 3)
        elif found["motion"]:
            node.motion[found["motion"]] = _numbers(found["numbers"])
        elif len(nodes) == 1:
            raise BadSample("a node ends that did not begin")
        else:
            nodes.pop()
            if node.kind == "Coordinate" and node.corners is not None:
                nodes[-1].corners = node.corners
                if node.name:
                    corners_named[node.name] = node.corners
            elif node.kind == "IndexedFaceSet":
                shapes.append(_face_set(node))
            elif node.kind == "Transform":
                shapes[node.before :] = [
                    (_moved(x, node.motion), faces) for x, faces in shapes[node.before :]
                ]
            if node.name:
                named[node.name] = shapes[node.before :]
    return shapes


def _face_set(node: _Node) -> Shape:
    if node.faces is None or node.corners is None:
        raise BadSample("a face set lacks its corners")
    if len(node.faces) and (node.faces.min() < 0 or node.faces.max() >= len(node.corners)):
        raise BadSample("a face has corners that its set has not")
    return node.corners, node.faces


def _moved(points: Array, motion: dict[str, Array]) -> Array:
    """Points as a Transform has them: scaled along axes of its own and turned, around its centre; shifted."""
    centre = motion.get("center", np.zeros(3))
    turn = _turn(motion.get("rotation"))
    axes = _turn(motion.get("scaleOrientation"))
    matrix = turn @ axes @ np.diag(motion.get("scale", np.ones(3))) @ axes.T
    moved: Array = (points - centre) @ matrix.T + centre + motion.get("translation", np.zeros(3))
    return moved


def _turn(rotation: Array | None) -> Array:
    """The matrix of an axis and an angle in radians."""
    if rotation is None:
        return np.eye(3)
    axis = rotation[:3] / max(float(np.linalg.norm(rotation[:3])), 1e-12)
    matrix: Array = Rotation.from_rotvec(axis * rotation[3]).as_matrix()
    return matrix


def _numbers(text: str) -> Array:
    return np.array(text.replace(",", " ").split(), dtype=np.float64)
