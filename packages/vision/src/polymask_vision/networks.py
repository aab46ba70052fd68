"""Frozen Transformers that look at whole images: the encoder of a run, models of timm and of transformers.

Each gives what leaves its blocks, and attention, queries and keys of those asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask_vision.attention import attention_of, queries_keys


@dataclass(frozen=True, eq=False)
class Activations:
    """What a network makes of a batch.

    Args:
        blocks: what leaves each block, ``[B, prefix + N, dim]``, without the norm behind the last.
        attention: of each block asked for, float32 ``[B, heads, prefix + N, prefix + N]``.
        pairs: queries and keys of each block asked for, ``[B, heads, prefix + N, width of a head]`` each,
            before they are scaled.
    """

    blocks: list[Tensor]
    attention: list[Tensor]
    pairs: list[tuple[Tensor, Tensor]]


class Network(nn.Module):
    """A Transformer on patches.

    Attributes:
        name: as it was asked for, for messages.
        dim: width.
        heads: attention heads; 0 where there is no attention.
        prefix: tokens that lead the sequence; the first of them is the class token.
        blocks: the blocks; later ones may be deleted.
    """

    name: str
    dim: int
    heads: int
    prefix: int
    blocks: Any

    def forward(
        self,
        batch: Mapping[str, Tensor],
        tokens: Tokens,
        attention: Sequence[int] = (),
        pairs: Sequence[int] = (),
        run: int | None = None,
    ) -> Activations:
        """What it makes of a batch.

        Args:
            batch: holds the images.
            tokens: of the system that asks; what is returned has one patch for each.
            attention: blocks, from 1, whose attention is returned.
            pairs: blocks whose queries and keys are returned.
            run: blocks that need to be run, at least those before the ones named; all by default.
        """
        raise NotImplementedError

    def block_number(self, block: int) -> int:
        """The number of a block from 1, given that or its number from the last, which is -1.

        Raises:
            UserError: there is no such block.
        """
        n = len(self.blocks)
        if not 1 <= abs(block) <= n:
            raise UserError(f"{self.name} has blocks 1 to {n}, and no block {block}")
        return block % (n + 1)

    def paid(self, attention: Tensor, of_class: bool) -> Tensor:
        """Attention that each patch gets, the mean over heads, float32 ``[B, N]``.

        Args:
            attention: of :class:`Activations`.
            of_class: from the class token; else the mean of what all patches give.
        """
        given_BQK = attention.mean(1)[:, :, self.prefix :]
        return given_BQK[:, 0] if of_class else given_BQK[:, self.prefix :].mean(1)


def open_network(
    run: str | None,
    model: str | None,
    *,
    pretrained: bool,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    key: str,
    maps: bool = False,
) -> Network:
    """A network, by one of two names.

    Args:
        run: folder of a finished run, for its encoder.
        model: ``transformers:NAME``, a model of the Hugging Face hub or a folder in its layout; or
            ``timm:NAME``, a model of timm, ``timm:local-dir:FOLDER`` one from a folder; ``timm:`` may be left
            out.
        pretrained: load the weights of ``model``.
        channels: of the images.
        mean: per channel, what was subtracted from values in [0, 1]; None if they are given as they are.
        std: per channel, what they were divided by.
        key: entry of the batch that holds the images.
        maps: take any backbone of timm; one that is no Vision Transformer tells what leaves it alone.

    Raises:
        UserError: it cannot be had, or does not tell what happens inside.
    """
    if run is not None:
        return _Run(run)
    assert model is not None
    if not pretrained and ":" in model:  # weights are there
        warnings.warn(f"{model} looks with random weights: --*.pretrained true loads its own", stacklevel=2)
    images = Images(channels, mean, std, key)
    if model.startswith("transformers:"):
        from polymask_vision.hub_networks import HubNetwork

        return HubNetwork(model.removeprefix("transformers:"), pretrained, images)
    name = model.removeprefix("timm:")
    try:
        return _Timm(name, pretrained, images)
    except UserError as error:
        if not maps:
            raise
        from polymask_vision.map_networks import MapNetwork

        try:
            return MapNetwork(name, pretrained, images)
        except UserError:
            raise error from None


def _through(
    blocks: Any,
    x: Tensor,
    bias: Tensor | None,
    attention: Sequence[int],
    pairs: Sequence[int],
    run: int | None,
) -> Activations:
    """What blocks of timm make of the input of the first of them."""
    states, paid, asked = [], {}, {}
    run = len(blocks) if run is None else run
    for number, block in enumerate(blocks, 1):
        if number in attention:
            paid[number] = attention_of(block, x, bias)
        if number in pairs:
            asked[number] = queries_keys(block, x)
        if number > run:
            break
        x = block(x, attn_mask=bias)
        states.append(x)
    return Activations(states, [paid[n] for n in attention], [asked[n] for n in pairs])


class _Run(Network):
    """The encoder of a run, by its folder."""

    def __init__(self, folder: str) -> None:
        from polymask.run import Run

        super().__init__()
        system: Any = Run.open(folder).system
        encoder: Any = getattr(system, "backbone", None)
        if not hasattr(encoder, "begin"):
            raise UserError(
                f"{type(encoder).__name__} of the run {folder} does not show its attention: use a run of "
                "vision/vit"
            )
        self.name, self.tokenizer, self.encoder = folder, system.tokenizer, encoder
        self.dim, self.prefix = encoder.dim, encoder.prefix
        self.heads = encoder.blocks[0].attn.num_heads

    @property
    def blocks(self) -> Any:
        return self.encoder.blocks

    def forward(
        self,
        batch: Mapping[str, Tensor],
        tokens: Tokens,
        attention: Sequence[int] = (),
        pairs: Sequence[int] = (),
        run: int | None = None,
    ) -> Activations:
        tokenizer: Any = self.tokenizer
        encoder: Any = self.encoder
        own = tokenizer(batch)
        if own.shape != tokens.shape or own.grid != tokens.grid:
            raise UserError(
                f"the run {self.name} cuts an image into {own.grid or own.shape[1]} patches, this system "
                f"into {tokens.grid or tokens.shape[1]}: use the tokenizer options of the run"
            )
        x, bias = encoder.begin(encoder.embed(own.values), own.position, own.valid)
        return _through(self.blocks, x, bias, attention, pairs, run)


class Images:
    """How images reach a model that was not made here: resized, normalised in its own way."""

    def __init__(
        self, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, key: str
    ) -> None:
        self.channels, self.mean, self.std, self.key = channels, mean, std, key

    def statistics(self, known: Mapping[str, Any]) -> Tensor:
        """Mean and deviation of the data, then those that a model knows: ``[4, channels or 1, 1, 1]``."""
        if self.mean is None:
            known = {}
        given = self.mean or (0.0,), self.std or (1.0,), known.get("mean", (0.0,)), known.get("std", (1.0,))
        rows = [torch.tensor(tuple(values), dtype=torch.float32) for values in given]
        rows = [x if len(x) == self.channels else x.mean(0, keepdim=True) for x in rows]
        return torch.stack([x.expand(self.channels) for x in rows])[..., None, None]

    def __call__(
        self, batch: Mapping[str, Tensor], tokens: Tokens, patch: Sequence[int], statistics: Tensor
    ) -> Tensor:
        """Images that have one patch of the model for each token."""
        if tokens.grid is None or len(tokens.grid) != 2:
            raise UserError(
                "models of timm and transformers see patches of images, and these tokens fill no such grid"
            )
        size = [n * p for n, p in zip(tokens.grid, patch, strict=True)]
        x = F.interpolate(batch[self.key].float(), size, mode="bicubic", antialias=True)
        mean, std, own_mean, own_std = statistics
        normalised: Tensor = (x * std + mean - own_mean) / own_std
        return normalised


class _Timm(Network):
    """A Vision Transformer of timm; its first layer is folded or repeated to the channels of the images."""

    statistics: Tensor

    def __init__(self, name: str, pretrained: bool, images: Images) -> None:
        super().__init__()
        try:
            model: Any = timm.create_model(
                name, pretrained=pretrained, num_classes=0, in_chans=images.channels, dynamic_img_size=True
            )
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"timm cannot make {name!r} with images of any size: {error}; use a Vision Transformer, as "
                "vit_small_patch16_224"
            ) from error
        first = getattr(model, "blocks", [None])[0]
        if not isinstance(model, VisionTransformer) or not hasattr(getattr(first, "attn", None), "qkv"):
            raise UserError(
                f"{name} is a {type(model).__name__}, whose attention is not read here: use a Vision "
                "Transformer, as vit_small_patch16_224"
            )
        self.model: Any = model
        self.name, self.images = name, images
        self.dim, self.prefix = model.embed_dim, model.num_prefix_tokens
        self.heads = first.attn.num_heads
        known: Any = model.pretrained_cfg
        self.register_buffer("statistics", images.statistics(known), persistent=False)

    @property
    def blocks(self) -> Any:
        return self.model.blocks

    def forward(
        self,
        batch: Mapping[str, Tensor],
        tokens: Tokens,
        attention: Sequence[int] = (),
        pairs: Sequence[int] = (),
        run: int | None = None,
    ) -> Activations:
        model = self.model
        x = model.patch_embed(self.images(batch, tokens, model.patch_embed.patch_size, self.statistics))
        x = model.norm_pre(model._pos_embed(x))
        return _through(self.blocks, x, None, attention, pairs, run)
