"""Which of a batch belongs to which: contrast between predictions and the targets of all samples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import distributed
from polymask.errors import UserError
from polymask.mask import Mask
from polymask.objectives import require_alike
from polymask.protocols import Objective
from polymask.types import Positive

HIGHEST = 100.0
"""Most that a learned temperature multiplies cosines by (CLIP)."""

FLOOR = 1e-8
"""Added to identities before their logarithm is taken (SDM)."""


class Matching(nn.Module):
    """Draws each prediction to the target of its own site, and away from those of all others.

    Sites of the whole batch are each other's candidates, over all processes where gradients are enabled:
    each then computes the loss of all. With P the softmax of cosines over temperature, and Q the candidates
    of the same identity, alike and of sum 1: the cross-entropy of Q given P (InfoNCE: van den Oord et al.
    2018, arXiv 1807.03748; CLIP: Radford et al. 2021, arXiv 2103.00020), or the divergence of P from Q (SDM:
    Jiang and Ye 2023, arXiv 2303.12501). Gradient reaches both sides.

    Args:
        temperature: that cosines are divided by; where it is learned, at first.
        learned: learn the temperature, down to 0.01.
        symmetric: score targets against all predictions too. InfoNCE is the mean of both directions, SDM
            their sum.
        reverse: SDM rather than InfoNCE.
    """

    def __init__(
        self,
        *,
        temperature: Positive = 0.07,
        learned: bool = False,
        symmetric: bool = True,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.symmetric, self.reverse = temperature, symmetric, reverse
        # with an axis, since FSDP shards no scalar
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)])) if learned else None

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        mask: Mask | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """One number in float32.

        Args:
            prediction: ``[B, N, D]``.
            target: the same; the match of each prediction.
            mask: which sites take part, the hidden ones; all without it.
            identity: int64 ``[B, N]``: sites of one number match each other. By default each site matches
                its own target alone.
        """
        shape = prediction.shape
        require_alike(prediction, target)
        real = torch.ones(shape[:2], dtype=torch.bool, device=prediction.device)
        if mask is not None:
            real = mask.hidden > 0
        one, other = (unit(torch.where(real[..., None], x, 0).flatten(0, 1)) for x in (prediction, target))
        real = real.flatten()
        names = None if identity is None else identity.flatten()
        if torch.is_grad_enabled():  # evaluations run in one process alone
            one, other, real = (distributed.gather(x) for x in (one, other, real))
            names = None if names is None else distributed.gather(names)
        if names is None:
            names = torch.arange(len(real), device=real.device)
        same = (names[:, None] == names[None, :]) & real[:, None] & real[None, :]
        with torch.autocast(one.device.type, enabled=False):
            logits = self._scale() * one @ other.T
        loss = self._rows(logits, same, real)
        if self.symmetric:
            back = self._rows(logits.T, same.T, real)
            loss = loss + back if self.reverse else (loss + back) / 2
        return loss

    def _rows(self, logits: Tensor, same: Tensor, real: Tensor) -> Tensor:
        """Mean over the rows that take part."""
        log_p = logits.masked_fill(~real, torch.finfo(logits.dtype).min).log_softmax(dim=1)
        q = same / same.sum(1, keepdim=True).clamp(min=1)
        each = log_p.exp() * (log_p - (q + FLOOR).log()) if self.reverse else -q * log_p
        # a candidate that takes no part has probability 0, and adds nothing
        rows = torch.where(real, each, 0).sum(1)
        return torch.where(real, rows, 0).sum() / real.sum().clamp(min=1)

    def _scale(self) -> Tensor | float:
        if self.log_scale is None:
            return 1 / self.temperature
        return self.log_scale.float().exp().clamp(max=HIGHEST).squeeze(0)


def require_matching(what: str, objective: Objective, choices: str = "core/infonce or core/sdm") -> Matching:
    """An objective that matches the samples of a batch.

    Args:
        what: who matches what, for the message.
        objective: what was given.
        choices: what to give.

    Raises:
        UserError: it scores each sample by itself.
    """
    if not isinstance(objective, Matching):
        raise UserError(f"{what}, which {type(objective).__name__} does not: use --match_objective {choices}")
    return objective


def unit(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 (float64 stays)."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
