"""How far away objects are, told from a vector of each and from the others in the image.

Shapes: B images, n objects of an image, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Mask, UserError
from polymask.nn.blocks import Block

DistanceLoss = Literal["smooth-l1", "gaussian-nll"]


class DistanceHead(nn.Module):
    """One block of attention among the objects of an image, then two layers.

    Args:
        in_dim: width of a vector.
        heads: of the attention.
        dim: width between the two layers.
        loss: ``"smooth-l1"``, or ``"gaussian-nll"``, for which it tells a variance too.

    Raises:
        UserError: heads that do not divide the width, or no such loss.
    """

    def __init__(self, in_dim: int, heads: int, dim: int, loss: DistanceLoss) -> None:
        super().__init__()
        if loss not in ("smooth-l1", "gaussian-nll"):
            raise UserError(f"distance_loss={loss!r}: choose 'smooth-l1' or 'gaussian-nll'")
        if in_dim % heads:
            raise UserError(f"{heads} object_heads do not divide the width of the encoder, {in_dim}")
        self.gaussian = loss == "gaussian-nll"
        self.among = Block(in_dim, heads)
        self.layers = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), nn.Linear(dim, 1 + self.gaussian))

    def forward(self, vectors_BnD: Tensor, valid_Bn: Tensor) -> Tensor:
        """Distances, and the logarithms of variances where these are told: float32 ``[B, n, 1 or 2]``."""
        own = torch.eye(valid_Bn.shape[1], dtype=torch.bool, device=valid_Bn.device)
        # nobody attends to padding but padding itself, so that no row is empty
        x_BnD = self.among(vectors_BnD, attn_mask=(valid_Bn[:, None, :] | own)[:, None])
        told: Tensor = self.layers(x_BnD).float()
        return told

    def error(self, told: Tensor, truth_Bn: Tensor) -> Tensor:
        """What :meth:`forward` told costs, a mean over objects of known distance; 0 if there are none.

        Args:
            told: ``[B, n, 1 or 2]``.
            truth_Bn: NaN unknown, and in padding.
        """
        known = Mask(truth_Bn.isfinite())
        truth_Bn = torch.where(known.hidden, truth_Bn, 0.0)
        if not self.gaussian:
            return known.mean(F.smooth_l1_loss(told[..., 0], truth_Bn, reduction="none"))
        mean, log_variance = told.unbind(-1)
        return known.mean((log_variance + (mean - truth_Bn).square() * (-log_variance).exp()) / 2)
