"""Codebooks that add up to a vector, whose codes are searched together, and files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import codebooks
from polymask.codebooks import Codebook, Units


class MultiCodebook(Codebook):
    """Vectors to numbers of codes of N codebooks that add up to them, chosen together.

    The quantiser whose numbers SPEAR predicts (Yang et al. 2025, arXiv 2510.25955). A linear layer proposes
    a code of each codebook, and a search improves on all of them at once (:func:`refine`); residual stages
    choose one after another and never come back.

    Args:
        centers: ``[N, K, D]``; N a power of two.
        mean: ``[D]``, of the vectors it was fit on.
        std: ``[D]``.
        weight: ``[N * K, D]``, of the linear layer.
        bias: ``[N * K]``.
        rounds: of the search (released code: 5, once for all; here each time a sound is met).
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, centers: Tensor, mean: Tensor, std: Tensor, weight: Tensor, bias: Tensor, rounds: int = 2
    ) -> None:
        super().__init__(centers, mean, std)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.rounds = rounds

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to int64 ``[..., N]``."""
        n, k, d = self.centers.shape
        with torch.autocast(x.device.type, enabled=False):
            flat = ((x.float() - self.mean) / self.std).reshape(-1, d)
            found = []
            for part in torch.split(flat, chunk(n, k, d, x.device)):
                ids = F.linear(part, self.weight, self.bias).view(-1, n, k).argmax(-1)
                for _ in range(self.rounds):
                    ids = refine(part, ids, self.centers)
                found.append(ids)
        return torch.cat(found).view(*x.shape[:-1], n)


def chunk(n: int, k: int, d: int, device: torch.device) -> int:
    """How many vectors to refine at once: on a CPU so many that its caches hold what is compared."""
    limit = 1 << 20 if device.type == "cpu" else 1 << 25
    return max(limit // (n * max(k, beam(k) * d)), 1)


def beam(k: int) -> int:
    """How many codes of each codebook a search goes on with."""
    return 8 if k <= 16 else 16


def refine(x: Tensor, ids: Tensor, centers: Tensor, most: int = 128) -> Tensor:
    """Choices of codes whose sum is nearer to each vector, by a beam search that merges neighbours.

    Each codebook proposes the codes that would alone make the error least; then neighbouring codebooks
    propose the pairs of their proposals that would, and so on until one group is left. The beam doubles
    with each merge. The search does not see every combination; where what it finds is worse than what it
    was given, that stays.

    Args:
        x: ``[B, D]``.
        ids: int64 ``[B, N]``, the choices to improve on; N a power of two.
        centers: ``[N, K, D]``.
        most: widest beam.

    Returns:
        int64 ``[B, N]``, of squared errors that are nowhere larger.
    """
    (b, n), k = ids.shape, centers.shape[1]
    book = torch.arange(n, device=x.device)
    chosen_BND = centers[book, ids]
    off_BD = chosen_BND.sum(1) - x
    start_B = off_BD.square().sum(-1)
    # |off + c_k - c_i|^2 without the differences themselves, which are K times as many
    ahead = torch.einsum("bnd,nkd->bnk", off_BD[:, None] - chosen_BND, centers)
    behind = (chosen_BND.square().sum(-1) / 2 - (off_BD[:, None] * chosen_BND).sum(-1))[..., None]
    error = start_B[:, None, None] + 2 * (ahead + behind) + centers.square().sum(-1)
    width = min(beam(k), k)
    error, codes = error.topk(width, dim=-1, largest=False, sorted=False)
    delta = centers[book[:, None], codes] - chosen_BND[:, :, None]  # [B, groups, width, D]
    choice = codes[..., None]  # [B, groups, width, codebooks of the group]
    while error.shape[1] > 1:
        left, right = delta[:, ::2], delta[:, 1::2]
        pairs = error[:, ::2, :, None] + error[:, 1::2, None, :] - start_B[:, None, None, None]
        pairs = pairs + 2 * left @ right.transpose(2, 3)
        kept = min(2 * width, most, width * width) if error.shape[1] > 2 else 1
        best, at = pairs.flatten(2).topk(kept, dim=-1, largest=False, sorted=False)
        one, other = at // width, at % width
        choice = torch.cat([_at(choice[:, ::2], one), _at(choice[:, 1::2], other)], dim=-1)
        error, width = best, best.shape[-1]
        if error.shape[1] > 1:
            delta = _at(left, one) + _at(right, other)
    found = choice[:, 0].gather(1, error[:, 0].argmin(-1)[:, None, None].expand(b, 1, n))[:, 0]
    worse = (centers[book, found].sum(1) - x).square().sum(-1) > start_B
    return torch.where(worse[:, None], ids, found)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """``[B, G, W, C]`` and ``[B, G, V]`` to ``[B, G, V, C]``."""
    b, g, w, c = x.shape
    first = torch.arange(b * g, device=x.device).view(b, g, 1) * w
    return x.reshape(-1, c).index_select(0, (index + first).flatten()).view(b, g, -1, c)


def load(path: str | Path) -> Units:
    """Codebooks of either kind from disk, as :func:`polymask.codebooks.load` reads them."""

    def book(**tensors: Tensor) -> Codebook:
        kind: Callable[..., Codebook] = MultiCodebook if "weight" in tensors else Codebook
        return kind(**tensors)

    return codebooks.load(path, book)
