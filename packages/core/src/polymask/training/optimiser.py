"""AdamW, and what it leaves undecayed."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from polymask.training.options import TrainOptions

_UNDECAYED = re.compile(r"(^|[._])pos(ition(al)?s?)?([._]|$)|(bias|tokens?)$")


def parameter_groups(system: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups, decayed and not.

    Not decayed: vectors and scalars (norms, biases, scales), learned tokens, tables of positions,
    and what a module lists in ``no_weight_decay()``, as timm's models do.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    listed: set[nn.Parameter] = set()
    for prefix, module in system.named_modules():
        for name in getattr(module, "no_weight_decay", tuple)():
            listed.update(p for n, p in module.named_parameters() if n == name)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            called = prefix if isinstance(module, nn.Embedding) else name
            spared = parameter.ndim <= 1 or parameter in listed or _UNDECAYED.search(called)
            (undecayed if spared else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimiser(system: nn.Module, options: TrainOptions, lr: float) -> torch.optim.AdamW:
    """AdamW in its fused form, which alone can leave a step out without asking the host.

    float16 is the exception: there Lightning's gradient scaler leaves steps out.

    Raises:
        ValueError: nothing to train.
    """
    groups = parameter_groups(system, options.weight_decay)
    if not groups:
        raise ValueError(f"{type(system).__name__} has no trainable parameter")
    fused = options.precision != "16-mixed"
    return torch.optim.AdamW(groups, lr=lr, betas=options.betas, fused=fused)
