"""torchaudio's Transformer and timm's blocks, run on the tokens they are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchaudio.models
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from polymask import UserError
from polymask.imports import Importer, Weights
from polymask.nn.blocks import Stack, initialise
from polymask.nn.positions import check_width, sincos
from polymask.types import Count, Fact, Positive, Share, Whole
from polymask_audio import imports


def convolutions(hop: int, dim: int) -> list[tuple[int, int, int]]:
    """The strided convolutions of wav2vec 2.0 at another rate: (channels, kernel, stride) of each.

    A stage of stride 2 for every 2 in the hop, the first stage takes what is left: at 16 kHz, a hop of
    320, strides 5, 2, 2, 2, 2, 2, 2 and kernels 10, 3, 3, 3, 3, 2, 2 as published; at 8 kHz one stage
    less. One output sees 1.25 hops at every rate.

    Raises:
        UserError: the hop is no multiple of 4.
    """
    if hop % 4:
        raise UserError(
            f"wav2vec 2.0's convolutions halve the rate again and again, and {hop} samples per token are no "
            "multiple of 4: resample to a multiple of 200 Hz (--data.rate 16000), or use audio/mel-frames"
        )
    halvings, first = 0, hop
    while first % 2 == 0 and (first > 5 or halvings < 2):
        halvings, first = halvings + 1, first // 2
    kernels = [3] * (halvings - 2) + [2, 2]
    return [(dim, 2 * first, first), *((dim, kernel, 2) for kernel in kernels)]


class Transformer(nn.Module):
    """torchaudio's wav2vec 2.0 and HuBERT encoder (Baevski et al. 2020; Hsu et al. 2021) on tokens.

    Tokens of raw samples (``audio/waveform``) go through the convolutions each by itself, which costs a
    fifth more than to convolve the whole recording, and hidden tokens need not be embedded. To that end
    every convolution is followed by a norm over channels, as in the published large models; the base
    models have one norm over all time after the first, through which all tokens, hidden or padding, meet.
    Other tokens (``audio/mel-frames``) begin at the projection.

    Place comes from a convolution over the tokens in their order: where some are left out, distances
    are those among the others.

    Args:
        in_dim: numbers per token, from the tokenizer.
        raw: tokens are samples of sound, from the tokenizer.
        hop: samples from one token to the next, from the tokenizer.
        dim: width.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        norm_first: norms before attention and feed-forward layers (large models), not behind (base).
        conv_dim: channels of the convolutions.
        conv_bias: whether they have biases, as in the published large models.
        kernel: tokens that the convolution over positions reaches across.
        groups: of that convolution.
        dropout: of attention, of both parts of a block, and before the first block.
        mlp_dropout: within the feed-forward layers; that of all others if none.
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
        dim: Count = 768,
        depth: Whole = 12,
        heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        norm_first: bool = False,
        conv_dim: Count = 512,
        conv_bias: bool = False,
        kernel: Count = 128,
        groups: Count = 16,
        dropout: float = 0.1,
        mlp_dropout: Share | None = None,
        layer_drop: Share = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads or dim % groups:
            raise UserError(f"encoder width {dim} is to be divisible by {heads} heads and {groups} groups")
        # without convolutions the extractor is thrown away: only its width matters
        layers = convolutions(hop, conv_dim) if raw else [(in_dim, 1, 1)]
        if raw and in_dim != hop * 5 // 4:
            raise UserError(
                f"wav2vec 2.0's convolutions see {hop * 5 // 4} samples of hops of {hop}, tokens have "
                f"{in_dim}: leave --tokenizer.window_ms at 1.25 times --tokenizer.hop_ms"
            )
        model = torchaudio.models.wav2vec2_model(
            extractor_mode="layer_norm",
            extractor_conv_layer_config=layers,
            extractor_conv_bias=conv_bias,
            encoder_embed_dim=dim,
            encoder_projection_dropout=dropout,
            encoder_pos_conv_kernel=kernel,
            encoder_pos_conv_groups=groups,
            encoder_num_layers=depth,
            encoder_num_heads=heads,
            encoder_attention_dropout=dropout,
            encoder_ff_interm_features=round(mlp_ratio * dim),
            encoder_ff_interm_dropout=dropout if mlp_dropout is None else mlp_dropout,
            encoder_dropout=dropout,
            encoder_layer_norm_first=norm_first,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        self.dim = self.out_dim = dim
        self.layer_drop = layer_drop
        self.extractor: Any = model.feature_extractor if raw else None
        self.encoder: Any = model.encoder
        self._initialise()

    def _initialise(self) -> None:
        """HuBERT's: normal(0.02) linear maps, He's convolutions, and one over positions that starts small."""
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in () if self.extractor is None else self.extractor.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
        conv = self.encoder.transformer.pos_conv_embed.conv
        conv.weight = torch.randn_like(conv.weight) * math.sqrt(4 / (conv.kernel_size[0] * self.dim))
        nn.init.zeros_(conv.bias)

    def imports(self) -> dict[str, Importer]:
        """Libraries whose models this encoder can begin with."""
        if self.extractor is None:
            return {}
        return {"torchaudio": imports.from_torchaudio, "transformers": imports.from_transformers}

    def adapt(self, weights: Weights, facts: Mapping[str, Any]) -> Weights:
        """Weights of torchaudio's wav2vec 2.0 and HuBERT as weights of this encoder."""
        return imports.adapt(weights)

    @property
    def blocks(self) -> Any:
        """Blocks of torchaudio, in order."""
        return self.encoder.transformer.layers

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.blocks)

    @property
    def feed_forwards(self) -> list[nn.Module]:
        """The feed-forward layer of each block."""
        return [block.feed_forward for block in self.blocks]

    def extract(self, values: Tensor) -> Tensor:
        """What the convolutions make of tokens ``[B, K, in_dim]``: ``[B, K, conv_dim]``; else the tokens."""
        if self.extractor is None:
            return values
        b, k, window = values.shape
        features: Tensor = self.extractor(values.reshape(b * k, window), None)[0]
        return features.view(b, k, -1)

    def project(self, features: Tensor) -> Tensor:
        """What :meth:`extract` gave to ``[B, K, dim]``."""
        projected: Tensor = self.encoder.feature_projection(features)
        return projected

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``."""
        return self.project(self.extract(values))

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K, dim]`` to ``[B, K, dim]``; ``position`` is taken from the order."""
        return self.layers(x, position, valid)[-1]

    def layers(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """The output of every block, ``[B, K, dim]`` each; the last is what ``forward`` gives."""
        transformer, attend = self.encoder.transformer, None
        if valid is not None:
            x = torch.where(valid[..., None], x, 0.0)
            attend = valid[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        # "norm first" is said of the stack here, and is the opposite of what it is of its blocks
        x = transformer._preprocess(x)
        states = []
        for layer in transformer.layers:
            out, _ = layer(x, attend)
            x = passed_over(x, out, self.layer_drop if self.training else 0.0)
            states.append(x)
        if not transformer.layer_norm_first:
            states[-1] = transformer.layer_norm(x)
        return states


def passed_over(x: Tensor, out: Tensor, rate: float) -> Tensor:
    """What a block makes of ``x``; with a probability of ``rate``, for the whole batch, ``x`` as it is."""
    if not rate:
        return out
    # a choice and no branch: nobody waits for the device, and every weight has a gradient
    return torch.where(torch.rand((), device=x.device) < rate, x, out)


class ViT(Stack):
    """A Vision Transformer of timm's blocks (Dosovitskiy et al. 2020) on any subset of tokens.

    Positions are fixed sines and cosines of time, or of time and frequency, so that sound may be of any
    length.

    Args:
        in_dim: numbers per token, from the tokenizer.
        dim: width; a multiple of 4 for patches.
        depth: blocks.
        heads: attention heads per block.
        mlp_ratio: width of the feed-forward layers over ``dim``.
        class_token: lead the sequence with a class token (it has no position).
        drop_path: stochastic depth rate of the last block, rising linearly from 0.
    """

    def __init__(
        self,
        *,
        in_dim: Fact[Count] = 256,
        dim: Count = 768,
        depth: Whole = 12,
        heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        class_token: bool = False,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"encoder width {dim} is not divisible by {heads} heads")
        check_width(dim, 2)
        self.dim = self.out_dim = dim
        self.prefix = int(class_token)
        self.proj = nn.Linear(in_dim, dim)
        self.class_token = nn.Parameter(0.02 * torch.randn(dim)) if class_token else None
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, qkv_bias=True, drop_path=rate, norm_layer=nn.LayerNorm)
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        initialise(self)

    @property
    def feed_forwards(self) -> list[nn.Module]:
        """The feed-forward layer of each block."""
        return [block.mlp for block in self.blocks]  # type: ignore[misc]

    def embed(self, values: Tensor) -> Tensor:
        """``[B, K, in_dim] -> [B, K, dim]``."""
        embedded: Tensor = self.proj(values)
        return embedded

    def begin(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the first block gets, ``[B, prefix + K, dim]``, and where attention may go."""
        if position.stride(0) == 0:  # the same in every sample: computed once
            position = position[:1]
        x = x + sincos(position, self.dim).to(x.dtype)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        if valid is None:
            return x, None
        return x, F.pad(valid, (self.prefix, 0), value=True)[:, None, None, :]
