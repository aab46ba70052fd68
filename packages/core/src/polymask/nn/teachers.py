"""Networks that teach: a moving average of the student, or a frozen one; what to learn from inside them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.schedules import Schedule
from polymask.step import Step


class Frozen(nn.Module):
    """Holds a module that never trains: no gradient, always in eval mode.

    Args:
        module: what to hold; its parameters stop requiring gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode, whatever the system around it does."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The held module's answer, without gradient."""
        return self.module(*args, **kwargs)


class EMATeacher(Frozen):
    """A copy of a student that follows it as an exponential moving average.

    Call :meth:`follow` in the system's ``after_step``: it sets
    ``teacher = m * teacher + (1 - m) * student``, with m a function of the step, :meth:`momentum`.

    Args:
        student: module to copy; it is not kept.
        momentum: m at the start, in [0, 1].
        final: m at the end of the rise; ``momentum`` by default (constant).
        curve: how m rises: ``"cosine"`` (Grill et al. 2020, BYOL), ``"linear"``, or ``"warm"``, which is
            ``min(1 - 1 / (t + 1), final)`` at step t.
        rise: share of the run over which m rises, in (0, 1]; then it is ``final``. Not for ``"warm"``.
        copy_until: number of steps at the start of the run after which the teacher is a copy, m = 0.
        every: update the teacher after each step divisible by this number.
        buffers: what happens to buffers at an update: ``"copy"`` the student's, ``"average"`` them like
            parameters (whole numbers are copied), or ``"keep"`` those of the start.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        momentum: float = 0.996,
        final: float | None = None,
        curve: Literal["cosine", "linear", "warm"] = "cosine",
        rise: float = 1.0,
        copy_until: int = 0,
        every: int = 1,
        buffers: Literal["copy", "average", "keep"] = "copy",
    ) -> None:
        final = momentum if final is None else final
        if not (0 <= momentum <= 1 and 0 <= final <= 1):
            raise UserError(f"EMA momentum must lie in [0, 1], got {momentum} to {final}")
        if curve not in ("cosine", "linear", "warm"):
            raise UserError(f"curve={curve!r}: choose 'cosine', 'linear' or 'warm'")
        if not 0 < rise <= 1:
            raise UserError(f"the rise of EMA momentum takes a share of the run in (0, 1], got {rise}")
        if copy_until < 0 or every < 1:
            raise UserError(f"copy_until must be 0 or more and every 1 or more, got {copy_until} and {every}")
        if buffers not in ("copy", "average", "keep"):
            raise UserError(f"buffers={buffers!r}: choose 'copy', 'average' or 'keep'")
        super().__init__(copy.deepcopy(student))
        self.final, self.copy_until, self.every, self.buffer_rule = final, copy_until, every, buffers
        self.rising = None if curve == "warm" else Schedule(momentum, final, curve, (0.0, rise))

    def momentum(self, step: Step) -> float:
        """The weight m of the teacher's past at a step; 1 at steps that update nothing."""
        if step.index % self.every:
            return 1.0
        if step.index < self.copy_until:
            return 0.0
        if self.rising is None:
            return min(1 - 1 / (step.index + 1), self.final)
        return self.rising(step)

    @torch.no_grad()
    def follow(self, student: nn.Module, step: Step) -> None:
        """Update the teacher by the rule for this step."""
        if step.index % self.every:
            return
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if len(mine) != len(theirs):
            raise ValueError(f"teacher has {len(mine)} parameters, the student {len(theirs)}")
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum(step))
        if self.buffer_rule == "keep":
            return
        buffers: Mapping[str, Tensor] = dict(student.named_buffers())
        for name, buffer in self.module.named_buffers():
            if self.buffer_rule == "average" and buffer.is_floating_point():
                buffer.lerp_(buffers[name], 1 - self.momentum(step))
            else:
                buffer.copy_(buffers[name])


Norm = Literal["instance", "layer", "none"]
"""How features become targets: each feature over the tokens of its sample, each token over its features."""


def normalise(x_BND: Tensor, norm: Norm, valid: Tensor | None = None) -> Tensor:
    """Features with mean 0 and variance 1, without learned scales, in float32 (float64 stays).

    Args:
        x_BND: the features.
        norm: over what.
        valid: bool ``[B, N]``, False on padding, which counts in no mean; instance norm makes it 0.
    """
    x_BND = x_BND.to(torch.promote_types(x_BND.dtype, torch.float32))
    if norm == "layer":
        return F.layer_norm(x_BND, x_BND.shape[-1:])
    if norm == "none":
        return x_BND
    real = torch.ones_like(x_BND[..., :1], dtype=torch.bool) if valid is None else valid[..., None]
    count = real.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.where(real, x_BND, 0).sum(dim=1, keepdim=True) / count
    centred = torch.where(real, x_BND - mean, 0)
    return centred * (centred.square().sum(dim=1, keepdim=True) / count + 1e-5).rsqrt()


def record(modules: Iterable[nn.Module]) -> None:
    """Have modules keep, from now on, what they return, for :func:`recorded`."""
    for module in modules:
        module.register_forward_hook(_keep)


def recorded(modules: Iterable[nn.Module]) -> list[Tensor]:
    """What each module, set up by :func:`record`, returned last; it is forgotten here."""
    return [module.__dict__.pop("returned") for module in modules]


def _keep(module: nn.Module, inputs: Any, output: Any) -> None:
    # on the module, so that a copy of the network has its own
    module.__dict__["returned"] = output
