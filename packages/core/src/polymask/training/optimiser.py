"""AdamW, and which parameters it treats otherwise than the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from polymask.config import TrainOptions
from polymask.errors import UserError
from polymask.step import Step
from polymask.systems.base import System

_UNDECAYED = re.compile(r"(^|[._])pos(ition(al)?s?)?([._]|$)|(bias|tokens?)$")


Scale = float | Callable[[Step], float]
"""A factor on the learning rate, or what gives it at a step."""


def parameter_groups(system: System, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in groups: decayed, not decayed, and those the system makes of its own.

    Not decayed: vectors and scalars (norms, biases, scales), learned tokens, tables of positions,
    and what a module lists in ``no_weight_decay()``, as timm's models do; in groups of the system too, unless
    they have a ``weight_decay``.

    Raises:
        UserError: a group of the system has unknown keys, or shares a parameter with another; nothing trains.
    """
    spared = _spared(system)
    own = [
        part for group in system.parameter_groups() for part in _checked(system, group, weight_decay, spared)
    ]
    grouped = [parameter for group in own for parameter in group["params"]]
    seen: set[nn.Parameter] = set(grouped)
    if len(seen) < len(grouped):
        raise UserError(f"{type(system).__name__}.parameter_groups names a parameter twice")
    left = [p for p in system.parameters() if p.requires_grad and p not in seen]
    decayed, undecayed = [p for p in left if p not in spared], [p for p in left if p in spared]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
        *own,
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError(f"{type(system).__name__} has no trainable parameter")
    return groups


def _spared(system: System) -> set[nn.Parameter]:
    """Parameters without weight decay."""
    found: set[nn.Parameter] = set()
    seen: set[nn.Parameter] = set()
    listed: set[nn.Parameter] = set()
    for prefix, module in system.named_modules():
        for name in getattr(module, "no_weight_decay", tuple)():
            listed.update(p for n, p in module.named_parameters() if n == name)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # the first of its names tells
                continue
            seen.add(parameter)
            called = prefix if isinstance(module, nn.Embedding) else name
            if parameter.ndim <= 1 or parameter in listed or _UNDECAYED.search(called):
                found.add(parameter)
    return found


def _checked(
    system: System, group: dict[str, Any], weight_decay: float, spared: set[nn.Parameter]
) -> list[dict[str, Any]]:
    unknown = group.keys() - {"params", "weight_decay", "lr_scale"}
    if unknown or "params" not in group:
        raise UserError(
            f"{type(system).__name__}.parameter_groups: a group has params, weight_decay and lr_scale, "
            f"and this one has {', '.join(sorted(group))}"
        )
    params = [parameter for parameter in group["params"] if parameter.requires_grad]
    if "weight_decay" in group:
        return [{**group, "params": params}]
    return [
        {**group, "params": [p for p in params if p not in spared], "weight_decay": weight_decay},
        {**group, "params": [p for p in params if p in spared], "weight_decay": 0.0},
    ]


def make_optimiser(system: System, options: TrainOptions, lr: float) -> tuple[torch.optim.AdamW, list[Scale]]:
    """AdamW in its fused form, which alone can leave a step out without asking the host.

    float16 is the exception: there Lightning's gradient scaler leaves steps out.

    Returns:
        The optimiser, and what scales the learning rate of each of its groups. The scales are kept
        apart because functions do not belong into checkpoints.

    Raises:
        UserError: as :func:`parameter_groups`.
    """
    groups = parameter_groups(system, options.weight_decay)
    scales: list[Scale] = [group.pop("lr_scale", 1.0) for group in groups]
    fused = options.precision != "16-mixed"
    return torch.optim.AdamW(groups, lr=lr, betas=options.betas, eps=options.eps, fused=fused), scales
