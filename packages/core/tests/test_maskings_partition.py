"""Partition deals every site of a group out once, as random a mask for each sample as any."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask.maskings import Partition


def draw(samples: int = 4, rows: int = 8, sites: int = 20, stream: int = 0, first: int = 0) -> Mask:
    ids = torch.arange(first, first + rows)
    return Partition(group=samples)(Request(ids, sites, Step(3, 10, 1), stream=stream))


def grouped(mask: Mask, samples: int) -> Tensor:
    """Visible sites by group and member, ``[G, n, sites]``."""
    return ~mask.hidden.view(-1, samples, mask.sites)


@pytest.mark.parametrize(("samples", "sites", "left"), [(4, 20, 0), (4, 49, 1), (3, 8, 2), (2, 2, 0)])
def test_visible_sites_of_a_group_are_a_partition(samples: int, sites: int, left: int) -> None:
    mask = draw(samples, 6 * samples, sites)
    shown = grouped(mask, samples)
    assert mask.visible == sites // samples
    assert (shown.sum(2) == sites // samples).all()
    times = shown.sum(1)
    assert times.max() == 1
    assert ((times == 0).sum(1) == left).all()


def test_groups_differ_and_every_site_is_shown_equally_often() -> None:
    shown = grouped(draw(4, 4 * 2048, 21), 4).float()
    assert not (shown == shown[:1]).all()
    p = 5 / 21
    assert ((shown.mean((0, 1)) - p) / math.sqrt(p * (1 - p) / 2048)).abs().max() < 4.5
    assert ((shown.mean(0) - p) / math.sqrt(p * (1 - p) / 2048)).abs().max() < 4.8


def test_streams_of_one_draw_show_each_sample_whole_and_the_next_draw_is_another() -> None:
    masks = [draw(stream=stream) for stream in range(5)]
    shown = torch.stack([~mask.hidden for mask in masks])
    assert (shown[:4].sum(0) == 1).all()
    for one in shown[:4]:
        assert (one.view(2, 4, 20).sum(1) == 1).all()
    # what a sample shows next, its neighbour showed before
    assert torch.equal(shown[1].view(2, 4, 20)[:, 0], shown[0].view(2, 4, 20)[:, 1])
    assert not (shown[4] == shown[:4]).flatten(1).all(1).any()


def test_a_group_draws_by_its_first_id_and_may_be_cut_off() -> None:
    whole = draw(rows=8)
    assert torch.equal(draw(rows=4, first=4).hidden, whole.hidden[4:])
    assert torch.equal(draw(rows=6).hidden, whole.hidden[:6])


def test_refusals() -> None:
    with pytest.raises(UserError, match="2 samples or more"):
        Partition(group=1)
    with pytest.raises(UserError, match="3 sites are too few for 4"):
        draw(sites=3)
    valid = torch.ones(4, 8, dtype=torch.bool)
    with pytest.raises(UserError, match="equal size"):
        Partition()(Request(torch.arange(4), 8, Step(), valid=valid))
