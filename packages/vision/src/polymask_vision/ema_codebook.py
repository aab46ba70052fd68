"""A codebook that follows what chooses it while an encoder learns to be near its codes (VQ-VAE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymask import distributed
from polymask.codebooks import nearest
from polymask.step import Step
from polymask.types import Count, Share


class EMACodebook(nn.Module):
    """Codes that are moving averages of what chooses them, on all processes; no gradient.

    Van den Oord et al. 2017, arXiv 1711.00937, appendix A.1. A code that is chosen too seldom begins anew at
    a vector of the batch, as in Jukebox (Dhariwal et al. 2020, arXiv 2005.00341), so that none dies; all
    begin so at the first step.

    Args:
        codes: how many.
        dim: width.
        decay: weight of a code's past at each step.
        restart: a code begins anew where it is chosen by less than this share of what each would be chosen
            by if all were alike.
    """

    book: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, *, codes: Count, dim: Count, decay: Share = 0.99, restart: Share = 0.1) -> None:
        super().__init__()
        self.decay, self.restart = decay, restart
        self.register_buffer("book", torch.randn(codes, dim))
        self.register_buffer("count", torch.zeros(codes))
        self.register_buffer("total", torch.zeros(codes, dim))
        self._seen: list[tuple[int, tuple[Tensor, ...]]] = []

    def nearest(self, z: Tensor) -> Tensor:
        """The code of each vector ``[..., dim]``, int64 ``[...]``."""
        with torch.autocast(z.device.type, enabled=False):
            return nearest(z.float(), self.book.float())

    @torch.no_grad()
    def watch(self, z: Tensor, ids: Tensor, real: Tensor, step: Step, samples: Tensor) -> None:
        """Remember what chose which code, for :meth:`follow`; all parts of one step count.

        Args:
            z: ``[B, N, dim]``.
            ids: int64 ``[B, N]``, the codes chosen.
            real: bool ``[B, N]``; what is False chose nothing.
            step: of training.
            samples: int64 ``[B]``, their ids: what codes begin anew at does not depend on how a batch is
                divided.
        """
        z, ids, weight = z.float().flatten(0, 1), ids.flatten(), real.flatten().float()
        count = torch.zeros_like(self.count).index_add(0, ids, weight)
        total = torch.zeros_like(self.total).index_add(0, ids, z * weight[:, None])
        # a draw below all others for what is not real; 0 is left to mark it
        draw = (step.bits(samples, real.shape[1], _STREAM).flatten() >> 1 & _HIGHEST) + 1
        draw, at = torch.where(real.flatten(), draw, 0).topk(min(len(self.book), len(z)))
        self._seen = [seen for seen in self._seen if seen[0] == step.index]
        self._seen.append((step.index, (count, total, draw, z[at])))

    @torch.no_grad()
    def follow(self) -> None:
        """Move codes towards the mean of what chose them, and begin those anew that too little chose."""
        if not self._seen:
            return
        counts, totals, draws, vectors = zip(*(seen for _, seen in self._seen), strict=True)
        self._seen = []
        processes = distributed.processes()
        count = distributed.mean(torch.stack(counts).sum(0)) * processes
        total = distributed.mean(torch.stack(totals).sum(0)) * processes
        draw, vector = (distributed.gather(torch.cat(parts)) for parts in (draws, vectors))
        self.count.lerp_(count, 1 - self.decay)
        self.total.lerp_(total, 1 - self.decay)
        even = self.count.mean()
        seldom = self.count < self.restart * even
        # the n-th of these takes the vector with the n-th highest draw
        order, real = draw.argsort(descending=True), (draw > 0).sum()
        place = (seldom.cumsum(0) - 1) % real.clamp(min=1)
        fresh = (seldom & (real > 0))[:, None]
        self.count.copy_(torch.where(fresh[:, 0], even, self.count))
        self.total.copy_(torch.where(fresh, vector[order][place] * even, self.total))
        mean = self.total / self.count.clamp(min=1e-12)[:, None]
        self.book.copy_(torch.where((self.count > 0)[:, None], mean, self.book))

    @property
    def perplexity(self) -> Tensor:
        """How many codes are in use, as the exponential of the entropy of what is chosen: float32 scalar."""
        share = self.count / self.count.sum().clamp(min=1e-12)
        return (-(share * share.clamp(min=1e-20).log()).sum()).exp()


_STREAM = -64
"""Stream of the draws of vectors to begin anew at."""

_HIGHEST = (1 << 62) - 1
