"""The order of samples: a function of the seed and the position, so there is nothing to save.

All epochs, each a permutation of its own, make one endless stream. Optimiser step s takes places
s * batch_size onwards, split first into the parts of accumulation, then among the processes: the
same samples meet in a step, and in a part of it, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from polymask.training.plan import Plan

Key = tuple[int, int]
"""``(epoch, sample)``: which pass over the data, and which sample of it."""

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """One well-mixed 63-bit number of several (SplitMix64's finaliser, as in polymask.step)."""
    x = 0
    for word in words:
        x = (x + (word + 1) * 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x >> 1


class Order:
    """The stream of samples.

    Args:
        samples: how many there are.
        seed: of the permutations.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._epoch = -1
        self._permutation = torch.empty(0)

    def permutation(self, epoch: int) -> Tensor:
        """int64 ``[samples]``, the order of one epoch."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            self._permutation = torch.randperm(self.samples, generator=generator)
            self._epoch = epoch
        return self._permutation

    def keys(self, start: int, count: int) -> list[Key]:
        """Keys of ``count`` places of the stream from ``start``."""
        found: list[Key] = []
        while count:
            epoch, offset = divmod(start, self.samples)
            picked = self.permutation(epoch)[offset : offset + count].tolist()
            found += [(epoch, sample) for sample in picked]
            start, count = start + len(picked), count - len(picked)
        return found


class Batches(Sampler[list[Key]]):
    """What one process computes, part by part, from a step of the plan to its end.

    Args:
        plan: of the run.
        rank: of this process.
        start: first step.
    """

    def __init__(self, plan: Plan, rank: int = 0, start: int = 0) -> None:
        self.plan, self.rank, self.start = plan, rank, start
        self.order = Order(plan.samples, plan.options.seed)

    def keys(self, step: int, part: int) -> list[Key]:
        """This process's share of one part of a step."""
        plan = self.plan
        place = step * plan.batch_size + (part * plan.world + self.rank) * plan.part
        return self.order.keys(place, plan.part)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.plan.total):
            for part in range(self.plan.options.accumulate):
                yield self.keys(step, part)

    def __len__(self) -> int:
        return (self.plan.total - self.start) * self.plan.options.accumulate
