"""Light Transformers that turn the encoding of visible tokens into predictions at hidden ones."""

from __future__ import annotations

import itertools
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.blocks import Block, Convolutions, CrossBlock, initialise
from polymask.errors import UserError
from polymask.mask import Mask
from polymask.positions import SinCos
from polymask.protocols import Encoder, Tokenizer
from polymask.tokens import Tokens


class _Decoder(nn.Module):
    @classmethod
    def behind(cls, encoder: Encoder, tokenizer: Tokenizer, out_dim: int, **size: Any) -> Self:
        """A decoder of the output of an encoder of a tokenizer's tokens; ``size`` is dim, depth and so on."""
        grid = tokenizer.provides.get("grid")
        return cls(in_dim=encoder.out_dim, out_dim=out_dim, prefix=encoder.prefix, grid=grid, **size)


class LightDecoder(_Decoder):
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
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
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
        x = self.embed(encoded)
        lead, seen = x[:, : self.prefix], x[:, self.prefix :]
        full = self.filled(mask.restore(seen, self.mask_token))
        x = torch.cat([lead, full + self.positions(position).to(x.dtype)], dim=1)
        real = None
        if mask.valid is not None:
            real = F.pad(mask.valid, (self.prefix, 0), value=True)[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, attn_mask=real)
        wanted = (mask if at is None else at).invert().keep(Tokens(x[:, self.prefix :], position)).values
        prediction: Tensor = self.head(self.norm(self.blocks[-1](wanted, attn_mask=real, context=x)))
        return prediction


class LatentPredictor(LightDecoder):
    """The predictor of I-JEPA (Assran et al. 2023): mask tokens at the sites asked for, and at no others.

    Its sequence is the encoding of the visible tokens, then one mask token for each site to answer at, all
    with fixed positions: what is hidden and not asked for takes no part. Arguments are those of
    :class:`LightDecoder`.
    """

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor, at: Mask | None = None) -> Tensor:
        """Predict at hidden sites, or at others; as :meth:`LightDecoder.forward`."""
        return self.answer(self.context(encoded, mask, position), position, mask if at is None else at)

    def context(self, encoded: Tensor, mask: Mask, position: Tensor) -> Tokens:
        """What all answers are made from: the encoding ``[B, prefix + K, dim]`` with its positions."""
        seen = mask.keep(self._places(mask, position, encoded.dtype))
        x = self.embed(encoded)
        x = torch.cat([x[:, : self.prefix], x[:, self.prefix :] + seen.values], dim=1)
        valid = None if seen.valid is None else F.pad(seen.valid, (self.prefix, 0), value=True)
        return Tokens(x, seen.position, valid=valid)

    def answer(self, context: Tokens, position: Tensor, at: Mask) -> Tensor:
        """Predictions ``[B, M, out_dim]`` at the hidden sites of a mask, from :meth:`context`."""
        wanted = at.invert().keep(self._places(at, position, context.values.dtype))
        answers = self.mask_token + wanted.values
        x, real = torch.cat([context.values, answers], dim=1), None
        if context.valid is not None or wanted.valid is not None:
            real = torch.cat([real_tokens(context), real_tokens(wanted)], dim=1)[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, attn_mask=real)
        answers = self.blocks[-1](x[:, -answers.shape[1] :], attn_mask=real, context=x)
        prediction: Tensor = self.head(self.norm(answers))
        return prediction

    def _places(self, mask: Mask, position: Tensor, dtype: torch.dtype) -> Tokens:
        """The embedding of the position of every site."""
        return Tokens(self.positions(position).to(dtype).expand(*mask.hidden.shape, -1), position)


