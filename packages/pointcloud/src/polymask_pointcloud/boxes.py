"""Tokens and the cells that they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymask import Tokens
from polymask_pointcloud.operations import Cells
from polymask_pointcloud.tokenizers import UNIT

Triple = Sequence[float]


def relative(tokens: Tokens, channels: int) -> Tensor:
    """Places of the points of tokens around their centres, float32 ``[B, N, k, 3]``."""
    return tokens.values.detach().reshape(*tokens.shape, -1, channels)[..., :3].float()


def cells_of(low: Triple | None, size: Triple | None, shape: Sequence[int] | None) -> Cells | None:
    """The cells that a tokenizer tells of; None where it tells of none."""
    if low is None or size is None or shape is None:
        return None
    x, y, z = (int(n) for n in shape)
    return Cells((low[0], low[1], low[2]), (size[0], size[1], size[2]), (x, y, z))


def index_of(cells: Cells, tokens: Tokens) -> Tensor:
    """The cell of each token, int64 ``[B, N, 3]``."""
    centre = tokens.position.double() * UNIT
    if centre.shape[-1] == 2:  # a pillar: one cell high
        middle = cells.low[2] + cells.size[2] / 2
        centre = torch.cat([centre, torch.full_like(centre[..., :1], middle)], dim=-1)
    return cells.index(centre)[0]


def keys_of(cells: Cells, tokens: Tokens) -> Tensor:
    """Its number, int64 ``[B, N]``, rising; padding after all."""
    key = cells.key(index_of(cells, tokens))
    return key if tokens.valid is None else torch.where(tokens.valid, key, cells.count)


def corners_of(cells: Cells | None, tokens: Tokens) -> Tensor:
    """Lower corners of the cells of tokens, float64 ``[B, N, 3]``."""
    assert cells is not None
    low, size = (
        torch.tensor(v, dtype=torch.float64, device=tokens.values.device) for v in (cells.low, cells.size)
    )
    return low + index_of(cells, tokens) * size
