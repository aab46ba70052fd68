"""Each check of encoders catches an encoder that lacks the property."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from polymask.testing import CHECKS, check_part
from polymask.types import Fact


class Good(nn.Module):
    """One block of attention on any tokens of a plane.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    prefix, downsample, needs_grid = 1, 1, False

    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__()
        self.dim = self.out_dim = 8
        self.content = nn.Linear(in_dim, 8)
        self.place = nn.Linear(2, 8)
        self.summary = nn.Parameter(torch.randn(8))
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def embed(self, values: Tensor) -> Tensor:
        return self.content(values)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        x = torch.cat([self.summary.expand(len(x), 1, -1), x + self.place(position)], dim=1)
        away = None if valid is None else torch.cat([valid.new_zeros(len(x), 1), ~valid], dim=1)
        return x + self.mix(x, x, x, key_padding_mask=away, need_weights=False)[0]


class GoodPyramid(nn.Module):
    """Halves a grid of 4 x 6.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: rows and columns, from the tokenizer.
    """

    prefix, downsample, needs_grid = 0, 2, True

    def __init__(self, *, in_dim: Fact[int], grid: Fact[tuple[int, ...]]) -> None:
        super().__init__()
        self.dim, self.out_dim, self.grid = 8, 16, grid
        self.content, self.halve = nn.Linear(in_dim, 8), nn.Conv2d(8, 16, 2, 2)

    def embed(self, values: Tensor) -> Tensor:
        return self.content(values)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        if x.shape[1] != self.grid[0] * self.grid[1] or valid is not None:
            raise ValueError("whole grids only")
        return self.halve(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)


