"""Networks that teach: a moving average of the student, or a frozen one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymask.errors import UserError
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

    After each optimiser step ``teacher = m * teacher + (1 - m) * student``, with m rising from
    ``momentum`` to ``final`` over the run, or its first part; buffers are copied. Call
    :meth:`follow` in the system's ``after_step``.

    Args:
        student: module to copy; it is not kept.
        momentum: m at the start, in [0, 1].
        final: m at the end of the rise; ``momentum`` by default (constant).
        curve: how m rises, ``"cosine"`` (Grill et al. 2020, BYOL) or ``"linear"``.
        rise: share of the run over which m rises, in (0, 1]; from there on it is ``final``.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        momentum: float = 0.996,
        final: float | None = None,
        curve: str = "cosine",
        rise: float = 1.0,
    ) -> None:
        final = momentum if final is None else final
        if not (0 <= momentum <= 1 and 0 <= final <= 1):
            raise UserError(f"EMA momentum must lie in [0, 1], got {momentum} to {final}")
        if curve not in ("cosine", "linear"):
            raise UserError(f"curve={curve!r}: choose 'cosine' or 'linear'")
        if not 0 < rise <= 1:
            raise UserError(f"the rise of EMA momentum takes a share of the run in (0, 1], got {rise}")
        super().__init__(copy.deepcopy(student))
        self.start, self.final, self.curve, self.rise = momentum, final, curve, rise

    def momentum(self, step: Step) -> float:
        """The weight m of the teacher's past at a step."""
        p = min(step.progress / self.rise, 1.0)
        way = p if self.curve == "linear" else (1 - math.cos(math.pi * p)) / 2
        return self.start + (self.final - self.start) * way

    @torch.no_grad()
    def follow(self, student: nn.Module, step: Step) -> None:
        """Move towards the student by the rule for this step."""
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if len(mine) != len(theirs):
            raise ValueError(f"teacher has {len(mine)} parameters, the student {len(theirs)}")
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum(step))
        buffers: Mapping[str, Tensor] = dict(student.named_buffers())
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])
