"""Frozen Transformers that look at whole images: the encoder of a run, models of timm and of transformers.

Each gives what leaves its blocks and the attention of the last one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.imports import require_whole
from polymask_vision.attention import attention_of


@dataclass(frozen=True, eq=False)
class Activations:
    """What a network makes of a batch.

    Args:
        blocks: what leaves each block, ``[B, prefix + N, dim]``, without the norm behind the last.
        attention: of the last block, float32 ``[B, heads, prefix + N, prefix + N]``.
    """

    blocks: list[Tensor]
    attention: Tensor


class Network(nn.Module):
    """A Transformer on patches. Its call takes a batch and its tokens, and returns :class:`Activations`.

    Attributes:
        name: as it was asked for, for messages.
        dim: width.
        prefix: tokens that lead the sequence; the first of them is the class token.
        blocks: the blocks; later ones may be deleted.
    """

    name: str
    dim: int
    prefix: int
    blocks: Any

    def require_block(self, block: int) -> None:
        """Refuse a number of a block, counted from 1, that there is none of."""
        if not 1 <= block <= len(self.blocks):
            raise UserError(f"{self.name} has blocks 1 to {len(self.blocks)}, and no block {block}")

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
) -> Network:
    """A network, by one of two names.

    Args:
        run: folder of a finished run, for its encoder.
        model: ``transformers:NAME``, a model of the Hugging Face hub or a folder in its layout; else the
            name of a model of timm.
        pretrained: load the weights of ``model``.
        channels: of the images.
        mean: per channel, what was subtracted from values in [0, 1]; None if they are given as they are.
        std: per channel, what they were divided by.
        key: entry of the batch that holds the images.

    Raises:
        UserError: it cannot be had, or does not tell what happens inside.
    """
    if run is not None:
        return _Run(run)
    assert model is not None
    images = _Images(channels, mean, std, key)
    if model.startswith("transformers:"):
        return _Transformers(model.removeprefix("transformers:"), pretrained, images)
    return _Timm(model, pretrained, images)


def _through(blocks: Any, x: Tensor, bias: Tensor | None, last: bool) -> Activations:
    """What blocks of timm make of the input of the first of them."""
    states = []
    for block in blocks[:-1]:
        x = block(x, attn_mask=bias)
        states.append(x)
    attention = attention_of(blocks[-1], x, bias)
    if last:
        states.append(blocks[-1](x, attn_mask=bias))
    return Activations(states, attention)


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

    @property
    def blocks(self) -> Any:
        return self.encoder.blocks

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens, last: bool = True) -> Activations:
        """Activations; without ``last`` the last block itself is not run."""
        tokenizer: Any = self.tokenizer
        encoder: Any = self.encoder
        own = tokenizer(batch)
        if own.shape != tokens.shape or own.grid != tokens.grid:
            raise UserError(
                f"the run {self.name} cuts an image into {own.grid or own.shape[1]} patches, this system "
                f"into {tokens.grid or tokens.shape[1]}: use the tokenizer options of the run"
            )
        x, bias = encoder.begin(encoder.embed(own.values), own.position, own.valid)
        return _through(self.blocks, x, bias, last)


class _Images:
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

    def __init__(self, name: str, pretrained: bool, images: _Images) -> None:
        super().__init__()
        try:
            model: Any = timm.create_model(
                name, pretrained=pretrained, num_classes=0, in_chans=images.channels, dynamic_img_size=True
            )
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"timm cannot make {name!r} with images of any size: {error}") from error
        first = getattr(model, "blocks", [None])[0]
        if not isinstance(model, VisionTransformer) or not hasattr(getattr(first, "attn", None), "qkv"):
            raise UserError(
                f"{name} is a {type(model).__name__}, whose attention is not read here: use a Vision "
                "Transformer, as vit_small_patch16_224"
            )
        self.model: Any = model
        self.name, self.images = name, images
        self.dim, self.prefix = model.embed_dim, model.num_prefix_tokens
        known: Any = model.pretrained_cfg
        self.register_buffer("statistics", images.statistics(known), persistent=False)

    @property
    def blocks(self) -> Any:
        return self.model.blocks

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens, last: bool = True) -> Activations:
        """Activations; without ``last`` the last block itself is not run."""
        model = self.model
        x = model.patch_embed(self.images(batch, tokens, model.patch_embed.patch_size, self.statistics))
        return _through(self.blocks, model.norm_pre(model._pos_embed(x)), None, last)


class _Transformers(Network):
    """A Vision Transformer of transformers; grey images are repeated to three channels."""

    statistics: Tensor

    def __init__(self, name: str, pretrained: bool, images: _Images) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoImageProcessor, AutoModel

            eager = {"attn_implementation": "eager"}  # fused attention does not give its weights
            if pretrained:
                loaded: Any = AutoModel.from_pretrained(name, **eager, output_loading_info=True)
                model = loaded[0]
                require_whole(name, loaded[1]["missing_keys"])
            else:
                model = AutoModel.from_config(AutoConfig.from_pretrained(name), **eager)  # type: ignore[no-untyped-call]
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "transformers"
            hint = "; pip install 'polymask-vision[transformers]'" if missing else ""
            raise UserError(f"transformers cannot load {name!r}: {error}{hint}") from error
        self.model: Any = getattr(model, "vision_model", model).eval()
        config = self.model.config
        self.name, self.images, self.dim = name, images, getattr(config, "hidden_size", 0)
        self.repeat = 3 if images.channels == 1 and config.num_channels == 3 else 1
        if images.channels * self.repeat != config.num_channels:
            raise UserError(f"{name} takes {config.num_channels} channels, and images have {images.channels}")
        try:
            processor = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
            known = {"mean": processor.image_mean, "std": processor.image_std}
        except (OSError, ValueError):
            known = {}  # a folder without preprocessing: images as they are
        self.register_buffer("statistics", images.statistics(known), persistent=False)
        parameters = inspect.signature(self.model.forward).parameters
        self.sized = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}
        sides = getattr(config, "patch_size", 1), getattr(config, "image_size", 1)
        self.patch, self.size = ((x, x) if isinstance(x, int) else tuple(x) for x in sides)
        depth = getattr(config, "num_hidden_layers", 0)
        lists = [n for n, m in self.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        self.path = lists[0] if lists else ""
        self.prefix = self._confirm(config)

    @property
    def blocks(self) -> Any:
        return self.model.get_submodule(self.path)

    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens, last: bool = True) -> Activations:
        """Activations; ``last`` makes no difference here."""
        pixels = self.images(batch, tokens, self.patch, self.statistics)
        return self._run(pixels.expand(-1, self.repeat * pixels.shape[1], -1, -1))

    def _run(self, pixels: Tensor) -> Activations:
        states: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            # the last of the hidden states that transformers returns has the final norm or not, by model
            for block in self.blocks:
                hooks.callback(block.register_forward_hook(keep).remove)
            # positions on a grid that is not square are refused where they are to be interpolated
            sized = {} if pixels.shape[2:] == self.size else self.sized
            found = self.model(pixels, output_attentions=True, **sized)
        return Activations(states, found.attentions[-1].float())

    @torch.no_grad()
    def _confirm(self, config: Any) -> int:
        """How many tokens lead the patches of an image; a network of another kind is refused."""
        n = math.prod(whole // part for whole, part in zip(self.size, self.patch, strict=True))
        try:
            found = self._run(torch.zeros(1, config.num_channels, *self.size))
            prefix = found.attention.shape[-1] - n
            shapes = {tuple(x.shape) for x in found.blocks}
            if self.path and prefix >= 0 and shapes == {(1, prefix + n, self.dim)}:
                return int(prefix)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            pass
        raise UserError(
            f"{self.name} is a {type(self.model).__name__}, whose blocks are not read here: use a ViT, DeiT, "
            "DINOv2, BEiT, CLIP or SigLIP"
        )
