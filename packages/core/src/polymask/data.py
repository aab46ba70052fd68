"""Data sets: what they must offer, and how ``--data name:source`` finds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymask.errors import UserError
from polymask.registry import Registry, default_registry
from polymask.tokens import Tokens
from polymask.wiring import RUN, construct

if TYPE_CHECKING:
    from polymask.protocols import Media

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

    Samples may differ in the length of their first axis (see :func:`collate`). Such a data set may have
    ``lengths(split) -> int64 [n]``, by which samples of like length are put into one batch, or None where all
    are of one length. One of no
    pictures has ``draw`` in place of ``picture``, see :class:`Drawn`; one with more to show of a sample, as
    sound to play, has ``present`` too, see :class:`Presented`.
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


@runtime_checkable
class Drawn(Protocol):
    """A data set whose samples are no pictures with sites on a grid (text, points), and that draws them."""

    def draw(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """One sample as a picture, all of one size.

        Args:
            sample: without a batch axis and without padding.
            tokens: of this sample alone, B = 1.
            hidden: ``[N]``, which of them are hidden, bool or in [0, 1].

        Returns:
            ``[3, H, W]`` in [0, 1].
        """


@runtime_checkable
class Presented(Protocol):
    """A data set that has more to show of a sample than a picture, whatever system sees it: sound to play."""

    def present(self, sample: Mapping[str, Tensor]) -> Mapping[str, Media]:
        """What a report shows of one sample, by caption; the captions of all samples are the same.

        Args:
            sample: without a batch axis and without padding.
        """


def padding(batch: Mapping[str, Tensor]) -> Tensor:
    """Share of a batch that is padding, among entries of which any is: float32, 0 where none is."""
    lengths = {key: batch[length_key(key)] for key in batch if length_key(key) in batch}
    total = sum(batch[key].shape[0] * batch[key].shape[1] for key in lengths)
    if not total:
        return torch.zeros((), device=next(iter(batch.values())).device)
    return 1 - torch.stack([length.sum() for length in lengths.values()]).sum() / total


def sample_of(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One sample of a batch, without its padding."""
    sample = {key: value[row] for key, value in batch.items()}
    for key in batch:
        if length_key(key) in sample:
            sample[key] = sample[key][: int(sample.pop(length_key(key)))]
    return sample


def evenly(n: int, count: int | None = None) -> list[int]:
    """``count`` of ``n`` samples at equal distances, so that sorted classes all show; all by default."""
    count = min(count or n, n)
    return [i * n // count for i in range(count)]


def open_data(
    spec: str, /, registry: Registry | None = None, run: str | PathLike[str] | None = None, **options: Any
) -> Dataset:
    """Open a data set by name.

    Args:
        spec: ``"digits"``, ``"folder:photos"``, ``"vision/folder:photos"``.
        registry: where to look names up; the installed plugins by default.
        run: folder of a run, which options may begin with (:data:`polymask.wiring.RUN`).
        options: constructor options of the data set.

    Raises:
        UserError: unknown name or option, or nothing usable in the source.
    """
    registry = registry or default_registry()
    name, colon, source = spec.partition(":")
    part = registry.find("datasets", name)
    if colon:
        options["source"] = source
    data: Dataset = construct(part, {**part.defaults, **options}, {} if run is None else {RUN: run}, registry)
    return data


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples to a batch.

    Entries that differ in the length of their first axis (sound, text, points) are padded with zeros at
    its end, and ``"<key>_length"``, int64 ``[B]``, says how much of each is real.

    Raises:
        UserError: shapes differ otherwise, naming the entry and the shapes.
    """
    batch: dict[str, Tensor] = {}
    for key in samples[0]:
        values = [torch.as_tensor(sample[key]) for sample in samples]
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) == 1:
            batch[key] = torch.stack(values)
            continue
        if len({shape[1:] for shape in shapes}) > 1 or () in shapes:
            raise UserError(
                f"samples differ in the shape of {key!r}: {sorted(shapes)}; only the first axis may differ "
                "in length: give the data set one size"
            )
        batch[key] = pad_sequence(values, batch_first=True)
        batch[length_key(key)] = torch.tensor([len(value) for value in values])
    return batch


def length_key(key: str) -> str:
    """Name of the entry of a batch that tells how much of each row of entry ``key`` is real."""
    return f"{key}_length"


def valid_of(batch: Mapping[str, Tensor], key: str) -> Tensor | None:
    """False on the padding of an entry ``[B, N, ...]``: bool ``[B, N]``, or None where none is padded."""
    length = batch.get(length_key(key))
    if length is None:
        return None
    return torch.arange(batch[key].shape[1], device=length.device) < length[:, None]
