"""Readers of each format against points and features written by hand or by the format's own library."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from polymask.data import BadSample
from polymask_pointcloud.datasets.files import READERS, read
from polymask_pointcloud.datasets.raw import by_area, fan

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
    columns = np.frombuffer(data, np.uint8).reshape(3, -1)
    whole = b"".join(columns[:, a:b].tobytes() for a, b in ((0, 4), (4, 8), (8, 12), (12, 14), (14, 18)))
    # the two bytes of all points are one 7 and a copy of it that reaches into itself
    packed = literal(whole[:37]) + bytes([(5 - 2) << 5, 0]) + literal(whole[42:])
    sizes = struct.pack("<II", len(packed), len(whole))
    (tmp_path / "packed.pcd").write_bytes(f"{head}DATA binary_compressed\n".encode() + sizes + packed)
    same(tmp_path / "packed.pcd", intensity=intensity[:, None])
    (tmp_path / "cut.pcd").write_bytes(f"{head}DATA binary_compressed\n".encode() + sizes + packed[:-1])
    with pytest.raises(BadSample, match="54 bytes"):
        read(tmp_path / "cut.pcd")


def literal(data: bytes) -> bytes:
    """Bytes as LZF has them where they repeat nothing."""
    runs = [data[i : i + 32] for i in range(0, len(data), 32)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


@pytest.mark.parametrize("kind", ["F", "U"])
@pytest.mark.parametrize("how", ["ascii", "binary"])
def test_pcd_packs_a_colour_into_four_bytes(tmp_path: Path, kind: str, how: str) -> None:
    packed = (COLOUR << [16, 8, 0]).sum(1).astype(np.uint32)
    head = HEAD.format(fields="rgb", size="4 4 4 4", kind=f"F F F {kind}", count="1 1 1 1")
    values = packed.view(np.float32) if kind == "F" else packed
    if how == "ascii":
        data = "\n".join(
            " ".join(map(repr, [*p.tolist(), v.item()])) for p, v in zip(POINTS, values, strict=True)
        ).encode()
    else:
        data = b"".join(struct.pack("<fffI", *p, v) for p, v in zip(POINTS, packed, strict=True))
    (tmp_path / "a.pcd").write_bytes(f"{head}DATA {how}\n".encode() + data)
    same(tmp_path / "a.pcd", colour=COLOUR / 255)


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
    las.red, las.green, las.blue = COLOUR.T
    las.intensity = [0, 51, 255]
    las.write(tmp_path / "bytes.las")
    same(tmp_path / "bytes.las", colour=COLOUR / 255, intensity=np.array([[0], [0.2], [1]]))


def test_e57_puts_all_scans_at_their_places(tmp_path: Path) -> None:
    pye57 = pytest.importorskip("pye57")
    axes = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), POINTS.T.astype(np.float64), strict=True))
    colour = dict(zip(("colorRed", "colorGreen", "colorBlue"), COLOUR.T.astype(np.uint8), strict=True))
    file = pye57.E57(str(tmp_path / "a.e57"), mode="w")
    file.write_scan_raw({**axes, **colour, "intensity": np.array([0, 0.2, 1])})
    file.close()
    same(tmp_path / "a.e57", colour=COLOUR / 255, intensity=np.array([[0], [0.2], [1]]))
    file = pye57.E57(str(tmp_path / "b.e57"), mode="w")
    file.write_scan_raw({**axes, **colour}, translation=np.array([10.0, 0, 0]))
    file.write_scan_raw(axes)
    file.close()
    found = read(tmp_path / "b.e57")
    np.testing.assert_allclose(
        found.points, np.concatenate([POINTS + np.array([10, 0, 0]), POINTS]), atol=1e-6
    )
    assert not found.features


def test_colours_of_a_texture_within_a_glb(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    from PIL import Image

    halves = Image.fromarray(np.repeat(np.uint8([[[255, 0, 0]] * 8, [[0, 0, 255]] * 8]), 8, axis=0))
    box = trimesh.creation.box()
    uv = np.stack([np.full(8, 0.5), np.where(box.vertices[:, 2] > 0, 0.9, 0.1)], axis=1)
    box.visual = trimesh.visual.TextureVisuals(uv=uv, image=halves)
    box.export(tmp_path / "a.glb")
    found = read(tmp_path / "a.glb")
    above = found.points[:, 2] > 0
    np.testing.assert_array_equal(found.features["colour"], np.where(above[:, None], [1, 0, 0], [0, 0, 1]))


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


@pytest.mark.parametrize(
    ("kind", "most"), [(np.uint8, 255), (np.int64, 255), (np.uint16, 65535), (np.float32, 255)]
)
def test_colours_and_intensities_are_0_to_1_whatever_they_are_stored_as(
    tmp_path: Path, kind: type, most: int
) -> None:
    colour = (COLOUR / 255 * most).round().astype(kind)
    np.savez(tmp_path / "a.npz", points=POINTS, colour=colour, intensity=colour[:, 0])
    same(tmp_path / "a.npz", colour=COLOUR / 255, intensity=COLOUR[:, :1] / 255)


TEXTS = {
    "a.xyz": "{x} {y} {z} {r} {g} {b}",
    "a.txt": "{x},{y},{z},{r},{g},{b}",
    "a.pts": "{x} {y} {z} 51 {r} {g} {b}",
    "b.txt": "{r};{g};{b};{x};{y};{z}",
}


@pytest.mark.parametrize("line", ["0,1 0,2 0,3", "-1,5e3\t0 2", "0,1, 0,2, 0,3", "1 2,5 3"])
def test_commas_that_may_be_decimal_points_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"{line}\n" * 20)
    with pytest.raises(BadSample, match=r"commas within them, .*: write decimal points, or semicolons"):
        read(path)
    for fine in ("0.1,0.2,0.3", "0, 1, 2", "1.5,2.5,3.5 255 0 0", "1,2,3", "0,1;0,2;0,3"):
        path.write_text(f"{fine}\n" * 20)
        assert READERS[".xyz"](path).points.shape == (20, 3)


HEADS = {"a.xyz": "", "a.txt": "//X,Y,Z,R,G,B", "a.pts": "3", "b.txt": "\ufeffR;G;B;X;Y;Z"}


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_any_usual_layout(tmp_path: Path, name: str) -> None:
    lines = [HEADS[name]] if HEADS[name] else []
    for point, colour in zip(POINTS, COLOUR, strict=True):
        x, y, z = (str(v).replace(".", "," if ";" in TEXTS[name] else ".") for v in point)
        r, g, b = colour
        lines.append(TEXTS[name].format(x=x, y=y, z=z, r=r, g=g, b=b))
    (tmp_path / name).write_text("\n".join(lines))
    more = {"intensity": np.full((3, 1), 0.2)} if name == "a.pts" else {}
    same(tmp_path / name, colour=COLOUR / 255, **more)


def test_scalar_fields_and_columns_of_no_sure_name(tmp_path: Path) -> None:
    (tmp_path / "named.txt").write_text(
        "# x y z scalar_Intensity label\n" + "\n".join(f"{x} {y} {z} 0.5 3" for x, y, z in POINTS)
    )
    same(tmp_path / "named.txt", intensity=np.full((3, 1), 0.5))
    (tmp_path / "bare.txt").write_text("\n".join(f"{x} {y} {z} 0.5 3" for x, y, z in POINTS))
    same(tmp_path / "bare.txt")


def test_sweeps_of_scanners(tmp_path: Path) -> None:
    intensity = np.array([[0], [51], [255]])
    np.concatenate([POINTS, intensity / 255], axis=1).astype("<f4").tofile(tmp_path / "000000.bin")
    np.concatenate([POINTS, intensity, intensity], axis=1).astype("<f4").tofile(tmp_path / "a.pcd.bin")
    for name in ("000000.bin", "a.pcd.bin"):
        same(tmp_path / name, intensity=intensity / 255)


def test_meshes_keep_the_colours_of_their_corners(tmp_path: Path) -> None:
    """Between corners they mix as places do."""
    pytest.importorskip("trimesh")
    rows = "\n".join(
        f"v {' '.join(map(str, p))} {' '.join(map(str, c / 255))}"
        for p, c in zip(POINTS, COLOUR, strict=True)
    )
    (tmp_path / "mesh.obj").write_text(f"{rows}\nf 1 2 3\n")
    (tmp_path / "cloud.obj").write_text(f"{rows}\n")
    same(tmp_path / "cloud.obj", colour=COLOUR / 255)
    sampled = by_area(read(tmp_path / "mesh.obj"), 50, np.random.default_rng(0))
    inside = np.linalg.lstsq(
        np.concatenate([POINTS.T, np.ones((1, 3))]), np.concatenate([sampled.points.T, np.ones((1, 50))])
    )[0]
    assert np.allclose(sampled.features["colour"], inside.T @ COLOUR / 255, atol=1e-6)
    assert sampled.features["normals"].shape == (50, 3)


def rows_of(*columns: np.ndarray) -> str:
    return "".join(" ".join(map(str, row)) + "\n" for row in np.concatenate(columns, axis=1).tolist())


OPAQUE = np.full((3, 1), 255)
OFFS = {
    "OFF\n# none\n3 1 0\n" + rows_of(POINTS) + "3 0 1 2\n": {},
    "OFF3 1 0\n" + rows_of(POINTS) + "3 0 1 2 7\n": {},  # the number of a colour in a list that is not there
    "coff 3 1 0\n" + rows_of(POINTS, COLOUR, OPAQUE) + "3 0 1 2\n": {"colour": COLOUR / 255},
    "COFF\n\n3 1 0\n" + rows_of(POINTS, COLOUR / 255, OPAQUE / 255) + "3 0 1 2 1 0 0\n": {
        "colour": COLOUR / 255
    },
    "CNOFF\n3 1 0\n" + rows_of(POINTS, NORMALS, COLOUR) + "3 0 1 2\n": {
        "normals": NORMALS,
        "colour": COLOUR / 255,
    },
    "NOFF\n3 1 0\n" + rows_of(POINTS, NORMALS) + "3 0 1 2\n": {"normals": NORMALS},
    "OFF\n3 1 0\n" + rows_of(POINTS, COLOUR) + "3 0 1 2\n": {"colour": COLOUR / 255},
}


@pytest.mark.parametrize("text", OFFS)
def test_off_has_colours_and_normals_of_its_corners(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.off").write_text(text)
    raw, features = read(tmp_path / "a.off"), OFFS[text]
    assert raw.triangles is not None and np.allclose(raw.points[raw.triangles[0]], POINTS)
    assert raw.features.keys() == features.keys()
    for name, x in features.items():
        assert np.allclose(raw.features[name], x), name
    (tmp_path / "a.off").write_text(text.replace("3 1 0", "3 0 0"))
    same(tmp_path / "a.off", **features)


@pytest.mark.parametrize("ending", ["off", "ply"])
def test_colours_of_faces_stay_with_their_faces(tmp_path: Path, ending: str) -> None:
    """Corners that two faces share have the colour of either, and nothing between."""
    corners = rows_of(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 1]]))
    path = tmp_path / f"a.{ending}"
    if ending == "off":
        path.write_text(f"OFF\n5 2 0\n{corners}4 0 1 2 3 255 0 0 255\n3 1 4 2 0 0 255\n")
    else:
        pytest.importorskip("plyfile")
        path.write_text(
            "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
            "element face 2\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
            f"property list uchar int vertex_indices\nend_header\n{corners}"
            "255 0 0 4 0 1 2 3\n0 0 255 3 1 4 2\n"
        )
    sampled = by_area(read(path), 300, np.random.default_rng(0))
    level = np.isclose(sampled.points[:, 2], 0)
    assert 0 < level.sum() < 300
    assert np.allclose(sampled.features["colour"], np.where(level[:, None], [1, 0, 0], [0, 0, 1]))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("4OFF\n1 0 0\n0 0 0 0\n", "not with OFF"),
        ("OFF BINARY\n3 1 0\n", "in text"),
        ("OFF\n3 1 0\n0 0 0\n", "claims 4 corners and faces, and has 1"),
        ("OFF\n1000000000 1 0\n0 0 0\n", "claims 1000000001"),
        ("OFF\n2 0 0\n0 0 0\n1 1 1 1\n", "differ in how many"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -1 255 0 0\n", "do not fit"),
    ],
)
def test_off_that_is_damaged_says_how(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.off").write_text(text)
    with pytest.raises(BadSample, match=why):
        read(tmp_path / "a.off")


HUGE = 10**9
CLAIMS = {
    "a.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex %d\nproperty float x\nproperty float y\n"
    b"property float z\nend_header\n\0\0\0\0" % HUGE,
    "text.ply": b"ply\nformat ascii 1.0\nelement vertex %d\nproperty float x\nend_header\n0\n" % HUGE,
    "a.pcd": HEAD.format(fields="a", size="4 4 4 4", kind="F F F F", count=f"1 1 1 {HUGE}").encode()
    + b"DATA binary\n\0",
    "b.pcd": HEAD.format(fields="a", size="4 4 4 4", kind="F F F F", count=f"1 1 1 {HUGE}").encode()
    + b"DATA binary_compressed\n\0\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("name", [*CLAIMS, "a.npy", "a.npz", "a.las", "a.stl", "a.glb"])
def test_a_header_that_claims_too_much_takes_no_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in CLAIMS:
        path.write_bytes(CLAIMS[name])
    elif name.startswith("a.np"):
        array = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            array, {"shape": (HUGE, 3), "fortran_order": False, "descr": "<f8"}
        )
        path.write_bytes(array.getvalue())
        if name == "a.npz":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("points.npy", array.getvalue())
    elif name == "a.las":
        laspy = pytest.importorskip("laspy")
        laspy.create(point_format=0).write(path)
        data = bytearray(path.read_bytes())
        data[107:111] = struct.pack("<I", HUGE)
        path.write_bytes(data)
    elif name == "a.stl":
        path.write_bytes(b"\0" * 80 + struct.pack("<I", HUGE) + b"\0" * 50)
    else:
        path.write_bytes(b"glTF" + struct.pack("<III", 2, HUGE, HUGE) + b"JSON{}")
    tracemalloc.start()
    with pytest.raises(BadSample):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ply")
    (tmp_path / "b.ply").symlink_to("/dev/zero")
    for name in ("a.ply", "b.ply"):
        with pytest.raises(BadSample, match="regular"):
            read(tmp_path / name)


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
