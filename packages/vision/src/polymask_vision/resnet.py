"""timm's ResNet, on pictures put together again from their patches."""

from __future__ import annotations

from typing import Any

import timm.models
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from polymask import UserError
from polymask.types import Count, Fact, Share, Whole


class ResNet(nn.Module):
    """timm's ResNet (He et al. 2015): convolutions, so it needs the whole grid.

    It embeds nothing: a token is its pixels, and what a system puts in the place of a hidden one is a
    patch of pixels too. Tokens are put together to a picture, and each place of the last feature map
    is a token of the output.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer; it must divide the stride of the
            network, 4 for the stem (1 for a small one) times 2 for each stage after the first.
        channels: image channels, from the tokenizer.
        depths: residual blocks per stage (ResNet-50: 3, 4, 6, 3).
        width: width of the first stage; it doubles at each further stage.
        bottleneck: blocks of three convolutions whose output is four times as wide, instead of two.
        small_stem: a convolution of 3 x 3 without stride and no pooling, for small pictures, instead
            of one of 7 x 7 with stride and pooling.
        drop_path: stochastic depth rate of the last block.
    """

    needs_grid = True
    prefix = 0

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 3072,
        grid: Fact[tuple[Count, ...]] = (7, 7),
        patch_size: Fact[Count] = 32,
        channels: Fact[Count] = 3,
        depths: tuple[Whole, ...] = (3, 4, 6, 3),
        width: Count = 64,
        bottleneck: bool = True,
        small_stem: bool = False,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if len(grid) != 2 or in_dim != patch_size**2 * channels:
            raise UserError(
                f"ResNet puts pictures together from square patches of pixels, and tokens of {in_dim} "
                f"numbers on a grid of {tuple(grid)} are none: use vision/patches"
            )
        stride = (1 if small_stem else 4) * 2 ** (len(depths) - 1)
        self.downsample = stride // patch_size
        if stride % patch_size or any(n % self.downsample for n in grid):
            shape = " x ".join(str(n * patch_size) for n in grid)
            raise UserError(
                f"this ResNet has one output for {stride} x {stride} pixels, and the input is {shape} in "
                f"patches of {patch_size}: choose a --tokenizer.patch_size that divides {stride} and an "
                f"image size that {stride} divides, other depths, or a small stem"
            )
        self.grid, self.patch_size, self.channels = tuple(grid), patch_size, channels
        self.dim, self.stages = in_dim, len(depths)
        net: Any = timm.models.ResNet(
            Bottleneck if bottleneck else BasicBlock,  # type: ignore[arg-type]
            tuple(depths),
            num_classes=0,
            in_chans=channels,
            channels=tuple(width * 2**i for i in range(len(depths))),
            drop_path_rate=drop_path,
        )
        if small_stem:
            net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
            net.maxpool = nn.Identity()
        self.net = net
        self.out_dim: int = self.net.num_features

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks of all stages, in order."""
        return [block for k in range(self.stages) for block in getattr(self.net, f"layer{k + 1}")]

    def embed(self, values: Tensor) -> Tensor:
        """``[B, N, in_dim]`` as it is."""
        return values

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, in_dim]`` over the whole grid to ``[B, N / downsample**2, out_dim]``.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        h, w = self.grid
        p = self.patch_size
        if x.shape[1] != h * w or valid is not None:
            raise ValueError(f"ResNet encodes whole grids of {self.grid}, got {x.shape[1]} tokens")
        patches = x.reshape(-1, h, w, p, p, self.channels).permute(0, 5, 1, 3, 2, 4)
        x = patches.reshape(-1, self.channels, h * p, w * p)
        x = self.net.maxpool(self.net.act1(self.net.bn1(self.net.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self.net, f"layer{stage + 1}")(x)
        return x.flatten(2).transpose(1, 2)
