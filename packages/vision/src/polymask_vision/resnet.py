"""timm's ResNet, on pictures put together again from their patches."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm.models
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from polymask import UserError
from polymask.types import Count, Fact, Share, Whole
from polymask_vision.tokenizers import require_picture


class Stages(nn.Module):
    """Stages of a ResNet of timm, ``net``, on tokens that are patches of pixels.

    Args:
        grid: token rows and columns.
        patch_size: side of a patch in pixels.
        channels: image channels.
        stages: how many ``net`` has.
    """

    needs_grid = True
    prefix = 0
    net: Any

    def __init__(self, grid: tuple[int, int], patch_size: int, channels: int, stages: int) -> None:
        super().__init__()
        self.grid, self.patch_size, self.channels, self.stages = grid, patch_size, channels, stages
        self.dim = patch_size**2 * channels

    def shrink_stem(self, width: int) -> None:
        """A convolution of 3 x 3 without stride and no pooling, in place of a stride of 4."""
        conv = nn.Conv2d(self.channels, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(self.net, ResNetV2):
            self.net.stem = nn.Sequential(OrderedDict(conv=conv))
        else:
            self.net.conv1, self.net.maxpool = conv, nn.Identity()

    @property
    def stage_modules(self) -> list[Any]:
        """The stages, in order."""
        if isinstance(self.net, ResNetV2):
            return list(self.net.stages)
        return [getattr(self.net, f"layer{k + 1}") for k in range(self.stages)]

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks of all stages, in order."""
        return [block for layer in self.stage_modules for block in getattr(layer, "blocks", layer)]

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, p * p * C]`` as it is."""
        return values

    def picture(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The image ``[B, C, H, W]`` that the tokens of a whole grid make.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        (h, w), p = self.grid, self.patch_size
        if x.shape[1] != h * w or valid is not None:
            raise ValueError(
                f"{type(self).__name__} encodes whole grids of {self.grid}, got {x.shape[1]} tokens"
            )
        patches = x.reshape(-1, h, w, p, p, self.channels).permute(0, 5, 1, 3, 2, 4)
        return patches.reshape(-1, self.channels, h * p, w * p)

    def features(self, image: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to the output of the last stage."""
        net = self.net
        if isinstance(net, ResNetV2):
            x: Tensor = net.stem(image)
        else:
            x = net.maxpool(net.act1(net.bn1(net.conv1(image))))
        for layer in self.stage_modules:
            x = layer(x)
        return x


class ResNet(Stages):
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
        size = require_picture("a ResNet", in_dim, grid, patch_size, channels)
        stride = (1 if small_stem else 4) * 2 ** (len(depths) - 1)
        downsample = stride // patch_size
        if stride % patch_size or any(n % downsample for n in grid):
            shape = " x ".join(str(n * patch_size) for n in grid)
            raise UserError(
                f"this ResNet has one output for {stride} x {stride} pixels, and the input is {shape} in "
                f"patches of {patch_size}: choose a --tokenizer.patch_size that divides {stride} and an "
                f"image size that {stride} divides, other depths, or a small stem"
            )
        super().__init__(size, patch_size, channels, len(depths))
        self.downsample = downsample
        self.net = timm.models.ResNet(
            Bottleneck if bottleneck else BasicBlock,  # type: ignore[arg-type]
            tuple(depths),
            num_classes=0,
            in_chans=channels,
            channels=tuple(width * 2**i for i in range(len(depths))),
            drop_path_rate=drop_path,
        )
        if small_stem:
            self.shrink_stem(64)
        self.out_dim: int = self.net.num_features

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, in_dim]`` over the whole grid to ``[B, N / downsample**2, out_dim]``.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        return self.features(self.picture(x, valid)).flatten(2).transpose(1, 2)
