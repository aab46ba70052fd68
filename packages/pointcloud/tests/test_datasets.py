"""Clouds from files of every kind; what is broken is skipped and named."""

from __future__ import annotations

import json
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from polymask import UserError
from polymask.data import describe, open_data

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)


def points(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def write(root: Path, kind: str) -> None:
    path = root / f"cloud.{kind}"
    if kind == "npy":
        np.save(path, points())
    elif kind == "npz":
        np.savez(path, points=points())
    elif kind == "xyz":
        np.savetxt(path, points())
    elif kind == "pcd":
        head = (
            "VERSION .7|FIELDS x y z|SIZE 4 4 4|TYPE F F F|COUNT 1 1 1|WIDTH 40|HEIGHT 1|POINTS 40|DATA ascii"
        )
        path.write_text("\n".join([*head.split("|"), *(" ".join(map(str, row)) for row in points())]))
    elif kind == "wrl":
        path.write_text(
            "#VRML V2.0 utf8\nShape { geometry IndexedFaceSet { coordIndex [0,1,2,-1] "
            "coord Coordinate { point [0 0 0, 1 0 0, 0 1 0] } } }"
        )
    elif kind == "las":
        laspy = pytest.importorskip("laspy")
        las = laspy.create(point_format=0)
        las.header.scales = [1e-4] * 3
        las.x, las.y, las.z = points().T
        las.write(path)
    else:
        trimesh = pytest.importorskip("trimesh")
        trimesh.Trimesh(TRIANGLE, [[0, 1, 2]]).export(path)


@pytest.mark.parametrize(
    "kind", ["npy", "npz", "xyz", "pcd", "las", "ply", "obj", "stl", "off", "glb", "wrl"]
)
def test_every_kind_of_file_is_read(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, kind)
    (tmp_path / "a" / "empty.npy").write_bytes(b"")
    (tmp_path / "b" / "noise.obj").write_bytes(b"\x00\x01")
    data = open_data("pointcloud/folder", source=str(tmp_path), points=32, test=0.0)
    samples = data.split("train")
    for index in range(len(samples)):  # where a file turns out to be broken, another stands in
        cloud = samples[index]["points"]
        assert cloud.shape[0] == 32 and cloud.isfinite().all()
        assert cloud[:, :3].norm(dim=1).max() <= 1 + 1e-5
    assert {Path(path).name for path, _ in data.skipped} == {"empty.npy", "noise.obj"}
    assert all(reason for _, reason in data.skipped)


def test_meshes_are_sampled_by_area(tmp_path: Path) -> None:
    """Half of a square in two triangles lies in either, however finely one of them is cut."""
    trimesh = pytest.importorskip("trimesh")
    corners = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 0]]
    faces = [[0, 1, 2], [0, 4, 3], [4, 2, 3]]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trimesh.Trimesh(corners, faces, process=False).export(tmp_path / name / "square.obj")
    data = open_data("pointcloud/folder", source=str(tmp_path), points=2000, test=0.0)
    x, y = data.split("train")[0]["points"][:, :2].unbind(-1)
    assert float((x > y).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.npy"):
        open_data("pointcloud/folder", source=str(tmp_path))


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (np.ones((40, 3)), "all its points are at one place"),
        (points() * 1e30, "squares of these overflow"),
        (points() + 1j, "complex"),
    ],
)
def test_clouds_of_one_place_are_left_out(tmp_path: Path, cloud: np.ndarray, reason: str) -> None:
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", points())
    np.save(tmp_path / "bad.npy", cloud)
    data = open_data("pointcloud/folder", source=str(tmp_path), test=0.0)
    samples = data.split("train")
    assert all(len(samples[i]["points"].unique(dim=0)) > 1 for i in range(len(samples)))
    assert [name for name, why in data.skipped if reason in why] == ["bad.npy"]


def test_built_in_shapes_are_kept_apart_by_family() -> None:
    data = open_data("pointcloud/shapes")
    assert len(data.split("train")) == 384 and len(data.split("test")) == 96
    assert data.split("train")[0]["points"].shape == (1024, 3)
    assert set(data.labels("train").tolist()) == set(data.labels("test").tolist()) == set(range(8))
    picture = data.render(data.split("test")[0])
    assert picture.shape[0] == 3 and picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(data.split("test")[3]["points"], data.split("test")[3]["points"])


