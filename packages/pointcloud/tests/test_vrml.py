"""VRML 2 with transformations, against what the standard says of a point."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from polymask.data import BadSample
from polymask_pointcloud.datasets.vrml import wrl

TRIANGLE = (
    "geometry IndexedFaceSet { coordIndex [0,1,2,-1] coord Coordinate { point [1 0 0, 0 1 0, 0 0 1] } }"
)
SHAPE = f"Shape {{ {TRIANGLE} }}"
CORNERS = np.eye(3)


def read(folder: Path, body: str) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "a.wrl"
    path.write_text(f"#VRML V2.0 utf8\n{body}\n")
    raw = wrl(path)
    assert raw.triangles is not None
    return raw.points, raw.triangles


def about_z(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize("first", [True, False], ids=["fields first", "children first"])
def test_a_transform_scales_turns_and_shifts_about_its_centre(tmp_path: Path, first: bool) -> None:
    fields = (
        "translation 10 0 0 rotation 2 0 0 1.5707963267948966 center 1 0 0\n"
        "scale 2 3 4 scaleOrientation 0 0 1 0.5235987755982988"
    )
    parts = [fields, f"children [ {SHAPE} ]"]
    points, _ = read(tmp_path, f"Transform {{ {' '.join(parts if first else parts[::-1])} }}")
    centre = np.array([1, 0, 0])
    stretch = about_z(math.pi / 6) @ np.diag([2, 3, 4]) @ about_z(-math.pi / 6)
    about_x = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    expected = [about_x @ stretch @ (p - centre) + centre + [10, 0, 0] for p in CORNERS]
    assert np.allclose(points, expected)


def test_transforms_within_each_other_act_from_the_innermost(tmp_path: Path) -> None:
    inner = f"Transform {{ translation 1 0 0 children [ {SHAPE} ] }}"
    body = f"Transform {{ scale 2 2 2 children [ {inner} {SHAPE} ] }} {SHAPE}"
    points, triangles = read(tmp_path, body)
    assert np.allclose(points, np.concatenate([2 * (CORNERS + CORNERS[0]), 2 * CORNERS, CORNERS]))
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_what_is_named_is_used_again_where_it_is_called(tmp_path: Path) -> None:
    again = "Transform { translation 0 0 5 children [ USE part ] }"
    faces = "Shape { geometry IndexedFaceSet { coord USE corners coordIndex [2 1 0 -1] } }"
    named = SHAPE.replace("coord Coordinate", "coord DEF corners Coordinate")
    body = f"DEF part Transform {{ scale 3 3 3 children [ {named} ] }} {again} {faces}"
    points, triangles = read(tmp_path, body)
    assert np.allclose(points, np.concatenate([3 * CORNERS, 3 * CORNERS + [0, 0, 5], CORNERS]))
    assert triangles[2].tolist() == [8, 7, 6]


def test_only_face_sets_and_their_corners_are_read(tmp_path: Path) -> None:
    """No lines, no places on textures, no text, no motion of anything but a Transform."""
    textured = TRIANGLE.replace("coordIndex", "texCoord TextureCoordinate { point [9 9, 9 9] } coordIndex")
    lines = "IndexedLineSet { coordIndex [0,1,-1] coord Coordinate { point [7 7 7, 8 8 8] } }"
    words = 'WorldInfo { title "Transform { scale 9 9 9 }" } # Transform { translation 9 9 9\n'
    look = "appearance Appearance { textureTransform TextureTransform { translation 4 4 scale 2 2 } }"
    body = f"{words} Shape {{ {look} {textured} }} Shape {{ geometry {lines} }}"
    points, triangles = read(tmp_path, f"Transform {{ children [ {body} ] }}")
    assert np.allclose(points, CORNERS) and triangles.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SHAPE + "}", "did not begin"),
        (SHAPE.replace("0,1,2", "0,1,3"), "has not"),
        ("Shape { geometry IndexedFaceSet { coordIndex [0,1,2,-1] } }", "lacks its corners"),
        ("Group { }", "no face set"),
    ],
)
def test_damage_is_named(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        read(tmp_path, body)
