"""Requests to try a masking with: grids of one to three axes, free points, padding or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.protocols import Request
from polymask.step import Step
from polymask.testing.subject import Subject
from polymask.testing.suite import require

STEP = Step(index=90, total=100, seed=1)
GRIDS = ((8, 8), (6, 10), (24,), (4, 4, 6), None)
ODD = ((1,), (1, 1), (1, 7), (5, 1), (2, 2), (2,))


def request(
    subject: Subject,
    grid: tuple[int, ...] | None,
    *,
    n: int = 16,
    step: Step = STEP,
    padded: bool = False,
) -> Request:
    """A request over a grid, or over 40 points in space where there is none."""
    sites = 40 if grid is None else torch.Size(grid).numel()
    generator = torch.Generator().manual_seed(0)
    valid = score = None
    if padded:
        lengths = torch.randint(sites // 2, sites + 1, (n,), generator=generator)
        valid = torch.arange(sites) < lengths[:, None]
    if "score" in subject.part.tags:
        score = torch.rand(n, sites, generator=generator)
    if grid is None:
        position = torch.rand(n, sites, 3, generator=generator)
    else:
        axes = [torch.arange(float(length)) for length in grid]
        position = torch.cartesian_prod(*axes).view(1, sites, -1).expand(n, -1, -1)
    ids = torch.arange(n) * 13 + 5
    return Request(ids, sites, step, grid=grid, valid=valid, score=score, position=position)


def accepted(subject: Subject, masking: Any, **options: Any) -> Iterator[tuple[str, Request]]:
    """Requests that the masking does not refuse, each with a word for messages."""
    refusals = []
    own = subject.tokenizer.provides.get("grid")
    for grid in dict.fromkeys((*GRIDS, own)):
        for padded in (False, True):
            asked = request(subject, grid, padded=padded, **options)
            where = f"{'no grid' if grid is None else f'grid {grid}'}{', padded' if padded else ''}"
            try:
                masking(asked)
            except UserError as error:
                refusals.append(f"{where}: {error}")
                continue
            yield where, asked
    require(len(refusals) < 2 * len({*GRIDS, own}), f"refuses everything it was asked: {'; '.join(refusals)}")


def hidden_of(mask: Mask) -> Tensor:
    """``[B, sites]``."""
    return mask.hidden.flatten(1)


def change(asked: Request, edit: Callable[[Tensor], Tensor], *names: str, **values: Any) -> Request:
    """A request with some of its tensors edited (all of them by default) and other fields replaced."""
    fields = names or tuple(field.name for field in dataclasses.fields(asked))
    for name in fields:
        if isinstance(value := getattr(asked, name), Tensor):
            values.setdefault(name, edit(value))
    return dataclasses.replace(asked, **values)


def accelerator() -> torch.device | None:
    """The device to compare the CPU with, where there is one."""
    return torch.accelerator.current_accelerator(check_available=True)
