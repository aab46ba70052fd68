"""Codebooks: nearest codes, stages that leave less and less, files that come back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from polymask import UserError
from polymask.codebooks import Codebook, Units, fit, load, nearest


def vectors(n: int, seed: int = 0) -> Tensor:
    """Blobs around twelve centres, their channels on very different scales."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, 6, generator=torch.Generator().manual_seed(99))
    which = torch.randint(12, (n,), generator=generator)
    noise = 0.2 * torch.randn(n, 6, generator=generator)
    return (centres[which] + noise) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0, 5.0]) + 3


def test_nearest_is_the_least_distance() -> None:
    x, centers = torch.randn(40, 5), torch.randn(7, 5)
    assert torch.equal(nearest(x, centers), torch.cdist(x, centers).argmin(-1))


def test_assignment_is_scikit_learns() -> None:
    x = vectors(600)
    book = fit(x, codes=12, starts=3)
    assert book.centers.shape == (1, 12, 6)
    scaled = ((x - x.mean(0)) / x.std(0)).numpy()
    kmeans = MiniBatchKMeans(12).fit(scaled)
    kmeans.cluster_centers_ = book.centers[0].numpy()
    assert book(x)[:, 0].tolist() == kmeans.predict(scaled).tolist()
    assert book(x)[:, 0].unique().numel() == 12


def test_no_channel_decides_alone() -> None:
    """Blobs that differ in a channel of small variance are told apart."""
    x = (
        torch.randn(400, 2) * torch.tensor([100.0, 0.0])
        + torch.tensor([0.0, 1.0]) * (torch.arange(400) % 2)[:, None]
    )
    ids = fit(x + 0.01 * torch.randn(400, 2), codes=4, starts=5)(x)[:, 0]
    for code in range(4):
        assert (torch.arange(400) % 2)[ids == code].unique().numel() == 1


def test_each_stage_leaves_less_on_what_was_not_seen() -> None:
    book, held = fit(vectors(2000), codes=8, stages=4, starts=2), vectors(500, seed=1)
    ids = book(held)
    assert ids.shape == (500, 4)
    scaled = (held - book.mean) / book.std
    errors = [
        float(((book.decode(ids[:, :q]) - held) / book.std).square().sum(1).mean()) for q in (1, 2, 3, 4)
    ]
    errors = [float(scaled.square().sum(1).mean()), *errors]
    assert all(after < before for before, after in itertools.pairwise(errors))
    left = scaled
    for q in range(4):
        assert torch.equal(ids[:, q], torch.cdist(left, book.centers[q]).argmin(-1))
        left = left - book.centers[q][ids[:, q]]
    torch.testing.assert_close((held - book.decode(ids)) / book.std, left, rtol=1e-4, atol=1e-4)


def test_first_stage_is_plain_clustering() -> None:
    x = vectors(500)
    one, three = fit(x, codes=6, starts=2), fit(x, codes=6, stages=3, starts=2)
    assert torch.equal(one.centers[0], three.centers[0])
    assert torch.equal(one(x)[:, 0], three(x)[:, 0])


def test_the_seed_decides() -> None:
    x = vectors(500)
    assert torch.equal(fit(x, codes=5, starts=1).centers, fit(x, codes=5, starts=1).centers)
    assert not torch.equal(fit(x, codes=5, starts=1).centers, fit(x, codes=5, starts=1, seed=7).centers)


def test_what_cannot_be_fit_is_refused() -> None:
    with pytest.raises(UserError, match="to 3 vectors"):
        fit(torch.randn(3, 2), codes=4)
    with pytest.raises(UserError, match="2 codes or more"):
        fit(torch.randn(30, 2), codes=1)
    with pytest.raises(UserError, match="1 stage"):
        fit(torch.randn(30, 2), codes=4, stages=0)


def test_a_constant_channel_does_no_harm() -> None:
    x = vectors(200)
    x[:, 2] = 7.0
    assert fit(x, codes=4, starts=1).decode(torch.zeros(3, 1, dtype=torch.int64)).isfinite().all()


def test_files_come_back_whole(tmp_path: Path) -> None:
    books = tuple(Codebook(torch.randn(2, 5, 3), torch.randn(3), torch.rand(3) + 0.1) for _ in range(2))
    path = Units("run:iteration-1", (2, None), books).save(tmp_path / "units.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["units.safetensors"]
    found = load(path)
    assert found.layers == (2, None)
    assert found.features == f"run:{tmp_path / 'iteration-1'}"
    x = torch.randn(9, 3)
    for mine, other in zip(found.books, books, strict=True):
        assert torch.equal(mine(x), other(x))
    assert load(Units("mfcc", (None,), books[:1]).save(path)).features == "mfcc"


def test_a_run_elsewhere_keeps_its_place(tmp_path: Path) -> None:
    book = Codebook(torch.randn(1, 5, 3), torch.zeros(3), torch.ones(3))
    path = Units("run:/elsewhere/run", (1,), (book,)).save(tmp_path / "u.safetensors")
    assert load(path).features == "run:/elsewhere/run"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("words")
    for name in ("a.safetensors", "nowhere.safetensors"):
        with pytest.raises(UserError, match="holds no codebook"):
            load(tmp_path / name)
