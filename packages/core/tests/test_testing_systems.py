"""Each check of systems catches a system that lacks the property."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Generation, Mask, MaskView, Preview, Request, Step, System, Tokens
from polymask.mask import require_over
from polymask.nn.teachers import EMATeacher, Frozen
from polymask.protocols import Masking, Target, Tokenizer
from polymask.testing import CHECKS, CheckResult, check_part


class Content:
    """The content of each token."""

    dim = 12

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values.detach()


class Good(System):
    """Guesses hidden tokens from the mean of the visible ones and their place; has a teacher.

    Args:
        tokenizer: cuts the input into tokens.
        masking: what to hide.
        target: what to predict.
    """

    def __init__(self, *, tokenizer: Tokenizer, masking: Masking, target: Target) -> None:
        super().__init__()
        self.tokenizer, self.masking, self.target = tokenizer, masking, target
        self.content = nn.Linear(tokenizer.provides["in_dim"], 16)
        self.place = nn.Linear(2, 16)
        self.head = nn.Linear(16, target.dim)
        self.fixed = Frozen(nn.Sequential(nn.Linear(target.dim, target.dim), nn.BatchNorm1d(target.dim)))
        self.teacher = EMATeacher(self.content, momentum=0.9)

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(tokens, batch, step)
        guess = self.guess(tokens, mask)
        error = (guess - self.target(batch, tokens)).square().mean(-1)
        self.fixed(guess.flatten(0, 1))
        return {"guess": self.score(error, mask), "teacher": self.agreement(tokens, mask)}

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return self.masking(Request.of(tokens, batch, step))

    def guess(self, tokens: Tokens, mask: Mask) -> Tensor:
        context = self.content(mask.keep(tokens).values).mean(1, keepdim=True)
        return self.head((context + self.place(tokens.position)).relu()).float()

    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return mask.mean(error)

    def agreement(self, tokens: Tokens, mask: Mask) -> Tensor:
        seen = mask.keep(tokens).values
        return 0.1 * (self.content(seen) - self.teacher(seen)).float().square().mean()

    def after_step(self, step: Step) -> None:
        self.teacher.follow(self.content, step)

    def encode(self, batch: Batch) -> Tokens:
        tokens = self.tokenizer(batch)
        return Tokens(self.content(tokens.values), tokens.position, tokens.grid)

    @torch.no_grad()
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        return Preview({"guess": self.guess(tokens, self.draw(tokens, batch, step))})

    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        features = self.teacher(self.tokenizer(batch).values)
        return {"target": features, "mean": features.mean()}


class Huge(Good):
    def __init__(self, *, tokenizer: Tokenizer, masking: Masking, target: Target) -> None:
        super().__init__(tokenizer=tokenizer, masking=masking, target=target)
        self.large = nn.Parameter(torch.zeros(1_000_000))


class ReturnsATensor(Good):
    def forward(self, batch: Batch, step: Step) -> Any:
        return sum(super().forward(batch, step).values())


class ReturnsAVector(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return error.mean(1)


class Half(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask).bfloat16()


class Infinite(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask) / 0


class Constant(Good):
    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return {name: term.detach() for name, term in super().forward(batch, step).items()}


class NeedsIds(Good):
    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return super().draw(tokens, {"id": batch["id"]}, step)


class Idle(Good):
    def __init__(self, *, tokenizer: Tokenizer, masking: Masking, target: Target) -> None:
        super().__init__(tokenizer=tokenizer, masking=masking, target=target)
        self.mask_token = nn.Parameter(torch.zeros(16))


class StaleUnused(Good):
    unused = {"head.weight": "no longer true"}


class Climbs(Good):
    """The value of the loss with its gradient reversed."""

    def score(self, error: Tensor, mask: Mask) -> Tensor:
        value = super().score(error, mask)
        return 2 * value.detach() - value


class FollowsTwice(Good):
    def after_step(self, step: Step) -> None:
        super().after_step(step)
        super().after_step(step)


class NeverFollows(Good):
    def after_step(self, step: Step) -> None:
        pass


class FollowsEarly(Good):
    """The teacher moves in the forward pass too."""

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        terms = super().forward(batch, step)
        if self.training:
            with torch.no_grad():
                self.teacher.module.bias.add_(0.1)
        return terms


class FollowsAnother(Good):
    def after_step(self, step: Step) -> None:
        super().after_step(Step(step.total, step.total))
        with torch.no_grad():
            self.teacher.module.weight.mul_(0.5)


class OwnTeacher(Good):
    def after_step(self, step: Step) -> None:
        super().after_step(step)
        with torch.no_grad():
            self.fixed.module[0].weight.mul_(0.9)


class FrozenStatisticsMove(Good):
    """A teacher without gradient that is put into training mode."""

    def __init__(self, *, tokenizer: Tokenizer, masking: Masking, target: Target) -> None:
        super().__init__(tokenizer=tokenizer, masking=masking, target=target)
        self.loose = nn.BatchNorm1d(12).requires_grad_(False)

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        self.loose.train()(self.tokenizer(batch).values.flatten(0, 1))
        return super().forward(batch, step)


class NothingMoves(Good):
    def after_backward(self, step: Step) -> None:
        self.zero_grad(set_to_none=True)


class CountsCalls(Good):
    calls = 0

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        self.calls += 1
        return super().draw(tokens, batch, Step(step.index + self.calls, step.total, step.seed))


class OneMaskForEver(Good):
    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return super().draw(tokens, batch, Step(0, 1, step.seed))


class OneMaskForAnySeed(Good):
    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        return super().draw(tokens, batch, Step(step.index, step.total))


class KeepsAScaleToItself(Good):
    """Standardises by a running value that is no buffer."""

    scale = 1.0

    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask) / self.scale

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        self.scale = 0.9 * self.scale + 0.05


class Reduced(Good):
    """A table of random numbers that is not saved, made anew by each process."""

    def __init__(self, *, tokenizer: Tokenizer, masking: Masking, target: Target) -> None:
        super().__init__(tokenizer=tokenizer, masking=masking, target=target)
        self.register_buffer("table", torch.rand(()), persistent=False)

    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask) * self.table


class MasksInEncode(Good):
    def encode(self, batch: Batch) -> Tokens:
        tokens = super().encode(batch)
        return Tokens(tokens.values * (torch.rand_like(tokens.values) < 0.5), tokens.position)


class EncodesToATensor(Good):
    def encode(self, batch: Batch) -> Any:
        return super().encode(batch).values


class EncodesNaN(Good):
    def encode(self, batch: Batch) -> Tokens:
        tokens = super().encode(batch)
        return Tokens(tokens.values * float("nan"), tokens.position)


class EncodesTogether(Good):
    def encode(self, batch: Batch) -> Tokens:
        tokens = super().encode(batch)
        return Tokens(tokens.values - tokens.values.mean(0), tokens.position)


class EncodesInARow(Good):
    def encode(self, batch: Batch) -> Tokens:
        tokens = super().encode(batch)
        return Tokens(tokens.values.flatten(0, 1)[None], tokens.position.flatten(0, 1)[None])


class DividesTwice(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask) / mask.hidden.sum()


class FirstCountsMost(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        order = torch.arange(len(error)) % 4
        return super().score(error * (1 + order)[:, None], mask) / 2.5


class Contrasts(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask) + 10 * len(error.mean(1).unique())


class FallsApartInHalf(Good):
    def guess(self, tokens: Tokens, mask: Mask) -> Tensor:
        guess = super().guess(tokens, mask)
        return guess * float("nan") if torch.is_autocast_enabled("cpu") else guess


class RoundsTheLoss(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        value = super().score(error, mask)
        return value.bfloat16() if torch.is_autocast_enabled("cpu") else value


class FarOffInHalf(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return super().score(error, mask) * (2 if torch.is_autocast_enabled("cpu") else 1)


class Looks(Good):
    """Lets hidden tokens into the mean."""

    def guess(self, tokens: Tokens, mask: Mask) -> Tensor:
        context = self.content(tokens.values).mean(1, keepdim=True)
        return self.head((context + self.place(tokens.position)).relu())


class ShowsAnotherMask(Good):
    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        return super().masks(batch, Step(step.index + 1, step.total, step.seed))


class ShowsABareMask(Good):
    def masks(self, batch: Batch, step: Step) -> Any:
        return {"mask": super().masks(batch, step)["mask"].mask}


class ShowsOtherTokens(Good):
    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        few = {key: value[:1] for key, value in batch.items()}
        return {"mask": MaskView(super().masks(batch, step)["mask"].mask, self.tokenizer(few))}


class ShowsTooFew(Good):
    def masks(self, batch: Batch, step: Step) -> dict[str, MaskView]:
        return {"mask": MaskView(Mask(super().masks(batch, step)["mask"].mask.hidden[:1]))}


class PicturesOfOne(Good):
    def preview(self, batch: Batch, step: Step) -> Preview:
        return Preview({"guess": super().preview(batch, step).media["guess"][:1]})


class PicturesOfNaN(Good):
    def preview(self, batch: Batch, step: Step) -> Preview:
        return Preview({"guess": super().preview(batch, step).media["guess"] / 0})


class PicturesWithGradient(Good):
    def preview(self, batch: Batch, step: Step) -> Preview:
        tokens = self.tokenizer(batch)
        return Preview({"guess": self.guess(tokens, self.draw(tokens, batch, step))})


class PicturesMoveTheTeacher(Good):
    def preview(self, batch: Batch, step: Step) -> Preview:
        with torch.no_grad():
            self.teacher.module.bias.add_(1)
        return super().preview(batch, step)


class DrawsNoLine(Good):
    def preview(self, batch: Batch, step: Step) -> Preview:
        return Preview(lines={"depth": torch.zeros(2, 2)})


class DrawsLinesOfSeveralLengths(Good):
    def preview(self, batch: Batch, step: Step) -> Preview:
        return Preview(lines={"depth": {"a": torch.zeros(2), "b": torch.zeros(3)}})


class MonitorsAVector(Good):
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return {"target": torch.zeros(4)}


class MonitorsNaN(Good):
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return {"mean": torch.tensor(torch.nan)}


class MonitoringMovesTheTeacher(Good):
    def monitor(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        self.teacher.module.bias.add_(1)
        return super().monitor(batch, step)


class Differentiates(Good):
    """Weighs the error by its own gradient, which autograd gives where it is enabled alone."""

    def score(self, error: Tensor, mask: Mask) -> Tensor:
        (slope,) = torch.autograd.grad(error.sum(), self.head.weight, retain_graph=True)
        return mask.mean(error) + 0 * slope.sum()


class NaNWithoutGradient(Good):
    def score(self, error: Tensor, mask: Mask) -> Tensor:
        return mask.mean(error) if torch.is_grad_enabled() else torch.tensor(torch.nan)


GENERATES = "check_system_generates"


class Makes(Good):
    """Generates noise, and keeps what is visible."""

    def generate(self, batch: Batch, step: Step, mask: Mask | None = None) -> Generation:
        x = batch[self.tokenizer.key]
        require_over(self.tokenizer(batch), mask)
        made = self.noise(batch, step).view_as(x)
        return Generation({self.tokenizer.key: made if mask is None else mask.fill(x, made)}, [{}])

    def noise(self, batch: Batch, step: Step) -> Tensor:
        return step.normal(batch["id"], batch[self.tokenizer.key][0].numel())


class MakesByRow(Makes):
    def noise(self, batch: Batch, step: Step) -> Tensor:
        return step.normal(torch.arange(len(batch["id"])), batch[self.tokenizer.key][0].numel())


class MakesByGlobalChance(Makes):
    def noise(self, batch: Batch, step: Step) -> Tensor:
        return torch.randn_like(batch[self.tokenizer.key])


class MakesTheSame(Makes):
    def noise(self, batch: Batch, step: Step) -> Tensor:
        return super().noise(batch, Step())


class MakesOfTheData(Makes):
    def noise(self, batch: Batch, step: Step) -> Tensor:
        x = batch[self.tokenizer.key]
        return super().noise(batch, step).view_as(x) + x


class MakesNaN(Makes):
    def noise(self, batch: Batch, step: Step) -> Tensor:
        return super().noise(batch, step) * torch.nan


class MakesAll(Makes):
    def generate(self, batch: Batch, step: Step, mask: Mask | None = None) -> Generation:
        require_over(self.tokenizer(batch), mask)
        return super().generate(batch, step)


class KeepsAll(Makes):
    def generate(self, batch: Batch, step: Step, mask: Mask | None = None) -> Generation:
        require_over(self.tokenizer(batch), mask)
        return Generation(batch) if mask else super().generate(batch, step)


class TakesAnyMask(Makes):
    def generate(self, batch: Batch, step: Step, mask: Mask | None = None) -> Generation:
        soft = mask is not None and mask.hidden.is_floating_point()
        return Generation(batch) if soft else super().generate(batch, step, mask)


class MakesATensor(Makes):
    def generate(self, batch: Batch, step: Step, mask: Mask | None = None) -> Any:
        return batch[self.tokenizer.key]


class MakesFramesOfOne(Makes):
    def generate(self, batch: Batch, step: Step, mask: Mask | None = None) -> Generation:
        made = super().generate(batch, step, mask).samples
        return Generation(made, [{key: x[:1] for key, x in made.items()}])


BAD = [
    ("check_system_is_tiny", Huge, "give it a preset 'tiny'"),
    ("check_system_terms", ReturnsATensor, "not losses by name"),
    ("check_system_terms", ReturnsAVector, "term 'guess' is not a scalar"),
    ("check_system_terms", Half, "term 'guess' is torch.bfloat16"),
    ("check_system_terms", Infinite, "term 'guess' is inf"),
    ("check_system_terms", Constant, "no term carries gradient"),
    ("check_system_terms", NeedsIds, "KeyError: 'id'"),
    ("check_system_trains_every_parameter", Idle, "no gradient reaches mask_token"),
    ("check_system_trains_every_parameter", StaleUnused, "trained or absent: head.weight"),
    ("check_system_learns_a_batch", Climbs, "the loss went from"),
    ("check_system_leaves_frozen_parts", FollowsTwice, "moves the teacher teacher 2 times"),
    ("check_system_leaves_frozen_parts", NeverFollows, "moves the teacher teacher 0 times"),
    ("check_system_leaves_frozen_parts", FollowsEarly, "teacher.bias moved otherwise than by the rule"),
    ("check_system_leaves_frozen_parts", FollowsAnother, "teacher.weight moved otherwise than by the rule"),
    ("check_system_leaves_frozen_parts", OwnTeacher, "fixed.module.0.weight is frozen and moved"),
    ("check_system_leaves_frozen_parts", FrozenStatisticsMove, "loose.running_mean is frozen and moved"),
    ("check_system_leaves_frozen_parts", NothingMoves, "an optimiser step moves nothing"),
    ("check_system_is_a_function_of_the_step", CountsCalls, "a second forward at the same step"),
    ("check_system_varies_with_the_step", OneMaskForEver, "another step gives the same loss"),
    ("check_system_varies_with_the_step", OneMaskForAnySeed, "another seed gives the same loss"),
    ("check_system_saves_all_it_needs", KeepsAScaleToItself, "register buffers"),
    ("check_system_saves_all_it_needs", Reduced, "register buffers"),
    ("check_system_resumes", KeepsAScaleToItself, "differs from that of the uninterrupted run"),
    ("check_system_encodes_the_whole_input", MasksInEncode, "other features at a second call"),
    ("check_system_encodes_the_whole_input", EncodesToATensor, "encode returned Tensor"),
    ("check_system_encodes_the_whole_input", EncodesNaN, "features are not finite"),
    ("check_system_encodes_the_whole_input", EncodesInARow, "pooled features are [1, 16]"),
    ("check_system_encodes_the_whole_input", EncodesTogether, "features depend on the samples beside"),
    ("check_system_loss_is_a_mean", DividesTwice, "of the batch twice"),
    ("check_system_loss_is_a_mean", Contrasts, "of its halves"),
    ("check_system_loss_is_a_mean", FirstCountsMost, "of its halves"),
    ("check_system_survives_autocast", FallsApartInHalf, "term 'guess' is torch.float32, nan"),
    ("check_system_survives_autocast", RoundsTheLoss, "term 'guess' is torch.bfloat16"),
    ("check_system_survives_autocast", FarOffInHalf, "in bfloat16"),
    ("check_system_predicts_without_looking", Looks, "hidden input changed the loss"),
    ("check_system_masks", ShowsAnotherMask, "none of the masks that forward drew"),
    ("check_system_masks", ShowsABareMask, "masks()['mask'] is Mask, not MaskView"),
    ("check_system_masks", ShowsOtherTokens, "masks()['mask'] has (1, "),
    ("check_system_masks", ShowsTooFew, "masks()['mask'] has 1 rows"),
    ("check_system_preview", PicturesOfOne, "'guess' has 1 rows"),
    ("check_system_preview", PicturesOfNaN, "'guess' is not finite"),
    ("check_system_preview", PicturesWithGradient, "'guess' carries gradient"),
    ("check_system_preview", DrawsNoLine, "'depth' is no line of numbers"),
    ("check_system_preview", DrawsLinesOfSeveralLengths, "lines of several lengths"),
    ("check_system_monitor", MonitorsAVector, "'target' is [4], no scalar and no features"),
    ("check_system_monitor", MonitorsNaN, "'mean' is not finite"),
    ("check_system_monitor", MonitoringMovesTheTeacher, "monitor changes teacher.module.bias"),
    ("check_system_forward_without_grad", Differentiates, "differentiate under torch.enable_grad()"),
    ("check_system_forward_without_grad", NaNWithoutGradient, "a term is not finite without gradients"),
    (GENERATES, MakesByRow, "'x' depends on the samples beside"),
    (GENERATES, MakesByGlobalChance, "moves the global generator of torch"),
    (GENERATES, MakesTheSame, "another seed gives the same 'x'"),
    (GENERATES, MakesOfTheData, "'x' depends on what the batch holds, without a mask"),
    (GENERATES, MakesNaN, "'x' of samples is not finite"),
    (GENERATES, TakesAnyMask, "generate takes a mask that is soft"),
    (GENERATES, MakesAll, "what a mask leaves visible is not kept"),
    (GENERATES, KeepsAll, "what a mask hides is not generated"),
    (GENERATES, MakesATensor, "generate returned Tensor, not Generation"),
    (GENERATES, MakesFramesOfOne, "'x' of frame 0 is [1, 24, 12], in the batch [4, 24, 12]"),
    ("check_system_preview", PicturesMoveTheTeacher, "preview changes teacher.module.bias"),
]


def checked(cls: type, *only: str, tags: tuple[str, ...] = ()) -> list[CheckResult]:
    slots = {"masking": "core/random", "target": Content()}
    return check_part(cls, kind="systems", tags=tags, options=slots, only=only)


@pytest.mark.parametrize(("check", "bad", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_a_check_catches(check: str, bad: type, message: str) -> None:
    (result,) = checked(bad, check)
    assert result.outcome == "failed"
    assert message in result.message


class HidesTwins(Good):
    """Hides every second token with the one before it, whatever was drawn, and shows that."""

    def draw(self, tokens: Tokens, batch: Batch, step: Step, stream: int = 0) -> Mask:
        hidden = super().draw(tokens, batch, step).hidden
        return Mask(hidden[:, ::2].repeat_interleave(2, dim=1)[:, : hidden.shape[1]])


def test_a_mask_that_forward_changed_is_the_one_to_show() -> None:
    (result,) = checked(HidesTwins, "check_system_masks")
    assert result.outcome == "passed", result.message


MEMORY = """
import torch
from polymask import System, distributed
from torch import nn

