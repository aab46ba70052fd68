"""Operations against scipy's trees and against closed forms; padding is never found."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from polymask_pointcloud.operations import (
    Cells,
    ball,
    chamfer,
    distance,
    farthest_points,
    group_by_cell,
    local_shape,
    nearest,
    neighbours,
    take,
    trees,
)


def clouds(rows: int = 3, n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clouds of several sizes, what pads them far from nowhere."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(rows, n, 3, generator=generator)
    valid = torch.arange(n) < torch.tensor([n, n - 17, n - 31])[:rows, None]
    return points, valid


def test_nearest_is_scipys_answer_and_never_padding() -> None:
    points, valid = clouds()
    query = torch.rand(3, 11, 3, generator=torch.Generator().manual_seed(1))
    found, index = nearest(query, points, 5, valid)
    for row in range(3):
        theirs, at = cKDTree(points[row][valid[row]]).query(query[row], k=5)
        np.testing.assert_allclose(found[row], theirs, rtol=1e-5)
        assert np.array_equal(index[row], at)


def test_rows_of_fewer_points_than_asked_for_repeat_the_nearest() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.1, 0, 0]]])
    valid = torch.tensor([[True, True, False]])
    _, index = nearest(torch.zeros(1, 1, 3), points, 3, valid)
    assert index.tolist() == [[[0, 1, 0]]]


def test_a_ball_holds_what_lies_within_its_radius() -> None:
    points, valid = clouds()
    query = points[:, :4]
    index, inside = ball(query, points, 0.3, 60, valid)
    for row in range(3):
        tree = cKDTree(points[row][valid[row]])
        for k, found in enumerate(tree.query_ball_point(query[row], 0.3)):
            assert sorted(index[row, k][inside[row, k]].tolist()) == sorted(found)


def test_farthest_points_are_each_farthest_from_those_before() -> None:
    points, valid = clouds()
    picks = farthest_points(points, 12, valid)
    for row in range(3):
        real = points[row][valid[row]].double().numpy()
        chosen = [0]
        for _ in range(11):
            left = np.linalg.norm(real[:, None] - real[chosen], axis=-1).min(axis=1)
            chosen.append(int(left.argmax()))
        assert picks[row].tolist() == chosen


def test_farthest_points_repeat_the_first_once_all_are_picked() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]])
    assert farthest_points(points, 4).tolist() == [[0, 1, 0, 0]]


def test_chamfer_is_that_of_scipys_trees_with_gradient_to_both() -> None:
    (x, x_valid), (y, y_valid) = clouds(seed=2), clouds(n=40, seed=3)
    x, y = x.requires_grad_(), y.requires_grad_()
    found = chamfer(x, y, x_valid, y_valid)
    for row in range(3):
        one, other = (z[row][v[row]].detach().numpy() for z, v in ((x, x_valid), (y, y_valid)))
        there, back = cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]
        assert float(found[row].detach()) == pytest.approx((there**2).mean() + (back**2).mean(), rel=1e-4)
    found.sum().backward()
    for z, v in ((x, x_valid), (y, y_valid)):
        assert z.grad is not None and z.grad[v].abs().sum() > 0 and (z.grad[~v] == 0).all()


def test_chamfer_of_equal_sets_in_another_order_is_zero() -> None:
    points, _ = clouds()
    assert (chamfer(points, points.flip(1)) == 0).all()
    assert (chamfer(points, points + 1) > 0).all()


def test_a_disc_has_its_normal_and_two_equal_curvatures() -> None:
    angle = torch.arange(64) * 2 * math.pi / 64
    ring = torch.stack([angle.cos(), angle.sin(), torch.zeros(64)], dim=-1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    for points, normal in ((ring, torch.tensor([0.0, 0, 1])), (ring @ turn.T + 5, turn[:, 2])):
        shape = local_shape(points)
        assert abs(float(shape.normal @ normal)) == pytest.approx(1, abs=1e-5)
        assert shape.curvature.tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-5)


def test_a_line_spreads_one_way_and_a_ball_alike_in_all() -> None:
    line = torch.linspace(0, 1, 20)[:, None] * torch.tensor([1.0, 2, 3])
    assert local_shape(line).curvature.tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    assert local_shape(axes).curvature.tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_padding_does_not_bend_a_surface() -> None:
    points, valid = clouds()
    other = torch.where(valid[..., None], points, 100.0)
    one, two = local_shape(points, valid), local_shape(other, valid)
    assert torch.equal(one.normal, two.normal) and torch.equal(one.curvature, two.curvature)


def test_cells_hold_the_points_that_lie_in_them() -> None:
    points, valid = clouds()
    cells = Cells.over((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.25, 0.25, 0.25))
    found = group_by_cell(cells, points, 200, valid)
    for row in range(3):
        real = points[row][valid[row]]
        key = ((real * 4).long().clamp(max=3) * torch.tensor([1, 4, 16])).sum(-1)
        occupied, count = key.unique(return_counts=True)
        mine = found.valid[row]
        assert torch.equal(found.key[row][mine], occupied) and torch.equal(found.count[row][mine], count)
        for place in range(len(occupied)):
            inside = set(found.index[row, place].tolist())
            assert inside == set((key == occupied[place]).nonzero()[:, 0].tolist())


def test_take_picks_rows_of_each_sample() -> None:
    x = torch.arange(24.0).view(2, 4, 3)
    assert torch.equal(take(x, torch.tensor([[3, 0], [1, 1]])), torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


def backends() -> list[Any]:
    """Whoever can search on a CPU here, in a row's terms."""
    found = [trees.with_scipy]
    if importlib.util.find_spec("torch_points_kernels"):
        found.append(trees.with_kernels)
    return found


