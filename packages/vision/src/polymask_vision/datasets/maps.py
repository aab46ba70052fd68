"""Classes and values of pixels, read from masks as people have them: grey, with a palette, or in colours."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample

LABELS, VALUES = "label_map", "value_map"
"""Entries of a sample: a class of each pixel, int64 ``[H, W]``, -1 unknown; a value, float32, NaN unknown."""

UNKNOWN = 255
"""What stands for no class in a grey mask, by convention."""

Shade: TypeAlias = "float | Sequence[int]"
"""A number that a mask holds, or a colour."""

Array: TypeAlias = npt.NDArray[Any]


@runtime_checkable
class Mapped(Protocol):
    """Images with a class or a value at each pixel.

    Attributes:
        map_classes: names of the classes, or None.
    """

    map_classes: Sequence[str] | None

    def maps(self, index: int) -> dict[str, Tensor]:
        """``label_map`` int64 ``[H, W]``, -1 unknown, or ``value_map`` float32, NaN unknown, or both.

        Of :class:`Layered` images these are other entries.
        """


@runtime_checkable
class Layered(Mapped, Protocol):
    """Images in layers: beside each image there are others, values and classes of the same pixels.

    Its maps are the layers by name, but ``image``: classes int64 ``[H, W]``, -1 unknown, or values float32
    ``[C, H, W]``, standardised, NaN unknown.

    Attributes:
        layers: channels, or classes, of each by name, ``image`` first.
        class_layers: which of them are of classes.
        tasks: which of them are to be predicted.
        statistics: mean and deviation that were taken out of each layer of values, ``[C, 1, 1]``.
    """

    layers: Mapping[str, int]
    class_layers: Sequence[str]
    tasks: Sequence[str]
    statistics: Mapping[str, tuple[Tensor, Tensor]]


def layer_facts(source: object, channels: int, scale: tuple[Sequence[float], ...]) -> dict[str, Any]:
    """What parts take as constructor arguments of the layers of images; nothing of other images.

    Args:
        source: the images.
        channels: of the images themselves.
        scale: mean and deviation that are taken out of them.
    """
    if not isinstance(source, Layered):
        return {}
    scales = {name: tuple(x.flatten().tolist() for x in both) for name, both in source.statistics.items()}
    return {
        "scales": {**scales, "image": tuple(map(list, scale))},
        "layers": {**source.layers, "image": channels},
        "class_layers": tuple(source.class_layers),
        "tasks": tuple(source.tasks),
    }


class InColours(BadSample):
    """A mask is in colours, and nobody said what they stand for."""


class MaskReader:
    """Turns masks into maps.

    Args:
        labels: number or colour by name of a class; None takes the numbers of grey masks and palettes.
        values: whether masks hold values, and no classes.
        ignore: number or colour that stands for unknown; by default 255 in masks of classes without colours.

    Raises:
        UserError: labels that exclude each other.
    """

    def __init__(self, labels: Mapping[str, Shade] | None, values: bool, ignore: Shade | None) -> None:
        if labels and values:
            raise UserError("labels name classes, and masks of values hold none: leave out one of both")
        kinds = {isinstance(shade, Sequence) for shade in (labels or {}).values()}
        if len(kinds) > 1:
            raise UserError("labels: give a number to each class, or a colour [R,G,B] to each")
        self.values, self.colour = values, kinds == {True}
        self.classes = list(labels) if labels else None
        self.numbers = {_number(shade): i for i, shade in enumerate((labels or {}).values())}
        if labels and len(self.numbers) < len(labels):
            raise UserError(f"labels: two classes are of one number or colour: {dict(labels)}")
        if ignore is not None:
            self.ignore: float | None = _number(ignore)
        else:
            self.ignore = None if values or self.colour or UNKNOWN in self.numbers else UNKNOWN

    def __call__(self, raw: bytes) -> dict[str, Tensor]:
        """One mask, as an entry of a sample.

        Raises:
            BadSample: it holds something else.
        """
        mask = self._decoded(raw)
        if self.values:
            found = torch.from_numpy(mask.astype(np.float32))
            missing = ~found.isfinite()  # the sky has no depth
            if self.ignore is not None:
                missing = missing | (found == self.ignore)
            return {VALUES: found.masked_fill(missing, torch.nan)}
        if unknown := self._unknown(mask):
            raise BadSample(f"its mask holds {_shown(unknown, self.colour)}, of no class")
        if not self.numbers:
            found = torch.from_numpy(mask.astype(np.int64))
            return {LABELS: found if self.ignore is None else found.masked_fill(found == self.ignore, -1)}
        found = torch.full(mask.shape, -1)
        for shade, number in self.numbers.items():
            found[torch.from_numpy(mask == shade)] = number
        return {LABELS: found}

    def check(self, masks: Iterable[tuple[str, bytes]]) -> None:
        """Refuse masks that do not hold what is asked for, before anything is learned from them.

        Args:
            masks: some of them, by name.

        Raises:
            UserError: they are in colours or in 0 and 255, and nobody said what these are; or hold others; or
                most hold no values, where these are asked for.
        """
        seen: set[float] = set()
        wrong, count = list[UserError](), 0
        for name, raw in masks:
            count += 1
            try:
                mask = self._decoded(raw)
            except BadSample as error:
                say = ""
                if isinstance(error, InColours) and not self.values:
                    say = ": say which is which, --data.labels '{sky: [0,0,128], ...}'"
                wrong.append(UserError(f"{name}: {error}{say}"))
                if self.values:
                    continue
                raise wrong[0] from error
            if self.values:
                continue
            if unknown := self._unknown(mask):
                values = not self.numbers and any(x % 1 for x in unknown)
                hint = "; values, as of depth, are --data.values true" if values else ""
                raise UserError(
                    f"{name} holds {_shown(unknown, self.colour)}, of no class: name them all in labels, or "
                    f"say what is unknown (--data.ignore){hint}"
                )
            seen.update(np.unique(mask).tolist())
        if 2 * len(wrong) > count:  # a few are left out as they are read
            raise wrong[0]
        if seen == {0, UNKNOWN} and self.ignore == UNKNOWN:
            raise UserError(
                "masks hold 0 and 255 alone, and 255 stands for unknown: say what they are, --data.labels "
                "'{background: 0, object: 255}'"
            )

    def _decoded(self, raw: bytes) -> Array:
        """Numbers ``[H, W]``, of colours one for each."""
        if raw.startswith(b"\x93NUMPY"):
            found: Array = np.load(io.BytesIO(raw), allow_pickle=False)
        else:
            with Image.open(io.BytesIO(raw)) as image:
                in_colour = (
                    image.mode in ("RGB", "RGBA", "P") if self.colour else image.mode in ("RGB", "RGBA")
                )
                if self.values and image.mode in ("P", "1"):
                    raise BadSample(f"its mask is of mode {image.mode}, whose numbers are no values")
                grey = image.getchannel(0) if image.mode == "LA" else image
                found = np.array(image.convert("RGB") if in_colour else grey)
        if found.ndim == 3 and found.shape[2] == 1:
            found = found[..., 0]
        if found.ndim == 3 and found.shape[2] == 3:
            if self.colour:
                return _packed(found)
            if (found != found[..., :1]).any():
                raise InColours(f"its mask is in colours, {_shown(_packed(found), True)}")
            found = found[..., 0]
        if found.ndim != 2:
            raise BadSample(f"its mask is of shape {list(found.shape)}, not [H, W]")
        if self.colour:
            raise BadSample("its mask is grey, and labels are colours")
        return found

    def _unknown(self, mask: Array) -> list[float]:
        """What is of no class."""
        found = np.unique(mask).tolist()
        if self.numbers:
            return [x for x in found if x not in self.numbers and x != self.ignore]
        # what is not finite leaves no remainder that is 0
        return [x for x in found if (x < 0 or x % 1 != 0) and x != self.ignore]


def _packed(colours: Array) -> Array:
    return np.asarray((colours.astype(np.int64) * (65536, 256, 1)).sum(-1))


def _shown(numbers: Array | Sequence[float], colour: bool) -> str:
    found = np.unique(numbers).tolist()
    told = [str([x >> 16, x >> 8 & 255, x & 255]) if colour else f"{x:g}" for x in found[:5]]
    return ", ".join(told) + ", ..." * (len(found) > 5)


def _number(shade: Shade) -> float:
    if not isinstance(shade, Sequence):
        return shade
    if len(shade) != 3 or not all(0 <= x <= 255 for x in shade):
        raise UserError(f"a colour is [R,G,B] of 0 to 255, got {list(shade)}")
    return shade[0] * 65536 + shade[1] * 256 + shade[2]
