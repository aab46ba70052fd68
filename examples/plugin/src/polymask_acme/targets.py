"""Edges."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymask import Tokens, UserError
from polymask.types import Fact


class Edges(nn.Module):
    """Mean absolute difference of neighbouring pixels, downwards and across, for each channel.

    Args:
        patch_size: side of a patch in pixels, from the tokenizer.
        channels: image channels, from the tokenizer.
    """

    def __init__(self, *, patch_size: Fact[int], channels: Fact[int]) -> None:
        super().__init__()
        if patch_size < 2:
            raise UserError("acme/edges needs patches of two pixels or more: raise --tokenizer.patch_size")
        self.shape, self.dim = (patch_size, patch_size, channels), 2 * channels

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 2 * channels]`` float32."""
        patch = tokens.values.float().view(*tokens.shape, *self.shape)
        steps = [patch.diff(dim=axis).abs().mean(dim=(-3, -2)) for axis in (-3, -2)]
        return torch.cat(steps, dim=-1)
