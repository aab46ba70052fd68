"""Small networks of convolutions with features on the grid of pixels.

Shapes: B samples, N tokens, C channels, H rows and W columns of pixels, n base width, p side of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask.types import Count, Fact
from polymask_vision.tokenizers import patches_of, picture_of, require_picture


class UNet(nn.Module):
    """U-Net of few levels with dilated convolutions at the bottom: features of each pixel, whole grids only.

    By default the network of SafeUAV (Marcu et al. 2018) as PHG-MAE uses it: on each level
    convolutions of n, 2n and 4n channels, the last with stride 2; six of 8n, each twice as dilated as the one
    before, whose outputs are summed; transposed convolutions back up, each joined with what the first
    convolution of its level gave. It embeds nothing. A token of the output holds the features of its pixels,
    in the order row, column, feature.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer.
        channels: image channels, from the tokenizer.
        width: features per pixel, n (PHG-MAE: 8, 10, 16 and 32 of 0.28 to 4.5 million parameters).
        levels: how many halve the resolution.
        dilations: of the convolutions at the bottom.
    """

    needs_grid = True
    prefix = 0
    downsample = 1

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 3,
        grid: Fact[tuple[Count, ...] | None] = (64, 64),
        patch_size: Fact[Count] = 1,
        channels: Fact[Count] = 3,
        width: Count = 32,
        levels: Count = 3,
        dilations: tuple[Count, ...] = (1, 2, 4, 8, 16, 32),
    ) -> None:
        super().__init__()
        use = "vision/patches or vision/layer-patches"
        self.grid = require_picture("UNet", in_dim, grid, patch_size, channels, use)
        if not dilations:
            raise UserError("dilations: give one number or more, [1] for an ordinary U-Net")
        self.patch_size = patch_size
        self.dim, self.out_dim = in_dim, width * patch_size**2
        self.down = Down(channels, width, levels)
        self.bottom = Dilated(width * 2 ** (levels - 1), width * 2**levels, dilations)
        self.up = Up(width, levels)

    def embed(self, values: Tensor) -> Tensor:
        """``[B, N, p * p * C]`` as it is."""
        return values

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, p * p * C]`` over the whole grid to ``[B, N, p * p * n]``.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        if x.shape[1] != self.grid[0] * self.grid[1] or valid is not None:
            raise ValueError(f"UNet encodes whole grids of {self.grid}, got {x.shape[1]} tokens")
        return patches_of(self.features(picture_of(x, self.grid, self.patch_size)), self.patch_size)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Images to features of each pixel, ``[B, n, H, W]``."""
        *levels, low = self.down(image_BCHW)
        found: Tensor = self.up(self.bottom(low), levels)
        return found


class Down(nn.Module):
    """Levels of three convolutions, each of half the resolution and twice the width of the one before.

    Args:
        channels: of images.
        width: of the first level.
        levels: how many halve the resolution.
    """

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.first, self.rest = nn.ModuleList(), nn.ModuleList()
        for k in range(levels):
            own = width * 2**k
            self.first.append(convolution(channels, own))
            self.rest.append(nn.Sequential(convolution(own, own), convolution(own, own, stride=2)))
            channels = own

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """What the first convolution of each level gives, and the output of the last level."""
        x, found = image_BCHW, []
        for first, rest in zip(self.first, self.rest, strict=True):
            found.append(first(x))
            x = rest(found[-1])
        return [*found, x]


class Dilated(nn.Module):
    """Convolutions one after the other, each with another reach; their outputs are summed.

    Args:
        in_dim: width before.
        out_dim: width of each.
        dilations: of each.
    """

    def __init__(self, in_dim: int, out_dim: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        widths = [in_dim, *[out_dim] * (len(dilations) - 1)]
        self.layers = nn.ModuleList(
            convolution(own, out_dim, dilation=each) for own, each in zip(widths, dilations, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return torch.stack(outputs).sum(0)


class Up(nn.Module):
    """Back to the full resolution, level by level, each joined with what :class:`Down` had there.

    Args:
        width: of the first level, and of the output.
        levels: how many double the resolution.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.upward, self.joined = nn.ModuleList(), nn.ModuleList()
        below = width * 2**levels
        for k in reversed(range(levels)):
            own = width * 2**k
            self.upward.append(
                nn.Sequential(
                    nn.ConvTranspose2d(below, own, 3, stride=2, padding=1), nn.BatchNorm2d(own), nn.ReLU()
                )
            )
            # all but the first leave half of their width, as SafeUAV does
            below = own if k == levels - 1 else max(own // 2, width)
            self.joined.append(convolution(2 * own, below))

    def forward(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        """The bottom, and what the levels had, the finest first, to ``[B, n, H, W]``."""
        for upward, joined, level in zip(self.upward, self.joined, reversed(levels), strict=True):
            x = upward(x)
            rows, columns = (there - here for there, here in zip(level.shape[2:], x.shape[2:], strict=True))
            x = joined(torch.cat([F.pad(x, (0, columns, 0, rows)), level], dim=1))
        return x


def convolution(in_dim: int, out_dim: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3 x 3, batch norm, ReLU; at stride 1 the size stays."""
    layer = nn.Conv2d(in_dim, out_dim, 3, stride, padding=dilation, dilation=dilation)
    return nn.Sequential(layer, nn.BatchNorm2d(out_dim), nn.ReLU())
