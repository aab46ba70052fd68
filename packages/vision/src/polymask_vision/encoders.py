"""timm's encoders, run on the tokens they are given."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import timm.models
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import UserError
from polymask.export import Classifier, Exporter
from polymask.imports import Importer, Weights
from polymask.nn.blocks import PostNorm, Stack, initialise
from polymask.nn.positions import coordinates, sincos
from polymask.types import Count, Fact, Positive, Share, Whole
from polymask_vision import imports, to_transformers
from polymask_vision.embedding import TokenEmbed
from polymask_vision.positions import RelativeBias, grid_index


class _PostNormBlock(PostNorm, Block):  # type: ignore[misc]
    """timm's block, its norms behind the shortcuts."""


class ViT(Stack):
    """timm's Vision Transformer (Dosovitskiy et al. 2020) on any subset of tokens.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: lengths of the token axes (rows and columns), from the tokenizer; None for tokens of free
            coordinates, along any number of axes.
        vocabulary: how many ids there are where tokens are ids, from the tokenizer; None for other tokens.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        class_token: lead the sequence with a class token (it has no position).
        norm_first: norms before attention and feed-forward layers; else behind their shortcuts, and one
            before the first block (data2vec 2.0).
        positions: ``"sincos"`` fixed (MAE), ``"learned"`` or ``"relative"`` (of a grid; one bias
            on attention that all blocks share, as in SimMIM), or ``"none"``.
        drop_path: stochastic depth rate of the last block, rising linearly from 0.
        layer_scale: initial value of LayerScale, or None for none.
    """

    block: type[nn.Module] = Block

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 768,
        grid: Fact[tuple[Count, ...] | None] = None,
        vocabulary: Fact[Count | None] = None,
        dim: Count = 768,
        depth: Whole = 12,
        heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        class_token: bool = True,
        norm_first: bool = True,
        positions: Literal["sincos", "learned", "relative", "none"] = "sincos",
        drop_path: Share = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"encoder width {dim} is not divisible by {heads} heads")
        if positions in ("learned", "relative") and not grid:
            raise UserError(
                f"{positions} positions need tokens on a grid, and these have none: use sincos or none"
            )
        self.dim = self.out_dim = dim
        self.grid, self.vocabulary = tuple(grid or ()), vocabulary
        self.positions, self.prefix = positions, int(class_token)
        self.vit: Any = timm.models.VisionTransformer(
            patch_size=1,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
            global_pool="token" if class_token else "avg",
            fc_norm=False,
            class_token=class_token,
            no_embed_class=True,
            pos_embed="learn" if positions in ("sincos", "learned") and self.grid else "none",
            drop_path_rate=drop_path,
            init_values=layer_scale,
            pre_norm=not norm_first,
            block_fn=self.block if norm_first else _PostNormBlock,
            embed_layer=functools.partial(TokenEmbed, in_dim=in_dim, grid=self.grid, vocabulary=vocabulary),
        )
        if not norm_first:
            self.vit.norm = nn.Identity()
        self.norm_first = norm_first
        if positions == "sincos" and self.grid:
            self.vit.pos_embed = nn.Parameter(sincos(coordinates(self.grid), dim)[None], requires_grad=False)
        self.relative = RelativeBias(self.grid, heads, self.prefix) if positions == "relative" else None
        self._initialise()

    def _initialise(self) -> None:
        """MAE's: xavier for linear maps, biases 0, class token normal(0.02)."""
        initialise(self.vit)
        if self.vit.cls_token is not None:
            nn.init.normal_(self.vit.cls_token, std=0.02)

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``."""
        embedded: Tensor = self.vit.patch_embed(values)
        return embedded

    @property
    def weight(self) -> Tensor:
        """The embedding matrix of ids ``[vocabulary, dim]``, for heads that are tied to it."""
        if self.vocabulary is None:
            raise AttributeError("these tokens are no ids")
        weight: Tensor = self.vit.patch_embed.proj.weight
        return weight

    @property
    def blocks(self) -> Any:
        """Blocks of timm, each called as ``block(x, attn_mask=bias)``."""
        return self.vit.blocks

    @property
    def feed_forwards(self) -> list[nn.Module]:
        """The feed-forward layer of each block."""
        return [block.mlp for block in self.vit.blocks]

    @property
    def norm(self) -> Any:
        """What follows the last block."""
        return self.vit.norm

    def begin(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the first block gets, ``[B, prefix + K, dim]``, and what attention adds.

        The second is bool, float or None and broadcasts to ``[B, heads, prefix + K, prefix + K]``.
        """
        b = x.shape[0]
        if self.positions in ("sincos", "learned"):
            x = x + self._embed_position(position).to(x.dtype)
        attend = None if self.relative is None else self.relative(position)
        if self.prefix:
            x = torch.cat([self.vit.cls_token.to(x.dtype).expand(b, -1, -1), x], dim=1)
        x = self.vit.norm_pre(x)
        if valid is not None:
            real = F.pad(valid, (self.prefix, 0), value=True)[:, None, None, :]
            attend = real if attend is None else torch.where(real, attend, -torch.inf)
        return x, attend

    def _embed_position(self, position: Tensor) -> Tensor:
        """What broadcasts to ``[B, K, dim]``."""
        if position.stride(0) == 0:  # the same in every sample: looked up, and summed in backward, once
            position = position[:1]
        if not self.grid:
            return sincos(position, self.dim)
        index = grid_index(position, self.grid)
        found: Tensor = self.vit.pos_embed[0].index_select(0, index.flatten())
        return found.view(*index.shape, self.dim)

    def exports(self) -> dict[str, Exporter]:
        """Formats of ``polymask export`` beside safetensors."""
        return self.classifier_exports(None)

    def classifier_exports(self, classifier: Classifier | None) -> dict[str, Exporter]:
        """The same of a classifier on this encoder."""
        return to_transformers.vit_exports(self, classifier)

    def imports(self) -> dict[str, Importer]:
        """Libraries whose models of images this encoder can begin with."""
        return (
            {"timm": imports.from_timm, "transformers": imports.from_transformers}
            if len(self.grid) == 2 and not self.vocabulary
            else {}
        )

    def adapt(self, weights: Weights, facts: Mapping[str, Any]) -> Weights:
        """Weights of other names, positions, patches and channels as weights of this encoder."""
        return imports.adapt_vit(self, weights, facts)


