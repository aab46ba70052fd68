"""What is done to a cloud: what moves in an augmentation and what must not; which points are taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample
from polymask_pointcloud.datasets.prepare import Preparation
from polymask_pointcloud.datasets.raw import Raw
from polymask_pointcloud.operations import point_shape

FEATURES = ("normals", "colour", "intensity")


def ball(n: int = 400) -> Raw:
    """Points of a sphere, whose normals are their places; a class by hemisphere."""
    points = np.random.default_rng(0).standard_normal((n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    features = {"normals": points.copy(), "colour": (points + 1) / 2, "intensity": points[:, 2:].clip(0)}
    return Raw(points, features, label=(points[:, 2] > 0).astype(np.int64))


def moved(seed: int, raw: Raw | None = None, **options: Any) -> dict[str, Tensor]:
    preparation = Preparation(points=None, features=FEATURES, normalise="none", augment="move", **options)
    torch.manual_seed(seed)
    return preparation(raw or ball(), None)


def motion_of(sample: dict[str, Tensor]) -> tuple[Tensor, float]:
    """The matrix and the factor that took the ball's places where they are."""
    before = torch.from_numpy(ball().points).float()
    matrix = torch.linalg.lstsq(before, sample["points"][:, :3]).solution.T
    factor = float(matrix.det().abs() ** (1 / 3))
    return matrix / factor, factor


def test_scaling_moves_places_and_leaves_normals_and_the_rest() -> None:
    factors = set()
    for seed in range(5):
        sample = moved(seed, turn=0.0, scale=(0.5, 2.0))
        points, raw = sample["points"].numpy(), ball()
        matrix, factor = motion_of(sample)
        assert torch.allclose(matrix, torch.eye(3), atol=1e-4) and 0.5 <= factor <= 2
        assert np.allclose(points[:, :3], factor * raw.points, atol=1e-5)
        assert np.allclose(points[:, 3:], np.concatenate(list(raw.features.values()), axis=1), atol=1e-6)
        factors.add(round(factor, 4))
    assert len(factors) == 5


def test_turns_and_mirrors_take_normals_along_and_nothing_else() -> None:
    mirrored = 0
    for seed in range(8):
        sample = moved(seed, flip=0.5, scale=(0.5, 2.0))
        points, raw = sample["points"].numpy(), ball()
        matrix, factor = motion_of(sample)
        assert torch.allclose(matrix @ matrix.T, torch.eye(3), atol=1e-4)
        assert torch.allclose(matrix[2], torch.tensor([0.0, 0, 1]), atol=1e-4)  # about z, which stays up
        assert np.allclose(points[:, 3:6], points[:, :3] / factor, atol=1e-5)  # still across the sphere
        assert np.allclose(points[:, 6:9], raw.features["colour"], atol=1e-6)
        assert np.allclose(points[:, 9:], raw.features["intensity"], atol=1e-6)
        assert torch.equal(sample["point_label"], torch.from_numpy(np.asarray(raw.label)))
        mirrored += int(matrix.det() < 0)
    assert 0 < mirrored < 8


def test_targets_of_a_moved_cloud_are_the_moved_targets() -> None:
    """Measured normals turn along, curvature stays."""
    sample = moved(3, scale=(1.5, 1.5))
    matrix, _ = motion_of(sample)
    before = point_shape(torch.from_numpy(ball().points).float()[None], k=12)
    after = point_shape(sample["points"][None, :, :3], k=12)
    along = (after.normal[0] * (before.normal[0] @ matrix.T)).sum(-1).abs()
    assert along.min() > 1 - 1e-4
    assert torch.allclose(before.curvature, after.curvature, atol=1e-4)


