"""Blocks of decoders: timm's and ViT's, at all tokens or at some, and across two sets; convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError


def initialise(module: nn.Module) -> None:
    """MAE's initialisation of the linear maps within a module: Xavier's, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Block(nn.Module):
    """Attention and a two-layer network, each after a norm and beside a shortcut.

    Weights have the names that they have in timm, and mean the same.

    Args:
        dim: width.
        heads: attention heads.
        mlp_ratio: width between the two layers, in widths of the block.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_ratio)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The output for each token.

        Args:
            x: ``[B, M, dim]``.
            attn_mask: broadcasts to ``[B, heads, M, N]``, as in torch.
            context: ``[B, N, dim]``, the tokens to attend to, where ``x`` is some of them; ``x`` by default.

        Returns:
            ``[B, M, dim]``.
        """
        own = self.norm1(x)
        x = x + self.attn(own, own if context is None else self.norm1(context), attn_mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Attention of several heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, context: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``[B, M, dim]`` and ``[B, N, dim]`` to ``[B, M, dim]``."""
        b, m, d = query.shape
        heads = self.heads, d // self.heads  # where there is no token, -1 could be any number
        if context is query:
            q, k, v = self.qkv(query).view(b, m, 3, *heads).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(query, weight[:d], bias[:d]).view(b, m, *heads).transpose(1, 2)
            kv = F.linear(context, weight[d:], bias[d:])
            k, v = kv.view(b, context.shape[1], 2, *heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, m, d))
        return out


class CrossAttention(nn.Module):
    """Attention of several heads from some tokens to others, which may be of another width.

    Keys have no bias: it would add the same to all logits of a query.

    Args:
        dim: width of queries and of the output.
        heads: attention heads.
        context_dim: width of keys and values before they are projected; ``dim`` by default.
        head_dim: width of a head; by default heads share ``dim``.
    """

    def __init__(
        self, dim: int, heads: int, context_dim: int | None = None, head_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads, width = heads, context_dim or dim
        inner = dim if head_dim is None else heads * head_dim
        self.q = nn.Linear(dim, inner)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner)
        self.proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``[B, M, dim]`` and twice ``[B, N, context_dim]`` to ``[B, M, dim]``."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class CrossBlock(nn.Module):
    """Attention to other tokens alone and a two-layer network, each after a norm and beside a shortcut.

    Args:
        dim: width.
        heads: attention heads.
        context_dim: width of the tokens attended to, which are taken as they are.
        mlp_ratio: width between the two layers, in widths of the block.
        head_dim: width of a head; by default heads share ``dim``.
    """

    def __init__(
        self, dim: int, heads: int, context_dim: int, mlp_ratio: float = 4.0, head_dim: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, heads, context_dim, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_ratio)

    def forward(self, x: Tensor, context: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``[B, M, dim]`` and ``[B, N, context_dim]`` to ``[B, M, dim]``."""
        x = x + self.attn(self.norm1(x), context, context, attn_mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MLP(nn.Module):
    """Two layers, ``ratio`` times as wide between them."""

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(ratio * dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PostNorm(nn.Module):
    """A block's forward pass with each norm behind its shortcut (Vaswani et al. 2017), for blocks of timm.

    ``class PostNormBlock(PostNorm, Block)`` has the weights of timm's ``Block``. The shortcut around the
    feed-forward layer begins behind the first norm.
    """

    norm_first = False

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """``[B, N, dim]`` to the same."""
        block: Any = self
        x = block.norm1(x + block.drop_path1(block.ls1(block.attn(x, attn_mask=attn_mask))))
        out: Tensor = block.norm2(x + block.drop_path2(block.ls2(block.mlp(x))))
        return out


class Stack(nn.Module):
    """An encoder that is one stack of blocks, which a system may run itself.

    Subclasses have ``blocks``, ``norm`` and :meth:`begin`, see :class:`polymask.protocols.Encoder`.
    """

    downsample = 1
    needs_grid = False

    def begin(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the first block gets, and what attention adds or where it may go."""
        raise NotImplementedError

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, P]`` to ``[B, prefix + K, dim]``."""
        own: Any = self
        x, attend = self.begin(x, position, valid)
        for block in own.blocks:
            x = block(x, attn_mask=attend)
        encoded: Tensor = own.norm(x)
        return encoded


class Convolutions(nn.Module):
    """Convolutions over all tokens, each followed by layer norm over channels without weights and by GELU.

    Args:
        widths: channels before the first convolution and behind each.
        kernel: tokens that a convolution reaches across along each axis, an odd number.
        groups: of each convolution; divides all widths.
        grid: lengths of the token axes, one to three; None for sequences of any length.
        residual: add the input of each convolution that has as many channels as its output.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        kernel: int,
        groups: int,
        grid: tuple[int, ...] | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"convolutions reach across an odd number of tokens, got {kernel}")
        if any(width % groups for width in widths):
            shown = ", ".join(map(str, dict.fromkeys(widths)))
            raise UserError(f"{groups} groups do not divide convolutions of {shown} channels: choose fewer")
        if grid is not None and not 1 <= len(grid) <= 3:
            raise UserError(f"convolutions have one to three axes, and these tokens lie on {len(grid)}")
        self.grid, self.residual = grid, residual
        layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(grid or (0,)) - 1]
        self.layers = nn.ModuleList(
            layer(before, after, kernel, padding=kernel // 2, groups=groups)
            for before, after in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, C]`` to ``[B, N, C']``; what is False in ``valid [B, N]`` is as if nothing were there."""
        shape = self.grid or (x.shape[1],)
        for layer in self.layers:
            if valid is not None:
                x = torch.where(valid[..., None], x, 0)
            y = layer(x.transpose(1, 2).reshape(x.shape[0], -1, *shape)).flatten(2).transpose(1, 2)
            y = F.gelu(F.layer_norm(y, y.shape[-1:]))
            x = x + y if self.residual and x.shape == y.shape else y
        return x
