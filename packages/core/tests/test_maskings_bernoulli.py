"""Sites hidden by a chance each: the law of the chance, exact rates, and no empty or full row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask.maskings import Bernoulli

NOISE = Bernoulli(ratio=0.2, threshold=0.9, largest=False)
INFORMED = Bernoulli(ratio=0.3, threshold=0.1)


def drawn(
    masking: Bernoulli, score: Tensor | None, rows: int = 4000, sites: int = 20, **options: Tensor
) -> Mask:
    return masking(Request(torch.arange(rows) * 7, sites, Step(3, 10, 1), score=score, **options))


@pytest.mark.parametrize(
    ("score", "noise", "informed"),
    [(0.0, 0.176, 0.036), (0.1, 0.100, 0.150), (0.3, 0.004, 0.295), (0.85, 0.0, 0.300)],
)
def test_chances_are_those_of_ga_dms(score: float, noise: float, informed: float) -> None:
    found = [float(masking.chances(torch.tensor(score))) for masking in (NOISE, INFORMED)]
    assert found == pytest.approx([noise, informed], abs=1e-3)


def test_each_site_is_hidden_at_its_own_rate() -> None:
    score = torch.linspace(0, 1, 20).expand(4000, 20)
    for masking in (NOISE, INFORMED):
        hidden = drawn(masking, score).hidden
        chance = masking.chances(score[0])
        # rows in which chance hid nothing have one site more, where it came nearest
        bound = 4 * (chance * (1 - chance) / 4000).sqrt() + (1 - chance).prod() + 1e-3
        assert ((hidden.double().mean(0) - chance).abs() < bound).all()


def test_without_scores_all_sites_have_one_chance_and_counts_vary() -> None:
    hidden = drawn(Bernoulli(ratio=0.4), None).hidden
    assert abs(float(hidden.double().mean()) - 0.4) < 4 * (0.24 / hidden.numel()) ** 0.5
    counts = hidden.sum(1).double()
    assert float(counts.var()) == pytest.approx(20 * 0.24, rel=0.1)
    pair = (hidden[:, 3] & hidden[:, 4]).double().mean()
    assert float(pair) == pytest.approx(0.16, abs=0.025)


def test_one_site_is_hidden_and_one_visible_where_there_are_two() -> None:
    for masking, score in ((NOISE, torch.ones(500, 20)), (Bernoulli(ratio=0.999), None)):
        counts = drawn(masking, score, rows=500).hidden.sum(1)
        assert counts.min() >= 1 and counts.max() <= 19
    lengths = torch.tensor([0, 1, 2, 5]).repeat(100)
    valid = torch.arange(20) < lengths[:, None]
    for rate in (0.01, 0.99):
        mask = drawn(Bernoulli(ratio=rate), None, rows=400, valid=valid)
        counts = mask.hidden.sum(1)
        assert not (mask.hidden & ~valid).any()
        assert (counts[lengths >= 2] >= 1).all() and (counts[lengths >= 2] < lengths[lengths >= 2]).all()
        assert not counts[lengths == 1].any()


def test_the_site_that_came_nearest_is_exchanged() -> None:
    score = torch.zeros(300, 20)
    score[:, 11] = 0.25
    faint = Bernoulli(ratio=1e-6 + 1e-3, threshold=0.9)
    assert drawn(faint, score, rows=300).hidden.sum(1).eq(1).all()
    uniform = Step(3, 10, 1).noise(torch.arange(300) * 7, 20, 0)
    assert torch.equal(drawn(faint, None, rows=300).hidden.int().argmax(1)[:50], uniform.argmin(1)[:50])


def test_gradient_stops_and_mistakes_are_named() -> None:
    score = torch.rand(6, 20, requires_grad=True)
    assert not drawn(NOISE, score, rows=6).hidden.requires_grad
    for rate in (0.0, 1.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            Bernoulli(ratio=rate)
    with pytest.raises(ValueError, match=r"score is \[6, 3\]"):
        drawn(NOISE, torch.rand(6, 3), rows=6)
    with pytest.raises(UserError, match="one site"):
        drawn(NOISE, None, rows=6, sites=1)
