"""Mixing samples and their labels: mixup (Zhang et al. 2017, arXiv 1710.09412), CutMix (Yun et al. 2019).

Both work on tokens of raw content that lie on one grid, whatever their modality: a weighted mean of the
tokens of two samples, or a box of tokens of the one within the other.

Shapes: B samples, N tokens, C numbers per token, P axes of the grid.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.nn.positions import coordinates
from polymask.step import Step
from polymask.tokens import Tokens

STREAM = 71
"""Of the draws here, apart from those of maskings."""


class Mixup(nn.Module):
    """Mixes each sample of a batch with the one at its place counted from the end.

    Every sample draws its own share, and by the toss of a coin which of the two ways where both are on
    (``elem`` in timm; MAE draws once for a batch). The box of CutMix has whole tokens, and the share is that
    of the tokens that were left; in the release it has whole pixels.

    Args:
        mixup: alpha of the Beta distribution of shares; 0 for none.
        cutmix: the same of CutMix.
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        super().__init__()
        self.mixup, self.cutmix = mixup, cutmix
        # 0, which nothing is drawn of, stands for a distribution that is not there
        table = [_quantiles(alpha or 1.0) for alpha in (mixup, cutmix)]
        self.register_buffer("quantiles", torch.stack(table), persistent=False)
        self.quantiles: Tensor

    def forward(self, tokens: Tokens, ids: Tensor, step: Step) -> tuple[Tokens, Tensor]:
        """The mixed tokens, and how much each sample has of its own, ``[B]`` in [0, 1]."""
        assert tokens.grid is not None
        own, other, axes = tokens.values, tokens.values.flip(0), len(tokens.grid)
        noise = step.noise(ids, 2 + axes, STREAM)
        coin, uniform, centre_BP = noise[:, 0], noise[:, 1], noise[:, 2:]
        cut_B = coin < 0.5 if self.mixup and self.cutmix else torch.full_like(coin, self.cutmix > 0).bool()
        share_B = torch.where(cut_B, _at(self.quantiles[1], uniform), _at(self.quantiles[0], uniform))
        lengths = torch.tensor(tokens.grid, device=own.device)
        place_NP = (coordinates(tokens.grid).to(own.device) + 0.5) / lengths
        side_B = (1 - share_B) ** (1 / axes)
        box_BN = ((place_NP - centre_BP[:, None]).abs() < side_B[:, None, None] / 2).all(dim=2)
        boxed = torch.where(box_BN[..., None], other, own)
        blended = torch.lerp(other, own, share_B[:, None, None].to(own.dtype))
        share_B = torch.where(cut_B, 1 - box_BN.float().mean(dim=1), share_B)
        return replace(tokens, values=torch.where(cut_B[:, None, None], boxed, blended)), share_B


def require_grid(tokens: Tokens) -> None:
    """Refuse tokens that cannot be mixed.

    Raises:
        UserError: they are no numbers on one grid.
    """
    if tokens.grid is None or tokens.valid is not None or tokens.ids is not None:
        raise UserError(
            "mixup and cutmix need numbers on a grid that all samples share, pixels or a spectrogram, and "
            "these tokens are ids, have no grid or differ in number: give --mixup 0 --cutmix 0, or data of "
            "one length"
        )


def _quantiles(alpha: float) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at equal distances."""
    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0, 1, 1025))).float()


def _at(quantiles: Tensor, uniform: Tensor) -> Tensor:
    """Draws by their distribution's quantiles, interpolated."""
    place = uniform * (len(quantiles) - 1)
    below = place.long()
    return torch.lerp(quantiles[below], quantiles[(below + 1).clamp(max=len(quantiles) - 1)], place - below)
