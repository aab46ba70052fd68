"""Each check of objectives catches an objective that lacks the property."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask
from polymask.testing import CHECKS, check_part


def errors(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.float() - target.detach().float()).square().mean(-1)


class Good:
    """Mean squared error."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss = errors(prediction, target)
        return loss.mean() if mask is None else mask.mean(loss)


class GoodClasses:
    """Cross-entropy."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss = F.cross_entropy(prediction.float().transpose(1, 2), target, reduction="none")
        return loss.mean() if mask is None else mask.mean(loss)


class PerSample(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss = errors(prediction, target)
        if mask is None:
            return loss.mean()
        weight = mask.hidden.float()
        return ((loss * weight).sum(1) / weight.sum(1).clamp(min=1)).mean()


class NotReduced(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return errors(prediction, target)


class Half(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        return mask.mean(errors(prediction.bfloat16(), target)).bfloat16()


class RoundsInside(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        difference = prediction - target.to(prediction.dtype)
        loss = difference.square().mean(-1)
        return loss.mean().float() if mask is None else mask.mean(loss)


class Infinite(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return super().__call__(prediction, target, mask) / 0


class Detached(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return super().__call__(prediction.detach(), target, mask)


class ScoresVisible(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return super().__call__(prediction, target)


class SkipsTheFirst(Good):
    """Loses the hidden site of least index in each sample."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        first = mask.hidden & (mask.hidden.cumsum(1) == 1)
        return Mask(mask.hidden & ~first).mean(errors(prediction, target))


class ReadsVisibleTargets(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        spread = target.detach().std() if target.is_floating_point() else 1.0
        return super().__call__(prediction, target, mask) / spread


class ReadsVisiblePredictions(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return super().__call__(prediction, target, mask) / prediction.detach().std()


class NaNOnEmpty(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        return errors(prediction, target)[mask.hidden].mean()


class WildOnEmpty(Good):
    """0 where nothing is hidden, but by way of 0 / 0."""

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        weight = mask.hidden.float()
        mean = (errors(prediction, target) * weight).sum() / weight.sum()
        return torch.where(weight.sum() > 0, mean, 0.0)


class DividesTwice(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        return super().__call__(prediction, target, mask) / mask.hidden.sum()


class Sums(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        return (errors(prediction, target) * mask.hidden).sum()


class SumsWithoutAMask(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return (
            errors(prediction, target).sum() if mask is None else super().__call__(prediction, target, mask)
        )


class TeachesTheTeacher(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        assert mask is not None
        return mask.mean((prediction - target).square().mean(-1))


class SitesOfAnotherShape(Good):
    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        return errors(prediction, target).flatten()


class HalfSites(Good):
    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        return errors(prediction, target).to(prediction.dtype)


class OtherSites(Good):
    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 2 * errors(prediction, target)


class Reversed(Good):
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return -super().__call__(prediction, target, mask)


BAD = [
    ("check_objective_is_a_float32_scalar", NotReduced, "gives shape [3, 12], not a scalar"),
    ("check_objective_is_a_float32_scalar", Half, "gives torch.bfloat16"),
    ("check_objective_is_a_float32_scalar", Infinite, "gives inf for ordinary numbers"),
    ("check_objective_is_a_float32_scalar", Detached, "cuts the gradient"),
    ("check_objective_computes_in_float32", Half, "gives torch.bfloat16 for a bfloat16 prediction"),
    ("check_objective_computes_in_float32", RoundsInside, "rounds to bfloat16 inside"),
    ("check_objective_ignores_visible_sites", ScoresVisible, "visible sites get gradient"),
    ("check_objective_ignores_visible_sites", SkipsTheFirst, "some hidden site gets no gradient"),
    ("check_objective_reads_hidden_targets_only", ReadsVisibleTargets, "targets at visible sites"),
    ("check_objective_reads_hidden_targets_only", ReadsVisiblePredictions, "predictions at visible sites"),
    ("check_objective_survives_an_empty_mask", NaNOnEmpty, "gives nan where nothing is hidden"),
    ("check_objective_survives_an_empty_mask", WildOnEmpty, "gradients are not 0"),
    ("check_objective_is_a_mean", DividesTwice, "for the batch twice"),
    ("check_objective_is_a_mean", Sums, "for the batch twice"),
    ("check_objective_counts_every_hidden_site_alike", PerSample, "the mean over hidden sites is"),
    ("check_objective_without_a_mask_counts_all", SumsWithoutAMask, "with all hidden"),
    ("check_objective_stops_gradient_of_the_target", TeachesTheTeacher, "the target gets gradient"),
    ("check_objective_sites", SitesOfAnotherShape, "sites gives [36] for 12 sites of 3 samples"),
    ("check_objective_sites", HalfSites, "sites gives torch.bfloat16"),
    ("check_objective_sites", OtherSites, "the mean of its sites is"),
    ("check_objective_is_least_at_the_target", Reversed, "beside the target"),
]


@pytest.mark.parametrize(("check", "bad", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_a_check_catches(check: str, bad: type, message: str) -> None:
    (result,) = check_part(bad, kind="objectives", only=[check])
    assert result.outcome == "failed"
    assert message in result.message


def test_every_check_is_tried() -> None:
    assert {c.name for c in CHECKS if c.kinds == ("objectives",)} == {check for check, *_ in BAD}


@pytest.mark.parametrize(("good", "tags"), [(Good, []), (GoodClasses, ["classes"])])
def test_a_good_objective_passes(good: type, tags: list[str]) -> None:
    assert not [result for result in check_part(good, kind="objectives", tags=tags) if not result.ok]


@pytest.mark.parametrize(
    ("check", "cls", "tag"),
    [
        ("check_objective_is_a_mean", Sums, "relative"),
        ("check_objective_counts_every_hidden_site_alike", PerSample, "relative"),
        ("check_objective_stops_gradient_of_the_target", TeachesTheTeacher, "two-sided"),
    ],
)
def test_a_tag_excuses(check: str, cls: type, tag: str) -> None:
    assert check_part(cls, kind="objectives", tags=[tag], only=[check])[0].outcome == "skipped"
