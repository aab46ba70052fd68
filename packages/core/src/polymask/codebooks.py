"""Codebooks, and files of them: k-means, residual stages of it, and several that are searched together.

A target that gives class numbers of what is no text reads them off a codebook.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.files import atomic


class Codebook(nn.Module):
    """Vectors to numbers of codes, in stages: each names the code nearest to what those before left over.

    With one stage that is k-means. Vectors are standardised by fixed numbers first, so that no channel of
    large variance decides alone.

    Args:
        centers: ``[Q, K, D]``, the codes of each stage.
        mean: ``[D]``, of the vectors it was fit on.
        std: ``[D]``.
    """

    centers: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, centers: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("centers", centers)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @property
    def stages(self) -> int:
        """Q."""
        return len(self.centers)

    @property
    def codes(self) -> int:
        """K, of each stage."""
        return self.centers.shape[1]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to int64 ``[..., Q]``."""
        with torch.autocast(x.device.type, enabled=False):
            left, ids = (x.float() - self.mean) / self.std, []
            for centers in self.centers:
                ids.append(nearest(left, centers))
                left = left - centers[ids[-1]]
        return torch.stack(ids, dim=-1)

    def decode(self, ids: Tensor) -> Tensor:
        """``[..., Q']``, of all stages or of the first ones, to ``[..., D]``, the sum of their codes."""
        total = sum(self.centers[q][ids[..., q]] for q in range(ids.shape[-1]))
        return total * self.std + self.mean


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """The nearest of ``centers [K, D]`` to each of ``[..., D]``: int64 ``[...]``."""
    return (x @ centers.T - centers.square().sum(1) / 2).argmax(-1)


def fit(x: Tensor, *, codes: int, stages: int = 1, seed: int = 0, starts: int = 20) -> Codebook:
    """Fit a codebook: mini-batch k-means, stage after stage on what the stages before left over.

    Settings are those of HuBERT's released code (Hsu et al. 2021): k-means++, 20 starts, at most 100
    passes of batches of 10,000, no reassignment. It does not standardise; we do.

    Args:
        x: ``[n, D]`` vectors.
        codes: of each stage.
        stages: 1 is plain k-means, more are residual vector quantisation.
        seed: of the starts.
        starts: of which the best is taken.

    Raises:
        UserError: fewer vectors than codes, or none of either.
    """
    if codes < 2 or stages < 1:
        raise UserError(f"a codebook has 2 codes or more and 1 stage or more, got {codes} and {stages}")
    if len(x) < codes:
        raise UserError(f"{codes} codes cannot be fit to {len(x)} vectors: use fewer, or more data")
    from sklearn.cluster import MiniBatchKMeans  # imported by the one who fits, not by all who read codes

    x = x.detach().float().cpu()
    mean, std = x.mean(0), x.std(0).clamp(min=1e-5)
    left, centers = (x - mean) / std, []
    for stage in range(stages):
        kmeans = MiniBatchKMeans(
            codes,
            init="k-means++",
            max_iter=100,
            batch_size=10_000,
            tol=0.0,
            max_no_improvement=100,
            n_init=starts,
            reassignment_ratio=0.0,
            random_state=seed + stage,
        )
        centers.append(torch.from_numpy(kmeans.fit(left.numpy()).cluster_centers_).float())
        left = left - centers[-1][nearest(left, centers[-1])]
    return Codebook(torch.stack(centers), mean, std)


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


@dataclass(frozen=True)
class Units:
    """Codebooks on disk, and the features they are of.

    Args:
        features: by a name that the target which reads them knows.
        layers: one for each codebook; None for features that have none.
        books: of equally many codes each.
    """

    features: str
    layers: tuple[int | None, ...]
    books: tuple[Codebook, ...]

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file, whole or not at all."""
        path = Path(path)
        tensors = {
            f"{name}.{j}": value.contiguous()
            for j, book in enumerate(self.books)
            for name, value in book.state_dict().items()
        }
        about = {"features": self.features, "layers": json.dumps(self.layers)}
        with atomic(path, "wb") as file:
            file.write(safetensors.torch.save(tensors, about))
        return path


def load(path: str | Path) -> Units:
    """Codebooks from disk. A relative ``run:FOLDER`` is one beside the file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        with safetensors.safe_open(Path(path).expanduser(), "pt") as file:
            about, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        layers: Sequence[int | None] = json.loads(about["layers"])
        books = tuple(_book(tensors, j) for j in range(len(layers)))
        features = about["features"]
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} holds no codebook ({error}): fit one with a recipe, see polymask list recipes"
        ) from error
    kind, _, folder = features.partition(":")
    if kind == "run":
        features = f"run:{Path(path).expanduser().parent / folder}"
    return Units(features, tuple(layers), books)


def _book(tensors: Mapping[str, Tensor], j: int) -> Codebook:
    """The one that was saved under a number, of the kind that its tensors are of."""
    names = ("centers", "mean", "std", "weight", "bias")
    found = [tensors[f"{name}.{j}"] for name in names if f"{name}.{j}" in tensors]
    kind: type[Codebook] = Codebook if len(found) == 3 else MultiCodebook
    return kind(*found)
