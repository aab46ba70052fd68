"""What an untrained Transformer makes of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.data import collate, open_data
from polymask_pointcloud.encoders import Transformer
from polymask_pointcloud.tokenizers import Voxels


def spread(x: Tensor) -> float:
    """Standard deviation over tokens, of all numbers of each alike."""
    return float((x - x.mean(0)).square().mean().sqrt())


@torch.no_grad()
def test_where_tokens_lie_is_not_lost_beside_what_they_hold() -> None:
    torch.manual_seed(0)
    samples = open_data("pointcloud/shapes", limit=8).split("train")
    tokens = Voxels(voxel=0.25)(collate([samples[i] for i in range(8)]))
    encoder = Transformer(in_dim=tokens.values.shape[2], dim=96, depth=1, heads=4)
    held = encoder.embed(tokens.values)
    placed = encoder.begin(held, tokens.position)[0] - held
    assert tokens.valid is not None
    assert spread(placed[tokens.valid]) > spread(held[tokens.valid]) / 4


@torch.no_grad()
def test_how_far_points_are_from_their_centre_is_told() -> None:
    """A norm behind a linear map without bias would make all sizes alike."""
    torch.manual_seed(0)
    encoder = Transformer(in_dim=30, dim=96, depth=1, heads=4)
    points = 0.1 * torch.randn(64, 10, 3)
    small, large = (encoder.embed((size * points).flatten(1)[None])[0] for size in (1.0, 2.0))
    assert (large - small).square().mean().sqrt() > spread(small) / 4
