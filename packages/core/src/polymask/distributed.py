"""What several training processes share: means, embeddings and rows of a memory.

Each process sees its own part of a batch, and DDP averages gradients that ``backward`` leaves in ``grad``,
nothing else. A system that uses more than that (gradients from ``torch.autograd.grad``, negatives of a
contrast, a memory with a row per sample) asks here for what the other processes have. In one process all
functions return their input.

Every process must call them in the same order, as forward and backward do anyway.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> int:
    """How many processes train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that a launcher started, by what it says; 0 where there is none."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over processes, without gradient.

    Args:
        x: float, of one shape on all processes. Each process counts the same.
    """
    if processes() == 1:
        return x.detach()
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / processes()


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, ``[B_0 + B_1 + ..., ...]``, in the order of their ranks.

    Gradient reaches the rows of this process: the sum of what the losses of all processes send to them.
    So where every process computes the loss of the whole batch and DDP averages gradients, they are those
    of one process.

    Args:
        x: ``[B, ...]`` of any dtype. B may differ between processes; the other axes may not.
    """
    if processes() == 1:
        return x
    rows: Tensor = _Gather.apply(x)
    return rows


def gather_rows(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """What all processes write to a memory with a row per sample: ``memory[ids] = values``, without gradient.

    Every process then writes all rows, so the memories stay equal and DDP, which copies buffers of rank 0
    to the others before each forward, overwrites nothing.

    Args:
        ids: int64 ``[B]``, rows of the memory.
        values: ``[B, ...]``, their new values.

    Returns:
        ``ids`` and ``values`` of all processes, as :func:`gather` orders them.
    """
    return gather(ids), gather(values.detach())


REMEDY = (
    "Share what it is made of with polymask.distributed: gather_rows for rows of a memory, mean for "
    "statistics and for gradients taken in forward"
)


def shared_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that all processes are to have alike, by name.

    Not the statistics of batch norms, of which DDP keeps those of rank 0, and not what is sharded.
    """
    norms = (norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._NormBase))
    own = {id(buffer) for norm in norms for buffer in norm.buffers()}
    for name, x in itertools.chain(module.named_parameters(), module.named_buffers()):
        if id(x) not in own and not hasattr(x, "full_tensor"):
            yield name, x


def differing(module: nn.Module) -> str:
    """Name of the first tensor that processes do not have alike; empty where there is none."""
    if processes() == 1:
        return ""
    names, digests = [], []
    for name, x in shared_tensors(module):
        flat = x.detach().flatten().float()
        places = torch.linspace(1, 2, len(flat), device=x.device)
        names.append(name)
        digests.append(torch.stack([flat.sum(), (flat * places).sum()]))
    if not names:
        return ""
    rows = gather(torch.stack(digests).nan_to_num()[None])
    alike = (rows == rows[:1]).flatten(2).all(-1).all(0).tolist()
    return next((name for name, same in zip(names, alike, strict=True) if not same), "")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        own = torch.tensor([len(x)], device=x.device)
        sizes = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(sizes, own)
        counts = [int(size) for size in sizes]
        padded = x.new_zeros(max(counts), *x.shape[1:])  # collectives want equal shapes
        padded[: len(x)] = x
        rows = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(rows, padded)
        ctx.start, ctx.count = sum(counts[: dist.get_rank()]), len(x)
        return torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count]
