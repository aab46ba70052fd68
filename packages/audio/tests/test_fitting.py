"""Codebooks that add up: what the search guarantees, what trains what, and that more of them leave less."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polymask import UserError
from polymask.codebooks import Codebook, Units, fit, nearest
from polymask.data import open_data
from polymask_audio.features import Features, open_features
from polymask_audio.fitting import Learner, fit_multi, gather
from polymask_audio.multi_codebook import MultiCodebook, load, refine


def vectors(n: int, seed: int = 0) -> Tensor:
    """Correlated, with channels on very different scales."""
    mix = torch.randn(10, 10, generator=torch.Generator().manual_seed(99))
    x = torch.randn(n, 10, generator=torch.Generator().manual_seed(seed))
    return (x + 0.3 * x.roll(1, 1).square()) @ mix * torch.logspace(-2, 2, 10) + 7


def error(x: Tensor, ids: Tensor, centers: Tensor) -> Tensor:
    return (centers[torch.arange(len(centers)), ids].sum(1) - x).square().sum(-1)


def relative(book: MultiCodebook, x: Tensor) -> float:
    """Squared error over variance, of standardised vectors."""
    return float(
        ((book.decode(book(x)) - x) / book.std).square().sum() / ((x - x.mean(0)) / book.std).square().sum()
    )


# ------------------------------------------------------------------------------------- search


@pytest.mark.parametrize(("n", "k"), [(1, 16), (2, 4), (4, 16), (8, 32)])
def test_a_search_never_raises_the_error_and_mostly_lowers_it(n: int, k: int) -> None:
    torch.manual_seed(0)
    x, centers = torch.randn(200, 6), torch.randn(n, k, 6)
    ids = torch.randint(k, (200, n))
    errors = [error(x, ids, centers)]
    for _ in range(3):
        ids = refine(x, ids, centers)
        assert ids.shape == (200, n) and ids.min() >= 0 and ids.max() < k
        errors.append(error(x, ids, centers))
    assert all((after <= before * (1 + 1e-5)).all() for before, after in itertools.pairwise(errors))
    assert (errors[1] < errors[0]).float().mean() > 0.8


def test_a_bad_search_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a beam of one the search is greedy and often worse than where it began."""
    monkeypatch.setattr("polymask_audio.multi_codebook.beam", lambda k: 1)
    torch.manual_seed(0)
    x, centers = torch.randn(300, 4), torch.randn(4, 8, 4)
    ids = torch.randint(8, (300, 4))
    assert (error(x, refine(x, ids, centers), centers) <= error(x, ids, centers) * (1 + 1e-5)).all()


@pytest.mark.parametrize(("n", "k"), [(2, 8), (4, 2)])
def test_where_the_beam_holds_every_combination_the_search_is_exact(n: int, k: int) -> None:
    torch.manual_seed(0)
    x, centers = torch.randn(100, 5), torch.randn(n, k, 5)
    every = torch.tensor(list(itertools.product(range(k), repeat=n)))
    sums = centers[torch.arange(n), every].sum(1)
    best = every[torch.cdist(x, sums).argmin(1)]
    assert torch.equal(refine(x, torch.zeros(100, n, dtype=torch.int64), centers), best)


def test_what_is_proposed_is_refined_as_often_as_asked() -> None:
    torch.manual_seed(0)
    tensors = (torch.randn(8, 16, 6), torch.randn(6), torch.rand(6) + 0.5, torch.randn(128, 6))
    book, x = MultiCodebook(*tensors, bias=3 * torch.randn(128)), torch.randn(60, 6)
    scaled = (x - book.mean) / book.std
    expected = [(scaled @ book.weight.T + book.bias).view(60, 8, 16).argmax(-1)]
    for _ in range(3):
        expected.append(refine(scaled, expected[-1], book.centers))
    for book.rounds, ids in enumerate(expected):
        assert torch.equal(book(x), ids)
    assert all(not torch.equal(*pair) for pair in itertools.pairwise(expected))