class Swin(nn.Module):
    """timm's Swin Transformer (Liu et al. 2021): hierarchical, so it needs the whole grid.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: token rows and columns, from the tokenizer; each divisible by 2 per stage after
            the first.
        dim: width of the first stage; it doubles at each further stage.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: side of the attention window in tokens.
        drop_path: stochastic depth rate of the last block.
    """

    needs_grid = True
    prefix = 0

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 48,
        grid: Fact[tuple[Count, Count]] = (48, 48),
        dim: Count = 128,
        depths: tuple[Whole, ...] = (2, 2, 18, 2),
        heads: tuple[Count, ...] = (4, 8, 16, 32),
        window: Count = 6,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != len(heads):
            raise UserError(f"Swin: {len(depths)} depths but {len(heads)} heads, give one of each per stage")
        self.downsample = 2 ** (len(depths) - 1)
        if any(n % self.downsample for n in grid):
            raise UserError(
                f"Swin with {len(depths)} stages halves the token grid {len(depths) - 1} times: "
                f"{tuple(grid)} is not divisible by {self.downsample}; use smaller patches or fewer stages"
            )
        self.grid, self.window = tuple(grid), window
        self.dim, self.out_dim = dim, dim * self.downsample
        self.swin: Any = timm.models.SwinTransformer(
            img_size=tuple(grid),  # type: ignore[arg-type]
            patch_size=1,
            embed_dim=dim,
            depths=tuple(depths),
            num_heads=tuple(heads),
            window_size=window,
            num_classes=0,
            drop_path_rate=drop_path,
            embed_layer=functools.partial(TokenEmbed, in_dim=in_dim, grid=tuple(grid)),  # type: ignore[arg-type]
        )

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks of all stages."""
        return [block for layer in self.swin.layers for block in layer.blocks]

    def embed(self, values: Tensor) -> Tensor:
        """``[B, N, in_dim] -> [B, N, dim]``, with Swin's norm after embedding."""
        embedded: Tensor = self.swin.patch_embed(values)
        return embedded

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, dim]`` over the whole grid to ``[B, N / downsample**2, out_dim]``.

        Raises:
            ValueError: only part of the grid, or padding.
        """
        if x.shape[1] != self.grid[0] * self.grid[1] or valid is not None:
            raise ValueError(f"Swin encodes whole grids of {self.grid}, got {x.shape[1]} tokens")
        x = x.view(-1, *self.grid, self.dim)
        x = self.swin.norm(self.swin.layers(x))
        encoded: Tensor = x.flatten(1, 2)
        return encoded

    def exports(self) -> dict[str, Exporter]:
        """Formats of ``polymask export`` beside safetensors."""
        return self.classifier_exports(None)

    def classifier_exports(self, classifier: Classifier | None) -> dict[str, Exporter]:
        """The same of a classifier on this encoder."""
        return to_transformers.swin_exports(self, classifier)

    def imports(self) -> dict[str, Importer]:
        """Libraries whose models this encoder can begin with."""
        return {"timm": imports.from_timm, "transformers": imports.from_transformers}

    def adapt(self, weights: Weights, facts: Mapping[str, Any]) -> Weights:
        """Weights of other names, windows, patches and channels as weights of this encoder."""
        return imports.adapt_swin(self, weights, facts)
