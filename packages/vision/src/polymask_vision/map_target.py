"""What is known of the pixels of each patch, as a target: true depth, true classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Batch, Tokens, UserError
from polymask.types import Count, Fact, Whole
from polymask_vision.datasets.maps import LABELS, VALUES
from polymask_vision.tokenizers import patches_of


class Map(nn.Module):
    """The map of an image at each patch: means of values, or shares of classes, of its cells.

    A network that is trained to tell it from images is a teacher of depth or of segmentation.

    Args:
        layer: entry of the batch: ``value_map``, float ``[B, H, W]``, NaN unknown; or ``label_map``, int64,
            -1 unknown.
        size: height and width of images in pixels, from the tokenizer.
        patch_size: side of a patch in pixels, from the tokenizer.
        map_classes: how many classes label maps have, from the data.
        cells: along each side of a patch.
    """

    def __init__(
        self,
        *,
        layer: str = VALUES,
        size: Fact[Count | tuple[Count, Count]] = 224,
        patch_size: Fact[Count] = 16,
        map_classes: Fact[Whole] = 0,
        cells: Count = 2,
    ) -> None:
        super().__init__()
        if patch_size % cells:
            raise UserError(f"cells={cells}: give a number that divides patches of {patch_size} pixels")
        self.layer, self.classes = layer, map_classes if layer == LABELS else 0
        if layer == LABELS and not map_classes:
            raise UserError(f"layer={layer}: images of this data have no classes of pixels, use {VALUES}")
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else size
        self.patch_size, self.cells = patch_size, cells
        self.dim = cells**2 * max(self.classes, 1)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        """``[B, N, dim]`` float32, the cells of a patch by row, column; NaN where nothing of one is known."""
        if self.layer not in batch:
            raise UserError(
                f"a target of maps needs the {self.layer} of samples, and these have "
                f"{', '.join(sorted(set(batch) - {'id'}))}: use data that has it, such as vision/scenes"
            )
        found = batch[self.layer]
        if self.classes:
            known = found >= 0
            values = F.one_hot(found.clamp(min=0), self.classes).permute(0, 3, 1, 2).float()
        else:
            known, values = found.isfinite(), found[:, None].float()
        real = known[:, None].float()
        size = self.patch_size // self.cells
        total = F.avg_pool2d(torch.where(known[:, None], values, 0.0), size)
        means = total / F.avg_pool2d(real, size)  # 0 / 0 is NaN
        return patches_of(means, self.cells)

    def example(self, n: int, seed: int = 0) -> Batch:
        """Random maps of ``n`` images."""
        generator = torch.Generator().manual_seed(seed)
        shape = n, *self.size
        if self.classes:
            return {self.layer: torch.randint(self.classes, shape, generator=generator)}
        return {self.layer: torch.randn(shape, generator=generator)}