def test_axes_stretch_apart_and_normals_stay_across() -> None:
    """As Point-MAE moves its clouds: each axis by its own factor, then shifted, and not turned."""
    scales, shifts = [], []
    for seed in range(20):
        points = moved(seed, turn=0.0, stretch=(2 / 3, 3 / 2), shift=0.2)["points"].numpy()
        design = np.concatenate([ball().points, np.ones((400, 1))], axis=1)
        found = np.linalg.lstsq(design, points[:, :3], rcond=None)[0]
        assert np.allclose(found[:3], np.diag(np.diag(found[:3])), atol=1e-5)
        scales.append(np.diag(found[:3]))
        shifts.append(found[3])
        # across the ellipsoid (x / a)^2 + ... = 1 at x is x / a^2
        across = (points[:, :3] - found[3]) / np.diag(found[:3]) ** 2
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        assert np.allclose(points[:, 3:6], across, atol=1e-4)
    for x, low, high in ((np.array(scales), 2 / 3, 3 / 2), (np.array(shifts), -0.2, 0.2)):
        assert x.min() >= low - 1e-4 and x.max() <= high + 1e-4 and np.ptp(x) > 0.8 * (high - low)
        assert len(np.unique(x.round(6))) == x.size  # no axis moves as another


def test_places_far_away_keep_their_precision_and_their_origin() -> None:
    """UTM: float32 has steps of half a metre at five million."""
    near = np.random.default_rng(0).random((50, 3)) * 20
    place = near + np.array([437000.25, 5_430_000.5, 112.0])
    sample = Preparation(points=None, normalise="none")(Raw(place), 0)
    assert sample["origin"].dtype == torch.int64
    back = sample["points"].double().numpy() + sample["origin"].numpy()
    assert np.abs(back - place).max() < 1e-5
    sample = Preparation(points=None, normalise="none")(Raw(near), 0)
    assert not sample["origin"].any() and np.allclose(sample["points"], near, atol=1e-5)


def test_colours_of_no_known_range_are_refused_and_only_where_asked_for() -> None:
    raw = Raw(np.zeros((3, 3)), {"intensity": np.array([[-30.0], [-2.0], [-1.0]])})
    with pytest.raises(BadSample, match="intensity from -30 to -1"):
        Preparation(features=["intensity"])(raw, 0)
    assert Preparation(points=3)(raw, 0)["points"].shape == (3, 3)


def test_without_augmentation_nothing_moves_and_a_seed_says_which_points() -> None:
    preparation = Preparation(points=50, features=FEATURES, normalise="none", augment="move")
    one, same, other = (preparation(ball(), seed) for seed in (1, 1, 2))
    assert torch.equal(one["points"], same["points"]) and not torch.equal(one["points"], other["points"])
    assert torch.equal(one["points"][:, :3], one["points"][:, 3:6])
    assert torch.equal(one["point_label"], (one["points"][:, 2] > 0).long())


@pytest.mark.parametrize(("count", "least", "most"), [(100, 0, 1), (400, 1, 1), (1000, 2, 3)])
def test_points_are_taken_evenly(count: int, least: int, most: int) -> None:
    raw = Raw(np.arange(1200.0).reshape(400, 3))
    taken = Preparation(points=count, normalise="none")(raw, 0)["points"]
    times = torch.bincount((taken[:, 0] / 3).round().long(), minlength=400)
    assert len(taken) == count and int(times.min()) == least and int(times.max()) == most


def test_normalising_centres_and_scales() -> None:
    raw = Raw(5 + 3 * np.random.default_rng(0).random((80, 3)))
    for how, radius in (("sphere", 1.0), ("centre", None)):
        points = Preparation(points=None, normalise=how)(raw, 0)["points"].double()  # type: ignore[arg-type]
        assert points.mean(0).abs().max() < 1e-6
        expected = radius or np.linalg.norm(raw.points - raw.points.mean(0), axis=1).max()
        assert float(points.norm(dim=1).max()) == pytest.approx(expected, rel=1e-6)


def test_turns_reach_as_far_as_asked() -> None:
    angles = []
    for seed in range(40):
        matrix, _ = motion_of(moved(seed, turn=0.3))
        angles.append(math.atan2(float(matrix[1, 0]), float(matrix[0, 0])))
    assert max(map(abs, angles)) <= 0.3 + 1e-4 and max(angles) > 0.15 and min(angles) < -0.15


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(BadSample, match="has no colour; it has places alone"):
        Preparation(features=["colour"])(Raw(np.zeros((3, 3))), 0)
    for options in ({"features": ["heat"]}, {"augment": "turn"}, {"scale": (0.0, 1.0)}, {"points": 0}):
        with pytest.raises(UserError):
            Preparation(**options)  # type: ignore[arg-type]
