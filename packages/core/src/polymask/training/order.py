"""The order of samples: a function of the seed and the position, so there is nothing to save.

All epochs, each a permutation of its own, make one endless stream. Optimiser step s takes places
s * batch_size onwards, split first into the parts of accumulation, then among the processes: the
same samples meet in a step, and in a part of it, on any number of processes. No step has a sample twice,
since both would be masked alike: an epoch that begins within a step puts off what the step has already.
A system that weighs samples has each step drawn by those weights instead, from the seed and the step alone.

Samples that differ in length meet others of like length in a step, so that little is padded: each
window of a few dozen steps is sorted by length, and the steps within it are shuffled. Where a step has
a number of tokens in place of a number of samples, buckets of like length make its batches, and each
epoch has as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from polymask.errors import UserError
from polymask.step import Step
from polymask.training.buckets import Buckets
from polymask.training.plan import Plan

Key = tuple[int, int]
"""``(epoch, sample)``: which pass over the data, and which sample of it. Where samples are weighed
there are no passes, and the step stands for them."""

Weights = Callable[[Step], Tensor | None]
"""Weight of each sample at a step, float ``[samples]``, or None for plain epochs."""

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
        lengths: int64 ``[samples]``; with it, samples of like length are put into one batch.
        batch_size: samples of a batch.
        window: batches that are sorted by length together: the more, the less padding and chance.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        lengths: Tensor | None = None,
        batch_size: int = 1,
        window: int = 50,
    ) -> None:
        self.samples, self.seed = samples, seed
        self.lengths, self.batch_size, self.window = lengths, batch_size, window
        self._epoch = -1
        self._permutation = torch.arange(samples)

    def permutation(self, epoch: int) -> Tensor:
        """int64 ``[samples]``, the order of one epoch."""
        if epoch != self._epoch:
            # how an epoch ends, which the next one has to know, follows from its own draw, unless it is short
            short = self.samples < (2 if self.lengths is None else self.window + 1) * self.batch_size
            first = 0 if short else max(epoch - 1, 0)
            if self._epoch < epoch:
                first = max(first, self._epoch + 1)
            for number in range(first, epoch + 1):
                self._permutation = self._draw(number, self._permutation)
            self._epoch = epoch
        return self._permutation

    def _draw(self, epoch: int, before: Tensor) -> Tensor:
        """The order of an epoch after the one before it."""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        order = torch.randperm(self.samples, generator=generator)
        begun = -epoch * self.samples % self.batch_size
        if begun:
            left = before[begun - self.batch_size :]  # the first samples of the batch
            rest = order[begun : begun + len(left)]
            twice = torch.isin(order[:begun], left).nonzero()[:, 0]
            free = begun + torch.isin(rest, left, invert=True).nonzero()[: len(twice), 0]
            order[twice], order[free] = order[free], order[twice]
        return order if self.lengths is None else self._alike(order, epoch, generator)

    def _alike(self, order: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """The same samples, each batch of the stream of like lengths.

        The first batch of an epoch may have begun in the one before, and the last may end in the next.
        """
        assert self.lengths is not None
        begun = -epoch * self.samples % self.batch_size
        found = [order[:begun]]
        for piece in torch.split(order[begun:], self.window * self.batch_size):
            batches = torch.split(piece[self.lengths[piece].argsort(stable=True)], self.batch_size)
            whole = len(batches) - (len(batches[-1]) < self.batch_size)
            shuffled = torch.randperm(whole, generator=generator).tolist()
            found += [batches[i] for i in shuffled] + list(batches[whole:])
        return torch.cat(found)

    def keys(self, start: int, count: int) -> list[Key]:
        """Keys of ``count`` places of the stream from ``start``."""
        found: list[Key] = []
        while count:
            epoch, offset = divmod(start, self.samples)
            picked = self.permutation(epoch)[offset : offset + count].tolist()
            found += [(epoch, sample) for sample in picked]
            start, count = start + len(picked), count - len(picked)
        return found

    def step(self, step: int) -> list[Key]:
        """Keys of one step."""
        return self.keys(step * self.batch_size, self.batch_size)


class TokenOrder:
    """The stream of batches of about equal tokens, which buckets make."""

    def __init__(self, seed: int, buckets: Buckets) -> None:
        self.seed, self.buckets = seed, buckets
        self._epoch: tuple[int, list[Tensor]] = (-1, [])

    def step(self, step: int) -> list[Key]:
        """Keys of one step."""
        epoch, place = divmod(step, len(self.buckets))
        if epoch != self._epoch[0]:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            self._epoch = epoch, self.buckets.epoch(generator)
        return [(epoch, sample) for sample in self._epoch[1][place].tolist()]


class Batches(Sampler[list[Key]]):
    """What one process computes, part by part, from a step of the plan to its end.

    Args:
        plan: of the run.
        rank: of this process.
        start: first step.
        weights: of the samples.
        lengths: int64 ``[samples]`` where they differ in length.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int = 0,
        start: int = 0,
        weights: Weights = lambda step: None,
        lengths: Tensor | None = None,
    ) -> None:
        self.plan, self.rank, self.start, self.weights = plan, rank, start, weights
        seed, tokens = plan.options.seed, plan.options.batch_tokens
        self.order: Order | TokenOrder
        if tokens is None:
            self.order = Order(plan.samples, seed, lengths, plan.batch_size)
        else:
            assert lengths is not None
            self.order = TokenOrder(seed, Buckets(lengths, tokens, plan.pieces))
        self._last: tuple[int, list[Key]] = (-1, [])

    def keys(self, step: int, part: int) -> list[Key]:
        """This process's share of one part of a step."""
        if step != self._last[0]:
            self._last = step, self._all(step)
        keys, pieces = self._last[1], self.plan.pieces
        mine = part * self.plan.world + self.rank
        return keys[len(keys) * mine // pieces : len(keys) * (mine + 1) // pieces]

    def rows(self, step: int) -> int:
        """How many samples a step has, over all parts and processes."""
        if self.plan.options.batch_tokens is None:
            return self.plan.batch_size
        return len(self.order.step(step))

    def _all(self, step: int) -> list[Key]:
        """The keys of a step, of all its parts and processes."""
        weights = self.weights(Step(step, self.plan.total, self.plan.options.seed))
        if weights is None:
            return self.order.step(step)
        if self.plan.options.batch_tokens is not None:
            raise UserError("this system weighs samples, and draws so many at a time: give --batch_size")
        return [(step, sample) for sample in draw_weighted(weights.cpu(), self.plan, step).tolist()]

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.plan.total):
            for part in range(self.plan.options.accumulate):
                yield self.keys(step, part)

    def __len__(self) -> int:
        return (self.plan.total - self.start) * self.plan.options.accumulate


def draw_weighted(weights: Tensor, plan: Plan, step: int) -> Tensor:
    """The samples of one step, drawn by weight without replacement: int64 ``[batch_size]``.

    Raises:
        UserError: not one weight per sample, or fewer samples of positive weight than a batch takes.
    """
    if weights.shape != (plan.samples,):
        raise UserError(
            f"sample weights are {list(weights.shape)} at step {step}, for {plan.samples} samples"
        )
    if (left := int((weights > 0).sum())) < plan.batch_size:
        raise UserError(
            f"at step {step} the system gives weight to {left} samples, fewer than the batch of "
            f"{plan.batch_size}: choose a smaller --batch_size, or a curriculum that begins wider"
        )
    generator = torch.Generator().manual_seed(mix(plan.options.seed, step))
    # the largest of weight / Exp(1): a draw without replacement (Efraimidis and Spirakis 2006)
    rivals = torch.empty(plan.samples, dtype=torch.float64).exponential_(generator=generator)
    return torch.topk(weights / rivals, plan.batch_size).indices
