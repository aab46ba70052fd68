"""Persons in their boxes as tokens, and the pictures that are drawn of them."""

from __future__ import annotations

import torch

from polymask_vision.poses import JOINTS, LIMBS, MIRRORED, SEEN, Figures, Poses
from polymask_vision.stick_figures import draw, storyboards

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
    assert Poses(**WINDOWS, box=False)(one).values.shape[-1] == 51
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


def test_a_storyboard_has_a_row_for_each_camera() -> None:
    one = batch(2)
    board = storyboards(one["pose"], one[SEEN] > 0, views=3)
    assert board.shape == (2, 3, 3 * 64, 3 * 64)
    assert board.min() >= 0 and board.max() <= 1
    rest = board[:, :, 2 * 64 :]
    assert (rest == rest[0, 0, 0, 0]).all() and not (board[:, :, :128] == rest[0, 0, 0, 0]).all()
