"""Small networks of convolutions with one output for each pixel."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

Selector = Literal["lraspp", "dilated"]


def selector_of(kind: Selector, channels: int, width: int) -> nn.Module:
    """Images ``[B, C, H, W]`` to one number for each pixel, ``[B, H, W]``; weights are drawn.

    Args:
        kind: ``"lraspp"``, torchvision's LR-ASPP on MobileNetV3-Large (Howard et al. 2019, arXiv 1905.02244),
            which sees an eighth of the resolution and less; or ``"dilated"``, a few convolutions at full
            resolution, for small images.
        channels: of the images.
        width: of ``"dilated"``.
    """
    return LRASPP(channels) if kind == "lraspp" else Dilated(channels, width)


class LRASPP(nn.Module):
    """torchvision's, see :func:`selector_of`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # without the second argument, the backbone would be a trained one
        self.net: Any = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)
        if channels != 3:
            first = self.net.backbone["0"][0]
            self.net.backbone["0"][0] = nn.Conv2d(channels, first.out_channels, 3, 2, 1, bias=False)
            nn.init.kaiming_normal_(self.net.backbone["0"][0].weight, mode="fan_out")

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.net(image)["out"][:, 0]
        return found


class Dilated(nn.Module):
    """Four 3 x 3 convolutions, each with twice the reach of the one before, and one number of each pixel."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(4):
            convolution = nn.Conv2d(
                width if k else channels, width, 3, padding=2**k, dilation=2**k, bias=False
            )
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.last(self.layers(image))[:, 0]
        return found
