"""core/modalities: subsets of a few sites, their law, and what is never hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Request, Step, UserError
from polymask.maskings import Modalities

N = 20_000


def kept(sites: int, n: int = N, valid: Tensor | None = None, **options: Any) -> Tensor:
    request = Request(torch.arange(n) * 31 + 5, sites, Step(3, 10, 1), valid=valid)
    hidden = Modalities(**options)(request).hidden
    return ~hidden if valid is None else ~hidden & valid


def subsets(found: Tensor) -> Tensor:
    """How often each subset is kept, by its number in binary."""
    number = (found * 2 ** torch.arange(found.shape[1])).sum(1)
    return number.bincount(minlength=2 ** found.shape[1]) / len(found)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("sites", [1, 3, 4])
def test_all_subsets_but_the_empty_one_have_the_chance_of_independent_sites(sites: int, ratio: float) -> None:
    share = subsets(kept(sites, ratio=ratio))
    size = torch.tensor([bin(number).count("1") for number in range(2**sites)])
    law = (1 - ratio) ** size * ratio ** (sites - size) / (1 - ratio**sites)
    law[0] = 0
    assert share[0] == 0 and (share[1:] > 0).all()
    assert ((share - law).abs() <= 5 * (law * (1 - law) / N).sqrt()).all()


def test_a_site_stays_visible_by_the_rate_of_draws_repeated_until_one_is_kept() -> None:
    for sites, ratio in ((2, 0.5), (5, 0.7)):
        rate, expected = kept(sites, ratio=ratio).double().mean(0), (1 - ratio) / (1 - ratio**sites)
        assert (rate - expected).abs().max() < 5 * (0.25 / N) ** 0.5


def test_sizes_are_uniform_and_so_are_the_subsets_of_a_size() -> None:
    found = kept(4, sizes="uniform", ratio=0.9)
    sizes = found.sum(1).bincount(minlength=5) / N
    assert sizes[0] == 0 and (sizes[1:] - 0.25).abs().max() < 5 * (0.1875 / N) ** 0.5
    ones = found[found.sum(1) == 1].double().mean(0)
    assert (ones - 0.25).abs().max() < 5 * (0.1875 / (N / 4)) ** 0.5


@pytest.mark.parametrize("sizes", ["independent", "uniform"])
def test_what_a_sample_lacks_is_neither_hidden_nor_drawn(sizes: str) -> None:
    """The law of a sample that lacks the second of three is that of two."""
    valid = torch.tensor([True, False, True]).expand(N, -1)
    found = kept(3, valid=valid, sizes=sizes)
    assert not found[:, 1].any()
    share = subsets(found[:, [0, 2]])
    law = torch.tensor([0, 1, 1, 1]) / 3 if sizes == "independent" else torch.tensor([0, 0.25, 0.25, 0.5])
    assert (share - law).abs().max() < 0.02
    none = Request(torch.arange(2), 3, Step(), valid=torch.zeros(2, 3, dtype=torch.bool))
    assert not Modalities(sizes=sizes)(none).hidden.any()  # type: ignore[arg-type]


def test_some_sites_are_never_hidden_and_some_samples_whole() -> None:
    assert kept(4, always=(0, 2))[:, [0, 2]].all()
    share = subsets(kept(3, whole=0.4))
    assert abs(share[7] - (0.4 + 0.6 / 7)) < 0.02 and abs(share[1] - 0.6 / 7) < 0.02
    assert kept(3, whole=1.0).all()
    with pytest.raises(UserError, match="there are 3 sites"):
        kept(3, always=(3,))
    with pytest.raises(UserError, match="choose 'independent' or 'uniform'"):
        Modalities(sizes="even")  # type: ignore[arg-type]
