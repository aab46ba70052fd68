"""Heads that draw the mask of an object from the features of its box.

Shapes: R boxes, D width of features, r rows and columns of them, m of a mask.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from polymask import UserError

Head = Literal["mlp", "deconv", "deconv-wide", "deconv-coordinates"]


class MaskHead(nn.Module):
    """Features of boxes to logits of a mask twice as fine.

    ``"mlp"`` is the head of MAYOR as we rebuild it: a convolution of 1 x 1 to few channels and two layers
    over all places at once, so that every cell of the mask sees the whole box, and by weights of its own. The
    others see no further than their convolutions reach: ``"deconv"`` is that of Mask R-CNN (He et al. 2017);
    ``"deconv-wide"`` has, between, two convolutions of 1 x 1 of such a width that it has as many weights as
    ``"mlp"``; ``"deconv-coordinates"`` is told where in the box each place is (Liu et al. 2018, CoordConv,
    arXiv 1807.03247). All have the same convolutions of 3 x 3 before.

    Args:
        dim: width of the features.
        roi: rows and columns of the features.
        kind: which head.
        depth: convolutions of 3 x 3 before it.
        reduced: channels that the MLP sees.
        hidden: width of the MLP.
    """

    def __init__(
        self, *, dim: int, roi: int, kind: Head = "mlp", depth: int = 4, reduced: int = 16, hidden: int = 1024
    ) -> None:
        super().__init__()
        if kind not in get_args(Head):
            raise UserError(f"head={kind!r}: choose one of {', '.join(get_args(Head))}")
        self.kind, self.cells = kind, (2 * roi, 2 * roi)
        trunk: list[nn.Module] = []
        for k in range(depth):
            told = 2 * (kind == "deconv-coordinates" and k == 0)
            trunk += [nn.Conv2d(dim + told, dim, 3, padding=1), nn.ReLU()]
        self.trunk = nn.Sequential(*trunk)
        self.decoder = mlp(dim, roi, reduced, hidden) if kind == "mlp" else deconv(dim)
        if kind == "deconv-wide":
            wide = width_of(_count(mlp(dim, roi, reduced, hidden)) - _count(self.decoder), dim)
            between = [nn.Conv2d(dim, wide, 1), nn.ReLU(), nn.Conv2d(wide, dim, 1), nn.ReLU()]
            self.decoder = nn.Sequential(*between, *self.decoder)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        # of a box around text about half is text: logits begin near 0, the log-odds of that
        last = self.decoder[-1]
        assert isinstance(last, nn.Conv2d | nn.Linear)
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, features_RDrr: Tensor) -> Tensor:
        """Logits ``[R, m, m]``."""
        x = features_RDrr
        if self.kind == "deconv-coordinates":
            line = torch.linspace(-1, 1, x.shape[-1], device=x.device, dtype=x.dtype)
            places = torch.stack(torch.meshgrid(line, line, indexing="ij"))
            x = torch.cat([x, places.expand(len(x), -1, -1, -1)], dim=1)
        logits: Tensor = self.decoder(self.trunk(x))
        return logits.reshape(len(x), *self.cells)


def mlp(dim: int, roi: int, reduced: int, hidden: int) -> nn.Sequential:
    """Features ``[R, dim, roi, roi]`` to ``[R, (2 roi) ** 2]``, every number from every place."""
    return nn.Sequential(
        nn.Conv2d(dim, reduced, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(reduced * roi**2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, (2 * roi) ** 2),
    )


def deconv(dim: int) -> nn.Sequential:
    """Features ``[R, dim, roi, roi]`` to ``[R, 1, 2 roi, 2 roi]``, every number from one place."""
    return nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, 2), nn.ReLU(), nn.Conv2d(dim, 1, 1))


def width_of(weights: int, dim: int) -> int:
    """Of the layer between two convolutions of 1 x 1 from and to ``dim`` that have so many weights."""
    return max(round((weights - dim) / (2 * dim + 1)), 1)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
