"""Frozen networks without tokens, such as convolutional ones, that tell what leaves their last stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask_vision.networks import Activations, Images, Network
from polymask_vision.pyramid import Levels


class MapNetwork(Network):
    """A backbone of timm whose last map is taken for its one block.

    Images are brought to the size at which the map has a place for each token.
    """

    statistics: Tensor

    def __init__(self, name: str, pretrained: bool, images: Images) -> None:
        super().__init__()
        self.levels = Levels(model=name, channels=images.channels, pretrained=pretrained)
        self.name, self.images = name, images
        self.dim, self.heads, self.prefix = self.levels.channels[-1], 0, 0
        self.blocks = nn.ModuleList([nn.Identity()])
        known: Any = getattr(self.levels.net, "pretrained_cfg", None) or {}
        self.register_buffer("statistics", images.statistics(known), persistent=False)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        tokens: Tokens,
        attention: Sequence[int] = (),
        pairs: Sequence[int] = (),
        run: int | None = None,
    ) -> Activations:
        if attention or pairs:
            raise UserError(f"{self.name} has no attention to read: use a Vision Transformer")
        stride = self.levels.strides[-1]
        found = self.levels(self.images(batch, tokens, (stride, stride), self.statistics))[-1]
        return Activations([found.flatten(2).transpose(1, 2)], [], [])
