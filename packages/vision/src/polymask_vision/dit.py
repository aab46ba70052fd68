"""Transformers that are told a time, or anything else that is a vector (Peebles and Xie 2022, DiT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import Mask
from polymask.export import Exporter
from polymask.imports import Importer, Weights
from polymask.nn.blocks import initialise
from polymask.nn.positions import SinCos, sincos
from polymask.types import Count, Fact, Positive, Share
from polymask_vision.encoders import ViT


class ModulatedBlock(Block):
    """timm's block, its norms scaled and shifted, and its shortcuts gated, by a condition (adaLN-Zero).

    Scales, shifts and gates are a linear map of the condition that begins at 0: the block begins as the
    identity.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, **options: Any) -> None:
        super().__init__(dim, num_heads, mlp_ratio, **options)
        self.modulation = nn.Linear(dim, 6 * dim)

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: Tensor | None = None, *, condition: Tensor
    ) -> Tensor:
        """``[B, N, dim]`` under a condition ``[B, dim]``, or ``[1, dim]`` for all, to ``[B, N, dim]``."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        own = self.attn(self.norm1(x) * (1 + scale) + shift, attn_mask=attn_mask)
        x = x + gate * self.drop_path1(self.ls1(own))
        own = self.mlp(self.norm2(x) * (1 + scale_2) + shift_2)
        out: Tensor = x + gate_2 * self.drop_path2(self.ls2(own))
        return out


class DiT(ViT):
    """A Vision Transformer that is told the time of its input, 0 for data without noise.

    Alone it sees everything at time 0, so it stands wherever a plain one does. Its blocks begin as the
    identity (adaLN-Zero): train it with a warm-up.

    Args:
        in_dim: numbers per token, from the tokenizer.
        grid: lengths of the token axes (rows and columns), from the tokenizer; None for tokens of free
            coordinates, along any number of axes.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        class_token: lead the sequence with a class token (it has no position).
        positions: ``"sincos"`` fixed, ``"learned"``, ``"relative"`` or ``"none"``, as those of vision/vit.
        drop_path: stochastic depth rate of the last block, rising linearly from 0.
    """

    block = ModulatedBlock

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 768,
        grid: Fact[tuple[Count, ...] | None] = None,
        dim: Count = 768,
        depth: Count = 12,
        heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        class_token: bool = True,
        positions: Literal["sincos", "learned", "relative", "none"] = "sincos",
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__(
            in_dim=in_dim,
            grid=grid,
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            class_token=class_token,
            positions=positions,
            drop_path=drop_path,
        )
        self.time = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        initialise(self.time)
        begin_as_identity(self.vit.blocks)

    def condition(self, time: Tensor, other: Tensor | None = None) -> Tensor:
        """What blocks are modulated by, ``[B, dim]``.

        Args:
            time: ``[B]``, whole numbers.
            other: ``[B, dim]``, what else the network is told (a class).
        """
        told: Tensor = self.time(sincos(time[:, None].float(), self.dim))
        return F.silu(told if other is None else told + other)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.vit.blocks)

    @property
    def begin(self) -> Any:
        """Absent, unlike that of a plain one: its blocks do nothing without a condition."""
        raise AttributeError

    def layers(
        self, x: Tensor, position: Tensor, valid: Tensor | None = None, condition: Tensor | None = None
    ) -> list[Tensor]:
        """The output of every block, ``[B, prefix + K, dim]`` each, the last as the encoder gives it."""
        x, attend = super().begin(x, position, valid)
        if condition is None:
            condition = self.condition(torch.zeros(len(x), device=x.device))
        outputs = []
        for block in self.vit.blocks:
            x = block(x, attn_mask=attend, condition=condition)
            outputs.append(x)
        return [*outputs[:-1], self.norm(x)]

    def forward(
        self, x: Tensor, position: Tensor, valid: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, P]`` to ``[B, prefix + K, dim]``; without a condition at time 0."""
        return self.layers(x, position, valid, condition)[-1]

    def exports(self) -> dict[str, Exporter]:
        """None: no other library knows it."""
        return {}

    def imports(self) -> dict[str, Importer]:
        """None: no other library knows it."""
        return {}

    def adapt(self, weights: Weights, facts: Mapping[str, Any]) -> Weights:
        """The weights as they are: those of another size are refused."""
        return weights


class ModulatedDecoder(nn.Module):
    """Predicts at every token from the encoding of some, under the encoder's condition.

    As wide as the encoder, so that nothing is projected: a learned token where hidden, fixed positions,
    modulated blocks, and a modulated norm before the head.

    Args:
        encoder: whose output is decoded.
        grid: lengths of the token axes, or None for free coordinates.
        out_dim: width of the prediction.
        depth: blocks.
    """

    def __init__(
        self, encoder: DiT, *, grid: tuple[int, ...] | None, out_dim: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        dim = encoder.dim
        self.prefix = encoder.prefix
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.positions = SinCos(dim, grid)
        self.blocks = nn.ModuleList(ModulatedBlock(dim, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.modulation, self.head = nn.Linear(dim, 2 * dim), nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        initialise(self)
        begin_as_identity([*self.blocks, self])

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor, condition: Tensor) -> Tensor:
        """``[B, prefix + K, dim]`` of visible tokens to predictions at all tokens, ``[B, N, out_dim]``."""
        lead, seen = encoded[:, : self.prefix], encoded[:, self.prefix :]
        full = mask.restore(seen, self.mask_token) + self.positions(position).to(seen.dtype)
        x, real = torch.cat([lead, full], dim=1), None
        if mask.valid is not None:
            real = F.pad(mask.valid, (self.prefix, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            x = block(x, attn_mask=real, condition=condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        prediction: Tensor = self.head(self.norm(x[:, self.prefix :]) * (1 + scale) + shift)
        return prediction


def begin_as_identity(modules: Any) -> None:
    """Set modulations to 0, so that blocks begin as the identity, and norms as they are."""
    for module in modules:
        nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(module.modulation.bias)
