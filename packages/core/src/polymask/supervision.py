"""Labels in the batches of supervised systems."""

from __future__ import annotations

from torch import Tensor

from polymask.data import Dataset, SplitName
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
    return labels.long()


def with_labels(batch: Batch, labels: Tensor | None) -> Batch:
    """A batch with the labels of its samples as ``"label"``, int64 ``[B]``, if there are labels."""
    if labels is None:
        return batch
    ids = batch["id"]
    return {**batch, "label": labels.to(ids.device)[ids]}
