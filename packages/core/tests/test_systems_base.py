"""Defaults of systems, and hosts that pass all of them on."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, runtime_checkable

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Host, Losses, MaskView, Step, System, UserError
from polymask.mask import Mask
from polymask.maskings import Random
from polymask.nn.teachers import Frozen
from polymask.protocols import Request
from polymask.systems.host import HOOKS, implementing
from polymask.testing.subject import StandIn

STEP = Step(1, 10, 0)
OWN = {"forward", "train"}
"""Methods that a host writes itself, or that reach the one it hosts as any module inside another."""


class Plain(nn.Module):
    dim = out_dim = 12
    prefix, downsample, needs_grid = 0, 1, False

    def embed(self, values: Tensor) -> Tensor:
        return values

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        return x


class Inner(System):
    least_batch, supervised = 3, True

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.masking = StandIn(), Plain(), Random(ratio=0.5)
        self.weight = nn.Parameter(torch.ones(()))
        self.unused = {"weight": "a test"}
        self.perplexity = "perplexity"

    def forward(self, batch: Batch, step: Step) -> Losses:
        return {"loss": self.weight * 1.0}


class Outer(Host):
    def forward(self, batch: Batch, step: Step) -> Losses:
        return {f"host {name}": loss for name, loss in self.host(batch, step).items()}


@runtime_checkable
class Speaks(Protocol):
    perplexity: str


def test_defaults_use_the_slots() -> None:
    system = Inner()
    batch = system.example(4)
    tokens = system.tokenizer(batch)
    (view,) = system.masks(batch, STEP).values()
    assert isinstance(view, MaskView) and torch.equal(
        view.mask.hidden, system.draw(tokens, batch, STEP).hidden
    )
    assert view.tokens is not None and torch.equal(view.tokens.values, tokens.values) and view.batch is None
    assert torch.equal(system.encode(batch).values, tokens.values)
    other = system.draw(tokens, batch, STEP, stream=1)
    assert not torch.equal(other.hidden, view.mask.hidden)
    assert System().masks({}, STEP) == {} and System().example(2) == {} and System().monitor({}, STEP) == {}


def test_a_system_that_leaves_tokens_out_refuses_whole_grids_and_soft_masks() -> None:
    class LeavesOut(Inner):
        leaves_out = True

    whole = Plain()
    whole.needs_grid = True
    with pytest.raises(UserError, match="LeavesOut leaves hidden tokens out, and Plain encodes whole grids"):
        LeavesOut().encoder = whole
    Inner().encoder = whole
    soft: Any = lambda request: Mask(torch.full((len(request.ids), request.sites), 0.5))  # noqa: E731
    strict, loose = LeavesOut(), Inner()
    strict.masking = loose.masking = soft
    batch = strict.example(2)
    with pytest.raises(UserError, match="LeavesOut needs tokens that are hidden or not"):
        strict.masks(batch, STEP)
    assert loose.masks(batch, STEP)["mask"].mask.hidden[0, 0] == 0.5


def test_every_method_of_a_system_is_passed_on_or_written_by_the_host() -> None:
    public = {n for n, x in vars(System).items() if inspect.isfunction(x) and not n.startswith("_")}
    assert public == set(HOOKS) | OWN


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_reaches_the_hosted_system(hook: str) -> None:
    inner, calls = Inner(), list[Any]()
    object.__setattr__(inner, hook, lambda *args, **options: calls.append((args, options)) or "answer")
    outer = Outer(Outer(inner))
    assert getattr(outer, hook)(1, two=2) == "answer" and calls == [((1,), {"two": 2})]


def test_attributes_fall_through_to_the_host() -> None:
    inner = Inner()
    outer = Outer(Outer(inner))
    assert outer.encoder is inner.encoder and outer.masking is inner.masking and outer.weight is inner.weight
    assert outer.least_batch == 3 and outer.supervised and list(outer.unused) == ["host.host.weight"]
    assert list(outer({}, STEP)) == ["host host loss"]
    assert list(outer.state_dict()) == ["host.host.weight"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = outer.nothing
    assert implementing(outer, Speaks) is inner and implementing(Outer(System()), Speaks) is None


def test_a_request_of_the_default_draw_carries_the_scores() -> None:
    seen: list[Request] = []

    class Measurements(System):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer, self.score = StandIn(), lambda batch, tokens: tokens.values[..., :1]  # type: ignore
            self.masking = lambda request: seen.append(request) or Random(ratio=0.5)(request)

    system = Measurements()
    batch = system.example(2)
    system.masks(batch, STEP)
    assert seen[0].score is not None and torch.equal(seen[0].score, batch["x"][..., 0])


def test_what_is_frozen_stays_in_eval_mode() -> None:
    system = System()
    norms = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    system.trained, system.frozen, system.partly = (nn.Sequential(norm, nn.Dropout()) for norm in norms)
    system.dropout = nn.Dropout()
    system.frozen.requires_grad_(False)
    norms[2].weight.requires_grad_(False)
    system.eval()
    assert not any(module.training for module in system.modules())
    system.train()
    assert not any(module.training for module in system.frozen.modules())
    parts = (system.trained, system.partly, system.dropout)
    assert all(module.training for part in parts for module in part.modules())


def test_a_frozen_part_with_a_rule_of_its_own_keeps_it() -> None:
    class Normalises(Frozen):
        def train(self, mode: bool = True) -> Normalises:
            super().train(mode)
            self.module.train(mode)
            return self

    system = System()
    system.teacher = Normalises(nn.BatchNorm1d(3))
    system.train()
    assert system.teacher.module.training and not system.teacher.training
    system.eval()
    assert not system.teacher.module.training