def test_one_codebook_is_the_nearest_code_whatever_was_proposed() -> None:
    torch.manual_seed(0)
    x, centers = torch.randn(50, 5), torch.randn(1, 16, 5)
    book = MultiCodebook(centers, torch.zeros(5), torch.ones(5), torch.randn(16, 5), torch.randn(16))
    assert torch.equal(book(x)[:, 0], nearest(x, centers[0]))


def test_vectors_come_in_any_shape_and_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 7, 10)
    book = MultiCodebook(
        torch.randn(4, 16, 10), torch.zeros(10), torch.ones(10), torch.randn(64, 10), torch.zeros(64)
    )
    whole = book(x)
    assert whole.shape == (3, 7, 4)
    monkeypatch.setattr("polymask_audio.multi_codebook.chunk", lambda *_: 2)
    assert torch.equal(book(x), whole)


# ----------------------------------------------------------------------------------- training


def test_codes_learn_from_the_error_and_proposals_from_the_choice() -> None:
    torch.manual_seed(0)
    learner, x = Learner(6, 4, 8), torch.randn(64, 6)
    proposals = (learner.to_logits.weight, learner.to_logits.bias, learner.logit_scale)
    codes = (learner.centers, learner.center_scale)
    for name, mine, others in (
        ("reconstruction", codes, proposals),
        ("proposal", proposals, codes),
        ("usage", proposals, codes),
    ):
        term = learner(x)[name]
        found = torch.autograd.grad(term, (*mine, *others), allow_unused=True)
        assert all(g is not None and g.any() for g in found[: len(mine)]), name
        assert all(g is None for g in found[len(mine) :]), name


def test_losses_by_their_closed_forms() -> None:
    """With proposals that are all alike the choice costs ln K, and use is even."""
    learner, x = Learner(6, 4, 8), torch.randn(64, 6)
    torch.nn.init.zeros_(learner.to_logits.weight)
    torch.nn.init.zeros_(learner.to_logits.bias)
    losses = learner(x, rounds=2)
    assert losses["proposal"].item() == pytest.approx(math.log(8), rel=1e-5)
    assert losses["usage"].item() == pytest.approx(0, abs=1e-6)
    torch.nn.init.zeros_(learner.centers)
    assert learner(x)["reconstruction"].item() == pytest.approx(1, rel=1e-5)


def test_pairs_are_sums_of_their_codes() -> None:
    torch.manual_seed(0)
    learner, x = Learner(6, 4, 8), torch.randn(20, 6)
    learner.center_scale.data.fill_(0.02)
    learner.logit_scale.data.fill_(-0.03)
    pairs = learner.paired()
    ids = torch.randint(8, (20, 4))
    both = torch.stack([8 * ids[:, 0] + ids[:, 1], 8 * ids[:, 2] + ids[:, 3]], dim=1)
    torch.testing.assert_close(error(x, both, pairs.book), error(x, ids, learner.book))
    mine = learner.logits(x).gather(-1, ids[..., None]).sum(1)
    torch.testing.assert_close(pairs.logits(x).gather(-1, both[..., None]).sum(1), mine)


def test_what_is_frozen_proposes_as_it_was_trained_to() -> None:
    torch.manual_seed(0)
    learner, x = Learner(10, 2, 16), vectors(100)
    learner.center_scale.data.fill_(0.02)
    book = learner.frozen(x.mean(0), x.std(0))
    book.rounds = 0
    assert torch.equal(book(x), learner.logits((x - x.mean(0)) / x.std(0)).argmax(-1))
    torch.testing.assert_close(book.centers, learner.book)
    assert not any(p.requires_grad for p in book.parameters()) and not book.centers.requires_grad


