"""Persons in their boxes as tokens, and the pictures that are drawn of them."""

from __future__ import annotations

import pytest
import torch

from polymask_vision.poses import JOINTS, LEAST, LIMBS, MIRRORED, SEEN, Figures, Poses
from polymask_vision.stick_figures import EDGE, GROUND, HIDDEN, VISIBLE, draw, storyboards

WINDOWS = {"frames": 3, "persons": 2, "joints": 17, "views": 2}


def batch(n: int = 3) -> dict[str, torch.Tensor]:
    return Poses(**WINDOWS).example(n)


def test_boxes_forget_where_and_how_large_people_are_and_put_them_back() -> None:
    one = batch()
    moved = {**one, "pose": 0.3 * one["pose"] + torch.tensor([0.2, 0.5])}
    figures, others = Figures.of(one), Figures.of(moved)
    torch.testing.assert_close(figures.joints, others.joints, atol=1e-5, rtol=1e-4)
    assert figures.joints.abs().max() <= 0.5 + 1e-6
    there = figures.seen.any(-1)
    torch.testing.assert_close(others.side[there], 0.3 * figures.side[there])
    back = others.placed(others.joints)[others.seen]
    torch.testing.assert_close(back, moved["pose"][others.seen])
    assert not there.all() and (figures.joints[~there] == 0).all() and (figures.box[~there] == 0).all()
    assert figures.placed(figures.joints).isfinite().all()
    square = torch.tensor([[0.3, 0.5], [0.7, 0.5], [0.4, 0.8]])
    point = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    seen = torch.tensor([[1, 1, 1], [1, 0, 0]])
    figures = Figures.of({"pose": torch.stack([square, point]), SEEN: seen})
    torch.testing.assert_close(figures.box, torch.tensor([[0.0, 0.3, -0.2], [0.0, 0.0, 2 * LEAST - 1]]))
    torch.testing.assert_close(
        figures.joints[0], torch.tensor([[-0.5, -0.375], [0.5, -0.375], [-0.25, 0.375]])
    )
    assert not figures.joints[1].any()


def test_what_is_not_seen_does_not_reach_tokens() -> None:
    one = batch()
    other = {**one, "pose": torch.where(one[SEEN][..., None] > 0, one["pose"], torch.nan)}
    for options in ({}, {"each": "joint"}):
        before, after = (Poses(**WINDOWS, **options)(x) for x in (one, other))
        assert torch.equal(before.values, after.values)
    tokens = Poses(**WINDOWS)(one)
    assert tokens.values.shape == (3, 12, 54)
    assert torch.equal(tokens.real.view(3, 2, 3, 2), one[SEEN].any(-1))
    assert torch.equal(tokens.position[0, 5], torch.tensor([0.0, 2.0, 1.0]))
    figures = Figures.of(one)
    parts = (figures.joints.flatten(-2), figures.seen, figures.box)
    for found, part in zip(tokens.values.split((34, 17, 3), dim=-1), parts, strict=True):
        assert torch.equal(found, part.flatten(1, 3).float())
    for options in ({}, {"box": False}, {"each": "joint"}):
        tokenizer = Poses(**WINDOWS, **options)
        assert tokenizer(one).values.shape[-1] == tokenizer.provides["in_dim"]
        assert {name: tokenizer.provides[name] for name in WINDOWS} == WINDOWS
    joints = Poses(**WINDOWS, each="joint")(one)
    assert torch.equal(joints.real, one[SEEN].flatten(1) > 0)
    assert joints.position[0, 5 * 17 + 3].tolist() == [0.0, 2.0, 1.0, 3.0]
    # somebody is in every frame, and other examples are others
    assert one[SEEN][..., 0, :].any(-1).all() and not torch.equal(
        one["pose"], Poses(**WINDOWS).example(3, 1)["pose"]
    )
    everybody = Poses(**WINDOWS)({"pose": one["pose"]})
    assert everybody.real.all()


def test_joints_are_those_of_coco_and_a_mirror_exchanges_sides() -> None:
    assert len(JOINTS) == 17 and [MIRRORED[MIRRORED[i]] for i in range(17)] == list(range(17))
    assert MIRRORED[0] == 0 and JOINTS[MIRRORED[9]] == "right wrist"
    mirrored = {tuple(sorted((MIRRORED[a], MIRRORED[b]))) for a, b in LIMBS}
    assert mirrored == {tuple(sorted(pair)) for pair in LIMBS}


