"""Two real scenes: their geometry, what is held out, and the classes of points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from polymask import UserError
from polymask.data import SplitName, collate, open_data
from polymask_pointcloud.datasets.base import PointDataset
from polymask_pointcloud.datasets.scenes import SCENES

SPLITS: tuple[SplitName, SplitName] = ("train", "test")


def scenes(source: str | None = "terrain", **options: Any) -> PointDataset:
    if source != "terrain":
        pytest.importorskip("skimage")
    data = open_data("pointcloud/scenes", source=source, **options)
    assert isinstance(data, PointDataset)
    return data


def test_the_motorcycle_stands_where_its_disparities_say() -> None:
    """Seen from the other camera, a point lies where the other photograph shows it."""
    skimage = pytest.importorskip("skimage.data")
    left, right, disparity = skimage.stereo_motorcycle()
    raster, _ = SCENES["motorcycle"]()
    assert np.array_equal(np.isfinite(raster.points[..., 1]), np.isfinite(disparity))
    x, away, z = (raster.points[..., i] for i in range(3))
    assert np.nanmin(away) > 2 and np.nanmax(away) < 5.1
    # the other camera: to the right by the baseline, with a principal point of its own
    column = 994.978 * (x - 0.193001) / away + 311.193 + 31.086
    row = 254.877 - 994.978 * z / away
    seen = np.isfinite(column) & (column > 0) & (column < 740)
    theirs = right[row[seen].round().astype(int), column[seen].round().astype(int)].astype(float)
    mine = 255 * raster.features["colour"][seen]
    assert np.array_equal(mine.round(), left[seen])
    by_chance = np.abs(theirs[::-1] - mine).mean()
    assert np.median(np.abs(theirs - mine)) < 10 and np.abs(theirs - mine).mean() < by_chance / 3


def test_surfaces_of_the_motorcycle_face_the_camera() -> None:
    pytest.importorskip("skimage")
    raster, _ = SCENES["motorcycle"]()
    normal = raster.features["normals"]
    known = np.isfinite(normal).all(-1) & np.isfinite(raster.points).all(-1)
    assert known.mean() > 0.7 and np.allclose(np.linalg.norm(normal[known], axis=-1), 1, atol=1e-5)
    assert (-(normal * raster.points).sum(-1)[known]).min() > -1e-5


def test_brightness_is_that_of_the_photograph() -> None:
    sample = scenes("motorcycle", label="brightness", features=["colour"], bands=2).split("test")[0]
    grey, label = sample["points"][:, 3:].mean(1), sample["point_label"]
    assert grey[label == 0].max() < grey[label == 1].min()


def test_tiles_are_half_full_or_more() -> None:
    data = scenes("motorcycle", points=None, tile=32)
    for samples in map(data.split, SPLITS):
        assert min(len(samples[i]["points"]) for i in range(len(samples))) >= 32**2 / 2


def test_mountains_are_in_metres_with_north_up_the_y_axis() -> None:
    raster, _ = SCENES["terrain"]()
    x, y, z = (raster.points[..., i] for i in range(3))
    assert np.ptp(x) == pytest.approx(0.3350 * 111_195 * np.cos(np.radians(36.59)), rel=1e-3)
    assert np.ptp(y) == pytest.approx(0.2858 * 111_195, rel=1e-3) and (np.diff(y, axis=0) < 0).all()
    assert z.min() == 236 and z.max() == 1076
    normal = raster.features["normals"]
    assert np.allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5) and (normal[..., 2] > 0).all()
    # across the slope, by differences
    slope = (z[100, 101] - z[100, 99]) / (x[100, 101] - x[100, 99])
    assert -normal[100, 100, 0] / normal[100, 100, 2] == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("source", ["terrain", "motorcycle"])
def test_no_point_is_on_both_sides_of_the_split(source: str) -> None:
    data = scenes(source, points=None, normalise="none", tile=32)
    train, test = (
        [samples[i]["points"].numpy() for i in range(len(samples))] for samples in map(data.split, SPLITS)
    )
    one, other = ({tuple(p) for cloud in side for p in cloud} for side in (train, test))
    assert one and other and not one & other
    assert sum(map(len, test)) == len(other)  # test tiles do not overlap
    names = [data.splits[name].names() for name in SPLITS]
    last, first = (sorted(int(name.split()[-1]) for name in side) for side in names)
    assert last[-1] + 32 + 16 <= first[0]


def test_classes_are_equal_shares_of_what_is_trained_on_and_follow_their_points() -> None:
    raster, _ = SCENES["terrain"]()
    data = scenes(label="height", normalise="none", points=500, bands=3)
    assert len(data.point_classes) == 3
    held = 403 - round(0.3 * 403) - 24
    edges = np.quantile(raster.measures["height"][:, :held], [1 / 3, 2 / 3])
    for split in SPLITS:
        sample = data.split(split)[5]
        height, label = sample["points"][:, 2].numpy(), sample["point_label"].numpy()
        assert sample["point_label"].dtype == torch.int64 and len(label) == 500
        assert np.array_equal(label, (height[:, None] >= edges).sum(1))


def test_relief_is_not_known_at_the_edge_of_the_survey() -> None:
    data = scenes(points=None)
    first = data.split("train")[0]["point_label"].view(48, 48)
    assert (first[:10] == -1).all() and (first[:, :10] == -1).all() and (first[10:, 10:] >= 0).all()
    raster, _ = SCENES["terrain"]()
    z = raster.measures["height"]
    assert raster.measures["relief"][50, 60] == pytest.approx(z[50, 60] - z[40:61, 50:71].mean(), abs=1e-9)


def test_both_scenes_have_classes_of_their_own() -> None:
    data = scenes(None, features=["normals"])
    assert data.provides["features"] == 3 and len(data.point_classes) == 8
    seen: dict[str, set[int]] = {"motorcycle": set(), "terrain": set()}
    source = data.splits["test"].source
    samples = data.split("test")
    for i, number in enumerate(data.splits["test"].index.tolist()):
        assert samples[i]["points"].isfinite().all()
        seen[source.name(number).split()[0]] |= set(samples[i]["point_label"].tolist())
    assert seen["motorcycle"] <= set(range(4)) and seen["terrain"] <= {-1, 4, 5, 6, 7} and all(seen.values())


def test_tiles_of_several_lengths_are_padded_with_their_classes() -> None:
    data = scenes("motorcycle", points=None, features=["colour"], limit=4)
    lengths = {name: data.lengths(name) for name in SPLITS}["test"]  # one asked after the other
    assert lengths is not None and len(set(lengths.tolist())) > 1
    batch = collate([data.split("test")[i] for i in range(4)])
    assert torch.equal(batch["points_length"], lengths) and torch.equal(batch["point_label_length"], lengths)
    assert scenes(limit=4).lengths("test") is None


def test_what_a_scene_has_not_is_refused() -> None:
    for options, reason in (
        ({"source": "moon"}, "choose motorcycle or terrain"),
        ({"features": ["colour"]}, "no feature colour; they have normals"),
        ({"label": "distance"}, "terrain has no label distance; it has height, relief"),
        ({"tile": 400}, "no tile of 400 x 400 fits"),
        ({"bands": 1}, "2 classes or more"),
    ):
        with pytest.raises(UserError, match=reason):
            open_data("pointcloud/scenes", **{"source": "terrain", **options})  # type: ignore[arg-type]
