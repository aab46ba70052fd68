"""Networks that classify each pixel: any backbone of timm, and a decoder as in DAFormer or in DeepLab.

Shapes: B images, H rows and W columns of pixels, h rows and w columns of a map, D width of a map, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask.checkpoints import read_state
from polymask.export import save_json, save_state
from polymask.files import read_json
from polymask.imports import WEIGHTS
from polymask.types import ModelArguments
from polymask_vision.pyramid import Levels, join_levels

Kind = Literal["daformer", "deeplab"]

CONFIG = "segmenter.json"
"""Beside the weights of an exported network: how it is built."""


class DAFormerDecoder(nn.Module):
    """The decoder of DAFormer (Hoyer et al. 2021, arXiv 2111.14887).

    Each map is brought to one width at each of its pixels and to the size of the finest. Convolutions of
    several dilations, separable but for the first, read all of them side by side, and one of 3 x 3 fuses what
    they give.

    Args:
        channels: width of each map, the finest first.
        classes: number of classes.
        dim: width between.
        dilations: of the convolutions, 1 for one of a single pixel.
        dropout: share of the channels left out before the classifier.
    """

    def __init__(
        self, channels: Sequence[int], classes: int, dim: int, dilations: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        joined = dim * len(channels)
        self.context = nn.ModuleList(_branch(joined, dim, dilation) for dilation in dilations)
        self.fuse = _normed(nn.Conv2d(dim * len(dilations), dim, 3, padding=1, bias=False))
        self.dropout, self.classify = nn.Dropout2d(dropout), nn.Conv2d(dim, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``[B, D, h, w]`` to logits ``[B, K, h, w]`` of the size of the finest."""
        x = join_levels([embed(each) for embed, each in zip(self.embed, maps, strict=True)], 0)
        x = self.fuse(torch.cat([branch(x) for branch in self.context], dim=1))
        logits: Tensor = self.classify(self.dropout(x))
        return logits


class DeepLabDecoder(nn.Module):
    """The decoder of DeepLab v2 (Chen et al. 2016, arXiv 1606.00915): dilated convolutions, summed.

    Args:
        channels: width of each map; the last one is read.
        classes: number of classes.
        dilations: of the convolutions.
    """

    def __init__(self, channels: Sequence[int], classes: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels[-1], classes, 3, padding=each, dilation=each) for each in dilations
        )
        for branch in self.branches:
            nn.init.normal_(cast(nn.Conv2d, branch).weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``[B, D, h, w]`` to logits ``[B, K, h, w]`` of the size of the last."""
        return torch.stack([branch(maps[-1]) for branch in self.branches]).sum(0)


class Segmenter(nn.Module):
    """A backbone and a decoder.

    Attributes:
        channels: width of each map that the decoder reads.
        sizes: rows and columns of each.

    Args:
        size: image height and width in pixels.
        channels: image channels.
        classes: number of classes.
        model: backbone, by its name in timm, of a model that has ``features_only``.
        levels: which of its maps, from 0; all by default.
        pretrained: load the weights that timm has.
        arguments: of timm's model, e.g. ``{output_stride: 8}``.
        decoder: ``"daformer"`` reads all maps, ``"deeplab"`` the last.
        dim: width of the decoder of DAFormer.
        dilations: of its convolutions; by default 1, 6, 12 and 18 of DAFormer, and 6, 12, 18 and 24 of
            DeepLab.
        dropout: of the decoder of DAFormer.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        channels: int,
        classes: int,
        model: str,
        levels: Sequence[int] | None = None,
        pretrained: bool = False,
        arguments: ModelArguments = None,
        decoder: Kind = "daformer",
        dim: int = 256,
        dilations: Sequence[int] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if decoder not in ("daformer", "deeplab"):
            raise UserError(f"decoder={decoder!r}: choose 'daformer' or 'deeplab'")
        deeplab = decoder == "deeplab"
        self.encoder = Levels(
            model=model,
            size=size,
            channels=channels,
            levels=(-1,) if deeplab and levels is None else levels,
            pretrained=pretrained,
            arguments=arguments,
        )
        self.options: dict[str, Any] = {
            "size": list(size),
            "channels": channels,
            "classes": classes,
            "model": model,
            "levels": None if levels is None else list(levels),
            "arguments": dict(arguments or {}),
            "decoder": decoder,
            "dim": dim,
            "dilations": list(dilations or ((6, 12, 18, 24) if deeplab else (1, 6, 12, 18))),
            "dropout": dropout,
        }
        self.first = -1 if deeplab else 0
        self.channels = self.encoder.channels[self.first :]
        strides = self.encoder.strides[self.first :]
        self.sizes = tuple((-(-size[0] // each), -(-size[1] // each)) for each in strides)
        self.decoder: nn.Module
        if deeplab:
            self.decoder = DeepLabDecoder(self.channels, classes, self.options["dilations"])
        else:
            self.decoder = DAFormerDecoder(self.channels, classes, dim, self.options["dilations"], dropout)

    def maps(self, image_BCHW: Tensor) -> list[Tensor]:
        """What the decoder reads of images, ``[B, D, h, w]`` each, the finest first."""
        found: list[Tensor] = self.encoder(image_BCHW)
        return found[self.first :]

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps to logits ``[B, K, h, w]``."""
        logits: Tensor = self.decoder(maps)
        return logits

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images to logits ``[B, K, H, W]`` of each pixel."""
        return enlarge(self.decode(self.maps(image_BCHW)), image_BCHW.shape[2:])


def enlarge(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits ``[B, K, h, w]`` interpolated bilinearly to rows and columns of pixels."""
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def save_segmenter(network: Segmenter, out: Path, about: Mapping[str, Any]) -> None:
    """Write a network: its weights, and how it is built.

    Args:
        network: the network.
        out: folder to write into.
        about: facts of the data, of which ``mean``, ``std`` and ``range`` are kept.
    """
    known = {name: about[name] for name in ("mean", "std", "range") if name in about}
    save_json({"network": network.options, **known}, out / CONFIG)
    save_state(network.state_dict(), out / WEIGHTS)


def load_segmenter(folder: str | Path) -> Segmenter:
    """A network that was written, in eval mode."""
    folder = Path(folder)
    options = read_json(folder / CONFIG, lambda saved: dict(saved["network"]), "export it again")
    network = Segmenter(**{**options, "size": tuple(options["size"])})
    network.load_state_dict(read_state(folder / WEIGHTS))
    return network.eval()


def _normed(layer: nn.Module) -> nn.Sequential:
    width = next(iter(layer.parameters())).shape[0]
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU())


def _branch(before: int, after: int, dilation: int) -> nn.Module:
    """A convolution of 1 x 1, or a separable one of 3 x 3, with norms."""
    if dilation == 1:
        return _normed(nn.Conv2d(before, after, 1, bias=False))
    spatial = nn.Conv2d(before, before, 3, padding=dilation, dilation=dilation, groups=before, bias=False)
    return nn.Sequential(_normed(spatial), _normed(nn.Conv2d(before, after, 1, bias=False)))