class ConvDecoder(nn.Module):
    """The decoder of data2vec 2.0 (Baevski et al. 2022): convolutions over all sites, hidden ones filled in.

    It has no mask token and no positions: place is in the layout alone, so that convolutions have to reach
    across the largest hole.

    Args:
        in_dim: width of the encoder's output.
        out_dim: width of the prediction.
        prefix: tokens of no place that lead the encoder's output; they are left out.
        grid: lengths of the token axes, one to three; None for sequences of any length.
        dim: channels.
        depth: convolutions.
        kernel: sites that a convolution reaches across along each axis, an odd number.
        groups: of each convolution.
        residual: add the input of each convolution that has as many channels.
        head_depth: linear layers behind the convolutions; of several, all but the last are twice as wide as
            the convolutions and followed by GELU.
        dropout: of the encoder's output.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        prefix: int,
        grid: tuple[int, ...] | None,
        dim: int,
        depth: int,
        kernel: int,
        groups: int,
        residual: bool = True,
        head_depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.prefix, self.dropout = prefix, nn.Dropout(dropout)
        self.convolutions = Convolutions(
            [in_dim] + [dim] * depth, kernel=kernel, groups=groups, grid=grid, residual=residual
        )
        widths = [dim] + [2 * dim] * (head_depth - 1)
        hidden = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.GELU())]
        self.head = nn.Sequential(*hidden, nn.Linear(widths[-1], out_dim))

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor, fill: Tensor) -> Tensor:
        """Predict at hidden sites.

        Args:
            encoded: ``[B, prefix + K, in_dim]``, the encoding of the visible tokens.
            mask: which of the N sites are hidden.
            position: ``[B, N, P]`` of all sites; of a joined mask, of its samples.
            fill: ``[B, N, in_dim]``, read at hidden sites.

        Returns:
            ``[B, M, out_dim]``, hidden sites in their order; shorter rows end in padding.
        """
        x = mask.restore(self.dropout(encoded[:, self.prefix :]), fill)
        x = self.convolutions(x, mask.valid)
        hidden = mask.invert().keep(Tokens(x, position)).values
        prediction: Tensor = self.head(hidden)
        return prediction


class CrossDecoder(_Decoder):
    """The decoder of CrossMAE (Fu et al. 2024, arXiv 2401.14391): asked sites attend to the encoding alone.

    They do not attend to one another, so that an answer does not depend on which others are asked for, and
    any share of the hidden sites may be decoded.

    Args:
        in_dim: width of the encoder's output.
        out_dim: width of the prediction.
        prefix: tokens of no place that lead the encoder's output; they are attended to as well.
        grid: lengths of the token axes, or None for free coordinates.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        states: of the encoder that are given, 1 for its output. Of several, each block attends to a learned
            sum of its own, normalised.
    """

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
        states: int = 1,
    ) -> None:
        super().__init__()
        check_size(dim, depth, heads)
        self.prefix = prefix
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.positions = SinCos(dim, grid)
        self.blocks = nn.ModuleList(CrossBlock(dim, heads, in_dim, mlp_ratio) for _ in range(depth))
        self.weights = nn.Parameter(torch.empty(depth, states)) if states > 1 else None
        count = depth if states > 1 else 0
        self.state_norms = nn.ModuleList(nn.LayerNorm(in_dim, eps=1e-6) for _ in range(count))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        if self.weights is not None:
            nn.init.normal_(self.weights, std=states**-0.5)
        initialise(self)

    def forward(
        self, encoded: Tensor | list[Tensor], mask: Mask, position: Tensor, at: Mask | None = None
    ) -> Tensor:
        """Predict at hidden sites, or at others.

        Args:
            encoded: ``[B, prefix + K, in_dim]``, the encoding of the visible tokens, or so many states of it.
            mask: which of the N sites are hidden.
            position: ``[B, N, P]`` of all sites.
            at: the sites to answer at are the hidden ones of this mask; ``mask`` by default.

        Returns:
            ``[B, M, out_dim]``, the sites asked for in their order. Where rows differ in how many
            these are, M is the largest number and shorter rows end in padding.
        """
        memory = [encoded] * len(self.blocks) if isinstance(encoded, Tensor) else self._sums(encoded)
        x = self.mask_token.to(memory[0].dtype)
        places = self.positions(position).to(x.dtype).expand(*mask.hidden.shape, -1)
        x = x + (mask if at is None else at).invert().keep(Tokens(places, position)).values
        real = None
        if mask.visible is None:
            seen = mask.keep(Tokens(position, position))
            real = F.pad(real_tokens(seen), (self.prefix, 0), value=True)[:, None, None, :]
        for block, context in zip(self.blocks, memory, strict=True):
            x = block(x, context, real)
        prediction: Tensor = self.head(self.norm(x))
        return prediction

    def _sums(self, states: list[Tensor]) -> list[Tensor]:
        """What each block attends to."""
        stacked, weights = torch.stack(states, dim=-1), self.weights
        assert weights is not None
        return [
            norm(stacked @ row) for norm, row in zip(self.state_norms, weights.to(stacked.dtype), strict=True)
        ]


def check_size(dim: int, depth: int, heads: int) -> None:
    """Refuse a decoder without blocks, or whose width its heads cannot share.

    Raises:
        UserError: it is one.
    """
    if depth < 1:
        raise UserError(f"the decoder needs at least one block, got depth {depth}")
    if dim % heads:
        raise UserError(f"decoder width {dim} is not divisible by {heads} heads")


def real_tokens(tokens: Tokens) -> Tensor:
    """Which tokens are not padding, bool ``[B, K]``."""
    if tokens.valid is not None:
        return tokens.valid
    return torch.ones(tokens.values.shape[:2], dtype=torch.bool, device=tokens.values.device)
