"""Light Transformers that predict hidden tokens from the encoding of visible ones."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.nn.blocks import Block, initialise
from polymask.nn.positions import SinCos
from polymask.protocols import Encoder, Tokenizer
from polymask.tokens import Tokens


class Decoder(nn.Module):
    """What decoders of Transformer blocks share: how they are made to follow an encoder."""

    @classmethod
    def behind(cls, encoder: Encoder, tokenizer: Tokenizer, out_dim: int, **size: Any) -> Self:
        """A decoder of the output of an encoder of a tokenizer's tokens; ``size`` is dim, depth and so on."""
        grid = tokenizer.provides.get("grid")
        return cls(in_dim=encoder.out_dim, out_dim=out_dim, prefix=encoder.prefix, grid=grid, **size)


class LightDecoder(Decoder):
    """The decoder of MAE (He et al. 2021): one learned mask token, fixed positions, few blocks.

    The last block asks only for the tokens wanted, hidden ones as a rule, and so does the head:
    what the others would be there is never used. The result is the same to rounding.

    Args:
        in_dim: width of the encoder's output.
        out_dim: width of the prediction.
        prefix: tokens of no place that lead the encoder's output; they are decoded along.
        grid: lengths of the token axes, or None for free coordinates.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
    """

    block: type[Block] = Block

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        prefix: int,
        grid: tuple[int, ...] | None,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        check_size(dim, depth, heads)
        self.prefix, self.dim = prefix, dim
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.filled = nn.Identity()  # where hooks find all sites, mask tokens filled in, before positions
        self.positions = SinCos(dim, grid)
        self.blocks = nn.ModuleList(self.block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        initialise(self)

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor, at: Mask | None = None) -> Tensor:
        """Predict at hidden sites, or at others.

        Args:
            encoded: ``[B, prefix + K, in_dim]``, the encoding of the visible tokens.
            mask: which of the N sites are hidden.
            position: ``[B, N, P]`` of all sites.
            at: the sites to answer at are the hidden ones of this mask; ``mask`` by default.

        Returns:
            ``[B, M, out_dim]``, the sites asked for in their order. Where rows differ in how many
            these are, M is the largest number and shorter rows end in padding.
        """
        prediction: Tensor = self.head(self.features(encoded, mask, position, at))
        return prediction

    def features(
        self, encoded: Tensor, mask: Mask, position: Tensor, at: Mask | None = None, **beside: Tensor
    ) -> Tensor:
        """What predictions are linear in, ``[B, M, dim]``; ``beside`` is handed to all blocks."""
        x = self.embed(encoded)
        lead, seen = x[:, : self.prefix], x[:, self.prefix :]
        full = self.filled(mask.restore(seen, self.mask_token))
        x = torch.cat([lead, full + self.positions(position).to(x.dtype)], dim=1)
        real = None
        if mask.valid is not None:
            real = F.pad(mask.valid, (self.prefix, 0), value=True)[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, attn_mask=real, **beside)
        wanted = (mask if at is None else at).invert().keep(Tokens(x[:, self.prefix :], position)).values
        features: Tensor = self.norm(self.blocks[-1](wanted, attn_mask=real, context=x, **beside))
        return features


def placed(positions: SinCos, mask: Mask, position: Tensor, dtype: torch.dtype) -> Tokens:
    """The embedding of the position of every site of a mask, ``[B, N, dim]``."""
    return Tokens(positions(position).to(dtype).expand(*mask.hidden.shape, -1), position)


def check_size(dim: int, depth: int, heads: int) -> None:
    """Refuse a decoder without blocks, or whose width its heads cannot share.

    Raises:
        UserError: it is one.
    """
    if depth < 1:
        raise UserError(f"the decoder needs at least one block, got depth {depth}")
    if dim % heads:
        raise UserError(f"decoder width {dim} is not divisible by {heads} heads")
