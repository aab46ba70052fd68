"""Objects in boxes as tokens: their features on a grid, and the same cells of their crops.

Shapes: B images, n objects of an image, O = B * n, N cells of a crop, C channels, h and w pixels of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymask import Batch, Tokens, UserError
from polymask.protocols import sample_ids
from polymask_vision.boxes import CLEAN, boxes_of
from polymask_vision.pyramid import FeaturePyramid, Levels, join_levels, region_features
from polymask_vision.tokenizers import Patches

MOST_OBJECTS = 1 << 20
"""Objects of an image that have chance of their own."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a batch.

    Args:
        boxes: ``[B, n, 4]`` in pixels.
        valid: bool ``[B, n]``, False on padding.
        batch: their crops in [0, 1], ``[O, C, h, w]``, and an id of each, for a masking and a target.
        crops: the same crops, cut into cells.
        tokens: their features, one for each cell.
    """

    boxes: Tensor
    valid: Tensor
    batch: Batch
    crops: Tokens
    tokens: Tokens

    def largest(self) -> Tensor:
        """The row of the largest object of each image, int64 ``[B]``."""
        b, n = self.valid.shape
        low, high = self.boxes.view(b, n, 2, 2).unbind(2)
        best = ((high - low).prod(2) * self.valid).argmax(1)
        rows: Tensor = torch.arange(b, device=best.device) * n + best
        return rows


class ObjectTokens(nn.Module):
    """Cuts the objects of a batch out of a feature pyramid and out of the image, cell by cell.

    All levels are brought to the stride of one and joined. RoIAlign makes a feature of each cell, and two
    convolutions of 1 x 1, the first to half the width, bring it to the width of the pixels of a cell, before
    a norm. Crops are taken of the image before its colours were augmented, where the data have it.

    Args:
        backbone: gives the levels.
        tokenizer: cuts crops into cells.
        pyramid_dim: width of the levels of the pyramid.
        level: whose stride is taken.
        mean: per channel, what was subtracted from values in [0, 1].
        std: per channel, what they were divided by.
        why: what needs boxes, and what to do where there are none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Levels,
        tokenizer: Patches,
        *,
        pyramid_dim: int,
        level: int,
        mean: Sequence[float],
        std: Sequence[float],
        why: str,
    ) -> None:
        super().__init__()
        if level >= len(backbone.strides):
            raise UserError(f"level={level}: the backbone has levels 0 to {len(backbone.strides) - 1}")
        self.pyramid, self.level, self.why = FeaturePyramid(backbone, pyramid_dim), level, why
        width, cell = len(backbone.strides) * pyramid_dim, tokenizer.provides["in_dim"]
        self.project = nn.Sequential(
            nn.Conv2d(width, width // 2, 1), nn.ELU(), nn.Conv2d(width // 2, cell, 1)
        )
        self.norm = nn.LayerNorm(cell)
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(list(std))[:, None, None], persistent=False)

    def forward(self, batch: Batch, tokenizer: Patches) -> Objects:
        """The objects of a batch of images with boxes.

        Raises:
            UserError: there are no boxes.
        """
        image = batch[tokenizer.key]
        boxes_Bn4, valid_Bn = boxes_of(batch, self.why)
        clean = (batch.get(CLEAN, image).float() * self.std + self.mean).clamp(0, 1)
        crops = region_features([clean], [1], boxes_Bn4, tokenizer.size).flatten(0, 1)
        number = torch.arange(boxes_Bn4.shape[1], device=image.device)
        ids = sample_ids(batch).to(image.device)[:, None] * MOST_OBJECTS + number
        made = {tokenizer.key: crops, "id": ids.flatten()}
        cells = tokenizer(made)
        joined = join_levels(self.pyramid(image), self.level)
        regions = region_features([joined], [self.pyramid.strides[self.level]], boxes_Bn4, tokenizer.grid)
        values_OND = self.norm(self.project(regions.flatten(0, 1)).flatten(2).transpose(1, 2))
        return Objects(boxes_Bn4, valid_Bn, made, cells, Tokens(values_OND, cells.position, cells.grid))

    def normalised(self, crops: Tensor) -> Tensor:
        """Crops in [0, 1] in the units of the data."""
        return (crops - self.mean) / self.std
