"""What is predicted about an image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymask import Tokens


class Pixels(nn.Module):
    """The pixels of each patch, normalised within the patch or as they are.

    Args:
        in_dim: numbers per token, from the tokenizer.
        patch_norm: subtract the mean of the patch and divide by its standard deviation (He et
            al. 2021: unbiased variance, 1e-6 inside the root).
    """

    def __init__(self, *, in_dim: int = 768, patch_norm: bool = False) -> None:
        super().__init__()
        self.dim, self.patch_norm = in_dim, patch_norm

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, in_dim]`` float32."""
        values = tokens.values.detach().float()
        if not self.patch_norm:
            return values
        mean, std = self._statistics(values)
        return (values - mean) / std

    def invert(self, prediction: Tensor, tokens: Tokens) -> tuple[Tensor, str]:
        """Predicted pixels in the units of the data, and the statistics that took."""
        if not self.patch_norm:
            return prediction.float(), "predicted pixels as they are"
        mean, std = self._statistics(tokens.values.float())
        return prediction.float() * std + mean, "each patch scaled by its own true mean and variance"

    @staticmethod
    def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return mean, (var + 1e-6).sqrt()


class Variance(nn.Module):
    """Pixel variance of each patch: a score for maskings that hide by score, as contrast does.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    dim = 1

    def __init__(self, *, in_dim: int = 768) -> None:
        super().__init__()

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, 1]`` float32."""
        return tokens.values.float().var(dim=-1, keepdim=True)
