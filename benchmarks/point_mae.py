"""Point-MAE (Pang et al. 2022, arXiv 2203.06604) in plain torch, as its paper describes it.

What its release compiles for a GPU, farthest points, nearest neighbours and the Chamfer distance, is here the
few lines of torch that one would write. Attention is torch's own, which is faster than the release's.

Shapes: B clouds, G groups, M of them hidden, K points of a group, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from references import DEPTH, DIM, HEADS, Reference
from torch import Tensor, nn

from polymask import Run

GROUPS, NEIGHBOURS, RATIO, DECODER = 64, 32, 0.6, 2
"""Groups of a cloud, points of each, share that is hidden, blocks of the decoder."""


def farthest(points: Tensor, count: int) -> Tensor:
    """The number of ``count`` points of each cloud, each as far as can be from those before it."""
    rows, chosen = torch.arange(len(points)), []
    distance = points.new_full(points.shape[:2], torch.inf)
    last = torch.zeros(len(points), dtype=torch.int64)
    for _ in range(count):
        chosen.append(last)
        distance = torch.minimum(distance, (points - points[rows, last][:, None]).square().sum(-1))
        last = distance.argmax(-1)
    return torch.stack(chosen, dim=1)


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance to the nearest of the other set, both ways, added."""
    distance = (x[:, :, None] - y[:, None]).square().sum(-1)
    return distance.min(2).values.mean() + distance.min(1).values.mean()


class Embedding(nn.Module):
    """A small PointNet over the points of each group, with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        width = DIM // 3
        self.first = nn.Sequential(
            nn.Conv1d(3, width, 1), nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, 2 * width, 1)
        )
        self.second = nn.Sequential(
            nn.Conv1d(4 * width, 4 * width, 1),
            nn.BatchNorm1d(4 * width),
            nn.ReLU(),
            nn.Conv1d(4 * width, DIM, 1),
        )

    def forward(self, groups: Tensor) -> Tensor:
        """``[B, G, K, 3] -> [B, G, D]``."""
        x = self.first(groups.flatten(0, 1).transpose(1, 2))
        whole = x.amax(2, keepdim=True).expand_as(x)
        embedded: Tensor = self.second(torch.cat([whole, x], dim=1)).amax(2)
        return embedded.view(*groups.shape[:2], -1)


class Block(nn.Module):
    """A block of a Vision Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class PointMae(nn.Module):
    """Encodes visible groups; decodes all of them, with their centres in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Embedding()
        self.place, self.decoder_place = (
            nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, DIM)) for _ in range(2)
        )
        self.encoder = nn.ModuleList(Block() for _ in range(DEPTH))
        self.decoder = nn.ModuleList(Block() for _ in range(DECODER))
        self.norm, self.decoder_norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.mask_token = nn.Parameter(torch.zeros(DIM))
        self.head = nn.Linear(DIM, 3 * NEIGHBOURS)

    def forward(self, points: Tensor) -> Tensor:
        rows = torch.arange(len(points))[:, None]
        centre = points[rows, farthest(points, GROUPS)]
        near = torch.cdist(centre, points).topk(NEIGHBOURS, largest=False).indices
        groups = points[rows[..., None], near] - centre[:, :, None]

        hidden_first = torch.rand(len(points), GROUPS).argsort(1)
        hidden, seen = hidden_first.tensor_split([round(RATIO * GROUPS)], dim=1)
        x, place = self.embed(groups)[rows, seen], self.place(centre[rows, seen])
        for block in self.encoder:
            x = block(x + place)

        masks = self.mask_token.expand(*hidden.shape, -1)
        x, place = (
            torch.cat([self.norm(x), masks], dim=1),
            self.decoder_place(centre[rows, torch.cat([seen, hidden], 1)]),
        )
        for block in self.decoder:
            x = block(x + place)
        guess = self.head(self.decoder_norm(x[:, -hidden.shape[1] :]))
        return chamfer(guess.view(-1, NEIGHBOURS, 3), groups[rows, hidden].flatten(0, 1))


class PlainPointMae(Reference):
    """Point-MAE on files of numpy, each in the unit sphere and in another order each time."""

    def __init__(self, files: Path, run: Run) -> None:
        self.files, self.model = sorted(files.iterdir()), PointMae()

    def __getitem__(self, index: int) -> Tensor:
        points = np.load(self.files[index])
        points = points[np.random.permutation(len(points))[:1024]]
        points = points - points.mean(0)
        points = points / np.sqrt((points**2).sum(1)).max()
        return torch.from_numpy(points).float()

    def loss(self, batch: Any) -> Tensor:
        found: Tensor = self.model(batch)
        return found
