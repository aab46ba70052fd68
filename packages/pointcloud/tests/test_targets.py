"""What is told of the points and the surface of tokens, against numbers by hand and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from polymask import Mask, Tokens, UserError
from polymask.data import length_key
from polymask_pointcloud.slots import Given
from polymask_pointcloud.surfaces import Curvature, Normals
from polymask_pointcloud.targets import Centroid, Coordinates, Occupancy, answers_of, keep_answers, parts_of
from polymask_pointcloud.tokenizers import UNIT, Groups, Pillars, Voxels

RATIO = (4, 2, 3)
TOKENIZERS = {
    "groups": Groups(groups=5, neighbours=12),
    "voxels": Voxels(voxel=0.5, neighbours=8),
    "pillars": Pillars(pillar=0.5, neighbours=8),
}
TARGETS: dict[str, Any] = {
    "centroid": Centroid,
    "occupancy": Occupancy,
    "normals": Normals,
    "curvature": Curvature,
}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=list(TOKENIZERS))
each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


def cloud(rows: int = 1, n: int = 80, seed: int = 0) -> Tensor:
    return 2 * torch.rand(rows, n, 3, generator=torch.Generator().manual_seed(seed)) - 1


def told_by(target: Any, tokenizer: Any, points: Tensor, **options: Any) -> Any:
    """What a target says of the tokens of clouds."""
    facts = {key: value for key, value in tokenizer.provides.items() if key.startswith(("cell", "channels"))}
    batch = {"points": points}
    return target(**facts, **options)(batch, tokenizer(batch))


# --------------------------------------------------------------------------------------- slots


def test_one_point_fills_one_slot_and_lies_where_it_lies() -> None:
    """In any slot of a pillar: its number is (z * ry + y) * rx + x, and the place is in units of the slot."""
    rx, ry, rz = RATIO
    tokenizer, within = (
        Pillars(pillar=0.5, low=(-1, -1, -0.6), high=(1, 1, 0.6)),
        torch.tensor([0.25, 0.5, 0.875]),
    )
    size = torch.tensor([0.5 / rx, 0.5 / ry, 1.2 / rz])
    for x, y, z in torch.cartesian_prod(*(torch.arange(n) for n in RATIO)).tolist():
        point = torch.tensor([-0.5, 0.0, -0.6]) + (torch.tensor([x, y, z]) + within) * size
        slot = (z * ry + y) * rx + x
        occupied = told_by(Occupancy, tokenizer, point.view(1, 1, 3), scales=(RATIO,))
        assert occupied.flatten().nonzero().flatten().tolist() == [slot]
        place = told_by(Centroid, tokenizer, point.view(1, 1, 3), scales=(RATIO,)).view(-1, 3)
        torch.testing.assert_close(place[slot], within, rtol=0, atol=1e-5)
        assert (place[torch.arange(len(place)) != slot] == 0.5).all()


@each_tokenizer
def test_scales_are_told_one_after_another_as_each_alone(tokenizer: Any) -> None:
    scales = ((4, 4, 2), (2, 1, 1), (1, 1, 1))
    for target, width in ((Centroid, 3), (Occupancy, 1)):
        both = told_by(target, tokenizer, cloud(), scales=scales)
        alone = [told_by(target, tokenizer, cloud(), scales=(scale,)) for scale in scales]
        assert torch.equal(both, torch.cat(alone, dim=-1))
        assert parts_of(target(scales=scales)) == ((32, width), (2, width), (1, width))
        assert target(scales=scales).dim == both.shape[-1] == 35 * width


@each_tokenizer
def test_a_coarse_slot_is_occupied_where_one_within_it_is(tokenizer: Any) -> None:
    told = told_by(Occupancy, tokenizer, cloud(), scales=((4, 4, 4), (2, 2, 2)))
    fine, coarse = told[..., :64].view(-1, 4, 4, 4), told[..., 64:].view(-1, 2, 2, 2)
    assert torch.equal(fine.unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2, -3)), coarse)
    assert 0 < fine.mean() < coarse.mean() < 1


def test_only_empty_slots_are_unknown_and_occupancy_never_is() -> None:
    points, tokenizer = cloud(), TOKENIZERS["voxels"]
    batch = {"points": points}
    given = Given(batch, tokenizer(batch))
    cells = {key: value for key, value in tokenizer.provides.items() if key.startswith("cell")}
    places, held = (
        answers_of(target(scales=((2, 2, 2),), **cells), given)[0] for target in (Centroid, Occupancy)
    )
    assert torch.equal(places.known, held.values[..., 0] > 0) and held.known.all()
    assert 0 < places.known.float().mean() < 1


def test_a_target_without_parts_speaks_of_whole_tokens() -> None:
    batch = {"points": cloud()}
    tokenizer = TOKENIZERS["groups"]
    target, tokens = Coordinates(in_dim=36), tokenizer(batch)
    assert parts_of(target) == ((1, 36),)
    (answer,) = answers_of(target, Given(batch, tokens))
    assert torch.equal(answer.values[:, :, 0], target(batch, tokens)) and answer.known.all()


def test_answers_are_kept_where_a_mask_keeps_tokens_and_padding_has_none() -> None:
    points = pad(cloud(2), (0, 0, 0, 0))
    batch = {"points": points, length_key("points"): torch.tensor([80, 20])}
    tokenizer = TOKENIZERS["voxels"]
    tokens = tokenizer(batch)
    cells = {key: value for key, value in tokenizer.provides.items() if key.startswith("cell")}
    answer = Centroid(**cells).answers(Given(batch, tokens))[0]
    mask = Mask(torch.arange(tokens.shape[1]).expand(2, -1) % 3 > 0, valid=tokens.valid)
    kept = keep_answers({"a": answer}, tokens, mask)["a"]
    for row in range(2):
        seen = torch.nonzero(~mask.hidden[row] & tokens.valid[row])[:, 0]
        assert torch.equal(kept.values[row, : len(seen)], answer.values[row, seen])
        assert torch.equal(kept.known[row, : len(seen)], answer.known[row, seen])
        assert not kept.known[row, len(seen) :].any()


def test_coordinates_come_back_as_points() -> None:
    batch = {"points": cloud()}
    tokenizer = TOKENIZERS["groups"]
    tokens, target = tokenizer(batch), Coordinates(in_dim=36)
    asked = target(batch, tokens)
    torch.testing.assert_close(asked * UNIT, tokens.values)
    values, _ = target.invert(asked, tokens)
    torch.testing.assert_close(values, tokens.values)


# ------------------------------------------------------------------------------------- surfaces


def disc(n: int = 400) -> Tensor:
    """Points of a plane around the origin, evenly."""
    radius, angle = (
        torch.arange(1, n + 1).sqrt() / math.sqrt(n),
        torch.arange(n) * math.pi * (3 - math.sqrt(5)),
    )
    return torch.stack([radius * angle.cos(), radius * angle.sin(), torch.zeros(n)], dim=-1)


def ball() -> Tensor:
    axis = torch.linspace(-1, 1, 9)
    grid = torch.cartesian_prod(axis, axis, axis)
    return grid[grid.norm(dim=1) <= 1]


TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
LINE = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([0.0, 0.6, 0.8])
SHAPES = {
    "disc": (0.9 * disc(), (0.5, 0.5, 0)),
    "line": (0.9 * LINE, (1, 0, 0)),
    "ball": (0.9 * ball(), (1 / 3, 1 / 3, 1 / 3)),
}


def whole(points: Tensor, target: Any, **options: Any) -> Tensor:
    """What is said of a cloud that is one token."""
    tokenizer = Groups(groups=2, neighbours=len(points))
    return told_by(target, tokenizer, points[None], **options)[0, 0]


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("size", [0.01, 1.0])
def test_curvature_of_a_disc_a_line_and_a_ball(name: str, size: float) -> None:
    """Whichever way they are turned and however large they are."""
    points, shares = SHAPES[name]
    for turn in (torch.eye(3), TURN):
        found = whole(size * points @ turn.T, Curvature)
        assert found.tolist() == pytest.approx(shares, abs=2e-3 if name == "disc" else 1e-4)


@pytest.mark.parametrize("size", [0.01, 1.0])
def test_the_normal_turns_with_a_disc_and_does_not_grow_with_it(size: float) -> None:
    for turn in (torch.eye(3), TURN):
        normal = whole(size * 0.9 * disc() @ turn.T, Normals)
        assert abs(float(normal @ turn[:, 2])) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["pillars", "voxels"])
def test_cells_have_the_surface_of_their_neighbourhood(name: str) -> None:
    """On a slope that crosses cells each tells its normal and that it is flat, by the cells around it."""
    x, y = torch.meshgrid(torch.linspace(-0.95, 0.95, 60), torch.linspace(-0.95, 0.95, 60), indexing="ij")
    slope = torch.stack([x, y, 0.3 * x - 0.2 * y], dim=-1).view(1, -1, 3)
    normal = torch.tensor([-0.3, 0.2, 1.0]) / math.sqrt(1.13)
    found = told_by(Normals, TOKENIZERS[name], slope, sign="up", ratio=(2, 2, 2))
    assert float((found @ normal).min()) > 0.99
    share = told_by(Curvature, TOKENIZERS[name], slope, ratio=(2, 2, 2))
    assert float(share[..., 2].max()) < 0.02 and float(share.sum(-1).sub(1).abs().max()) < 1e-6


def test_a_neighbourhood_is_the_cells_that_touch_and_no_others() -> None:
    """3 x 3 pillars: a point two pillars away changes nothing, one in the next does."""
    near = torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.4, -0.2], [0.2, 0.3, 0.4], [0.4, 0.1, 0.3]])
    tokenizer = Pillars(pillar=0.5, neighbours=4)

    def of_first(*more: tuple[float, float, float]) -> Tensor:
        points = torch.cat([near, torch.tensor(more).view(-1, 3)])[None]
        batch = {"points": points}
        at = tokenizer(batch).position[0].sub(2.5).norm(dim=-1).argmin()
        return told_by(Curvature, tokenizer, points)[0, at]

    assert torch.equal(of_first(), of_first((0.25, -0.75, 0.9)))
    for place in ((-0.25, 0.25, 0.9), (0.75, 0.75, 0.9), (-0.25, -0.25, 0.9)):
        assert not torch.allclose(of_first(), of_first(place), atol=1e-3)


def test_a_pillar_does_not_look_around_the_edge_of_its_row() -> None:
    """The first pillar of a row and the last of the one before have neighbouring numbers, no common side."""
    near = torch.tensor([[-0.9, 0.1, 0.1], [-0.7, 0.4, -0.2], [-0.8, 0.3, 0.4], [-0.6, 0.1, 0.3]])
    tokenizer = Pillars(pillar=0.5, neighbours=4)
    far = torch.cat([near, torch.tensor([[0.9, -0.1, 0.9]])])
    one, two = (told_by(Curvature, tokenizer, points[None])[0, -1] for points in (near, far))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "tokenizer", [Groups(groups=2, neighbours=200), Pillars(pillar=2.0)], ids=["group", "pillar"]
)
def test_a_token_in_the_middle_of_a_plane_sees_it_from_either_centre(tokenizer: Any) -> None:
    plane = 0.5 * disc(200)
    own = told_by(Curvature, tokenizer, plane[None], centre="token")[0, 0]
    mean = told_by(Curvature, tokenizer, plane[None])[0, 0]
    assert own.tolist() == pytest.approx([0.5, 0.5, 0], abs=0.05) == mean.tolist()


def test_centring_on_the_token_adds_the_way_to_its_neighbours() -> None:
    """Two pillars: the first low, its neighbour high. From the mean of both it is another shape."""
    low = torch.tensor([[0.1, 0.1, -0.9], [0.4, 0.4, -0.9], [0.1, 0.4, -0.9], [0.4, 0.1, -0.9]])
    points = torch.cat([low, low + torch.tensor([0.5, 0.0, 1.5])])[None]
    tokenizer = Pillars(pillar=0.5)
    by_slot = points[0].double()  # a slot for each point
    for centre, around in (("token", low.double().mean(0)), ("mean", by_slot.mean(0))):
        offset = by_slot - around
        spread = torch.linalg.svdvals(offset).square() + 1e-9
        found = told_by(Curvature, tokenizer, points, centre=centre)[0, 0]
        torch.testing.assert_close(found.double(), spread / spread.sum(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", [Normals, Curvature])
def test_fewer_places_than_asked_for_have_no_surface(target: Any) -> None:
    """Places are occupied slots, not points; what is said of too few is told as unknown."""
    far = [torch.tensor([x, y, 0.0]) for x, y in ((-0.93, -0.93), (0.87, -0.93), (0.07, 0.87))]
    steps = torch.tensor([[0.0, 0, 0], [0.06, 0, 0], [0, 0.06, 0], [0.001, 0, 0]])
    points = torch.cat([far[0] + steps[[0, 3]], far[1] + steps[[0, 1]], far[2] + steps[:3]])[None]
    tokenizer = Pillars(pillar=0.2, neighbours=4)
    batch = {"points": points}
    tokens = tokenizer(batch)
    cells = {key: value for key, value in tokenizer.provides.items() if key.startswith("cell")}
    given = Given(batch, tokens)
    known = {n: target(least=n, **cells).answers(given)[0].known.sum().item() for n in (1, 2, 3, 4)}
    assert tokens.shape == (1, 3) and known == {1: 3, 2: 2, 3: 1, 4: 0}


def test_a_group_filled_up_with_one_point_counts_it_once() -> None:
    batch = {"points": cloud(n=80), length_key("points"): torch.tensor([2])}
    given = Given(batch, TOKENIZERS["groups"](batch))
    (answer,) = Normals(least=3).answers(given)
    assert not answer.known.any()
    (answer,) = Normals(least=2).answers(given)
    assert answer.known[:, :2].all()


def test_degenerate_shapes_are_as_the_formula_has_them() -> None:
    """One place: nothing spreads, (1/3, 1/3, 1/3). Two: a line, (1, 0, 0)."""
    tokenizer, points = Pillars(pillar=0.2, neighbours=4), torch.tensor([[[-0.93, -0.93, 0.0]]])
    assert told_by(Curvature, tokenizer, points)[0, 0].tolist() == pytest.approx([1 / 3] * 3)
    two = torch.cat([points, points + torch.tensor([0.06, 0, 0])], dim=1)
    assert told_by(Curvature, tokenizer, two)[0, 0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)


@pytest.mark.parametrize("name", ["groups", "pillars"])
def test_normals_have_the_sign_that_is_asked_for(name: str) -> None:
    """Of a sphere they point away from its middle, or up; squared, both are the same."""
    generator = torch.Generator().manual_seed(0)
    sphere = 0.9 * torch.nn.functional.normalize(torch.randn(1, 2000, 3, generator=generator), dim=-1)
    top = sphere[sphere[..., 2] > 0.4][None]  # so that a pillar holds one side
    tokenizer = Groups(groups=30, neighbours=20) if name == "groups" else Pillars(pillar=0.25)
    found = {sign: told_by(Normals, tokenizer, top, sign=sign)[0] for sign in ("outward", "up", "none")}
    lower = {sign: told_by(Normals, tokenizer, -top, sign=sign)[0] for sign in ("outward", "up")}
    assert (found["outward"][:, 2] > 0.2).float().mean() > 0.95 and (found["up"][:, 2] >= 0).all()
    assert (lower["outward"][:, 2] < -0.2).float().mean() > 0.95 and (lower["up"][:, 2] >= 0).all()
    torch.testing.assert_close(found["none"].abs(), found["up"].abs())


# ----------------------------------------------------------------------------------- all of them


@each_target
@each_tokenizer
def test_another_order_of_points_tells_the_same(tokenizer: Any, target: Any) -> None:
    """Of groups the first point is the first centre, so it keeps its place."""
    points = cloud()
    order = torch.cat(
        [torch.zeros(1).long(), 1 + torch.randperm(79, generator=torch.Generator().manual_seed(1))]
    )
    one, two = (told_by(target, tokenizer, x) for x in (points, points[:, order]))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    if target in (Centroid, Occupancy) and tokenizer is not TOKENIZERS["groups"]:
        assert torch.equal(one, two)


@each_target
@each_tokenizer
def test_what_pads_a_cloud_tells_nothing(tokenizer: Any, target: Any) -> None:
    short = cloud(n=30, seed=1)
    padded = torch.cat([cloud(), pad(short, (0, 0, 0, 50), value=0.3)])
    batch = {"points": padded, length_key("points"): torch.tensor([80, 30])}
    facts = {key: value for key, value in tokenizer.provides.items() if key.startswith(("cell", "channels"))}
    tokens: Tokens = tokenizer(batch)
    whole, alone = target(**facts)(batch, tokens), told_by(target, tokenizer, short)
    torch.testing.assert_close(whole[1, : alone.shape[1]], alone[0], rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    wrong = {
        "it is empty": lambda: Centroid(scales=()),
        r"a scale is slots.*got \(2, 2\)": lambda: Centroid(scales=((2, 2),)),
        "a scale is slots.*got 2": lambda: Occupancy(scales=(2, 2, 2)),
        "1 or more each": lambda: Occupancy(scales=((2, 0, 2),)),
        "choose 'mean' or 'token'": lambda: Curvature(centre="middle"),
        "choose 'outward', 'up' or 'none'": lambda: Normals(sign="inward"),
        "1 place or more": lambda: Normals(least=0),
    }
    for message, make in wrong.items():
        with pytest.raises(UserError, match=message):
            make()  # type: ignore[no-untyped-call]