def test_broken_files_are_counted_and_another_of_their_class_stands_in(tmp_path: Path) -> None:
    for kind, offset in (("a", 0.0), ("b", 100.0)):
        (tmp_path / kind).mkdir()
        for i in range(4):
            np.save(tmp_path / kind / f"{i}.npy", points() + offset)
    (tmp_path / "a" / "1.npy").write_bytes(b"broken")
    (tmp_path / "b" / "0.npy").write_bytes(b"")
    (tmp_path / "b" / "notes.md").write_text("no cloud")
    np.save(tmp_path / "b" / "3.npy", np.full((5, 3), np.nan))
    data = open_data("pointcloud/folder", source=str(tmp_path), test=0.0, points=16, normalise="none")
    labels = data.labels("train")
    assert labels is not None and labels.tolist() == [0] * 4 + [1] * 3
    samples = data.split("train")
    with pytest.warns(UserWarning, match="stands in for it") as warned:
        high = [samples[i]["points"].mean() > 50 for i in [*range(7), *range(7)]]
    assert torch.stack(high).long().tolist() == [*labels.tolist(), *labels.tolist()]
    assert len(warned) == 2  # once each
    assert {name: reason for name, reason in data.skipped if "suffix" not in reason} == {
        "a/1.npy": dict(data.skipped)["a/1.npy"],
        "b/0.npy": "empty file",
        "b/3.npy": "no point is finite",
    }
    assert len(data.skipped) == 4 and all(reason for _, reason in data.skipped)


def test_clouds_as_they_are_tell_their_lengths(tmp_path: Path) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", points(10 + 5 * i))
    (tmp_path / "2.npy").write_bytes(b"broken")  # the next stands in
    data = open_data("pointcloud/folder", source=str(tmp_path), points=None, test=0.0)
    with pytest.warns(UserWarning, match="stands in for it"):
        lengths = data.lengths("train")
    assert lengths.tolist() == [10, 15, 25, 25]
    fixed = open_data("pointcloud/folder", source=str(tmp_path), points=8, test=0.0)
    assert fixed.lengths("train") is None


def test_built_in_shapes_say_whose_they_are() -> None:
    """As CC BY-SA 4.0 asks: the licence, what was changed, and an owner of each."""
    about = metadata("polymask-pointcloud")
    assert about["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0"
    assert any(path.endswith("samples/shapes/README.md") for path in about.get_all("License-File") or [])
    folder = files("polymask_pointcloud").joinpath("samples/shapes")
    notice = folder.joinpath("README.md").read_text()
    assert "creativecommons.org/licenses/by-sa/4.0" in notice and "Changed:" in notice
    listing = json.loads(folder.joinpath("shapes.json").read_text())
    assert len(listing) == 480 and all(shape["copyright"] for shape in listing)


@pytest.mark.parametrize("normalise", ["sphere", "none"])
def test_what_reaches_a_system_is_told(tmp_path: Path, normalise: str) -> None:
    far = np.array([500_000.0, 5_000_000.0, 100.0])
    np.save(tmp_path / "a.npy", far + np.linspace([0, 0, 0], [8, 1, 1], 50))
    np.save(tmp_path / "b.npy", np.vstack([far + np.linspace([0, 0, 0], [2, 1, 1], 200), [np.nan] * 3]))
    lines = describe(open_data(f"pointcloud/folder:{tmp_path}", test=0, points=64, normalise=normalise))
    assert lines["points"] == "64 of each cloud, 50 to 200 in the files, in a sample of 2"
    assert lines["extent"].startswith("longest side 2 to 8 in the files, ")
    end = {"sphere": "centred, the farthest point at 1", "none": "in their unit, an origin taken off"}
    assert lines["places"].endswith(end[normalise])
    assert "unreadable" not in lines
    np.save(tmp_path / "c.npy", np.full((20, 3), 1.0))
    lines = describe(open_data(f"pointcloud/folder:{tmp_path}", test=0, points=64, normalise=normalise))
    assert lines["points"].endswith("in a sample of 2")
    assert lines["unreadable"].startswith("1 of 3 looked at, first c.npy: ")


def test_meshes_have_no_count(tmp_path: Path) -> None:
    write(tmp_path, "wrl")
    assert "meshes sampled by area" in describe(open_data(f"pointcloud/folder:{tmp_path}", test=0))["points"]
