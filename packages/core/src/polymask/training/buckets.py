"""Batches of about equal tokens, from samples that differ in length."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.errors import UserError

ALIKE = 0.9
"""Samples of a bucket are at least so long, relative to its longest."""

FEW = 2
"""Batches that a bucket has at least, whatever the lengths, so that who meets whom is by chance."""


class Buckets:
    """Samples of like length, and how many of them make a batch.

    From the longest on, each bucket takes what is about as long, and a batch of it as many samples as the
    budget has room for at its greatest length. So how many batches an epoch has follows from the lengths
    alone, and chance decides which samples of a bucket meet, and when.

    Args:
        lengths: int64 ``[samples]``.
        budget: tokens of a batch at most, padding included; more only where fewer samples than ``least``
            would be left.
        least: samples of a batch at least.

    Raises:
        UserError: the longest samples do not fit, or there are too few samples.
    """

    def __init__(self, lengths: Tensor, budget: int, least: int = 1) -> None:
        order = lengths.argsort(descending=True, stable=True)
        falling = lengths[order].clamp(min=1)
        if len(lengths) < least:
            raise UserError(f"{len(lengths)} samples are too few for {least} parts of a batch: use fewer")
        if (longest := int(falling[0])) * least > budget:
            raise UserError(
                f"the longest sample has {longest} tokens, {least} of them do not fit into "
                f"batch_tokens={budget}: give {longest * least} or more, or cut samples shorter"
            )
        self.bucket = torch.empty_like(order)
        self.sizes: list[int] = []
        start, number = 0, 0
        while start < len(order):
            longest = int(falling[start])
            room = budget // longest
            alike = int(torch.searchsorted(-falling, -ALIKE * longest, right=True))
            end = max(alike, start + FEW * room)
            if len(order) - end < room:  # what is left is no whole batch
                end = len(order)
            count = end - start
            batches = min(-(-count // room), count // least)
            self.sizes += [count // batches + (i < count % batches) for i in range(batches)]
            self.bucket[order[start:end]] = number
            start, number = end, number + 1

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.sizes)

    def epoch(self, generator: torch.Generator) -> list[Tensor]:
        """The samples of each batch of an epoch, each sample once."""
        order = torch.randperm(len(self.bucket), generator=generator)
        batches = torch.split(order[self.bucket[order].argsort(stable=True)], self.sizes)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
