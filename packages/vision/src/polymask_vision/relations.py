"""How the tokens of a frozen Transformer relate: queries and keys of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.nn.teachers import Frozen
from polymask.types import Count, Fact, Place
from polymask_vision.feature_cache import FeatureCache, cached
from polymask_vision.networks import open_network
from polymask_vision.targets import image_tokens


class Relations(nn.Module):
    """Queries and keys of some blocks of a frozen Transformer, which sees the whole image, side by side.

    Args:
        run: folder of a finished run whose encoder is the teacher, in place of ``model``; it must cut images
            into the same patches.
        model: a Vision Transformer of timm, by name, or ``local-dir:FOLDER``; or ``transformers:NAME``, of
            the hub or a folder. It sees images resized so that they have one of its patches for each of
            theirs.
        pretrained: load the weights of ``model``; False for random ones, to try things out.
        layers: which blocks, from 1, or from the last, which is -1.
        cache: folder to keep what the teacher makes of each image in, so that it looks at it once, whatever
            the number of epochs and runs; for data that is not augmented. It takes 4 bytes per number.
        channels: image channels, from the tokenizer.
        mean: per channel, what was subtracted from values in [0, 1], from the data.
        std: per channel, what they were divided by, from the data.
        key: entry of the batch that holds the images.

    Attributes:
        layers: which blocks, from 1.
        depth: blocks of the network.
        heads: attention heads of each.
    """

    def __init__(
        self,
        *,
        run: Place = None,
        model: str | None = None,
        pretrained: bool = True,
        layers: tuple[int, ...] = (-3, -2),
        cache: str | None = None,
        channels: Fact[Count] = 3,
        mean: Fact[Sequence[float] | None] = None,
        std: Fact[Sequence[float] | None] = None,
        key: str = "image",
    ) -> None:
        super().__init__()
        if run is None and model is None:
            raise UserError(
                "whose relations? give --relation_target.run FOLDER or --relation_target.model NAME, for "
                "example a run of vision/mae"
            )
        network = open_network(
            run, model, pretrained=pretrained, channels=channels, mean=mean, std=std, key=key
        )
        self.depth, self.heads = len(network.blocks), network.heads
        self.layers = tuple(network.block_number(layer) for layer in layers)
        self.dim = 2 * len(self.layers) * network.dim
        self.network, self.key = Frozen(network), key
        self.cache = None if cache is None else FeatureCache(cache, network, mean=mean, std=std)

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, layers * 2 * width]`` float32: of a layer its queries, then its keys, head by head."""
        return self.relate(batch, tokens)[0].values

    @torch.no_grad()
    def relate(
        self, batch: Mapping[str, Tensor], tokens: Tokens, states: Sequence[int] = ()
    ) -> tuple[Tokens, list[Tensor]]:
        """The same with those of the class token as prefix, and what leaves some blocks at the patches.

        Args:
            batch: holds the images.
            tokens: of the system that asks.
            states: these blocks, from 1.

        Returns:
            Tokens of ``[B, N, layers * 2 * width]`` float32, ``[B, 1, layers * 2 * width]`` in their prefix
            where the network has a class token; and ``[B, N, width]`` for each of ``states``.
        """
        network: Any = self.network.module

        def compute() -> tuple[Tensor, ...]:
            run = max(max(self.layers) - 1, *states, 0)
            found = self.network(batch, tokens, pairs=self.layers, run=run)
            both = [x.float().transpose(1, 2).flatten(2) for pair in found.pairs for x in pair]
            left = [found.blocks[number - 1][:, network.prefix :] for number in states]
            return torch.cat(both, dim=-1), *left

        asked = {"pairs": self.layers, "states": list(states), "grid": tokens.grid}
        pairs, *left = cached(self.cache, batch, self.key, asked, compute)
        return image_tokens(pairs, network.prefix, tokens), left
