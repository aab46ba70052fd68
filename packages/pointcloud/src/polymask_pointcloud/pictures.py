"""What was told of the hidden tokens of clouds, each sample to turn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from polymask import Batch, Mask, Tokens
from polymask.data import sample_of
from polymask_pointcloud.datasets.draw import by_token
from polymask_pointcloud.display import Cloud


def with_places(batch: Batch, tokens: Tokens, mask: Mask, places: Tensor, shown: Tensor) -> list[Cloud]:
    """Points of visible and of hidden tokens, and places that were predicted in hidden ones.

    Args:
        batch: with ``points``.
        tokens: of it.
        mask: which of them are hidden.
        places: ``[B, N, S, 3]``, in units of the cloud.
        shown: bool ``[B, N, S]``, which of the places to show where a token is hidden.
    """
    clouds = []
    for i, points, gone, _ in _samples(batch, tokens, mask):
        predicted = places[i][shown[i] & mask.hidden[i, :, None]]
        clouds.append(Cloud({"visible": points[~gone], "hidden": points[gone], "predicted": predicted}))
    return clouds


def with_normals(batch: Batch, tokens: Tokens, mask: Mask, normal: Tensor) -> list[Cloud]:
    """Points of hidden tokens in the colour of a normal ``[B, N, 3]``: its x, y and z without their signs."""
    clouds = []
    for i, points, gone, token in _samples(batch, tokens, mask):
        colour = normalize(normal[i].float(), dim=-1).abs()[token]
        layers = {"visible": points[~gone], "hidden": points[gone]}
        clouds.append(Cloud(layers, {"hidden": colour[gone]}, "A cloud of points in the colours of normals."))
    return clouds


def _samples(batch: Batch, tokens: Tokens, mask: Mask) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Of each sample its number, its points, which are hidden, and the token that is nearest to each."""
    for i in range(tokens.shape[0]):
        valid = None if tokens.valid is None else tokens.valid[i : i + 1]
        own = Tokens(tokens.values[i : i + 1], tokens.position[i : i + 1], valid=valid)
        points = sample_of(batch, i)["points"][:, :3]
        # float64, to count tokens exactly
        token = by_token(points.double(), own, torch.arange(tokens.shape[1], device=points.device)).long()
        yield i, points, mask.hidden[i][token], token
