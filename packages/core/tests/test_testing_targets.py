"""Each check of targets catches a target that lacks the property."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from polymask import Tokens
from polymask.nn.teachers import Frozen
from polymask.testing import CHECKS, check_part
from polymask.types import Fact


class Good:
    """The content of each token, doubled.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    def __init__(self, *, in_dim: Fact[int]) -> None:
        self.dim = in_dim

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values.float() * 2

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        return prediction / 2, "as they are"


class GoodClasses:
    """The sign of the first number."""

    dim = 2

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return (tokens.values[..., 0] > 0).long()


class GoodTeacher(nn.Module):
    """What a frozen network says.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    dim = 1

    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__()
        self.teacher = Frozen(nn.Sequential(nn.Linear(in_dim, 1), nn.Dropout(0.5)))

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return self.teacher(tokens.values)


class Trains(GoodTeacher):
    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__(in_dim=in_dim)
        self.teacher.requires_grad_(True)


class CarriesGradient(Good):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values * 2


class PassesTheInputOn(Good):
    """``no_grad`` does not detach what is handed on unchanged."""

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values.float()


class LiesAboutDim(Good):
    def __init__(self, *, in_dim: Fact[int]) -> None:
        self.dim = in_dim + 1


class HalfPrecision(Good):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return super().__call__(batch, tokens).bfloat16()


class Infinite(Good):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return super().__call__(batch, tokens) / 0


class TooFewClasses(GoodClasses):
    dim = 1


class OneHot(GoodClasses):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return nn.functional.one_hot(super().__call__(batch, tokens), 2)


class Noisy(Good):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        out = super().__call__(batch, tokens)
        return out + torch.rand_like(out)


class Whitens(Good):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        out = super().__call__(batch, tokens)
        return out - out.mean(0)


class ScalesInPlace(Good):
    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values.mul_(2).clone()


class ScalesTheBatch(Good):
    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        batch["x"].mul_(2)
        return super().__call__(batch, tokens)


class InvertsWrongly(Good):
    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        return prediction, "as they are"


class InvertsToAnotherShape(Good):
    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        return prediction[..., :1], "as they are"


class InvertsInSilence(Good):
    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        return prediction / 2, ""


BAD = [
    ("check_target_shape", LiesAboutDim, "", "dim=13 promises [4, 24, 13]; the answer is [4, 24, 12]"),
    ("check_target_shape", HalfPrecision, "", "the answer is torch.bfloat16"),
    ("check_target_shape", Infinite, "", "the answer is not finite"),
    ("check_target_shape", TooFewClasses, "classes", "dim=1 classes, but ids go from 0 to 1"),
    ("check_target_shape", OneHot, "classes", "the answer is torch.int64 [4, 24, 2], not int64 [4, 24]"),
    ("check_target_score_is_one_number", Good, "score", "dim is not 1"),
    (
        "check_target_has_no_gradient",
        Trains,
        "",
        "teacher.module.0.weight, teacher.module.0.bias would train",
    ),
    ("check_target_has_no_gradient", CarriesGradient, "", "the answer carries gradient"),
    ("check_target_has_no_gradient", PassesTheInputOn, "", "the answer carries gradient"),
    ("check_target_is_deterministic_in_eval", Noisy, "", "another answer"),
    ("check_target_ignores_companions", Whitens, "", "depends on the samples beside it"),
    ("check_target_leaves_its_input", ScalesInPlace, "", "overwrites the tokens"),
    ("check_target_leaves_its_input", ScalesTheBatch, "", "overwrites batch['x']"),
    ("check_target_inverts", InvertsWrongly, "invertible", "invert of the answer is off"),
    ("check_target_inverts", InvertsToAnotherShape, "invertible", "invert gives [4, 24, 1]"),
    ("check_target_inverts", InvertsInSilence, "invertible", "names no statistics"),
]


@pytest.mark.parametrize(("check", "bad", "tag", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_a_check_catches(check: str, bad: type, tag: str, message: str) -> None:
    (result,) = check_part(bad, kind="targets", tags=filter(None, [tag]), only=[check])
    assert result.outcome == "failed"
    assert message in result.message


def test_every_check_is_tried() -> None:
    assert {c.name for c in CHECKS if c.kinds == ("targets",)} == {check for check, *_ in BAD}


@pytest.mark.parametrize(
    ("good", "tags"), [(Good, ["invertible"]), (GoodClasses, ["classes"]), (GoodTeacher, ["score"])]
)
def test_a_good_target_passes(good: type, tags: list[str]) -> None:
    assert not [result for result in check_part(good, kind="targets", tags=tags) if not result.ok]


def test_a_target_over_the_batch_may_say_so() -> None:
    only = ["check_target_ignores_companions"]
    assert check_part(Whitens, kind="targets", tags=["relative"], only=only)[0].outcome == "skipped"
