"""How alike views are by one modality and by another: agreement of cosines, for embeddings that match."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.mask import Mask
from polymask.objectives import require_alike
from polymask.objectives.matching import unit
from polymask.types import NotNegative


class Cyclic:
    """Two squared differences of cosines, summed over all pairs of sites of a sample.

    With I and J two embeddings of each site, such as of a camera view's video and poses: ``cross`` compares
    I of one site and J of another with J of the one and I of the other; ``within`` compares two sites by I
    with the same two by J. CyCLIP (Goel et al. 2022, arXiv 2205.14459) has both over the samples of a batch;
    PreViPS (arXiv 2502.13883) over the views of a sample. Gradient reaches both sides.

    Both are 0 where all embeddings are equal: they mean something only beside a loss that tells samples
    apart, such as core/infonce. They are of cosines, without a temperature.

    Args:
        cross: weight of the first.
        within: weight of the second.
    """

    def __init__(self, *, cross: NotNegative = 1.0, within: NotNegative = 1.0) -> None:
        if not cross and not within:
            raise UserError("cross and within are both 0: give one of them a weight")
        self.cross, self.within = cross, within

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        """``[B, N, D]`` each to one number in float32, a mean over samples.

        With a mask, only pairs of hidden sites count, and only samples that have such a site.
        """
        shape = prediction.shape
        require_alike(prediction, target)
        real_BN = torch.ones(shape[:2], dtype=torch.bool, device=prediction.device)
        if mask is not None:
            real_BN = mask.hidden > 0
        one, other = (unit(torch.where(real_BN[..., None], x, 0)) for x in (prediction, target))
        with torch.autocast(one.device.type, enabled=False):
            across_BNN, own_BNN, its_BNN = (
                x @ y.transpose(1, 2) for x, y in ((one, other), (one, one), (other, other))
            )
            cross_B = (across_BNN - across_BNN.transpose(1, 2)).square().sum((1, 2))
            within_B = (own_BNN - its_BNN).square().sum((1, 2))
        loss_B = self.cross * cross_B + self.within * within_B
        return Mask(real_BN.any(1)).mean(loss_B)
