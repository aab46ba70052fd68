"""A plain training loop around a tiny system, and saving and loading it."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from polymask.protocols import Batch
from polymask.step import Step
from polymask.systems.base import System
from polymask.testing.subject import Subject, seeded

STEPS = 30
FIRST = Step(0, STEPS, 0)


def built(subject: Subject, n: int = 4, seed: int = 0) -> tuple[System, Batch]:
    """A tiny system in training mode and a batch for it."""
    system: System = subject.make(seed)
    return system.train(), subject.batch_for(system, n)


def total(system: nn.Module, batch: Batch, step: Step = FIRST, seed: int = 0) -> Tensor:
    """Sum of the terms, dropout and the like drawn from ``seed``."""
    with seeded(seed):
        terms = system(batch, step)
    return torch.stack([*terms.values()]).sum()


def loss(system: System, batch: Batch, step: Step = FIRST) -> Tensor:
    """The same without gradient."""
    return total(system, batch, step).detach()


def optimiser(system: System) -> torch.optim.Optimizer:
    """What the checks train with."""
    return torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=2e-3)


def train(system: System, batch: Batch, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """A plain loop, as the documentation of System shows it."""
    for index in range(first, last):
        step = Step(index, STEPS, 0)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total(system, batch, step, seed=index))
        system.after_backward(step)
        optimizer.step()
        system.after_step(step)


def restored(fresh: nn.Module | torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state after a trip through a file that holds nothing but tensors and numbers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))


def same(one: nn.Module, other: nn.Module) -> str:
    """Name of the first tensor in which two systems differ, empty where none does."""
    theirs = other.state_dict()
    return next((name for name, x in one.state_dict().items() if not torch.equal(x, theirs[name])), "")
