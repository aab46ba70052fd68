"""Self-training on two domains: images pasted into one another by class, augmentation, teacher and loss.

Facts of DACS (Tranheden et al. 2020, arXiv 2007.08702) as its line of work trains it, the release of
DAFormer.

Shapes: B images, C channels, H rows and W columns, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from polymask import Batch, Step, UserError
from polymask.maskings import ranks
from polymask.nn.teachers import EMATeacher
from polymask_vision.datasets.maps import LABELS
from polymask_vision.views import OTHER

JITTER, JITTERED, BLURRED = 0.2, 0.8, 0.5
"""Strength of the jitter of colours, and how many batches are jittered and blurred."""

SIGMA = (0.15, 1.15)
"""Of the blur, in pixels."""

CLASSES, COLOURS, WIDTHS, WHETHER = range(4)
"""Streams of chance, from the first one that is given."""


def half_of_classes(label_BHW: Tensor, ids: Tensor, classes: int, step: Step, stream: int) -> Tensor:
    """The pixels of half of the classes, drawn for each image, bool ``[B, H, W]``.

    Half, rounded up, of the classes that occur anywhere in the batch, of which unknown, -1, is one: in an
    image that has few of them it may be none, or all.

    Args:
        label_BHW: classes, -1 unknown.
        ids: of the samples.
        classes: their number, K.
        step: the source of chance.
        stream: the first of this module's.
    """
    number = label_BHW + 1
    every = torch.arange(classes + 1, device=number.device)
    there = (number.flatten() == every[:, None]).any(1)
    keys = step.bits(ids, classes + 1, stream + CLASSES).masked_fill(~there, torch.iinfo(torch.int64).max)
    chosen_BK = ranks(keys) < (there.sum() + 1) // 2  # those that are not there rank last
    return chosen_BK.gather(1, number.flatten(1)).view_as(number)


def augment(
    image_BCHW: Tensor, ids: Tensor, step: Step, stream: int, mean_C11: Tensor, std_C11: Tensor
) -> Tensor:
    """Normalised images with jittered colours in 8 of 10 batches, and blurred in 5 of 10.

    Whether is drawn for the whole batch, how for each image. Brightness, contrast, saturation and hue change
    by up to 0.2, in that order (the release: in any), as torchvision changes them; images of other than three
    channels have no saturation and hue. Blur is a Gaussian of 0.15 to 1.15 pixels within a tenth of the
    height and width.

    Args:
        image_BCHW: the images.
        ids: of the samples.
        step: the source of chance.
        stream: the first of this module's.
        mean_C11: that was subtracted from values in [0, 1].
        std_C11: that they were divided by.
    """
    u_2 = step.noise(ids.new_zeros(1), 2, stream + WHETHER)[0]
    image = image_BCHW * std_C11 + mean_C11
    u_B4 = step.noise(ids, 4, stream + COLOURS)
    image = torch.where(u_2[0] < JITTERED, jitter(image, JITTER * (2 * u_B4 - 1)), image)
    low, high = SIGMA
    sigma_B = torch.lerp(
        u_B4.new_tensor(low), u_B4.new_tensor(high), step.noise(ids, 1, stream + WIDTHS)[:, 0]
    )
    image = torch.where(u_2[1] < BLURRED, blur(image, sigma_B), image)
    return (image - mean_C11) / std_C11


def jitter(image_BCHW: Tensor, change_B4: Tensor) -> Tensor:
    """Images in [0, 1] with other brightness, contrast, saturation and hue, each by its own change."""
    brightness, contrast, saturation, hue = change_B4[:, :, None, None, None].unbind(1)
    x = ((1 + brightness) * image_BCHW).clamp(0, 1)
    x = torch.lerp(_grey(x).mean((2, 3), keepdim=True), x, 1 + contrast).clamp(0, 1)
    if x.shape[1] != 3:
        return x
    x = torch.lerp(_grey(x), x, 1 + saturation).clamp(0, 1)
    return _turned(x, hue)


def blur(image_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Images blurred by a Gaussian each, reflected at the border."""
    for axis in (2, 3):
        side = -(-image_BCHW.shape[axis] // 10)
        reach = (side - 1) // 2
        at = torch.arange(-reach, reach + 1, device=sigma_B.device)
        weight_BS = (-0.5 * (at / sigma_B[:, None]).square()).exp()
        weight_BS = weight_BS / weight_BS.sum(1, keepdim=True)
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        windows = F.pad(image_BCHW, pad, mode="reflect").unfold(axis, 2 * reach + 1, 1)
        image_BCHW = torch.einsum("bchws,bs->bchw", windows, weight_BS.to(windows))
    return image_BCHW


class BatchTeacher(EMATeacher):
    """An EMA teacher whose batch norms go by the batch in training, as its student's do; no dropout."""

    def train(self, mode: bool = True) -> BatchTeacher:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def momentum(self, step: Step) -> float:
        """That of the next step: the release has it follow before a step, never before the first."""
        return super().momentum(Step(step.index + 1, step.total, step.seed))


def pixel_loss(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, weighted, its mean over all pixels, of which unknown ones cost nothing.

    Args:
        logits: ``[B, K, H, W]``.
        label: int64 ``[B, H, W]``, -1 unknown.
        weight: ``[B, H, W]``; 1 by default.
    """
    loss = F.cross_entropy(logits.float(), label, reduction="none", ignore_index=-1)
    return loss.mean() if weight is None else (weight * loss).mean()


def require_domains(batch: Batch) -> Tensor:
    """The labels of the source, if there are images of a target beside them.

    Raises:
        UserError: there are not.
    """
    if missing := [name for name in (LABELS, OTHER) if name not in batch]:
        raise UserError(
            "adaptation needs labelled pixels of one domain and images of another, and samples of this data "
            f"have no {' and no '.join(missing)}: use data of two domains, such as drawn-domains, "
            "earth-domains or two-domains"
        )
    return batch[LABELS]


def _grey(x: Tensor) -> Tensor:
    """Luma, ``[B, 1, H, W]``."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Colours whose hue moves by a share of the circle, ``[B, 1, 1, 1]``; value and saturation stay."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    span = value - low
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    safe = torch.where(span > 0, span, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    place = (6 * turn + hue + x.new_tensor([5.0, 3.0, 1.0])[:, None, None]).remainder(6)
    return value - span * torch.minimum(place, 4 - place).clamp(0, 1)
