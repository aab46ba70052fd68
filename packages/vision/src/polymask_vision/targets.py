"""What is predicted about an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.nn.teachers import Frozen
from polymask.types import Count, Fact, Place
from polymask_vision.feature_cache import FeatureCache, cached
from polymask_vision.networks import open_network


class Pixels(nn.Module):
    """The pixels of each patch, normalised within the patch or as they are.

    Args:
        in_dim: numbers per token, from the tokenizer.
        patch_norm: subtract the mean of the patch and divide by its standard deviation (He et
            al. 2021: unbiased variance, 1e-6 inside the root).
        by_channel: subtract and divide in each channel by itself, over all frames of a tubelet together
            (VideoMAE: Tong et al. 2022, which adds 1e-6 to the deviation, not to the variance).
        channels: of an image or a frame, from the tokenizer.
    """

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 768,
        patch_norm: bool = False,
        by_channel: bool = False,
        channels: Fact[Count] = 3,
    ) -> None:
        super().__init__()
        if by_channel and not patch_norm:
            raise UserError("by_channel says how patches are normalised: give --target.patch_norm true")
        if by_channel and in_dim % channels:
            raise UserError(
                f"tokens of {in_dim} numbers are not made of {channels} channels: leave by_channel out"
            )
        self.dim, self.patch_norm = in_dim, patch_norm
        self.groups = channels if by_channel else 1

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, in_dim]`` float32."""
        values = tokens.values.detach().float()
        if not self.patch_norm:
            return values
        mean, std = self._statistics(values)
        normalised: Tensor = (values - mean) / std
        return normalised

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Predicted pixels in the units of the data, and the statistics that took."""
        if not self.patch_norm:
            return prediction.float(), "predicted pixels as they are"
        mean, std = self._statistics(tokens.values.float())
        return prediction.float() * std + mean, "each patch scaled by its own true mean and variance"

    def _statistics(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each patch, or channel of it, for each of its numbers or for all at once."""
        if self.groups == 1:
            var, mean = torch.var_mean(values, dim=-1, keepdim=True)
            return mean, (var + 1e-6).sqrt()
        # the numbers of a token are in the order frame, row, column, channel
        by_channel = values.reshape(*values.shape[:-1], -1, self.groups)
        var, mean = torch.var_mean(by_channel, dim=-2, keepdim=True)
        std = (var + 1e-6).sqrt()
        return mean.expand_as(by_channel).flatten(-2), std.expand_as(by_channel).flatten(-2)


class DCT(nn.Module):
    """The discrete cosine transform of each patch (type II, orthonormal; Ahmed, Natarajan and Rao 1974).

    Of all coefficients the mean squared error is that of the pixels (the transform turns no lengths),
    so what makes a difference is leaving high frequencies out, or another objective.

    Args:
        channels: image channels, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer.
        low: keep this many of the lowest frequencies along each axis; None for all.
    """

    basis: Tensor

    def __init__(
        self, *, channels: Fact[Count] = 3, patch_size: Fact[Count] = 16, low: int | None = None
    ) -> None:
        super().__init__()
        if low is not None and not 1 <= low <= patch_size:
            raise UserError(
                f"patches of {patch_size} pixels have 1 to {patch_size} frequencies along an axis, "
                f"got low {low}"
            )
        self.channels, self.patch_size, self.low = channels, patch_size, low or patch_size
        self.dim = self.low**2 * channels
        frequency, pixel = torch.arange(self.low).double()[:, None], torch.arange(patch_size).double()
        basis = torch.cos(math.pi / patch_size * frequency * (pixel + 0.5)) * math.sqrt(2 / patch_size)
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, low * low * C]`` float32, by vertical frequency, horizontal frequency, channel."""
        return self._both_axes(tokens.values, self.basis)

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Pixels of predicted coefficients, those left out being 0."""
        kept = "all" if self.low == self.patch_size else f"the lowest {self.low} x {self.low}"
        return self._both_axes(prediction, self.basis.T), f"{kept} cosine coefficients as predicted"

    @staticmethod
    def _both_axes(values: Tensor, matrix: Tensor) -> Tensor:
        """A matrix applied to rows and to columns of each channel."""
        b, n, _ = values.shape
        side = matrix.shape[1]
        with torch.autocast(values.device.type, enabled=False):
            x = values.float().view(b, n, side, side, -1)
            return torch.einsum("ui,vj,bnijc->bnuvc", matrix, matrix, x).flatten(2)


