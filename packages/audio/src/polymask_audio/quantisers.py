"""Codebooks: k-means and residual stages of it, fit by scikit-learn and kept as safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from polymask import UserError
from polymask.data import Dataset, collate
from polymask_audio.features import Features


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
        raise UserError(f"{codes} codes cannot be fit to {len(x)} frames: use fewer, or more recordings")
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


def gather(features: Features, data: Dataset, *, most: int = 200_000, seed: int = 0) -> list[Tensor]:
    """Features of training recordings, drawn at random until there are enough.

    Args:
        features: of what layers.
        data: whose training split is read, without augmentation.
        most: frames to take.
        seed: of the draw.

    Returns:
        For each layer ``[n, D]``, real frames alone.
    """
    samples = data.split("train")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, found, count = features.to(device), [], 0
    for start in range(0, len(order), 16):
        batch = collate([samples[i] for i in order[start : start + 16]])
        layers, counts = features({key: value.to(device) for key, value in batch.items()})
        real = torch.ones(layers[0].shape[:2], dtype=torch.bool, device=device)
        if counts is not None:
            real = torch.arange(real.shape[1], device=device) < counts[:, None]
        found.append([x[real].cpu() for x in layers])
        count += len(found[-1][0])
        if count >= most:
            break
    return [torch.cat(layer)[:most] for layer in zip(*found, strict=True)]


@dataclass(frozen=True)
class Units:
    """Codebooks on disk, and the features they are of.

    Args:
        features: by name, see :mod:`polymask_audio.features`.
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
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        safetensors.torch.save_file(tensors, part, about)
        part.replace(path)
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
        books = tuple(
            Codebook(*(tensors[f"{name}.{j}"] for name in ("centers", "mean", "std")))
            for j in range(len(layers))
        )
        features = about["features"]
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} holds no codebook ({error}): fit one with polymask recipe audio/speech-targets"
        ) from error
    kind, _, folder = features.partition(":")
    if kind == "run":
        features = f"run:{Path(path).expanduser().parent / folder}"
    return Units(features, tuple(layers), books)
