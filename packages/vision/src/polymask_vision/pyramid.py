"""Feature maps of several strides from any backbone of timm, a feature pyramid over them, features of boxes.

Shapes: B images, C channels, H rows and W columns of pixels, n boxes of an image, D width of a map, h rows
and w columns of the features of a box.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, roi_align

from polymask import UserError
from polymask.types import ModelArguments


class Levels(nn.Module):
    """The feature maps of a backbone of timm, the finest first, all as ``[B, D, h, w]``.

    Attributes:
        channels: width of each map.
        strides: pixels from one place of each map to the next.

    Args:
        model: name in timm, of a model that has ``features_only``.
        size: image height and width in pixels, which it is tried with; None for any that the model takes.
        channels: image channels.
        levels: which maps of the model, from 0; all by default.
        pretrained: load the weights that timm has.
        arguments: of timm's model, e.g. ``{depths: [1, 1, 1, 1], dims: [16, 32, 64, 128]}``.

    Raises:
        UserError: timm cannot build it, or it cannot encode images of that size.
    """

    def __init__(
        self,
        *,
        model: str,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        levels: Sequence[int] | None = None,
        pretrained: bool = False,
        arguments: ModelArguments = None,
    ) -> None:
        super().__init__()
        options = {**(arguments or {}), "in_chans": channels, "pretrained": pretrained}
        if levels is not None:
            options["out_indices"] = tuple(levels)
        try:
            self.net: Any = _features_of(model, size, options)
            if size is not None:
                self._try(channels, size)
        except Exception as error:  # timm raises all kinds of errors
            raise UserError(
                f"timm gives no feature maps of {model!r} for images of {size or 'any size'} with {options} "
                f"({type(error).__name__}: {error}): choose another model, size or levels"
            ) from error
        self.channels: tuple[int, ...] = tuple(self.net.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(self.net.feature_info.reduction())

    def _maps(self, picture_BCHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(picture_BCHW)
        layout = getattr(self.net, "output_fmt", "NCHW")
        if getattr(layout, "value", layout) == "NHWC":
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return maps

    @torch.no_grad()
    def _try(self, channels: int, size: tuple[int, int]) -> None:
        training = self.net.training
        self.net.eval()  # a norm over one place of one image has no variance, and no average is to move
        self._maps(torch.zeros(1, channels, *size))
        self.net.train(training)

    def forward(self, picture_BCHW: Tensor) -> list[Tensor]:
        """Images to one map ``[B, channels[k], H / strides[k], W / strides[k]]`` per level, rounded up."""
        return self._maps(picture_BCHW)


def _features_of(model: str, size: tuple[int, int] | None, options: dict[str, Any]) -> Any:
    """A model for images of this size, which models that take any size do not ask for."""
    if size is None:
        return timm.create_model(model, features_only=True, **options)
    try:
        return timm.create_model(model, features_only=True, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(model, features_only=True, **options)


class FeaturePyramid(nn.Module):
    """A feature pyramid network (Lin et al. 2017): maps of one width, each told what the coarser ones saw.

    A convolution of 1 x 1 brings each level to one width, the coarser map, doubled in size, is added to the
    finer one, and a convolution of 3 x 3 follows: torchvision's network.

    Attributes:
        channels: width of each map, all the same.
        strides: those of the backbone.

    Args:
        backbone: gives the maps.
        width: of the maps that leave.
    """

    def __init__(self, backbone: Levels, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), width)
        self.strides = backbone.strides
        self.channels = (width,) * len(backbone.strides)

    def forward(self, picture_BCHW: Tensor) -> list[Tensor]:
        """Images to one map ``[B, width, H / strides[k], W / strides[k]]`` per level, rounded up."""
        maps = OrderedDict((str(k), each) for k, each in enumerate(self.backbone(picture_BCHW)))
        return list(self.fpn(maps).values())


def join_levels(maps: Sequence[Tensor], level: int) -> Tensor:
    """All maps brought to the size of one of them (bilinear) and concatenated, ``[B, sum of D, h, w]``.

    Args:
        maps: of the levels, the finest first.
        level: the one whose size is taken; its stride is that of the result.
    """
    size = maps[level].shape[2:]
    return torch.cat([each if each.shape[2:] == size else _resized(each, size) for each in maps], dim=1)


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    # the filter against aliasing knows no bfloat16 on CPUs
    shrinks = x.shape[2] > size[0]
    wide = F.interpolate(x.float(), size, mode="bilinear", antialias=shrinks, align_corners=False)
    return wide.to(x.dtype)


def region_features(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes_Bn4: Tensor,
    size: tuple[int, int],
    samples: int = 2,
) -> Tensor:
    """Features of boxes by RoIAlign (He et al. 2017), ``[B, n, D, h, w]``.

    Of several maps, all of one width, each box reads one, chosen as a feature pyramid does by the root of its
    area: 224 pixels read stride 16, twice as many twice the stride. What is asked of all maps is selected
    without the boxes leaving the device; padding boxes of 0 get finite features, for the caller to leave out.

    Args:
        maps: ``[B, D, rows, columns]``, the finest first; one that :func:`join_levels` made, or several.
        strides: of each map, in pixels.
        boxes_Bn4: left, top, right, bottom in pixels; 0 is the left edge of the first pixel.
        size: rows and columns per box.
        samples: points per row and column of each bin that are averaged; 0 takes as many as it has places of
            the map, so that one bin per pixel gives the pixels.
    """
    b, n, _ = boxes_Bn4.shape
    boxes = boxes_Bn4.reshape(b * n, 4).float()
    image = torch.arange(b, device=boxes.device, dtype=boxes.dtype).repeat_interleave(n)
    regions = torch.cat([image[:, None], boxes], dim=1)
    features = [
        roi_align(each.float(), regions, size, 1 / stride, samples, aligned=True)
        for each, stride in zip(maps, strides, strict=True)
    ]
    found: Tensor = features[0]
    if len(features) > 1:
        side = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1).sqrt()
        wanted = 2 ** (4 + (side / 224).clamp_min(1e-6).log2() + 1e-6).floor()
        for each, stride in zip(features[1:], strides[1:], strict=True):
            found = torch.where((wanted >= stride)[:, None, None, None], each, found)
    return found.to(maps[0].dtype).reshape(b, n, -1, *size)
