"""Sites whose score is beyond a threshold, as it is or with noise; gradient reaches a score that learns."""

from __future__ import annotations

from torch import Tensor

from polymask.mask import Mask
from polymask.maskings.choose import score_of
from polymask.protocols import Request
from polymask.types import Positive, Share


class Threshold:
    """Hide sites whose score is above a threshold: how many, the scores say, all or none at the extremes.

    Where the score requires gradient, the mask is of numbers that are 0 or 1, and passes its gradient on to
    the score as if it were the score itself (straight-through: Bengio et al. 2013, arXiv 1308.3432). Else it
    is of bool.

    Args:
        threshold: what a score is compared with.
        largest: hide sites whose score is above it; False for those at it or below.
    """

    def __init__(self, *, threshold: float = 0.5, largest: bool = True) -> None:
        self.threshold, self.largest = threshold, largest

    def __call__(self, request: Request) -> Mask:
        score = score_of(request, "core/threshold")
        above = score > self.threshold
        return _mask(above if self.largest else ~above, score if self.largest else -score, request)


class Gumbel:
    """Hide sites at random, by logits to which one Gumbel number each is added, then a threshold.

    A site of logit l is hidden with probability 1 - exp(-exp(l)) at the threshold of 0.5: 0.63 at 0, 0.31 at
    -1, 0.93 at 1 (MaskUNet, Wang et al. 2025, arXiv 2505.03097; not the sigmoid of l, which the difference of
    two Gumbel numbers would give). Where the score requires gradient, the mask is of numbers that are 0 or 1,
    with the gradient of sigmoid((l + g) / temperature) at that noise g. Else it is of bool.

    Args:
        temperature: of the sigmoid, which gradient goes by: the smaller, the steeper.
        threshold: what the sigmoid is compared with.
        largest: scores are logits of being hidden; False for logits of staying visible.
    """

    def __init__(self, *, temperature: Positive = 1.0, threshold: Share = 0.5, largest: bool = True) -> None:
        self.temperature, self.threshold, self.largest = temperature, threshold, largest

    def __call__(self, request: Request) -> Mask:
        score = score_of(request, "core/gumbel")
        uniform = request.step.noise(request.ids, request.sites, request.stream).to(score.device)
        # infinite once in 2^24, where the site is decided and its gradient 0
        chance = ((score.float() - (-uniform.log()).log()) / self.temperature).sigmoid()
        drawn = chance > self.threshold
        return _mask(drawn if self.largest else ~drawn, chance if self.largest else -chance, request)


def _mask(hidden: Tensor, slope: Tensor, request: Request) -> Mask:
    """A mask that is ``hidden`` in value and ``slope`` in gradient; padding is neither hidden nor learned."""
    if request.valid is not None:
        hidden = hidden & request.valid
    if not slope.requires_grad:
        return Mask(hidden, valid=request.valid)
    passed = slope - slope.detach()  # exactly 0
    if request.valid is not None:
        passed = passed * request.valid
    return Mask(hidden.to(slope.dtype) + passed, valid=request.valid)
