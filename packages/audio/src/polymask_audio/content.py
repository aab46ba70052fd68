"""What tokens hold, as a target: frames or patches of a spectrogram, or samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymask import Tokens
from polymask.types import Count, Fact


class Content(nn.Module):
    """The numbers of each token, normalised within the token or as they are.

    Args:
        in_dim: numbers per token, from the tokenizer.
        norm: subtract the mean of the token and divide by its standard deviation, with 1e-6 inside the
            root, as Huang et al. 2022 (arXiv 2207.06405) do with patches of spectrograms.
    """

    def __init__(self, *, in_dim: Fact[Count] = 256, norm: bool = False) -> None:
        super().__init__()
        self.dim, self.norm = in_dim, norm

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, in_dim]`` float32."""
        values = tokens.values.detach().float()
        if not self.norm:
            return values
        mean, std = self._statistics(values)
        return (values - mean) / std

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Predicted numbers in the units of the tokens, and the statistics that took."""
        if not self.norm:
            return prediction.float(), "predicted as they are"
        mean, std = self._statistics(tokens.values.float())
        return prediction.float() * std + mean, "each token scaled by its own true mean and variance"

    @staticmethod
    def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return mean, (var + 1e-6).sqrt()
