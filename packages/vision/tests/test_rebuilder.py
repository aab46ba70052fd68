"""The Rebuilder: hidden cells change nothing, the same ones on every map, and its sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask, UserError
from polymask.nn.positions import coordinates, sincos
from polymask_vision.rebuilder import Rebuilder, over, patch, times_of

GRID = (4, 4)


def cells(share: float, n: int = 3, grid: tuple[int, int] = GRID) -> Mask:
    generator = torch.Generator().manual_seed(4)
    return Mask(torch.rand(n, grid[0] * grid[1], generator=generator) < share)


def rebuilder(*sizes: int, grid: tuple[int, int] = GRID) -> tuple[Rebuilder, list[Tensor]]:
    torch.manual_seed(1)
    widths = [6, 7, 8, 9][-len(sizes) :]
    shapes = [(side, side * grid[1] // grid[0]) for side in sizes]
    made = Rebuilder(channels=widths, sizes=shapes, grid=grid, dim=32, depth=1, heads=4).eval()
    return made, [torch.randn(3, width, *shape) for width, shape in zip(widths, shapes, strict=True)]


def test_with_everything_hidden_nothing_is_known_of_the_image() -> None:
    network, maps = rebuilder(16, 8, 4)
    for made in network(maps, cells(1.1)):
        torch.testing.assert_close(made, made[:1].expand_as(made))


def test_it_is_a_transformer_on_the_middles_of_cells_by_hand() -> None:
    """The middle of a cell of 4 x 4 places is the mean of its four inner ones."""
    network, maps = rebuilder(16, grid=(4, 8))
    mask = cells(0.4, grid=(4, 8))
    with torch.no_grad():
        network.norm.weight.add_(0.3 * torch.randn(32))
    x = maps[0].unflatten(3, (8, 4)).unflatten(2, (4, 4))[:, :, :, 1:3, :, 1:3].mean((3, 5))
    z = network.embed(x.permute(0, 2, 3, 1).flatten(1, 2))
    z = torch.where(mask.hidden[..., None], network.mask_token, z)
    for block in network.blocks:
        z = block(z + sincos(coordinates((4, 8)), 32))
    h = torch.stack([network.norm(z)[:, 8 * row : 8 * row + 8] for row in range(4)], dim=2)
    torch.testing.assert_close(network.rebuild(maps, mask)[0], network.project[0](h.permute(0, 3, 2, 1)))


def test_each_doubling_is_a_transposed_convolution_after_norm_and_gelu() -> None:
    network, _ = rebuilder(32, 16, 8, 4)
    between = ["LayerNorm2d", "GELU", "ConvTranspose2d"]
    for doublings, project in zip((3, 2, 1, 0), network.project, strict=True):
        up = ["ConvTranspose2d", *between * (doublings - 1)] if doublings else []
        assert [type(layer).__name__ for layer in project.children()] == [*up, "Conv2d", "LayerNorm2d"]


def test_linear_maps_begin_as_in_the_release() -> None:
    network, _ = rebuilder(16)
    bound = (6 / (9 + 32)) ** 0.5
    assert not network.embed.bias.any() and 0.95 * bound < network.embed.weight.abs().max() <= bound
    wide = Rebuilder(channels=(8,), sizes=[(4, 4)], grid=GRID, dim=512, depth=1)
    assert wide.mask_token.detach().std() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("size", [(8, 4), (12, 12), (2, 2), (9, 9)])
def test_maps_that_cells_do_not_cover_are_refused(size: tuple[int, int]) -> None:
    assert times_of((16, 16), GRID) == 4
    with pytest.raises(UserError, match="4 x 4 cells cannot hide the same places"):
        times_of(size, GRID)


@pytest.mark.parametrize("sizes", [(32, 16, 8, 4), (16,)], ids=["four maps", "one map, four times the grid"])
@pytest.mark.parametrize("grid", [(4, 4), (4, 8)])
def test_hidden_cells_change_nothing(sizes: tuple[int, ...], grid: tuple[int, int]) -> None:
    """Neither a finer map nor the interpolation of the last lets anything through."""
    network, maps = rebuilder(*sizes, grid=grid)
    mask = cells(0.4, grid=grid)
    changed = patch(maps, [torch.full_like(x, 1e3) for x in maps], mask, grid)
    assert all(not torch.equal(a, b) for a, b in zip(maps, changed, strict=True))
    for one, other in zip(network(maps, mask), network(changed, mask), strict=True):
        assert torch.equal(one, other)
    visible = patch(maps, [torch.full_like(x, 1e3) for x in maps], mask.invert(), grid)
    assert not torch.equal(network(visible, mask)[0], network(maps, mask)[0])


def test_the_same_cells_are_hidden_on_every_map_and_visible_ones_stay() -> None:
    network, maps = rebuilder(16, 8, 4)
    mask = cells(0.4)
    made = network(maps, mask)
    for own, x in zip(maps, made, strict=True):
        wanted = F.interpolate(mask.hidden.view(3, 1, 4, 4).float(), x.shape[2:]).bool()
        assert torch.equal(over(x, mask, GRID).hidden, wanted.expand_as(x))
        assert torch.equal((x != own).any(1), wanted[:, 0])


def test_what_is_rebuilt_is_normed_over_channels_at_each_place() -> None:
    network, maps = rebuilder(16, 4)
    for x in network.rebuild(maps, cells(0.4)):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("channels", "sizes", "count"),
    [((64, 128, 320, 512), (128, 64, 32, 16), 14.5e6), ((2048,), (64,), 10.2e6)],
    ids=["SegFormer", "DeepLab"],
)
def test_published_sizes(channels: tuple[int, ...], sizes: tuple[int, ...], count: float) -> None:
    with torch.device("meta"):
        network = Rebuilder(channels=channels, sizes=[(side, side) for side in sizes])
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(count, rel=0.01)
    assert network.grid == (16, 16) and len(network.blocks) == 2
    attention: Any = network.blocks[0].attn
    assert attention.num_heads == 16 and attention.qkv.bias is not None
    assert {norm.eps for norm in network.blocks.modules() if isinstance(norm, nn.LayerNorm)} == {1e-5}