class Remembers(System):
    def __init__(self, *, tokenizer):
        super().__init__()
        self.tokenizer, self.head = tokenizer, nn.Linear(tokenizer.provides["in_dim"], 1)
        self.register_buffer("memory", torch.zeros(100_003))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, batch, step):
        self.seen = batch["id"], batch[self.tokenizer.key].flatten(1).mean(1)
        guess = self.head(self.tokenizer(batch).values).mean(1)
        return {"guess": self.norm(guess).square().mean() + guess.square().mean()}

    def after_step(self, step):
        ids, values = self.share(*self.seen)
        self.memory[ids] = values

    def share(self, ids, values):
        return ids, values

class Shares(Remembers):
    share = staticmethod(distributed.gather_rows)
"""


@pytest.mark.slow
def test_a_memory_that_processes_do_not_share_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "polymask_memory.py").write_text(MEMORY)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("polymask_memory")

    def result(cls: type) -> CheckResult:
        return check_part(cls, kind="systems", only=[SHARING])[0]

    assert result(module.Remembers).message.startswith("memory ends otherwise on 2 processes")
    assert result(module.Shares).outcome == "passed"
    module.Remembers.__qualname__ = "Nowhere"
    assert "cannot be sent to another process" in result(module.Remembers).message


SHARING = "check_system_shares_its_buffers"
EXPLAINING = "check_system_explains"
"""Tried in test_testing_explanation.py."""


def test_every_check_is_tried() -> None:
    tried = {check for check, *_ in BAD} | {SHARING, EXPLAINING}
    assert {c.name for c in CHECKS if c.kinds == ("systems",)} == tried


def test_a_good_system_passes() -> None:
    assert not [result for result in checked(Good) if not result.ok]
    assert [result.outcome for result in checked(Makes, GENERATES)] == ["passed"]


def test_an_idle_parameter_with_a_reason_passes() -> None:
    class_unused = {"mask_token": "stands in for a slot that is empty"}
    Idle.unused = class_unused  # type: ignore[misc]
    try:
        assert checked(Idle, "check_system_trains_every_parameter")[0].outcome == "passed"
    finally:
        del Idle.unused


@pytest.mark.parametrize(
    ("check", "cls", "tag"),
    [
        ("check_system_learns_a_batch", Climbs, "moving-target"),
        ("check_system_varies_with_the_step", OneMaskForEver, "fixed"),
        ("check_system_loss_is_a_mean", Contrasts, "relative"),
        ("check_system_predicts_without_looking", Looks, "sees-hidden"),
    ],
)
def test_a_tag_excuses(check: str, cls: type, tag: str) -> None:
    assert checked(cls, check, tags=(tag,))[0].outcome == "skipped"
