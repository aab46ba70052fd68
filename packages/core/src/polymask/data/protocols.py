"""What a data set must offer."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymask.data.reading import exhausted
from polymask.errors import UserError
from polymask.tokens import Tokens

if TYPE_CHECKING:
    from polymask.protocols import Media

SplitName = Literal["train", "test"]


class Samples(Protocol):
    """Map-style samples: ``samples[i]`` is a dict of tensors without a batch axis.

    A transform may use torch's global generator: the loader seeds it per sample and draw, so
    that augmentation too is the same on any number of workers and after a resume.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


@runtime_checkable
class Named(Protocol):
    """Samples of which it is known where they come from."""

    def names(self) -> Sequence[str] | None:
        """The name of each sample, such as the path of its file; None where nobody knows after all."""


class Dataset(Protocol):
    """A data set with one or two splits.

    Attributes:
        key: entry of the batch it fills: ``"image"``, ``"audio"``, ...
        provides: facts that parts take as constructor arguments: ``size``, ``channels``, ... Under
            ``preparation``, the options with which other data sets of its modality bring their samples to the
            same form. What is for parts in slots that begin with ``text_`` alone, such as the vocabulary of
            captions, in a mapping under ``text``.
        classes: names of the classes, or None where there are no labels.
        skipped: files left out, with the reason: ``(path, reason)``.

    Samples may differ in the length of their first axis (see :func:`collate`). Such a data set may have
    ``lengths(split) -> int64 [n]``, by which samples of like length are put into one batch, or None where all
    are of one length. A data set of no images has ``render`` in place of ``to_image``, see
    :class:`Renderer`; one with more to show of a sample, such as audio to play, has ``media`` too, see
    :class:`MediaProvider`; one that knows the scale of its samples says so, see :class:`Described`.
    """

    key: str
    provides: dict[str, Any]
    classes: Sequence[str] | None
    skipped: list[tuple[str, str]]

    def split(self, name: SplitName, *, augment: bool = False) -> Samples:
        """Samples of a split; ``augment`` applies the data set's random augmentation."""

    def labels(self, name: SplitName) -> Tensor | None:
        """int64 ``[n]``, class of each sample, -1 where unknown; None where there are no classes."""

    def to_image(self, x: Tensor) -> Tensor:
        """Normalised values as given to a system to something that can be drawn, in [0, 1]."""


def facts_of(data: Dataset) -> dict[str, Any]:
    """Facts about a data set that parts take as constructor arguments: what it provides, and ``classes``.

    Raises:
        UserError: either is something else than it must be.
    """
    kinds: dict[str, Any] = {"provides": Mapping, "classes": Collection | None}
    for name, kind in kinds.items():
        if not isinstance(value := getattr(data, name), kind):
            what = "a mapping of facts by name" if name == "provides" else "a list of names, or None"
            raise UserError(f"{name} of this data is {value!r:.80}: let it be {what}")
    classes = {} if data.classes is None else {"classes": len(data.classes)}
    return {**classes, **data.provides}


def storable(value: Any) -> Any:
    """Numbers, text, tuples, lists and mappings alone, which a checkpoint may hold."""
    if isinstance(value, Mapping):
        return {str(key): storable(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = map(storable, value)
        return type(value)(items) if type(value) in (tuple, list) else [*items]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@runtime_checkable
class Renderer(Protocol):
    """A data set whose samples are no pictures with sites on a grid (text, points), and that draws them."""

    def render(
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
class MediaProvider(Protocol):
    """A data set that has more to show of a sample than a picture, whatever system sees it: sound to play."""

    def media(self, sample: Mapping[str, Tensor]) -> Mapping[str, Media]:
        """What a report shows of one sample, by caption; the captions of all samples are the same.

        Args:
            sample: without a batch axis and without padding.
        """


@runtime_checkable
class Described(Protocol):
    """A data set that says what of its samples reaches a system."""

    def describe(self) -> Mapping[str, str]:
        """A line by name of each: size, range of values, share clipped, scale; may read a few samples."""


class Texts(Protocol):
    """Texts that belong to the samples of a data set of something else, by number. Picklable, for workers.

    Attributes:
        facts: what parts in slots that begin with ``text_`` take as constructor arguments.
        cut: how many texts lost their end.
    """

    facts: Mapping[str, Any]
    cut: int

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Entries of a sample: ``text``, int64 ``[L]``, and those beside it."""

    def within(self, index: int, start: int, stop: int) -> Tensor:
        """Which tokens of a text lie between two of its characters: bool ``[L]``."""

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The text of a sample as a picture, see :class:`Renderer`."""


class TextTokenizer(Protocol):
    """A tokenizer of words, by which data of another modality makes samples of its captions.

    A data set that has such captions keeps them as ``texts``: masks over their words are drawn by them.
    """

    @staticmethod
    def of_texts(
        texts: Sequence[str], train: Sequence[str], *, vocab: str, vocab_size: int, length: int
    ) -> Texts:
        """Texts as samples.

        Args:
            texts: what they say.
            train: those to train a vocabulary on.
            vocab: which vocabulary, or how one is trained.
            vocab_size: ids of a trained one, at most.
            length: tokens of a text, at most.
        """


def span(values: Tensor | Sequence[float], digits: int) -> str:
    """From the smallest to the largest of some numbers, for :class:`Described`; one if they look alike."""
    ends = torch.as_tensor(values, dtype=torch.float64).aminmax()
    return " to ".join(dict.fromkeys(f"{end.item():,.{digits}g}" for end in ends))


def describe(data: Dataset) -> dict[str, str]:
    """Lines by name for a person: what the data set says of its samples, and what was left out of it."""
    try:
        lines = dict(data.describe()) if isinstance(data, Described) else {}
    except Exception as error:
        if exhausted(error):
            raise
        warnings.warn(f"what this data says of its samples is no text by name: {error!r}", stacklevel=2)
        lines = {}
    first = f", first {data.skipped[0][0]}: {data.skipped[0][1]}" if data.skipped else ""
    return {**lines, "left out": f"{len(data.skipped):,}{first}" if data.skipped else "none"}
