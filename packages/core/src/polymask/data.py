"""Data sets: what they must offer, and how ``--data name:source`` finds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from polymask.errors import UserError
from polymask.registry import Registry, default_registry
from polymask.wiring import construct

Split = Literal["train", "test"]


class Samples(Protocol):
    """Map-style samples: ``samples[i]`` is a dict of tensors without a batch axis.

    A transform may use torch's global generator: the loader seeds it per sample and draw, so
    that augmentation too is the same on any number of workers and after a resume.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


class Dataset(Protocol):
    """A data set with one or two splits.

    A constructor parameter named ``source`` takes what follows the colon in
    ``--data folder:photos``; all other parameters are options (``--data.size 64``).

    Attributes:
        key: entry of the batch it fills: ``"image"``, ``"audio"``, ...
        provides: facts that parts take as constructor arguments: ``size``, ``channels``, ...
        classes: names of the classes, or None where there are no labels.
        skipped: files left out, with the reason: ``(path, reason)``.
    """

    key: str
    provides: dict[str, Any]
    classes: Sequence[str] | None
    skipped: list[tuple[str, str]]

    def split(self, name: Split, *, augment: bool = False) -> Samples:
        """Samples of a split; ``augment`` applies the data set's random augmentation."""

    def labels(self, name: Split) -> Tensor | None:
        """int64 ``[n]`` class of each sample of a split, without reading the samples."""

    def picture(self, x: Tensor) -> Tensor:
        """Normalised values as given to a system to something that can be drawn, in [0, 1]."""


def open_data(spec: str, /, registry: Registry | None = None, **options: Any) -> Dataset:
    """Open a data set by name.

    Args:
        spec: ``"digits"``, ``"folder:photos"``, ``"vision/folder:photos"``.
        registry: where to look names up; the installed plugins by default.
        options: constructor options of the data set.

    Raises:
        UserError: unknown name or option, or nothing usable in the source.
    """
    registry = registry or default_registry()
    name, colon, source = spec.partition(":")
    part = registry.find("datasets", name)
    if colon:
        options["source"] = source
    data: Dataset = construct(part, {**part.defaults, **options}, {}, registry)
    return data


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples of equal shape to a batch.

    Raises:
        UserError: shapes differ, naming the entry and the shapes.
    """
    batch: dict[str, Tensor] = {}
    for key in samples[0]:
        values = [torch.as_tensor(sample[key]) for sample in samples]
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise UserError(
                f"samples differ in the shape of {key!r}: {sorted(shapes)}; give the data set one size"
            )
        batch[key] = torch.stack(values)
    return batch
