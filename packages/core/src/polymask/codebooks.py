"""Codebooks, and files of them: k-means, and residual stages of it.

A target that gives class numbers of what is no text reads them off a codebook.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
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
        raise UserError(f"{codes} codes cannot be fit to {len(x)} vectors: give fewer --codes, or more data")
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


def load(path: str | Path, book: Callable[..., Codebook] = Codebook) -> Units:
    """Codebooks from disk. A relative ``run:FOLDER`` is one beside the file.

    Args:
        path: of the file.
        book: makes a codebook of its tensors, given by name.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        with safetensors.safe_open(Path(path).expanduser(), "pt") as file:
            about, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        layers: Sequence[int | None] = json.loads(about["layers"])
        own: list[dict[str, Tensor]] = [{} for _ in layers]
        for key, tensor in tensors.items():
            name, _, j = key.rpartition(".")
            own[int(j)][name] = tensor
        books, features = tuple(book(**named) for named in own), about["features"]
    except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} holds no codebook ({error}): fit one with a recipe, see polymask list recipes"
        ) from error
    kind, _, folder = features.partition(":")
    if kind == "run":
        features = f"run:{Path(path).expanduser().parent / folder}"
    return Units(features, tuple(layers), books)
