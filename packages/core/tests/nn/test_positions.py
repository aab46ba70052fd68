"""Sine-cosine positions follow one formula on grids of any shape, and for free coordinates of any axes."""

from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask.nn.positions import SinCos, coordinates, sincos


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
