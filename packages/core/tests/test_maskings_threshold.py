"""Sites beyond a threshold, and gradient that passes on to what is compared with it."""

from __future__ import annotations

import math

import pytest
import torch

from polymask import Request, Step, UserError
from polymask.maskings import Gumbel, Threshold

STEP = Step(index=3, total=10, seed=1)


def ask(score: torch.Tensor, **options: object) -> Request:
    return Request(torch.arange(len(score)), score.shape[1], STEP, score=score, **options)  # type: ignore[arg-type]


def test_sites_above_the_threshold_are_hidden_or_those_at_it_and_below() -> None:
    score = torch.tensor([[0.2, 0.5, 0.7], [0.9, 0.51, 0.5]])
    above = torch.tensor([[False, False, True], [True, True, False]])
    assert torch.equal(Threshold()(ask(score)).hidden, above)
    assert torch.equal(Threshold(largest=False)(ask(score)).hidden, ~above)
    assert torch.equal(Threshold(threshold=0.2)(ask(score)).hidden, score > 0.2)


@pytest.mark.parametrize("largest", [True, False])
def test_gradient_passes_a_threshold_unchanged(largest: bool) -> None:
    score = torch.tensor([[0.2, 0.7], [0.9, 0.4]], requires_grad=True)
    hidden = Threshold(largest=largest)(ask(score)).hidden
    assert set(hidden.tolist()[0] + hidden.tolist()[1]) == {0.0, 1.0}
    slope = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    (hidden * slope).sum().backward()
    assert score.grad is not None and torch.equal(score.grad, slope if largest else -slope)


@pytest.mark.parametrize("logit", [-2.0, -1.0, 0.0, 1.0, 5.0])
def test_gumbel_hides_with_the_chance_of_one_gumbel_number_and_not_with_the_sigmoid(logit: float) -> None:
    n = 1_000_000
    score = torch.full((1000, n // 1000), logit)
    law, sigmoid = 1 - math.exp(-math.exp(logit)), 1 / (1 + math.exp(-logit))
    for largest in (True, False):
        hidden = Gumbel(largest=largest)(ask(score)).hidden
        found = (hidden if largest else ~hidden).double().mean().item()
        assert abs(found - law) < 5 * math.sqrt(0.25 / n), (found, law)
    assert logit == 5 or abs(law - sigmoid) > 0.005


def test_gradient_of_gumbel_is_that_of_the_sigmoid_at_its_noise() -> None:
    score = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    request = ask(score)
    uniform = STEP.noise(request.ids, 50)
    for temperature, largest in ((1.0, True), (0.5, False)):
        hidden = Gumbel(temperature=temperature, largest=largest)(request).hidden
        assert ((hidden == 0) | (hidden == 1)).all()
        (own,) = torch.autograd.grad(hidden.sum(), score)
        p = ((score - (-uniform.log()).log()) / temperature).sigmoid().detach()
        torch.testing.assert_close(own, (1 if largest else -1) * p * (1 - p) / temperature)
        assert torch.equal(hidden.detach() == 1, (p > 0.5) == largest)


def test_the_same_sites_are_hidden_with_and_without_gradient() -> None:
    score = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    for masking in (Threshold(), Gumbel()):
        hard = masking(ask(score)).hidden
        assert hard.dtype == torch.bool
        assert torch.equal(masking(ask(score.requires_grad_())).hidden.detach().bool(), hard)
        with torch.no_grad():
            score.requires_grad_(False)


def test_noise_that_is_infinite_gives_no_nan() -> None:
    """A uniform number may be 0."""

    class Zero(Step):
        def noise(self, ids: torch.Tensor, sites: int, stream: int = 0) -> torch.Tensor:
            return torch.zeros(len(ids), sites)

    score = torch.zeros(1, 3, requires_grad=True)
    mask = Gumbel()(Request(torch.arange(1), 3, Zero(), score=score))
    mask.hidden.sum().backward()
    assert not mask.hidden.any() and score.grad is not None and not score.grad.any()


def test_padding_is_neither_hidden_nor_learned() -> None:
    valid = torch.tensor([[True, True, False]])
    for masking in (Threshold(largest=False, threshold=2.0), Gumbel(largest=False)):
        score = torch.full((1, 3), -50.0, requires_grad=True)
        mask = masking(ask(score, valid=valid))
        assert mask.hidden.tolist() == [[1.0, 1.0, 0.0]] and mask.valid is valid
        mask.hidden.sum().backward()
        assert score.grad is not None and score.grad[0, 2] == 0


def test_a_score_is_asked_for() -> None:
    for masking in (Threshold(), Gumbel()):
        with pytest.raises(UserError, match="hides by score, and this system computes none"):
            masking(Request(torch.arange(2), 4, STEP))
        with pytest.raises(ValueError, match="expected"):
            masking(Request(torch.arange(2), 4, STEP, score=torch.zeros(2, 3)))
