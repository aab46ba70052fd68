"""Labels in the batches of supervised systems."""

from __future__ import annotations

from torch import Tensor

from polymask.data import Dataset, FileDataset, SplitName
from polymask.errors import UserError
from polymask.protocols import Batch
from polymask.systems.base import System


def labels_for(system: System, data: Dataset, split: SplitName) -> Tensor | None:
    """The labels of a split if a system needs them: int64 ``[samples]``, -1 where unknown; else None.

    Raises:
        UserError: it needs them, and the data set has none.
    """
    if not system.supervised:
        return None
    labels = data.labels(split)
    if labels is None:
        raise UserError(
            f"{type(system).__name__} learns from labels, and the {split} split of this data has none: "
            "choose data with classes, such as a folder with one subfolder per class"
        )
    return checked(labels, data, split)


def checked(labels: Tensor, data: Dataset, split: SplitName) -> Tensor:
    """The labels that a data set gives of a split, int64 ``[samples]``.

    Raises:
        UserError: they are not one whole number per sample, each that of a class or -1.
    """
    # samples in memory would be prepared to be counted
    samples = data.splits[split] if isinstance(data, FileDataset) else data.split(split)
    n, classes = len(samples), len(data.classes or ())
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if labels.shape != (n,) or labels.is_floating_point() or low < -1 or (classes and high >= classes):
        raise UserError(
            f"the {split} split has {n} samples of {classes or 'unnamed'} classes, and labels {labels.dtype} "
            f"{list(labels.shape)} from {low} to {high}: labels(name) must give int64 [samples], each the "
            "number of a class, from 0 on, or -1"
        )
    return labels.long()


def with_labels(batch: Batch, labels: Tensor | None) -> Batch:
    """A batch with the labels of its samples as ``"label"``, int64 ``[B]``, if there are labels."""
    if labels is None:
        return batch
    ids = batch["id"]
    return {**batch, "label": labels.to(ids.device)[ids]}
