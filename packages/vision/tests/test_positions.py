"""Sine-cosine positions are MAE's on grids of any shape, and defined for free coordinates of any axes."""

from __future__ import annotations

import pytest
import torch

from polymask.nn.positions import coordinates, sincos
from polymask_vision.positions import grid_index


@pytest.mark.parametrize("dim", [16, 64, 768])
def test_square_tables_are_those_of_vitmae(dim: int) -> None:
    vit_mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    config = vit_mae.ViTMAEConfig(image_size=28, patch_size=4, hidden_size=dim)
    theirs = vit_mae.ViTMAEEmbeddings(config)
    theirs.initialize_weights()
    table = theirs.position_embeddings[0, 1:]
    torch.testing.assert_close(sincos(coordinates((7, 7)), dim), table, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [(6,), (3, 5), (5, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_sites_are_numbered_row_by_row(grid: tuple[int, ...]) -> None:
    position = coordinates(grid)
    n = len(position)
    assert position.shape == (n, len(grid))
    assert grid_index(position, grid).tolist() == list(range(n))
    assert grid_index(position.bfloat16(), grid).tolist() == list(range(n))


def test_numbers_of_sites_stay_exact_where_bfloat16_has_too_few_digits() -> None:
    grid = (56, 56)
    assert grid_index(coordinates(grid).bfloat16(), grid).tolist() == list(range(56 * 56))
