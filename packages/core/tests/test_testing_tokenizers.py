"""Each check of tokenizers catches a tokenizer that lacks the property."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Batch, Tokens
from polymask.testing import CHECKS, check_part
from polymask.testing.subject import StandIn


class Good(StandIn):
    """Tokens on a grid."""

    def __init__(self) -> None:
        super().__init__()


class Ragged:
    """Sequences of one to eight words of a vocabulary, padded."""

    key = "words"

    @property
    def provides(self) -> dict[str, Any]:
        return {"in_dim": 1, "grid": None}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        words = batch["words"]
        n = int((words >= 0).sum(1).max())
        ids, valid = words[:, :n].clamp(min=0), words[:, :n] >= 0
        position = torch.arange(float(n)).view(1, n, 1).expand(len(words), -1, -1)
        return Tokens(ids[..., None].float(), position, ids=ids, valid=valid)

    def example(self, n: int, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(0, 30, (n, 8), generator=generator)
        lengths = torch.randint(1, 9, (n, 1), generator=generator)
        return {"words": torch.where(torch.arange(8) < lengths, words, -1)}


class ExampleIsGlobal(Good):
    def example(self, n: int, seed: int = 0) -> Batch:
        torch.manual_seed(seed)
        return {"x": torch.randn(n, 24, 12)}


class ExampleOfAnotherKey(Good):
    def example(self, n: int, seed: int = 0) -> Batch:
        return {"y": super().example(n, seed)["x"]}


class ExampleTooLong(Good):
    def example(self, n: int, seed: int = 0) -> Batch:
        return super().example(n + 1, seed)


class ExampleIsConstant(Good):
    def example(self, n: int, seed: int = 0) -> Batch:
        return super().example(n, 0)


class ExampleNeverTheSame(Good):
    calls = itertools.count()

    def example(self, n: int, seed: int = 0) -> Batch:
        return super().example(n, next(self.calls))


class ReturnsATensor(Good):
    def __call__(self, batch: Mapping[str, Tensor]) -> Any:
        return batch["x"]


class Edited(Good):
    """A good tokenizer with its tokens changed."""

    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        tokens = super().__call__(batch)
        return dataclasses.replace(tokens, **self.edit(tokens))


class Flat(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"values": tokens.values.flatten(1)}


class OnePositionTooFew(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"position": tokens.position[:, 1:]}


class NowherePosition(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"position": tokens.position / 0}


class WrongGrid(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"grid": (5, 5)}


class ColumnsFirst(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"position": tokens.position.flip(-1)}


class NegativeIds(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"ids": torch.full(tokens.shape, -1)}


class NumericValid(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"valid": torch.ones(tokens.shape)}


class AllPadding(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"valid": torch.zeros(tokens.shape, dtype=torch.bool)}


class LiesAboutWidth(Good):
    @property
    def provides(self) -> dict[str, Any]:
        return {"in_dim": 7, "grid": self.grid}


class LiesAboutGrid(Good):
    @property
    def provides(self) -> dict[str, Any]:
        return {"in_dim": self.in_dim, "grid": (6, 4)}


class Noisy(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"values": tokens.values + torch.rand_like(tokens.values)}


class Whitens(Edited):
    def edit(self, tokens: Tokens) -> dict[str, Any]:
        return {"values": tokens.values - tokens.values.mean(0)}


class InverseIsOff(Good):
    def inverse(self, values: Tensor) -> Tensor:
        return values * (1 + 1e-6)


class InverseOfAnotherShape(Good):
    def inverse(self, values: Tensor) -> Tensor:
        return values.flatten(1)


BAD = [
    ("check_tokenizer_example", ExampleIsGlobal, "moves the global generator"),
    ("check_tokenizer_example", ExampleOfAnotherKey, "makes y, not the tokenizer's key 'x'"),
    ("check_tokenizer_example", ExampleTooLong, "example(3) makes 4 samples"),
    ("check_tokenizer_example", ExampleIsConstant, "the same for another seed"),
    ("check_tokenizer_example", ExampleNeverTheSame, "makes another 'x' for the same seed"),
    ("check_tokenizer_shapes", ReturnsATensor, "returned Tensor, not polymask.Tokens"),
    ("check_tokenizer_shapes", Flat, "values have shape [3, 288]"),
    ("check_tokenizer_shapes", OnePositionTooFew, "position has shape [3, 23, 2], not [3, 24, P]"),
    ("check_tokenizer_shapes", NowherePosition, "position is not finite"),
    ("check_tokenizer_shapes", WrongGrid, "a grid of (5, 5) has not 24 sites"),
    ("check_tokenizer_shapes", ColumnsFirst, "positions are not those of the grid"),
    ("check_tokenizer_shapes", NegativeIds, "ids are torch.int64"),
    ("check_tokenizer_shapes", NumericValid, "valid is torch.float32"),
    ("check_tokenizer_shapes", AllPadding, "some sample has no token"),
    ("check_tokenizer_provides", LiesAboutWidth, "provides in_dim=7, makes tokens of 12"),
    ("check_tokenizer_provides", LiesAboutGrid, "provides grid=(6, 4), makes a grid of (4, 6)"),
    ("check_tokenizer_is_deterministic", Noisy, "other values"),
    (
        "check_tokenizer_takes_samples_one_by_one",
        Whitens,
        "values of a sample depend on the samples beside it",
    ),
    ("check_tokenizer_inverse", InverseIsOff, "does not give back the input"),
    ("check_tokenizer_inverse", InverseOfAnotherShape, "inverse gives shape [3, 288]"),
]


@pytest.mark.parametrize(("check", "bad", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_a_check_catches(check: str, bad: type, message: str) -> None:
    (result,) = check_part(bad, kind="tokenizers", tags=["invertible"], only=[check])
    assert result.outcome == "failed"
    assert message in result.message


def test_every_check_is_tried() -> None:
    assert {c.name for c in CHECKS if c.kinds == ("tokenizers",)} == {check for check, *_ in BAD}


@pytest.mark.parametrize(("good", "tags"), [(Good, ["invertible"]), (Ragged, [])])
def test_a_good_tokenizer_passes(good: type, tags: list[str]) -> None:
    assert not [result for result in check_part(good, kind="tokenizers", tags=tags) if not result.ok]
