"""Ways to degrade an image, for tasks of restoration: float ``[B, C, H, W]`` in [0, 1] to the same shape.

As in the release of Xie et al. 2022 (arXiv 2206.07706) for images of 224 pixels; nothing is scaled to others.
Chance comes from the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Step

Corruption = Callable[[Tensor, Tensor, Step], Tensor]
"""``(images, sample ids, step) -> images``."""


def low_resolution(x: Tensor, ids: Tensor, step: Step) -> Tensor:
    """Eight times smaller along each axis and back, bicubic, clipped to [0, 1] each time.

    Without antialiasing, as released: fine structure folds into what is left.
    """
    height, width = x.shape[-2:]
    size = [max(height // 8, 1), max(width // 8, 1)]
    small = F.interpolate(x, size, mode="bicubic").clamp(0, 1)
    return F.interpolate(small, [height, width], mode="bicubic").clamp(0, 1)


def blur(x: Tensor, ids: Tensor, step: Step) -> Tensor:
    """A Gaussian of standard deviation 5, cut off to a square of 7, 9, ... or 21 pixels, drawn per sample.

    Beyond its borders an image is mirrored, the border pixel not repeated.
    """
    reach = 3 + (step.noise(ids, 1) * 8).long()
    t = torch.arange(-10, 11, device=x.device)
    weight = torch.where(t.abs() <= reach, torch.exp(-0.5 * (t / 5.0) ** 2), 0.0).to(x.dtype)
    weight = (weight / weight.sum(dim=1, keepdim=True)).repeat_interleave(x.shape[1], dim=0)
    rows, columns = (_mirrored(n, 10, x.device) for n in x.shape[-2:])
    each = x[..., rows, :][..., columns].flatten(0, 1)[None]
    each = F.conv2d(each, weight[:, None, None, :], groups=each.shape[1])
    each = F.conv2d(each, weight[:, None, :, None], groups=each.shape[1])
    return each.view_as(x)


def _mirrored(n: int, reach: int, device: torch.device) -> Tensor:
    """Indices of n sites and of ``reach`` beyond either end, mirrored as often as it takes."""
    turn = max(2 * (n - 1), 1)
    place = torch.arange(-reach, n + reach, device=device).abs() % turn
    return torch.minimum(place, turn - place)


def noise(x: Tensor, ids: Tensor, step: Step) -> Tensor:
    """Gaussian noise of standard deviation 75 / 255, not clipped."""
    return x + 75 / 255 * step.normal(ids, x[0].numel()).view_as(x)


CORRUPTIONS: Mapping[str, Corruption] = {
    "super-resolution": low_resolution,
    "deblurring": blur,
    "denoising": noise,
}
"""By the name of the task that undoes each."""
