"""Distance between spectra."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.objectives import SiteMean, _hidden, _pair


class Spectral(SiteMean):
    """Distance of complex numbers to a power, ``|prediction - target| ** gamma``.

    The last axis holds complex numbers as pairs, real part first: ``[B, bins, 2 C]``. With gamma 1 it
    is the loss of Xie et al. 2022 (arXiv 2206.07706). With gamma 2, over all bins of an orthonormal
    spectrum, it is the mean squared error of the signal itself (Parseval).

    Args:
        gamma: power of the distance.
        average: ``"bins"``: all hidden bins of a batch count alike, so that samples with many
            outweigh others (the paper); ``"samples"``: all samples count alike.
    """

    def __init__(self, *, gamma: float = 1.0, average: Literal["bins", "samples"] = "bins") -> None:
        if gamma <= 0:
            raise UserError(f"gamma must be positive, got {gamma}")
        if average not in ("bins", "samples"):
            raise UserError(f"average={average!r}: choose 'bins' or 'samples'")
        self.gamma, self.average = gamma, average

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``[B, bins, 2 C]`` each to float32 ``[B, bins]``, the mean over channels."""
        x, y = _pair(prediction, target)
        if x.shape[-1] % 2:
            raise ValueError(f"complex numbers come in pairs, and the last axis has {x.shape[-1]}")
        squared = (x - y).view(*x.shape[:-1], -1, 2).square().sum(dim=-1)
        # the root has no gradient at 0
        distance: Tensor = (squared + 1e-12).pow(self.gamma / 2)
        return distance.mean(dim=-1)

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        """Their mean over hidden bins, or over all where there is no mask."""
        if mask is None or self.average == "bins":
            return super().__call__(prediction, target, mask)
        share = mask.hidden / mask.hidden.sum(dim=1, keepdim=True).clamp(min=1)
        return Mask(share).mean(self.sites(prediction, _hidden(target, mask)))