class InBlocks(Good):
    """Says what each of its two blocks gives: all before attention, and its output.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    depth = 2

    def layers(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        first = torch.cat([self.summary.expand(len(x), 1, -1), x + self.place(position)], dim=1)
        return [first, self(x, position, valid)]


class ForgetsTheNorm(InBlocks):
    def layers(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        return [layer / 2 for layer in super().layers(x, position, valid)]


class GivesOneBlockTwice(InBlocks):
    def layers(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        return super().layers(x, position, valid)[1:] * 2


class MiscountsItsBlocks(InBlocks):
    depth = 3


class LiesAboutDim(Good):
    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__(in_dim=in_dim)
        self.dim = 9


class LiesAboutPrefix(Good):
    prefix = 0


class LiesAboutDownsample(GoodPyramid):
    downsample = 1


class DownsamplesNothing(Good):
    downsample = 2


class Overflows(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x, position, valid) / 0


class SaysItNeedsAGrid(Good):
    needs_grid = True


class MixesInEmbed(Good):
    """Standardises over the tokens of a sample before any is left out."""

    def embed(self, values: Tensor) -> Tensor:
        x = self.content(values)
        return x - x.mean(1, keepdim=True)


class NormsOverTheBatch(Good):
    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__(in_dim=in_dim)
        self.norm = nn.BatchNorm1d(8)

    def embed(self, values: Tensor) -> Tensor:
        return self.norm(self.content(values).transpose(1, 2)).transpose(1, 2)


class RemembersTheInput(Good):
    """Looks back at what was embedded, hidden or not."""

    def embed(self, values: Tensor) -> Tensor:
        x = super().embed(values)
        self.last = x.detach().mean()
        return x

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x, position, valid) + self.last


class SmearsEmbedding(GoodPyramid):
    def embed(self, values: Tensor) -> Tensor:
        x = self.content(values)
        return x + x.roll(1, dims=1)


class NeedsManyTokens(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        if x.shape[1] < 8:
            raise RuntimeError("kernel larger than input")
        return super().forward(x, position, valid)


class DropsTheOdd(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        n = x.shape[1] // 2 * 2
        return super().forward(x[:, :n], position[:, :n], valid)


class StandardisesTokens(Good):
    """Divides by a spread that one token alone does not have."""

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x / x.std(1, correction=0, keepdim=True), position, valid)


class CountsTokens(Good):
    """Places tokens by their number among those that are left."""

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        number = torch.arange(float(x.shape[1])).view(1, -1, 1).expand(len(x), -1, 2)
        return super().forward(x, number, valid)


class TakesPartOfAGrid(GoodPyramid):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        whole = x.new_zeros(len(x), self.grid[0] * self.grid[1], self.dim)
        whole[:, : x.shape[1]] = x
        return super().forward(whole, position)


class IgnoresValid(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x, position)


class DividesByWidth(Good):
    """Masks padding in attention, but not in a mean over tokens."""

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x, position, valid) / x.shape[1]


class RefusesPadding(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is not None:
            raise NotImplementedError("equal lengths only")
        return super().forward(x, position)


class IdleParameter(Good):
    def __init__(self, *, in_dim: Fact[int]) -> None:
        super().__init__(in_dim=in_dim)
        self.mask_token = nn.Parameter(torch.zeros(8))


class StaleUnused(Good):
    unused = {"summary": "no longer true"}


class WildGradient(Good):
    def embed(self, values: Tensor) -> Tensor:
        return self.content(values) + (self.content.bias * 0).abs().sqrt()


class DropsInEval(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return torch.dropout(super().forward(x, position, valid), 0.5, True)


class AveragesTheBatch(Good):
    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(x - x.mean(0), position, valid)


BAD = [
    ("check_encoder_tells_the_truth", LiesAboutDim, "dim=9, embeds to [4, 24, 8]"),
    ("check_encoder_tells_the_truth", LiesAboutPrefix, "promise [4, 24, 8]; the output is [4, 25, 8]"),
    ("check_encoder_tells_the_truth", LiesAboutDownsample, "promise [4, 24, 16]; the output is [4, 6, 16]"),
    ("check_encoder_tells_the_truth", DownsamplesNothing, "downsample=2"),
    ("check_encoder_tells_the_truth", Overflows, "the output is not finite"),
    ("check_encoder_tells_the_truth", SaysItNeedsAGrid, "needs_grid=True, but the tag says False"),
    ("check_encoder_leaks_nothing_hidden", MixesInEmbed, "filled in after embedding: changing them changes"),
    ("check_encoder_leaks_nothing_hidden", NormsOverTheBatch, "filled in after embedding"),
    ("check_encoder_leaks_nothing_hidden", RemembersTheInput, "filled in after embedding"),
    ("check_encoder_leaks_nothing_hidden", SmearsEmbedding, "filled in after embedding"),
    ("check_encoder_takes_any_subset", NeedsManyTokens, "RuntimeError: kernel larger than input"),
    (
        "check_encoder_takes_any_subset",
        DropsTheOdd,
        "17 of 24 tokens: the output is [4, 17, 8], not [4, 18, 8]",
    ),
    ("check_encoder_takes_any_subset", StandardisesTokens, "1 of 24 tokens: the output is not finite"),
    ("check_encoder_goes_by_position", CountsTokens, "tag it 'ordered'"),
    ("check_encoder_refuses_part_of_a_grid", TakesPartOfAGrid, "encodes 12 of 24 tokens without complaint"),
    ("check_encoder_ignores_padding", IgnoresValid, "changing padding changes the features"),
    ("check_encoder_ignores_padding", DividesByWidth, "padding changes the features of real tokens: mind"),
    ("check_encoder_trains_every_parameter", IdleParameter, "no gradient reaches mask_token"),
    (
        "check_encoder_trains_every_parameter",
        StaleUnused,
        "named in `unused`, but trained or absent: summary",
    ),
    ("check_encoder_trains_every_parameter", WildGradient, "the gradient of content.bias is not finite"),
    (
        "check_encoder_is_deterministic_in_eval",
        DropsInEval,
        "a second call in eval mode gives other features",
    ),
    ("check_encoder_blocks_are_what_it_runs", ForgetsTheNorm, "the last is not its output"),
    ("check_encoder_blocks_are_what_it_runs", GivesOneBlockTwice, "two blocks give the same"),
    ("check_encoder_blocks_are_what_it_runs", MiscountsItsBlocks, "has 3 blocks, and gives 2 outputs"),
    ("check_encoder_is_deterministic_in_eval", AveragesTheBatch, "depend on the samples beside it"),
]


@pytest.mark.parametrize(("check", "bad", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_a_check_catches(check: str, bad: type, message: str) -> None:
    tags = ["needs-grid"] if issubclass(bad, GoodPyramid) else []
    (result,) = check_part(bad, kind="encoders", tags=tags, only=[check])
    assert result.outcome == "failed"
    assert message in result.message


def test_every_check_is_tried() -> None:
    assert {c.name for c in CHECKS if c.kinds == ("encoders",)} == {check for check, *_ in BAD}


@pytest.mark.parametrize(("good", "tags"), [(Good, []), (InBlocks, []), (GoodPyramid, ["needs-grid"])])
def test_a_good_encoder_passes(good: type, tags: list[str]) -> None:
    assert not [result for result in check_part(good, kind="encoders", tags=tags) if not result.ok]


def test_refusing_padding_is_allowed_and_told() -> None:
    (result,) = check_part(RefusesPadding, kind="encoders", only=["check_encoder_ignores_padding"])
    assert (result.outcome, result.message) == ("skipped", "refuses padding: equal lengths only")


def test_a_parameter_named_in_unused_is_excused() -> None:
    only = ["check_encoder_trains_every_parameter"]
    IdleParameter.unused = {"mask_token": "filled in by systems that substitute"}  # type: ignore[attr-defined]
    try:
        assert check_part(IdleParameter, kind="encoders", only=only)[0].outcome == "passed"
    finally:
        del IdleParameter.unused  # type: ignore[attr-defined]