def test_more_codebooks_and_more_search_leave_less_of_what_was_not_seen() -> None:
    x, held = vectors(4000), vectors(500, seed=1)
    books = {n: fit_multi(x, codebooks=n, codes=16, steps=160, batch_size=128) for n in (1, 2, 4)}
    left = [relative(books[n], held) for n in (1, 2, 4)]
    assert left[0] > 1.5 * left[1] > 1.5**2 * left[2]
    proposed = books[4]
    searched = relative(proposed, held)
    proposed.rounds = 0
    assert searched < relative(proposed, held)
    # as many codes in two books say more than in one
    single = fit(x, codes=32, starts=2)
    assert left[1] < float(((single.decode(single(held)) - held) / single.std).square().mean())
    for book in books.values():
        usage = [torch.bincount(ids, minlength=16).double() / len(x) for ids in book(x).T]
        assert all(-(p * p.clamp(min=1e-9).log()).sum() > 0.9 * math.log(16) for p in usage)


def test_training_is_a_function_of_its_seed_and_leaves_generators_alone() -> None:
    x, options = vectors(300), {"codebooks": 2, "codes": 4, "steps": 6, "batch_size": 32}
    before = torch.get_rng_state()
    one, same = (fit_multi(x, **options) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.centers, same.centers) and torch.equal(one.weight, same.weight)
    assert not torch.equal(one.centers, fit_multi(x, **options, seed=1).centers)  # type: ignore[arg-type]


def test_numbers_that_cannot_be_are_refused() -> None:
    for codebooks, codes in ((3, 16), (0, 16), (2, 32)):
        with pytest.raises(UserError, match="give 1, 2, 4, 8"):
            fit_multi(vectors(100), codebooks=codebooks, codes=codes)
    with pytest.raises(UserError, match="to 10 vectors"):
        fit_multi(vectors(10), codes=16)


def test_kmeans_goes_by_standardised_channels() -> None:
    """A channel of large variance would otherwise hide the one that has clusters."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(400) % 2
    x = torch.stack([side + 0.01 * torch.randn(400, generator=generator), torch.zeros(400)], 1)
    x[:, 1] = 1000 * torch.rand(400, generator=generator)
    ids = fit(x, codes=8, stages=1)(x)[:, 0]
    assert all(len(side[ids == code].unique()) == 1 for code in ids.unique())


def test_the_second_half_trains_at_half_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr("polymask_audio.fitting._train", lambda *given: rates.append(given[-1]))
    fit_multi(vectors(100), codebooks=2, codes=4, steps=4)
    assert rates == [5e-3, 2.5e-3]


def test_gathered_frames_are_the_real_ones_and_no_more_than_asked() -> None:
    data = open_data("words", limit=20)
    (frames,) = gather(open_features("mfcc", 16000), data)
    counts = (data.lengths("train") - 400) // 160 + 1  # type: ignore[attr-defined]
    assert frames.shape == (int(counts.sum()), 39)
    (few,) = gather(open_features("mfcc", 16000), data, most=100)
    assert torch.equal(few, frames[:100])


def test_every_layer_is_gathered_in_step() -> None:
    class Two(Features):
        def extract(self, audio: Tensor, length: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
            x = audio[:, ::160, None]
            return [x, 2 * x], None if length is None else (length + 159) // 160

    first, second = gather(Two(1, 100.0), open_data("words", limit=8), most=10**9)
    assert torch.equal(2 * first, second)
    assert len(first) > 100


def test_codebooks_that_are_searched_together_come_back_as_such(tmp_path: Path) -> None:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    book = MultiCodebook(draw(2, 4, 3), draw(3), draw(3).abs() + 0.1, draw(8, 3), draw(8))
    found = load(Units("mfcc", (None,), (book,)).save(tmp_path / "units.safetensors")).books[0]
    x = draw(500, 3)
    assert type(found) is MultiCodebook and torch.equal(found(x), book(x))
    assert not torch.equal(found(x), Codebook(book.centers, book.mean, book.std)(x))