@pytest.mark.parametrize("search", backends(), ids=lambda search: search.__name__)
@pytest.mark.parametrize("k", [1, 7, 29, 40])
def test_trees_find_what_comparing_everything_finds(
    search: Any, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows have fewer than k points too, and whatever takes several turns."""
    monkeypatch.setattr(trees, "fastest", lambda: search)
    monkeypatch.setattr(neighbours, "_AT_ONCE", 3 * 60 * 4)
    points, valid = clouds()
    valid = valid.flip(1)  # padding may stand anywhere
    query = torch.rand(3, 11, 3, generator=torch.Generator().manual_seed(1))
    by_tree = trees.nearest_by_tree(query, points, k, valid)
    by_all = neighbours.nearest_of_all(query, points, k, valid)
    real = by_all[0].isfinite()
    assert torch.allclose(by_tree[0], by_all[0], rtol=1e-5) and (~real).any() == (k > 29)
    assert torch.equal(by_tree[1][real], by_all[1][real])
    assert torch.equal(trees.nearest_by_tree(query, points, k, None)[1], nearest(query, points, k)[1])


def test_neighbours_do_not_depend_on_threads() -> None:
    points, valid = clouds()
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            answers.append(nearest(points, points, 5, valid))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))


@pytest.mark.compile
def test_neighbours_compile_in_one_graph() -> None:
    points, valid = clouds()
    compiled = torch.compile(lambda x, v: nearest(x, x, 5, v)[1], backend="eager", fullgraph=True)
    assert torch.equal(compiled(points, valid), nearest(points, points, 5, valid)[1])


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("many", [4, 512])
def test_the_gradient_of_chamfer_is_that_of_all_distances(
    squared: bool, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "_MANY", many)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, n, 3, generator=generator, dtype=torch.float64) for n in (7, 5))
    y[0, 0] = x[0, 0]  # where points coincide the root has no slope

    def plain(x: Tensor, y: Tensor) -> Tensor:
        far = (x[:, :, None] - y[:, None]).square().sum(-1)
        if not squared:
            far = torch.where(far > 0, far, 1.0).sqrt() * (far > 0)
        return far.amin(2).mean(1) + far.amin(1).mean(1)

    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = []
    for function in (lambda x, y: chamfer(x, y, squared=squared), plain):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = function(a, b)
        (weight * value).sum().backward()
        found.append((value.detach(), a.grad, b.grad))
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("many", [4, 512])
def test_padding_that_is_no_number_does_not_reach_chamfer(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "_MANY", many)
    (x, x_valid), (y, y_valid) = clouds(seed=2), clouds(n=40, seed=3)
    y_valid[2] = False  # an empty set is at no distance
    spoilt = torch.where(x_valid[..., None], x, torch.nan).requires_grad_()
    other = torch.where(y_valid[..., None], y, torch.inf)
    found = chamfer(spoilt, other, x_valid, y_valid)
    assert torch.equal(found.detach(), chamfer(x, y, x_valid, y_valid)) and found[2] == 0
    found.sum().backward()
    assert spoilt.grad is not None and spoilt.grad.isfinite().all()
    assert chamfer(spoilt, other, None, y_valid).isnan().tolist() == [False, True, False]
