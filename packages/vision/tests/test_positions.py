"""Sine-cosine positions are MAE's on grids of any shape, and defined for free coordinates of any axes."""

from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask_vision.positions import SinCos, coordinates, grid_index, sincos


@pytest.mark.parametrize("dim", [16, 64, 768])
def test_square_tables_are_those_of_vitmae(dim: int) -> None:
    vit_mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    config = vit_mae.ViTMAEConfig(image_size=28, patch_size=4, hidden_size=dim)
    theirs = vit_mae.ViTMAEEmbeddings(config)
    theirs.initialize_weights()
    table = theirs.position_embeddings[0, 1:]
    torch.testing.assert_close(sincos(coordinates((7, 7)), dim), table, rtol=0, atol=1e-5)


def test_columns_come_first_on_any_grid() -> None:
    """The first half is a function of the column alone, the second of the row; by the formula."""
    grid, dim = (3, 5), 16
    table = sincos(coordinates(grid), dim).double()
    omega = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    for y in range(3):
        for x in range(5):
            ax, ay = x * omega, y * omega
            expected = torch.cat([ax.sin(), ax.cos(), ay.sin(), ay.cos()])
            torch.testing.assert_close(table[5 * y + x], expected, rtol=0, atol=1e-7)


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


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_free_coordinates_of_any_number_of_axes(axes: int) -> None:
    """The inner product of two positions depends on their difference alone."""
    dim = 24 * axes
    a, b, shift = (torch.randn(50, axes) * 10 for _ in range(3))
    near, far = ((sincos(a + s, dim) * sincos(b + s, dim)).sum(dim=-1) for s in (0, shift))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-3)
    assert torch.allclose(sincos(a, dim).square().sum(dim=-1), torch.tensor(dim / 2))


def test_far_positions_keep_their_digits() -> None:
    angle = 1234567 * 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    expected = torch.cat([angle.sin(), angle.cos()]).float()
    torch.testing.assert_close(sincos(torch.tensor([1234567.0]), 16), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("axes", "dim"), [(1, 7), (2, 30), (3, 64)])
def test_widths_that_cannot_be_shared_are_refused(axes: int, dim: int) -> None:
    with pytest.raises(UserError, match=f"{axes} axes need a width divisible by {2 * axes}, got {dim}"):
        sincos(torch.zeros(1, axes), dim)


def test_a_table_and_what_is_computed_agree() -> None:
    position = coordinates((3, 5)).expand(2, -1, -1)
    table, free = SinCos(16, (3, 5)), SinCos(16, None)
    torch.testing.assert_close(table(position).expand(2, -1, -1), free(position))
    assert not table.state_dict()
    assert not list(table.parameters())