def test_figures_are_drawn_where_they_are_the_near_ones_over_the_far_ones() -> None:
    joints = torch.full((1, 2, 17, 2), 0.75)
    joints[..., 1] = torch.tensor([0.5] * 5 + [0.55, 0.55, 0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 0.9, 1.0, 1.0])
    shown = torch.ones(1, 2, 17, dtype=torch.bool)
    colours = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    ground = torch.zeros(1, 3, 64, 64)
    near = draw(joints, shown, torch.tensor([[1.0, 2.0]]), colours, ground)
    assert near[0, 0].max() == 1 and near[0, 1].max() < 1
    far = draw(joints, shown, torch.tensor([[2.0, 1.0]]), colours, ground)
    assert far[0, 1].max() == 1 and far[0, 0].max() < 1
    y, x = (near[0, 0] > 0.5).nonzero().T
    assert y.min() > 26 and x.min() > 40
    assert draw(joints, ~shown, torch.tensor([[1.0, 2.0]]), colours, ground).max() == 0


@pytest.mark.parametrize("length", [0.3, 0.01], ids=["large", "small"])
def test_lines_and_heads_are_where_shapely_says(length: float) -> None:
    shapely = pytest.importorskip("shapely")
    generator = torch.Generator().manual_seed(0)
    joints = torch.rand(17, 2, generator=generator)
    joints[[5, 6]], joints[[11, 12]] = torch.tensor([0.5, 0.3]), torch.tensor([0.5, 0.3 + length])
    shown = torch.rand(17, generator=generator) < 0.8
    shown[[0, 5, 6, 11, 12]] = True
    half = max(0.12 * length, 0.004)
    lines = [shapely.LineString(joints[[a, b]].tolist()) for a, b in LIMBS if shown[a] and shown[b]]
    assert 4 < len(lines) < len(LIMBS)
    head = shapely.Point(joints[[i for i in (0, 3, 4) if shown[i]]].mean(0).tolist())
    expected = torch.zeros(20, 32)
    for row in range(20):
        for column in range(32):
            at = shapely.Point((column + 0.5) / 32, (row + 0.5) / 20)
            off = min(min(line.distance(at) for line in lines) - half, head.distance(at) - 1.2 * half)
            expected[row, column] = min(max(0.5 - 32 * off, 0), 1)
    white, ground = torch.ones(1, 1, 3), torch.zeros(1, 3, 20, 32)
    found = draw(joints[None, None], shown[None, None], torch.ones(1, 1), white, ground)
    torch.testing.assert_close(found, expected.expand(1, 3, -1, -1), atol=1e-4, rtol=0)
    # what is not shown lies at 0, and pulls neither head nor thickness there
    for unseen in ([3, 4], [5], [12]):
        there = torch.ones(17, dtype=torch.bool)
        there[unseen] = False
        whole = joints.clone()
        whole[[0, 3, 4]] = joints[0]
        places = (whole, torch.where(there[:, None], whole, 0))
        one, other = (draw(x[None, None], there[None, None], torch.ones(1, 1), white, ground) for x in places)
        torch.testing.assert_close(one, other)


def test_a_storyboard_has_a_row_for_each_camera() -> None:
    one = batch(2)
    board = storyboards(one["pose"], one[SEEN] > 0, views=3)
    assert board.shape == (2, 3, 3 * 64, 3 * 64)
    assert board.min() >= 0 and board.max() <= 1
    rest = board[:, :, 2 * 64 :]
    assert (rest == rest[0, 0, 0, 0]).all() and not (board[:, :, :128] == rest[0, 0, 0, 0]).all()


def test_frames_of_a_storyboard_have_edges_and_persons_the_colour_that_is_asked_for() -> None:
    one = batch(2)
    amount = torch.zeros(2, 2, 3, 2)
    amount[1, 0, 2] = 1.0
    seen = torch.ones_like(one[SEEN]) > 0
    board = storyboards(one["pose"], seen, amount)
    for v, t in ((0, 2), (1, 0)):
        frame = board[:, :, 64 * v : 64 * v + 64, 64 * t : 64 * t + 64]
        alone = storyboards(*(x[:, v : v + 1, t : t + 1] for x in (one["pose"], seen, amount)))
        assert torch.equal(frame, alone)
        for row in range(2):
            pixels = frame[row].flatten(1).T
            have = [(pixels - torch.tensor(colour)).abs().sum(1).min() < 0.05 for colour in (VISIBLE, HIDDEN)]
            assert have == ([False, True] if (row, v, t) == (1, 0, 2) else [True, False])
    empty = storyboards(one["pose"], ~seen)
    assert (empty[..., ::64] == EDGE).all() and (empty[..., 1:64] == GROUND).all()
