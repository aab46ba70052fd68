"""Views of clouds: what moves them is known, and chance is the step's alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymask import Step, UserError
from polymask_pointcloud.views import Views

STEP = Step(3, 10, 0)


def batch(rows: int = 3, n: int = 40, width: int = 3, padded: bool = True) -> dict[str, Tensor]:
    points = torch.randn(rows, n, width, generator=torch.Generator().manual_seed(0))
    found = {"points": points, "id": torch.arange(rows) * 5 + 2}
    if padded:
        found["points_length"] = torch.tensor([n, n - 9, n - 20])[:rows]
        points[torch.arange(n) >= found["points_length"][:, None]] = 0
    return found


def test_a_motion_is_undone() -> None:
    given = batch()
    moved, motion = Views(jitter=0.0)(given, STEP, 0)
    sample = torch.arange(3).repeat_interleave(40)
    flat, places = given["points"].flatten(0, 1), moved["points"].flatten(0, 1)
    torch.testing.assert_close(motion.move(flat, sample).float(), places, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(motion.undo(places, sample).float(), flat, rtol=1e-5, atol=1e-5)
    assert (places - flat).abs().max() > 0.1


def test_motions_turn_mirror_and_scale_as_far_as_they_may() -> None:
    noise = torch.rand(4000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    views = Views(turn=0.5, tilt=0.1, flip=0.25, scale=(0.8, 1.2))
    matrix = views.matrix(noise)
    factor = torch.linalg.det(matrix).abs() ** (1 / 3)
    assert 0.8 <= factor.min() < 0.81 and 1.19 < factor.max() <= 1.2
    square = matrix @ matrix.transpose(1, 2) / factor.square()[:, None, None]
    torch.testing.assert_close(square, torch.eye(3, dtype=torch.float64).expand_as(square))
    # one mirror or the other, not both: 2 * 0.25 * 0.75
    assert (torch.linalg.det(matrix) < 0).double().mean() == pytest.approx(0.375, abs=0.04)
    # how far the z axis leans: both tilts at once at most
    lean = (matrix[:, 2, 2] / factor).arccos()
    assert lean.max() < math.hypot(0.1, 0.1) and lean.max() > 0.12
    straight = Views(turn=0.5, tilt=0.0, flip=0.0, scale=(1.0, 1.0)).matrix(noise)
    angle = torch.atan2(straight[:, 1, 0], straight[:, 0, 0])
    assert -0.5 <= angle.min() < -0.49 and 0.49 < angle.max() <= 0.5


def test_views_are_functions_of_step_sample_and_number() -> None:
    given, views = batch(), Views(crop=0.6)
    state = torch.get_rng_state()
    one, motion = views(given, STEP, 0)
    again, _ = Views(crop=0.6)(given, STEP, 0)
    assert torch.equal(one["points"], again["points"])
    assert torch.equal(torch.get_rng_state(), state)
    for step, number in ((STEP, 1), (Step(4, 10, 0), 0), (Step(3, 10, 1), 0)):
        other, moved = views(given, step, number)
        assert not torch.equal(one["points"], other["points"])
        assert not torch.equal(motion.matrix, moved.matrix)
    # neither the samples beside one nor padding change its view
    alone = {key: value[1:2] for key, value in given.items()}
    view, _ = views({**alone, "points": alone["points"][:, :31]}, STEP, 0)
    length = int(one["points_length"][1])
    assert length == round(0.6 * 31) == int(view["points_length"][0])
    torch.testing.assert_close(view["points"][0, :length], one["points"][1, :length])


def test_shaking_is_as_strong_as_asked_and_finite() -> None:
    given = {"points": torch.zeros(50, 2000, 3)}
    moved, _ = Views(jitter=0.02)(given, STEP, 0)
    shaken = moved["points"]
    assert shaken.isfinite().all()
    assert float(shaken.std()) == pytest.approx(0.02, rel=0.01)
    assert abs(float(shaken.mean())) < 4 * 0.02 / math.sqrt(shaken.numel())


def test_a_cut_keeps_the_nearest_to_one_of_its_points() -> None:
    given = batch(padded=True)
    views = Views(turn=0.0, tilt=0.0, flip=0.0, scale=(1.0, 1.0), jitter=0.0, crop=0.5)
    moved, _ = views(given, STEP, 0)
    for row in range(3):
        whole = given["points"][row, : int(given["points_length"][row])]
        cut = moved["points"][row, : int(moved["points_length"][row])]
        assert len(cut) == round(0.5 * len(whole))
        distance = torch.cdist(whole, whole)
        nearest = distance.argsort(dim=1, stable=True)[:, : len(cut)]
        assert any(torch.equal(whole[index], cut) for index in nearest)
        assert (moved["points"][row, len(cut) :] == 0).all()


def test_normals_turn_with_the_cloud_and_other_features_stay() -> None:
    given = batch(width=9, padded=False)
    given["points"][..., :3] = torch.nn.functional.normalize(given["points"][..., :3], dim=-1)
    given["points"][..., 6:] = given["points"][..., :3]  # a sphere faces where it lies
    moved, _ = Views(features=("colour", "normals"), jitter=0.0)(given, STEP, 0)
    place = torch.nn.functional.normalize(moved["points"][..., :3], dim=-1)
    torch.testing.assert_close(moved["points"][..., 6:], place)
    assert torch.equal(moved["points"][..., 3:6], given["points"][..., 3:6])
    plain, _ = Views(features=("colour",), jitter=0.0)(given, STEP, 0)
    assert torch.equal(plain["points"][..., 3:], given["points"][..., 3:])


def test_what_makes_no_view_is_refused() -> None:
    with pytest.raises(UserError, match="range above 0"):
        Views(scale=(1.1, 0.9))
    with pytest.raises(UserError, match="crop=0"):
        Views(crop=0.0)
