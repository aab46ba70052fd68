"""How well what a system's answers depend on coincides with objects: average precision of pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor

from polymask import Batch, Step, System, UserError
from polymask.data import evenly
from polymask.evaluation.features import batches, evaluating, on_device
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.base import Explains
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_vision.datasets.maps import LABELS, VALUES

if TYPE_CHECKING:
    from polymask.run import Run

CENTRE, FLAT = "nearness to the centre", "the same everywhere"
"""Rows of what looks at no image."""

METRIC = "pixel AP"


class Localisation:
    """Average precision of finding the pixels of objects by what answers depend on (``explain``).

    An object is every class of a ``label_map`` but 0, the ground; unknown pixels (-1) do not count. Each
    image is ranked by itself, its map being interpolated bilinearly to its pixels; the mean is over test
    images that have both objects and ground. Beside the trained system stand the same untrained, nearness to
    the centre of the image, where photographers put objects, and a map that is the same everywhere, which
    scores the share of objects. COMET's figure (Zhang et al. 2024) is an area under the same curve at 19
    thresholds.

    Args:
        images: maximum number of test images, evenly spaced.
        seed: of explanations that are drawn.
        batch_size: images per batch.
    """

    def __init__(self, *, images: Count | None = 500, seed: int = 0, batch_size: Count = 16) -> None:
        self.images, self.seed, self.batch_size = images, seed, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if implementing(run.system, Explains) is None:
            raise UserError(
                f"{type(run.system).__name__} does not say what its answers depend on: take a run of a "
                "system with explain, such as vision/comet"
            )
        samples = run.data.split("test")
        index = evenly(len(samples), self.images)
        found: dict[str, list[float]] = {}
        with evaluating(run.system) as one, evaluating(run.untrained()) as two:
            rows: dict[str, Callable[[Batch], Tensor]] = {
                TRAINED: self._explained(one),
                UNTRAINED: self._explained(two),
                CENTRE: near_centre,
                FLAT: lambda batch: torch.zeros(batch[LABELS].shape),
            }
            for batch in batches(samples, index, batch_size=self.batch_size):
                if LABELS not in batch:
                    raise UserError(
                        f"localisation needs to know where objects are, and samples of this data have "
                        f"{', '.join(sorted(set(batch) - {'id'}))} alone: use data whose samples have "
                        f"{LABELS!r}, as those of vision/stamps"
                    )
                for name, row in rows.items():
                    found.setdefault(name, []).extend(precisions(row(batch), batch[LABELS]))
        if not found[TRAINED]:
            raise UserError(f"none of {len(index)} test images has both an object and ground")
        for name, values in found.items():
            yield Measurement.share(name, METRIC, values)

    def _explained(self, system: System) -> Callable[[Batch], Tensor]:
        explains: Explains = implementing(system, Explains)

        def maps(batch: Batch) -> Tensor:
            seen = {name: x for name, x in batch.items() if name not in (LABELS, VALUES)}
            return explains.explain(on_device(seen, system), Step(0, 1, self.seed)).cpu()

        return maps


def near_centre(batch: Batch) -> Tensor:
    """How near each pixel of the label maps of a batch is to the centre, ``[B, H, W]``."""
    rows, columns = (torch.linspace(-1, 1, n) for n in batch[LABELS].shape[1:])
    return -(rows[:, None].square() + columns.square()).expand(batch[LABELS].shape)


def precisions(maps: Tensor, labels: Tensor) -> list[float]:
    """Average precision of each image that has both objects and ground.

    Args:
        maps: float ``[B, h, w]``, interpolated to the pixels where they are coarser.
        labels: int64 ``[B, H, W]``: 0 for ground, above for objects, -1 unknown.
    """
    if maps.dim() != 3:
        raise UserError(f"maps of {list(maps.shape)} are none of images, [B, rows, columns]")
    if maps.shape != labels.shape:
        size = (labels.shape[1], labels.shape[2])
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    known = ((label[label >= 0] > 0, each[label >= 0]) for each, label in zip(maps, labels, strict=True))
    both = ((truth, score) for truth, score in known if truth.any() > truth.all())
    return [float(average_precision_score(truth, score)) for truth, score in both]
