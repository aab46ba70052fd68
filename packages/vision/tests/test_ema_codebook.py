"""Codes follow what chooses them, and none dies."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask import Step
from polymask_vision.ema_codebook import EMACodebook

IDS = torch.arange(4)


def book(codes: int = 3, decay: float = 0.75, restart: float = 0.0) -> EMACodebook:
    torch.manual_seed(0)
    return EMACodebook(codes=codes, dim=2, decay=decay, restart=restart)


def stepped(codebook: EMACodebook, z: Tensor, real: Tensor | None = None, index: int = 0) -> Tensor:
    real = torch.ones(z.shape[:2], dtype=torch.bool) if real is None else real
    ids = codebook.nearest(z)
    codebook.watch(z, ids, real, Step(index), IDS[: len(z)])
    codebook.follow()
    return ids


def test_codes_are_the_moving_means_of_what_chose_them() -> None:
    codebook = book()
    codebook.book.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    codebook.count.copy_(torch.tensor([2.0, 2.0, 2.0]))
    codebook.total.copy_(2 * codebook.book)
    z = torch.tensor([[[1.0, 0.0], [1.0, 2.0], [9.0, 0.0], [50.0, 50.0]]])
    real = torch.tensor([[True, True, True, False]])
    assert stepped(codebook, z, real).tolist() == [[0, 0, 1, 1]]
    torch.testing.assert_close(codebook.count, torch.tensor([2.0, 1.75, 1.5]))
    # 0.75 of the past sum and 0.25 of the new one, over counts alike; padding chose nothing
    expected = torch.tensor([[0.5 / 2, 0.5 / 2], [(15 + 2.25) / 1.75, 0.0], [0.0, 10.0]])
    torch.testing.assert_close(codebook.book, expected)


def test_parts_of_a_step_count_as_one_and_those_of_a_step_that_was_given_up_do_not() -> None:
    z = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1))
    real = torch.ones(4, 6, dtype=torch.bool)
    whole, parts = book(restart=0.5), book(restart=0.5)
    stepped(whole, z, index=3)
    parts.watch(z + 1, parts.nearest(z), real, Step(2), IDS)
    for rows in (slice(0, 1), slice(1, 4)):
        parts.watch(z[rows], parts.nearest(z[rows]), real[rows], Step(3), IDS[rows])
    parts.follow()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, parts.state_dict()[name])


def test_codes_that_nothing_chooses_begin_anew_at_vectors_of_the_batch() -> None:
    z = 5 + torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(1))
    real = torch.rand(4, 50, generator=torch.Generator().manual_seed(2)) < 0.5
    dead, alive = book(codes=64), book(codes=64, restart=0.1)
    for index in range(30):
        for codebook in (dead, alive):
            stepped(codebook, z, real, index)
    assert dead.perplexity < 16 < 40 < alive.perplexity
    # all lie among the vectors, at once
    first = book(codes=64, restart=0.1)
    stepped(first, z, real)
    near = (first.book[:, None] - z[real]).norm(dim=-1).amin(1)
    assert (near < 1e-4).sum() >= 60  # all but those few that random codes were nearest to
    assert len(first.book.unique(dim=0)) == 64  # each at another
    # of few vectors several times, of padding never; other steps draw others
    few = torch.zeros(4, 50, dtype=torch.bool)
    few[:, 7] = True
    crowded, early, late = book(codes=64, restart=0.1), book(restart=0.1), book(restart=0.1)
    stepped(crowded, z, few)
    assert ((crowded.book[:, None] - z[few]).norm(dim=-1).amin(1) < 1e-4).sum() >= 63
    stepped(early, z, real, 0)
    stepped(late, z, real, 1)
    assert not torch.equal(early.book, late.book)


def test_it_starts_at_data_and_keeps_still_where_nothing_is_real() -> None:
    codebook = book(restart=0.1)
    before = codebook.book.clone()
    stepped(codebook, torch.randn(2, 4, 2), torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(codebook.book, before)
    codebook.count[0] = 5.0  # beside which the others are chosen too seldom
    codebook.total[0] = 5 * before[0]
    stepped(codebook, torch.randn(2, 4, 2), torch.zeros(2, 4, dtype=torch.bool))
    torch.testing.assert_close(codebook.book, before)
    # a step is followed once
    stepped(codebook, torch.randn(2, 4, 2))
    after = {name: value.clone() for name, value in codebook.state_dict().items()}
    codebook.follow()
    assert all(torch.equal(after[name], value) for name, value in codebook.state_dict().items())


def test_the_nearest_code_is_told_in_full_precision() -> None:
    codebook = book(codes=64)
    codebook.book.copy_(torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)) / 1000 + 1)
    z = codebook.book + 2e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook.nearest(z).tolist() == list(range(64))
    assert codebook.nearest(torch.ones(1, 2, dtype=torch.bfloat16)).tolist() == [0]


def test_perplexity_counts_codes_alike() -> None:
    codebook = book(codes=4)
    assert codebook.perplexity == 1  # where nothing was chosen yet
    codebook.count.copy_(torch.tensor([3.0, 3.0, 0.0, 0.0]))
    assert abs(float(codebook.perplexity) - 2) < 1e-6
