"""A data set with some of its labelled training samples alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polymask.data.protocols import Dataset, Samples, SplitName
from polymask.data.splits import FileDataset
from polymask.data.wrapped import Some
from polymask.errors import UserError
from polymask.types import Share, Whole


def few_labels(*, data: Dataset, share: Share = 0.1, seed: Whole = 0) -> Dataset:
    """A data set whose training split is a share of the labelled samples of another; its test split stays.

    Each class keeps the same share, rounded, and at least one sample. Of one seed, a smaller share lies
    within a larger one.

    Args:
        data: the other data set.
        share: of the labelled training samples to keep, above 0.
        seed: of the choice.

    Raises:
        UserError: no share, or no labelled sample.
    """
    labels = data.labels("train")
    if labels is None or not (labels >= 0).any():
        raise UserError(
            "a share of the labels needs labels, and no training sample has one: give data with classes, "
            "such as a folder with one subfolder per class"
        )
    if not 0 < share <= 1:
        raise UserError(f"share={share}: choose one above 0, up to 1")
    missing = [name for k, name in enumerate(data.classes or ()) if not (labels == k).any()]
    if missing:
        warnings.warn(
            f"no training sample is labelled {', '.join(map(str, missing[:5]))}: such samples can only be "
            "classified wrongly",
            stacklevel=2,
        )
    return _with_train(data, stratified(labels, share, seed))


def stratified(labels: Tensor, share: float, seed: int) -> Tensor:
    """Places of a share of the samples of each class, at least one, sorted: int64.

    Args:
        labels: int64 ``[n]``, -1 where unknown.
        share: in (0, 1].
        seed: of the choice; of one seed, a smaller share is part of a larger one.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = []
    for label in torch.unique(labels[labels >= 0]):
        members = order[labels[order] == label]
        chosen.append(members[: max(1, round(share * len(members)))])
    return torch.cat(chosen).sort().values


def _with_train(data: Dataset, index: Tensor) -> Dataset:
    """The same data set with some of its training samples, int64 places."""
    changed: Any = copy.copy(data)
    changed.provides = dict(data.provides)
    if "samples" in changed.provides:
        changed.provides["samples"] = len(index)
    if isinstance(data, FileDataset):
        changed.splits = {**data.splits, "train": data.splits["train"].at(index)}
        return changed  # type: ignore[no-any-return]

    def split(name: SplitName, *, augment: bool = False) -> Samples:
        samples = data.split(name, augment=augment)
        return Some(samples, index) if name == "train" else samples

    def within(read: Callable[[SplitName], Tensor | None]) -> Callable[[SplitName], Tensor | None]:
        def some(name: SplitName) -> Tensor | None:
            found = read(name)
            return found[index] if found is not None and name == "train" else found

        return some

    changed.split, changed.labels = split, within(data.labels)
    if hasattr(data, "lengths"):
        changed.lengths = within(data.lengths)
    return changed  # type: ignore[no-any-return]
