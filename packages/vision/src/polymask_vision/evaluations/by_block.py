"""How far each block of an encoder looks, and how many directions its features take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from polymask import UserError
from polymask.data import evenly
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.types import Count
from polymask_vision.depth import RANK, SPAN, lines_by_depth

if TYPE_CHECKING:
    from polymask.run import Run

NAMES = {SPAN: "span", RANK: "rank"}
"""What lines by depth are called in a table, which has a column for each block."""


class ByBlock:
    """Attention span of each block and effective rank behind it, of held-out images that are seen whole.

    The span is in patches, the mean distance from a patch to those that it attends to; the rank is that of
    the features of all patches of all images together (:mod:`polymask_vision.depth`). It is what LUT (Kim et
    al. 2023, arXiv 2310.13593) sets beside that of MAE.

    Args:
        images: how many to look at, evenly spaced; all at once.
    """

    def __init__(self, *, images: Count = 128) -> None:
        self.images = images

    def __call__(self, run: Run) -> Iterator[Measurement]:
        samples = run.data.split("test")
        (batch,) = batches(samples, evenly(len(samples), self.images), batch_size=self.images)
        for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            with evaluating(system):
                here = on_device(batch, system)
                lines = lines_by_depth(system.backbone, system.tokenizer(here))
            if not lines:
                raise UserError(
                    f"{type(system.backbone).__name__} does not let its blocks be run one by one: "
                    "this is for vision/vit and others that do"
                )
            for title, name in NAMES.items():
                for block, value in enumerate(lines[title].tolist()[1:], start=1):
                    yield Measurement(row, f"{name}, block {block}", value)
