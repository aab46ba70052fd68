"""Tokens hold the points that lie in them, whatever the order of the cloud and whatever pads it."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import length_key
from polymask_pointcloud.operations import farthest_points
from polymask_pointcloud.tokenizers import UNIT, Groups, Pillars, Voxels

MAKE = {
    "groups": lambda **more: Groups(groups=6, neighbours=5, **more),
    "voxels": lambda **more: Voxels(voxel=0.5, neighbours=40, **more),
    "pillars": lambda **more: Pillars(pillar=0.5, neighbours=60, **more),
}
each = pytest.mark.parametrize("name", sorted(MAKE))
cells = pytest.mark.parametrize("name", ["pillars", "voxels"])


def cloud(n: int = 60, features: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(1, n, 3 + features, generator=generator) - 1


def points_of(tokens: Tokens, channels: int = 3) -> Tensor:
    """Points of the tokens of one cloud ``[N, k, channels]``, in its units along the axes of positions."""
    values = tokens.values[0].reshape(tokens.shape[1], -1, channels).clone()
    axes = tokens.position.shape[2]
    values[..., :axes] += tokens.position[0, :, None] * UNIT
    return values


def as_sets(points: Tensor) -> list[set[tuple[float, ...]]]:
    """Distinct points of each token; rounded, as they went through a subtraction."""
    return [{tuple(round(x, 4) for x in point) for point in token.tolist()} for token in points]


@cells
def test_cells_share_out_the_points(name: str) -> None:
    """Each point is in the one token in whose cell it lies, and in no other."""
    points = cloud()
    tokens = MAKE[name]()({"points": points})
    found = as_sets(points_of(tokens))
    axes = tokens.position.shape[2]
    assert sum(map(len, found)) == 60
    by_hand: dict[tuple[int, ...], set[tuple[float, ...]]] = {}
    for point in points[0].tolist():
        cell = tuple(int((x + 1) / 0.5) for x in point[:axes])
        by_hand.setdefault(cell, set()).add(tuple(round(x, 4) for x in point))
    order = sorted(by_hand, key=lambda cell: cell[::-1])  # by z, then y, then x
    assert found == [by_hand[cell] for cell in order]
    middle = torch.tensor([[(i + 0.5) * 0.5 - 1 for i in cell] for cell in order])
    torch.testing.assert_close(tokens.position[0] * UNIT, middle)


@cells
def test_more_points_than_fit_are_thinned_evenly_and_fewer_repeated(name: str) -> None:
    line = torch.zeros(1, 12, 3)
    line[0, :, 0] = torch.linspace(0.01, 0.4, 12)
    few = Voxels(voxel=0.5, neighbours=4) if name == "voxels" else Pillars(pillar=0.5, neighbours=4)
    kept = points_of(few({"points": line}))[0, :, 0]
    torch.testing.assert_close(kept, line[0, [0, 3, 6, 9], 0])
    alone = points_of(few({"points": line[:, :1]}))[0, :, 0]
    torch.testing.assert_close(alone, line[0, :1, 0].expand(4))


@cells
def test_points_outside_the_box_are_left_out_and_its_faces_belong_to_it(name: str) -> None:
    points = torch.tensor([[[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [1.01, 0.0, 0.0], [0.0, 0.0, -1.01]]])
    with pytest.warns(UserWarning, match="2 of 4 points"):
        tokens = MAKE[name]()({"points": points})
    assert tokens.shape == (1, 2) and len(set.union(*as_sets(points_of(tokens)))) == 2


def test_pillars_are_as_high_as_the_box() -> None:
    points = torch.tensor([[[0.1, 0.1, z] for z in (-0.9, -0.2, 0.4, 0.9)]])
    assert Pillars(pillar=0.25)({"points": points}).shape == (1, 1)
    assert Voxels(voxel=0.25)({"points": points}).shape == (1, 4)
    with pytest.warns(UserWarning, match="3 of 4 points"):
        low = Pillars(pillar=0.25, low=(-1, -1, 0), high=(1, 1, 0.5))({"points": points})
    assert as_sets(points_of(low)) == [{(0.1, 0.1, round(0.4 - 0.25, 4))}]  # z is of the middle of the box


def test_groups_are_the_nearest_points_of_centres_that_cover_the_cloud() -> None:
    points = cloud()
    tokens = Groups(groups=6, neighbours=5)({"points": points})
    centre = points[0, farthest_points(points, 6)[0]]
    torch.testing.assert_close(tokens.position[0] * UNIT, centre)
    _, index = cKDTree(points[0]).query(centre, k=5)
    assert as_sets(points_of(tokens)) == as_sets(points[0, torch.from_numpy(index)])


@each
def test_another_order_of_points_gives_the_same_tokens(name: str) -> None:
    """Of groups the first point is the first centre, so it keeps its place."""
    points = cloud()
    order = torch.cat(
        [torch.zeros(1).long(), 1 + torch.randperm(59, generator=torch.Generator().manual_seed(1))]
    )
    one, two = (MAKE[name]()({"points": x}) for x in (points, points[:, order]))
    assert torch.equal(one.position, two.position)
    assert as_sets(points_of(one)) == as_sets(points_of(two))


@each
def test_what_pads_a_cloud_is_in_no_token(name: str) -> None:
    """The tokens of a padded cloud are those of the cloud alone, and what pads tokens is told."""
    long, short = cloud(), cloud(20, seed=1)
    padded = torch.cat([long, torch.nn.functional.pad(short, (0, 0, 0, 40), value=0.3)])
    tokens = MAKE[name]()({"points": padded, length_key("points"): torch.tensor([60, 20])})
    alone = MAKE[name]()({"points": short})
    n = alone.shape[1]
    assert tokens.valid is not None and int(tokens.valid[1].sum()) == n
    assert torch.equal(tokens.position[1, :n], alone.position[0])
    assert torch.equal(tokens.values[1, :n], alone.values[0])


def test_a_cloud_of_fewer_points_than_groups_has_a_group_for_each_point() -> None:
    batch = {"points": cloud(), length_key("points"): torch.tensor([4])}
    tokens = Groups(groups=6, neighbours=5)(batch)
    assert tokens.valid is not None and tokens.valid.tolist() == [[True] * 4 + [False] * 2]
    assert all(len(group) == 4 for group in as_sets(points_of(tokens))[:4])


@each
def test_moving_a_cloud_by_whole_cells_moves_positions_alone(name: str) -> None:
    points = cloud() / 2
    move = torch.tensor([0.5, -0.5, 0.5 if name != "pillars" else 0.0])
    one, two = (MAKE[name]()({"points": x}) for x in (points, points + move))
    axes = one.position.shape[2]
    torch.testing.assert_close(two.position, one.position + move[:axes] / UNIT)
    torch.testing.assert_close(two.values, one.values, rtol=0, atol=1e-6)


@each
def test_features_stay_with_their_points(name: str) -> None:
    points = cloud(features=2)
    points[..., 3:] = points[..., :2] * 7
    tokens = MAKE[name](features=2)({"points": points})
    found = points_of(tokens, 5)
    torch.testing.assert_close(found[..., 3:], found[..., :2] * 7, rtol=1e-4, atol=1e-4)
    assert MAKE[name](features=2).provides["channels"] == 5


@each
def test_points_of_another_width_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected points \[B, N, 3\], got \[1, 60, 4\]"):
        MAKE[name]()({"points": cloud(features=1)})


@pytest.mark.parametrize("name", ["voxels", "pillars"])
def test_clouds_that_miss_the_box_or_fill_one_cell_are_told(name: str) -> None:
    tokenizer = {"voxels": Voxels(), "pillars": Pillars()}[name]
    there = cloud()
    with pytest.raises(UserError, match=r"1 of 2 clouds.*box, \(-1, -1, -1\) to \(1, 1, 1\).*tokenizer.low"):
        tokenizer({"points": torch.cat([there, there + 40])})
    with pytest.raises(UserError, match="one cell"):
        tokenizer({"points": 0.01 * there.repeat(2, 1, 1) + 0.05})
    partly = torch.cat([there, there + 40], dim=1)
    with pytest.warns(UserWarning, match=f"{there.shape[1]} of {partly.shape[1]} points"):
        tokenizer({"points": partly})
    tokenizer({"points": partly})  # told once: a second warning would be an error


def test_what_cannot_be_is_refused() -> None:
    wrong = {
        "2 groups or more": lambda: Groups(groups=1),
        "1 point or more": lambda: Voxels(neighbours=0),
        "give it extent": lambda: Voxels(low=(0, 0, 0), high=(1, 0, 1)),
        "three numbers": lambda: Pillars(low=(0, 0)),
    }
    for message, make in wrong.items():
        with pytest.raises(UserError, match=message):
            make()


def test_cells_tell_what_they_are() -> None:
    """Whoever speaks of boxes of tokens finds them by what the tokenizer provides."""
    told = Pillars(pillar=0.25).provides
    assert (told["cell_low"], told["cell_size"], told["cell_shape"]) == (
        (-1, -1, -1),
        (0.25, 0.25, 2),
        (8, 8, 1),
    )
    corners = torch.tensor([list(itertools.product((-0.99, 0.99), repeat=3))])
    assert Pillars(pillar=0.25)({"points": corners}).shape == (1, 4)