class HOG(nn.Module):
    """Histograms of oriented gradients of the cells of each patch (Dalal and Triggs 2005), each normalised.

    As DMJD has them (Ma et al. 2022, arXiv 2301.00230): per channel central differences, 0 at the
    border of the image; unsigned angles in hard bins, weighted by magnitude, averaged over a cell;
    then mean 0 and variance 1 over the bins of a cell. A flat cell gives zeros.

    Args:
        channels: image channels, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer.
        std: standard deviations that the data were divided by; gradients are those of pixels
            from 0 to 255, so that faint ones are told from rounding.
        cell: side of a cell in pixels, a divisor of ``patch_size``; None for half of it.
        bins: directions between 0 and 180 degrees.
        norm: normalise each cell; else its histogram is as it is.
        key: entry of the batch that holds the images.
    """

    scale: Tensor

    def __init__(
        self,
        *,
        channels: Fact[Count] = 3,
        patch_size: Fact[Count] = 16,
        std: Fact[tuple[float, ...] | None] = None,
        cell: int | None = None,
        bins: Count = 9,
        norm: bool = True,
        key: str = "image",
    ) -> None:
        super().__init__()
        cell = max(patch_size // 2, 1) if cell is None else cell
        if cell < 1 or patch_size % cell:
            raise UserError(
                f"cells of {cell} pixels do not tile patches of {patch_size}: choose a --target.cell that "
                f"divides {patch_size}"
            )
        if std is not None and len(std) != channels:
            raise UserError(f"std needs one number per channel, {channels}, got {std}")
        self.patch_size, self.cell, self.bins, self.norm, self.key = patch_size, cell, bins, norm, key
        self.dim = (patch_size // cell) ** 2 * bins * channels
        scale = 255 * torch.tensor(std or (1.0,) * channels)[:, None, None]
        self.register_buffer("scale", scale, persistent=False)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]`` float32, the numbers of a patch by row, column of the cell, bin, channel."""
        image = batch[self.key].float() * self.scale
        right = F.pad(image[..., :, 2:] - image[..., :, :-2], (1, 1))
        down = F.pad(image[..., 2:, :] - image[..., :-2, :], (0, 0, 1, 1))
        # angles that differ by 180 degrees fall into one bin, and 180 itself into that of 0
        angle = torch.atan2(down, right) * (self.bins / math.pi)
        direction = angle.floor().long() % self.bins
        length = torch.hypot(right, down)
        # a pass per bin: scattered sums would come out differently at each run on a GPU
        cells = [F.avg_pool2d(torch.where(direction == k, length, 0.0), self.cell) for k in range(self.bins)]
        histogram = torch.stack(cells, dim=-1)
        if self.norm:
            histogram = F.layer_norm(histogram, (self.bins,), eps=1e-5)
        b, c, h, w, _ = histogram.shape
        r = self.patch_size // self.cell
        by_patch = histogram.view(b, c, h // r, r, w // r, r, self.bins).permute(0, 2, 4, 3, 5, 6, 1)
        return by_patch.reshape(b, tokens.shape[1], self.dim)


class Teacher(nn.Module):
    """What leaves some blocks of a frozen network, which sees the whole image, side by side.

    Args:
        run: folder of a finished run whose encoder is the teacher, in place of ``model``; it must cut images
            into the same patches.
        model: a model of timm, by name, or ``local-dir:FOLDER``; or ``transformers:NAME``, of the hub or a
            folder. It sees images resized so that they have one of its patches for each of theirs. One that
            is no Vision Transformer has one block, its last map, and no attention.
        pretrained: load the weights of ``model``; False for random ones, to try things out.
        layers: which blocks, from 1, or from the last, which is -1; None for the last five, or for all where
            there are fewer.
        norm: per token and layer, ``"whiten"``, mean 0 and variance 1 over channels; ``"l2"``, length 1; or
            ``"none"``.
        cache: folder to keep what the teacher makes of each image in, so that it looks at it once, whatever
            the number of epochs and runs; for data that is not augmented. It takes 4 bytes per number.
        channels: image channels, from the tokenizer.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
        key: entry of the batch that holds the images.

    Attributes:
        layers: which blocks, from 1.
        depth: blocks of the network.
    """

    def __init__(
        self,
        *,
        run: Place = None,
        model: str | None = None,
        pretrained: bool = True,
        layers: tuple[int, ...] | None = None,
        norm: Literal["whiten", "l2", "none"] = "whiten",
        cache: str | None = None,
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
        key: str = "image",
    ) -> None:
        super().__init__()
        if run is None and model is None:
            raise UserError("which teacher? give --target.run FOLDER or --target.model NAME")
        if norm not in ("whiten", "l2", "none"):
            raise UserError(f"norm={norm!r}: choose 'whiten', 'l2' or 'none'")
        network = open_network(
            run, model, pretrained=pretrained, channels=channels, mean=mean, std=std, key=key, maps=True
        )
        self.depth = len(network.blocks)
        last = range(max(self.depth - 4, 1), self.depth + 1)
        self.layers = tuple(network.block_number(layer) for layer in layers or last)
        self.norm, self.dim = norm, len(self.layers) * network.dim
        self.network, self.key = Frozen(network), key
        self.cache = None if cache is None else FeatureCache(cache, network, mean=mean, std=std)

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, layers * width]`` float32, a layer after the other."""
        return self.look(batch, tokens)[0].values

    @torch.no_grad()
    def look(self, batch: Mapping[str, Tensor], tokens: Tokens) -> tuple[Tokens, Tensor | None]:
        """The same with that of the class token as prefix, and the attention that each patch gets.

        Returns:
            Tokens of ``[B, N, layers * width]`` float32, ``[B, 1, layers * width]`` in their prefix where
            the network has a class token; and float32 ``[B, N]``, what the class token (without one, the
            mean patch) pays to each patch in the last block, the mean over heads; None of a network without
            attention.
        """
        network: Any = self.network.module

        def compute() -> tuple[Tensor, Tensor]:
            found = self.network(batch, tokens, attention=(self.depth,) if network.heads else ())
            states = [found.blocks[layer - 1].float() for layer in self.layers]
            if self.norm == "whiten":
                states = [F.layer_norm(x, x.shape[-1:]) for x in states]
            elif self.norm == "l2":
                states = [F.normalize(x, dim=-1) for x in states]
            paid = [network.paid(x, network.prefix > 0) for x in found.attention]
            return torch.cat(states, dim=-1), *(paid or [states[0].new_zeros(tokens.shape)])

        asked = {"layers": self.layers, "norm": self.norm, "grid": tokens.grid}
        features, paid = cached(self.cache, batch, self.key, asked, compute)
        return image_tokens(features, network.prefix, tokens), paid if network.heads else None


def image_tokens(x: Tensor, prefix: int, tokens: Tokens) -> Tokens:
    """What a network made of an image, at the places of some tokens, the class token's as their prefix.

    Args:
        x: ``[B, prefix + N, D]``.
        prefix: tokens that lead the sequence; the first of them is the class token.
        tokens: of the system that asks.
    """
    return Tokens(x[:, prefix:], tokens.position, tokens.grid, prefix=x[:, :1] if prefix else None)


def led(kept: Tokens, lead: bool) -> Tokens:
    """Tokens with the class token in front of them, where both networks have one (``lead``)."""
    if not lead or kept.prefix is None:
        return replace(kept, prefix=None)
    position = torch.cat([torch.zeros_like(kept.position[:, :1]), kept.position], dim=1)
    valid = None if kept.valid is None else F.pad(kept.valid, (1, 0), value=True)
    return Tokens(torch.cat([kept.prefix, kept.values], dim=1), position, valid=valid)
