"""The encoder of data2vec 2.0 for audio: a Transformer that knows where its tokens lie in time."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.blocks import Convolutions, PostNorm, initialise
from polymask.types import Count, Fact, Positive, Share, Whole
from polymask_audio.encoders import Transformer, passed_over


class _PostNormBlock(PostNorm, Block):  # type: ignore[misc]
    """timm's block, its norms behind the shortcuts."""


class Data2VecTransformer(nn.Module):
    """The audio encoder of data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525) on any subset of tokens.

    Tokens are embedded as in ``audio/transformer``: raw samples by the convolutions of wav2vec 2.0, others by
    one linear map. Place comes from a stack of convolutions over the line of time, on which tokens that are
    not given count 0, and from attention that falls with distance at a learned rate per head (ALiBi: Press
    et al. 2021, arXiv 2108.12409). Norms stand behind the shortcuts. The line goes on beyond the last token,
    so that features depend neither on padding nor on other samples; as published it ends with the longest
    sample of the batch.

    Args:
        in_dim: numbers per token, from the tokenizer.
        raw: tokens are samples of sound, from the tokenizer.
        hop: samples from one token to the next, from the tokenizer.
        grid: number of tokens where all samples are equally long, from the tokenizer.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        conv_dim: channels of the convolutions of raw samples.
        position_depth: convolutions over the line of time.
        kernel: tokens that each of them reaches across, an odd number.
        groups: of each of them.
        dropout: of attention, of both parts of a block, and before the first block.
        layer_drop: chance that a block is passed over in training, for a whole batch.
    """

    downsample = 1
    needs_grid = False
    prefix = 0

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 400,
        raw: Fact[bool] = False,
        hop: Fact[Count] = 320,
        grid: Fact[tuple[Count, ...] | None] = None,
        dim: Count = 768,
        depth: Whole = 12,
        heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        conv_dim: Count = 512,
        position_depth: Count = 5,
        kernel: Count = 19,
        groups: Count = 16,
        dropout: Share = 0.1,
        layer_drop: Share = 0.05,
    ) -> None:
        super().__init__()
        self.dim = self.out_dim = dim
        self.grid, self.layer_drop = grid, layer_drop
        # its convolutions and its projection; without blocks, and what stands before them is not kept
        self.front: Any = Transformer(
            in_dim=in_dim,
            raw=raw,
            hop=hop,
            dim=dim,
            depth=0,
            heads=heads,
            conv_dim=conv_dim,
            kernel=1,
            groups=1,
            dropout=0.0,
        )
        del self.front.encoder.transformer
        self.positions = Convolutions([dim] * (1 + position_depth), kernel=kernel, groups=groups)
        self.reach = position_depth * (kernel // 2) + 1
        self.register_buffer("slope", torch.tensor(slopes(heads)), persistent=False)
        self.slope: Tensor
        self.slope_scale = nn.Parameter(torch.ones(heads))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.blocks: Any = nn.ModuleList(
            _PostNormBlock(
                dim,
                heads,
                mlp_ratio,
                qkv_bias=True,
                proj_drop=dropout,
                attn_drop=dropout,
                norm_layer=nn.LayerNorm,
            )
            for _ in range(depth)
        )
        initialise(self.blocks)

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.blocks)

    @property
    def feed_forwards(self) -> list[nn.Module]:
        """The feed-forward layer of each block."""
        return [block.mlp for block in self.blocks]

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``."""
        embedded: Tensor = self.front.embed(values)
        return embedded

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` at ``[B, K, 1]`` to ``[B, K, dim]``."""
        return self.layers(x, position, valid)[-1]

    def layers(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """The output of every block, ``[B, K, dim]`` each; the last is what ``forward`` gives.

        Raises:
            UserError: tokens lie on several axes.
        """
        if position.shape[-1] != 1:
            raise UserError(
                f"audio/data2vec-transformer needs tokens in time, not on {position.shape[-1]} axes: choose "
                "--tokenizer audio/waveform or audio/mel-frames, or --encoder audio/vit"
            )
        place = position[..., 0].round().long().expand(x.shape[:2])
        x = self.dropout(self.norm(x + self._along_time(x, place, valid)))
        attend = self._bias(place, valid).to(x.dtype)
        states = []
        for block in self.blocks:
            x = passed_over(x, block(x, attn_mask=attend), self.layer_drop if self.training else 0.0)
            states.append(x)
        return states or [x]

    def _along_time(self, x: Tensor, place: Tensor, valid: Tensor | None) -> Tensor:
        """What the convolutions find at each token: ``[B, K, dim]``."""
        (b, k, d), last = x.shape, self.grid[0] if self.grid else int(place.max()) + 1
        length = last + self.reach
        start = torch.arange(b, device=x.device)[:, None] * length
        # padding goes to the end of the line, which no token's convolutions reach
        into = (start + (place if valid is None else torch.where(valid, place, length - 1))).flatten()
        line = x.new_zeros(b * length, d).index_copy(0, into, x.reshape(b * k, d)).view(b, length, d)
        found: Tensor = self.positions(line).to(x.dtype).reshape(b * length, d)
        return found.index_select(0, (start + place).flatten()).view(b, k, d)

    def _bias(self, place: Tensor, valid: Tensor | None) -> Tensor:
        """What attention adds: ``[B, heads, K, K]``."""
        distance = (place[:, None, :, None] - place[:, None, None, :]).abs()
        bias: Tensor = -distance * (self.slope * self.slope_scale.clamp(min=0))[:, None, None]
        real = torch.ones_like(place, dtype=torch.bool) if valid is None else valid
        return torch.where(real[:, None, None, :], bias, -torch.inf)


def slopes(heads: int) -> list[float]:
    """How fast the attention of each head falls with distance: powers of two in equal steps, down to 1/256.

    Where the number of heads is no power of two, every other slope of the next one stands behind those of
    the last.
    """

    def steps(n: int) -> list[float]:
        return [2.0 ** (-8 * (i + 1) / n) for i in range(n)]

    power = 1 << (heads.bit_length() - 1)
    return steps(power) + steps(2 * power)[::2][: heads - power]
