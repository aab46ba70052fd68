"""Readers of each format against points and features written by hand or by the format's own library."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from polymask.data import BadSample
from polymask_pointcloud.datasets.files import READERS, read
from polymask_pointcloud.datasets.raw import fan

POINTS = np.array([[0, 0, 0], [1.5, -2, 0.25], [4, 5, -6]])
NORMALS = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
COLOUR = np.array([[255, 0, 51], [0, 102, 0], [204, 0, 255]])
HEAD = (
    "VERSION .7\nFIELDS x y z {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {count}\n"
    "WIDTH 3\nHEIGHT 1\nPOINTS 3\n"
)


def same(path: Path, **features: np.ndarray) -> None:
    raw = read(path)
    assert raw.triangles is None and np.allclose(raw.points, POINTS, atol=1e-6)
    assert raw.features.keys() == features.keys()
    for name, x in features.items():
        assert np.allclose(raw.features[name], x, atol=1e-6), name


def test_ply_has_normals_and_colours_by_name(tmp_path: Path) -> None:
    rows = "\n".join(
        " ".join(map(str, (*c, *p, *n))) for p, n, c in zip(POINTS, NORMALS, COLOUR, strict=True)
    )
    names = [f"uchar {x}" for x in ("red", "green", "blue")] + [
        f"float {x}" for x in ("x", "y", "z", "nx", "ny", "nz")
    ]
    head = "\n".join(["ply", "format ascii 1.0", "element vertex 3", *(f"property {x}" for x in names)])
    (tmp_path / "a.ply").write_text(f"{head}\nend_header\n{rows}\n")
    same(tmp_path / "a.ply", normals=NORMALS, colour=COLOUR / 255)


def test_ply_with_faces_is_a_mesh(tmp_path: Path) -> None:
    head = (
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    (tmp_path / "a.ply").write_text(f"{head}0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n")
    raw = read(tmp_path / "a.ply")
    assert raw.triangles is not None and raw.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_pcd_in_text_and_in_binary(tmp_path: Path) -> None:
    intensity = np.array([0.5, 0.25, 1])
    head = HEAD.format(fields="_ intensity", size="4 4 4 1 4", kind="F F F U F", count="1 1 1 2 1")
    rows = [(*p, 7, 7, i) for p, i in zip(POINTS, intensity, strict=True)]
    text = "\n".join(" ".join(map(str, row)) for row in rows)
    (tmp_path / "text.pcd").write_text(f"# a comment\n{head}DATA ascii\n{text}\n")
    data = b"".join(struct.pack("<fffBBf", *row) for row in rows)
    (tmp_path / "binary.pcd").write_bytes(f"{head}DATA binary\n".encode() + data)
    for name in ("text.pcd", "binary.pcd"):
        same(tmp_path / name, intensity=intensity[:, None])
    (tmp_path / "packed.pcd").write_bytes(f"{head}DATA binary_compressed\n".encode() + data)
    with pytest.raises(BadSample, match="only ascii and binary"):
        read(tmp_path / "packed.pcd")


def test_las_has_colour_and_intensity_by_the_width_of_their_type(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    las = laspy.create(point_format=2)
    las.header.scales, las.header.offsets = [1e-3] * 3, [100.0, 0, 0]
    las.x, las.y, las.z = POINTS.T
    las.red, las.green, las.blue = COLOUR.T * 257
    las.intensity = [0, 13107, 65535]
    for name in ("a.las", "a.laz"):
        las.write(tmp_path / name)
        same(tmp_path / name, colour=COLOUR / 255, intensity=np.array([[0], [0.2], [1]]))


def test_text_and_numpy(tmp_path: Path) -> None:
    six = np.concatenate([POINTS, NORMALS], axis=1)
    np.savetxt(tmp_path / "plain.xyz", POINTS)
    np.savetxt(tmp_path / "commas.txt", six, delimiter=",", header="x,y,z,nx,ny,nz")
    np.save(tmp_path / "plain.npy", POINTS.astype(np.float32))
    np.save(tmp_path / "six.npy", six)
    np.savez(tmp_path / "named.npz", points=POINTS, colour=COLOUR / 255)
    same(tmp_path / "plain.xyz")
    same(tmp_path / "plain.npy")
    same(tmp_path / "commas.txt", normals=NORMALS)
    same(tmp_path / "six.npy", normals=NORMALS)
    same(tmp_path / "named.npz", colour=COLOUR / 255)


def test_meshes_in_text(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    corners = "\n".join(" ".join(map(str, p)) for p in POINTS)
    (tmp_path / "a.off").write_text(f"OFF\n3 1 0\n{corners}\n3 0 1 2\n")
    (tmp_path / "a.obj").write_text("\n".join(f"v {line}" for line in corners.split("\n")) + "\nf 1 2 3\n")
    facet = "\n".join(f"vertex {line}" for line in corners.split("\n"))
    (tmp_path / "a.stl").write_text(
        f"solid a\nfacet normal 0 0 1\nouter loop\n{facet}\nendloop\nendfacet\nendsolid a\n"
    )
    for name in ("a.off", "a.obj", "a.stl"):
        raw = read(tmp_path / name)
        assert raw.triangles is not None and np.allclose(raw.points[raw.triangles[0]], POINTS), name


def test_points_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.concatenate([POINTS, [[np.nan, 0, 0], [0, np.inf, 0]]]))
    same(tmp_path / "a.npy")


def test_polygons_become_fans() -> None:
    assert fan(np.array([3, 4, 5, 6, -1, 0, 1, -1, 7, 8, 9])).tolist() == [[3, 4, 5], [3, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("ending", sorted(READERS))
@pytest.mark.parametrize("content", [b"", b"\x00\x01nothing that any format begins with"])
def test_what_is_empty_or_damaged_has_a_reason(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"broken{ending}"
    path.write_bytes(content)
    with pytest.raises(BadSample) as caught:
        read(path)
    assert str(caught.value)
