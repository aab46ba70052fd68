"""Images and video as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.nn.positions import coordinates
from polymask.types import Count, Fact


class Patches(nn.Module):
    """Non-overlapping square patches of raw pixels, in row-major order.

    A token is ``patch_size * patch_size * channels`` numbers in the order row, column, channel
    (He et al. 2021, MAE). Nothing is embedded here.

    Args:
        size: image height and width in pixels, or one number for both.
        channels: image channels.
        patch_size: side of a patch in pixels; must divide height and width.
    """

    key = "image"

    def __init__(
        self,
        *,
        size: Fact[Count | tuple[Count, Count]] = 224,
        channels: Fact[Count] = 3,
        patch_size: Count = 16,
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        if height % patch_size or width % patch_size:
            raise UserError(
                f"patches of {patch_size} pixels do not tile images of {height} x {width}: choose a "
                "--tokenizer.patch_size that divides both, or another image size (--data.size; of two "
                "domains, that of each)"
            )
        self.channels, self.patch_size = channels, patch_size
        self.size, self.grid = (height, width), (height // patch_size, width // patch_size)
        self.register_buffer("position", coordinates(self.grid), persistent=False)
        self.position: Tensor

    @property
    def provides(self) -> dict[str, Any]:
        """``in_dim``, ``grid``, ``patch_size``, ``channels`` and ``size`` for the parts that follow."""
        return {
            "in_dim": self.patch_size**2 * self.channels,
            "grid": self.grid,
            "patch_size": self.patch_size,
            "channels": self.channels,
            "size": self.size,
        }

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["image"]`` float ``[B, C, H, W]`` to tokens ``[B, N, p * p * C]``.

        Raises:
            ValueError: images of another shape than this tokenizer was made for.
        """
        image = batch[self.key]
        b, p = image.shape[0], self.patch_size
        if image.shape[1:] != (self.channels, *self.size):
            raise ValueError(
                f"expected images [B, {self.channels}, {self.size[0]}, {self.size[1]}], "
                f"got {list(image.shape)}"
            )
        return Tokens(patches_of(image, p), self.position.expand(b, -1, -1), self.grid)

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens ``[B, N, p * p * C]`` back to images ``[B, C, H, W]``."""
        return picture_of(values, self.grid, self.patch_size)

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Noise in the shape of ``n`` normalised images."""
        generator = torch.Generator().manual_seed(seed)
        return {self.key: torch.randn(n, self.channels, *self.size, generator=generator)}


class Tubelets(nn.Module):
    """Blocks of raw pixels of a video, a few frames deep, in the order time, row, column.

    A token is ``tubelet * patch_size * patch_size * channels`` numbers in the order frame, row, column,
    channel (Tong et al. 2022, VideoMAE). Nothing is embedded here. A target that normalises a token, such as
    vision/pixels, does so over all of these numbers, frames and channels together, as MAE does with a patch;
    VideoMAE does it by channel.

    Args:
        frames: of a clip; a multiple of ``tubelet``.
        size: height and width of a frame in pixels, or one number for both.
        channels: of a frame.
        patch_size: side of a block in pixels; must divide height and width.
        tubelet: frames that a block is deep.
    """

    key = "video"

    def __init__(
        self,
        *,
        frames: Fact[Count] = 16,
        size: Fact[Count | tuple[Count, Count]] = 224,
        channels: Fact[Count] = 3,
        patch_size: Count = 16,
        tubelet: Count = 2,
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        if height % patch_size or width % patch_size:
            raise UserError(
                f"tubelets of {patch_size} pixels do not tile frames of {height} x {width}: choose a "
                "--tokenizer.patch_size that divides both, or another size (--data.size)"
            )
        if frames % tubelet:
            raise UserError(
                f"tubelets of {tubelet} frames do not tile clips of {frames}: choose a --tokenizer.tubelet "
                "that divides it, or another number of frames (--data.frames)"
            )
        self.shape = (frames, channels, height, width)
        self.patch_size, self.tubelet = patch_size, tubelet
        self.grid = (frames // tubelet, height // patch_size, width // patch_size)
        self.register_buffer("position", coordinates(self.grid), persistent=False)
        self.position: Tensor

    @property
    def provides(self) -> dict[str, Any]:
        """``in_dim``, ``grid``, ``frames``, ``channels`` and ``size`` for the parts that follow."""
        frames, channels, height, width = self.shape
        return {
            "in_dim": self.tubelet * self.patch_size**2 * channels,
            "grid": self.grid,
            "frames": frames,
            "channels": channels,
            "size": (height, width),
        }

    def forward(self, batch: Mapping[str, Tensor]) -> Tokens:
        """``batch["video"]`` float ``[B, T, C, H, W]`` to tokens ``[B, N, d * p * p * C]``.

        Raises:
            ValueError: clips of another shape than this tokenizer was made for.
        """
        video = batch[self.key]
        if video.shape[1:] != self.shape:
            raise ValueError(f"expected clips {['B', *self.shape]}, got {list(video.shape)}")
        b, (t, h, w), p = video.shape[0], self.grid, self.patch_size
        blocks = video.reshape(b, t, self.tubelet, -1, h, p, w, p).permute(0, 1, 4, 6, 2, 5, 7, 3)
        return Tokens(blocks.reshape(b, t * h * w, -1), self.position.expand(b, -1, -1), self.grid)

    def inverse(self, values: Tensor) -> Tensor:
        """Tokens ``[B, N, d * p * p * C]`` back to clips ``[B, T, C, H, W]``."""
        b, (t, h, w), p = values.shape[0], self.grid, self.patch_size
        blocks = values.reshape(b, t, h, w, self.tubelet, p, p, -1).permute(0, 1, 4, 7, 2, 5, 3, 6)
        return blocks.reshape(b, *self.shape)

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Noise in the shape of ``n`` normalised clips."""
        generator = torch.Generator().manual_seed(seed)
        return {self.key: torch.randn(n, *self.shape, generator=generator)}


def patches_of(image: Tensor, p: int) -> Tensor:
    """Images ``[B, C, H, W]`` as patches ``[B, N, p * p * C]``, each in the order row, column, channel."""
    b, c, rows, columns = image.shape
    patches = image.reshape(b, c, rows // p, p, columns // p, p).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(b, (rows // p) * (columns // p), -1)


def picture_of(values: Tensor, grid: tuple[int, int], p: int) -> Tensor:
    """Patches ``[B, N, p * p * C]`` on a grid as images ``[B, C, H, W]``."""
    b, (h, w), c = values.shape[0], grid, values.shape[2] // p**2
    patches = values.reshape(b, h, w, p, p, c).permute(0, 5, 1, 3, 2, 4)
    return patches.reshape(b, c, h * p, w * p)


def require_picture(
    encoder: str,
    in_dim: int,
    grid: Sequence[int] | None,
    patch_size: int,
    channels: int,
    use: str = "vision/patches",
) -> tuple[int, int]:
    """The grid of tokens of which :func:`picture_of` makes pictures again, for encoders of whole ones.

    Args:
        encoder: what needs them, for the message.
        in_dim: numbers of a token.
        grid: of the tokens, if they are on one.
        patch_size: pixels of a patch along each side.
        channels: of the image.
        use: tokenizers that have such tokens, for the message.

    Raises:
        UserError: they are no square patches of pixels in two dimensions.
    """
    if grid is None or len(grid) != 2 or in_dim != patch_size**2 * channels:
        raise UserError(
            f"{encoder} takes square patches of pixels, and tokens of {in_dim} numbers on a grid of {grid} "
            f"are none: use {use}"
        )
    return grid[0], grid[1]
