"""How well a network that was trained to segment images does it, on the domain that it was adapted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Dataset, evenly
from polymask.evaluation import dense
from polymask.evaluation.features import batches, evaluating
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.types import Count
from polymask_vision.datasets.maps import LABELS

if TYPE_CHECKING:
    from polymask.run import Run


class Segmentation:
    """Accuracy and mean intersection over union of the pixels of test images, by the run's own decoder.

    Nothing is fitted. Of data of two domains both are measured, the target by labels that training never had;
    a domain without labels is left out. Beside the trained network stand the same untrained, and the class
    that is most frequent in the test images. The mean is over classes that occur in them, and intervals are
    over images.

    Args:
        images: maximum number of images of each domain, evenly spaced.
        by_class: whether to give the intersection over union of each class.
        batch_size: images per batch.
    """

    def __init__(self, *, images: Count | None = 500, by_class: bool = True, batch_size: Count = 16) -> None:
        self.images, self.by_class, self.batch_size = images, by_class, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        if not hasattr(run.system, "segment"):
            raise UserError(
                f"{type(run.system).__name__} segments no images by itself: give a run of "
                "vision/masked-feature, or measure its features with vision/dense"
            )
        names = getattr(run.data, "map_classes", None) if self.by_class else None
        domains = {name: getattr(run.data, name, None) for name in ("target", "source")}
        known = {name: data for name, data in domains.items() if data is not None} or {"": run.data}
        known = {name: data for name, data in known.items() if LABELS in data.split("test")[0]}
        if not known:
            raise UserError(f"no test image of {run.name} has a class at each pixel")
        with evaluating(run.system) as one, evaluating(run.untrained()) as two:
            for name, data in known.items():
                for row, kept in self._counts({TRAINED: one, UNTRAINED: two}, data).items():
                    for found in dense.scored(row, kept, False, names):
                        yield dataclasses.replace(found, metric=f"{name} {found.metric}".strip())

    def _counts(self, systems: dict[str, Any], data: Dataset) -> dict[str, list[Tensor]]:
        """Counts of each image by row, see :func:`polymask.evaluation.dense.counts`."""
        samples = data.split("test")
        index = evenly(len(samples), self.images)
        kept: dict[str, list[Tensor]] = {row: [] for row in systems}
        truths: list[Tensor] = []
        classes = getattr(systems[TRAINED], "classes", None)
        for batch in batches(samples, index, batch_size=self.batch_size):
            truth = batch[LABELS]
            known = truth >= 0
            if classes is not None and (most := int(truth.max())) >= classes:
                raise UserError(
                    f"a test image has pixels of class {most}, and the network knows {classes} classes, 0 to "
                    f"{classes - 1}: say what is unknown (--data.ignore), or train it with more"
                )
            truths += [one[there] for one, there in zip(truth, known, strict=True) if there.any()]
            for row, system in systems.items():
                image = batch[data.key].to(next(system.parameters()).device)
                said = system.segment(image).argmax(1).cpu()
                kept[row] += [
                    dense.counts(guess[there], one[there])
                    for guess, one, there in zip(said, truth, known, strict=True)
                    if there.any()
                ]
        if not truths:
            raise UserError(f"no pixel of {len(index)} test images has a class that is known")
        usual = torch.cat(truths).bincount().argmax()
        return {**kept, dense.MAJORITY: [dense.counts(usual.expand(len(one)), one) for one in truths]}
