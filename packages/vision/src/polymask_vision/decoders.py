"""Light decoders that attend to another input too, or have no token where none is asked for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask, Tokens
from polymask.nn.blocks import Block, CrossAttention
from polymask.nn.decoders import LightDecoder, placed


class MemoryBlock(Block):
    """A block that attends to other tokens too, between its attention and its network, after norms of both.

    Other than those of the base, weights are ``norm3``, ``norm_memory`` and ``cross``.

    Args:
        dim: width, of the other tokens too.
        heads: attention heads.
        mlp_ratio: width between the two layers, in widths of the block.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__(dim, heads, mlp_ratio)
        self.norm3, self.norm_memory = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.cross = CrossAttention(dim, heads)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        context: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`Block.forward`; without ``memory [B, L, dim]`` the same as that."""
        own = self.norm1(x)
        x = x + self.attn(own, own if context is None else self.norm1(context), attn_mask)
        if memory is not None:
            memory = self.norm_memory(memory)
            x = x + self.cross(self.norm3(x), memory, memory)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MemoryDecoder(LightDecoder):
    """The decoder of CroCo (Weinzaepfel et al. 2022): all its tokens attend to those of another input too.

    These are mapped to the decoder's width by the same layer, have the same positions, and stay as they are
    throughout. Without them it is :class:`LightDecoder`, whose arguments and weights it has.
    """

    block = MemoryBlock

    def memory(self, other: Tokens) -> Tensor:
        """What all blocks attend to of an encoded input, ``[B, L, dim]``: give it to :meth:`features`."""
        x: Tensor = self.embed(other.values)
        places: Tensor = self.positions(other.position)
        return x + places.to(x.dtype)


class LatentPredictor(LightDecoder):
    """The predictor of I-JEPA (Assran et al. 2023): mask tokens at the sites asked for, and at no others.

    Its sequence is the encoding of the visible tokens, then one mask token for each site to answer at, all
    with fixed positions: what is hidden and not asked for takes no part. Arguments are those of
    :class:`LightDecoder`, and one more.

    Args:
        families: how many mask tokens there are, for masks of several kinds.
    """

    def __init__(self, *, families: int = 1, **size: Any) -> None:
        super().__init__(**size)
        if families > 1:
            self.mask_token = nn.Parameter(torch.empty(families, self.dim))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor, at: Mask | None = None) -> Tensor:
        """Predict at hidden sites, or at others; as :meth:`LightDecoder.forward`."""
        return self.answer(self.context(encoded, mask, position), position, mask if at is None else at)

    def context(self, encoded: Tensor, mask: Mask, position: Tensor) -> Tokens:
        """What all answers are made from: the encoding ``[B, prefix + K, dim]`` with its positions."""
        seen = mask.keep(placed(self.positions, mask, position, encoded.dtype))
        x = self.embed(encoded)
        x = torch.cat([x[:, : self.prefix], x[:, self.prefix :] + seen.values], dim=1)
        valid = None if seen.valid is None else F.pad(seen.valid, (self.prefix, 0), value=True)
        return Tokens(x, seen.position, valid=valid)

    def answer(self, context: Tokens, position: Tensor, at: Mask, family: int = 0) -> Tensor:
        """Predictions ``[B, M, out_dim]`` at the hidden sites of a mask, from :meth:`context`."""
        wanted = at.invert().keep(placed(self.positions, at, position, context.values.dtype))
        answers = self.mask_token.view(-1, self.dim)[family] + wanted.values
        x, real = torch.cat([context.values, answers], dim=1), None
        if context.valid is not None or wanted.valid is not None:
            real = torch.cat([context.real, wanted.real], dim=1)[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, attn_mask=real)
        answers = self.blocks[-1](x[:, -answers.shape[1] :], attn_mask=real, context=x)
        prediction: Tensor = self.head(self.norm(answers))
        return prediction
