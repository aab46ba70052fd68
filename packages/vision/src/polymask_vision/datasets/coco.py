"""Annotations in the layout of COCO: which are those of an image, and what they say of its objects."""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from polymask import UserError
from polymask.data import BadSample, Skipped
from polymask_vision.instance_masks import outline_of

Annotation = Mapping[str, Any]
Outline = npt.NDArray[np.float64]


class Instance(NamedTuple):
    """An object of an image.

    Args:
        box: left, top, width and height in pixels, within the image.
        distance: NaN where unknown.
        outline: ``[K, 2]``, x and y in pixels; None where nobody drew it.
    """

    box: tuple[float, float, float, float]
    distance: float
    outline: Outline | None

    def thinned(self, vertices: int) -> Instance:
        """The same with an outline of so many vertices at most, see :func:`thinned`."""
        return self if self.outline is None else self._replace(outline=thinned(self.outline, vertices))


@dataclass(eq=False)
class Listed:
    """An image as a file lists it.

    Args:
        file: which file.
        name: of the image.
        size: height and width, if it tells them.
        annotations: of the image, those of crowds left out.
    """

    file: Path
    name: str
    size: tuple[Any, Any] | None
    annotations: list[Annotation] = field(default_factory=list)


class Annotations:
    """What files of annotations list, by the names of images.

    Args:
        files: of annotations.
        root: the folder of images.

    Raises:
        UserError: one is no file of annotations, or contradicts itself.
    """

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        self.root, self._left = root, Skipped()
        self.by_file: dict[Path, list[Listed]] = {}
        self.by_name: dict[str, list[Listed]] = {}
        for file in files:
            self.by_file[file], left = _read(file, root)
            self._left += left
            for one in self.by_file[file]:
                self.by_name.setdefault(one.name, []).append(one)
        self._met = set[Listed]()

    def find(self, name: str) -> list[Listed]:
        """What the files say of an image.

        Args:
            name: of the image, below the folder; the last part of it may be all that is listed.

        Raises:
            BadSample: it is not listed.
        """
        own = self.by_name.get(name) or self._by_last_part(name)
        self._met.update(own)
        return own

    def missing(self) -> Skipped:
        """Images that are listed and were never asked for; of a file of which none was, the file."""
        left = list(self._left)
        for file, own in self.by_file.items():
            gone = [one for one in own if one not in self._met]
            if own and len(gone) == len(own):
                left.append((file.name, f"none of the {len(own)} images that it lists is there"))
            else:
                left += [(one.name, f"it is listed in {file.name}, and is not there") for one in gone]
        return left

    def _by_last_part(self, name: str) -> list[Listed]:
        folder, _, last = name.rpartition("/")
        own = self.by_name.get(last, [])
        if not own:
            known = next(iter(self.by_name), "nothing")
            raise BadSample(f"it is not listed in the annotations, which name {known}")
        if self._called[last] > 1:
            # train/0.jpg is of instances_train.json, val/0.jpg of instances_val.json
            own = [one for one in own if folder.partition("/")[0] in one.file.stem]
        if not own:
            raise BadSample(
                f"{last} is listed, and {self._called[last]} images are called so: give each file_name with "
                "its folder, or the folder's name to a file of annotations of its own"
            )
        return own

    @cached_property
    def _called(self) -> Counter[str]:
        """How many files have a name, in whatever folder."""
        return Counter(name for *_, names in os.walk(self.root, followlinks=True) for name in names)


def objects_of(own: Sequence[Listed], height: int, width: int) -> list[Instance]:
    """The objects of an image, whichever files they are listed in, each once.

    Args:
        own: what the files say of it.
        height: in pixels, of the image upright.
        width: the same.

    Raises:
        BadSample: it is of another size, has no object, or an annotation makes no sense.
    """
    for one in own:
        if one.size is not None and one.size != (height, width):
            turned = one.size == (width, height)
            raise BadSample(
                f"it is {width} x {height} pixels, and {one.size[1]} x {one.size[0]} in {one.file.name}"
                + (": its tag of orientation turns it, or width and height are exchanged" * turned)
            )
    distinct: dict[str, Annotation] = {}
    for annotation in (each for one in own for each in one.annotations):
        content = {key: value for key, value in annotation.items() if key not in ("id", "image_id")}
        distinct.setdefault(json.dumps(content, sort_keys=True), annotation)
    if not distinct:
        raise BadSample("it has no box")
    return [instance_of(one, height, width) for one in distinct.values()]


def instance_of(one: Annotation, height: int, width: int) -> Instance:
    """An object, its box cut at the edges of the image; without a box, that of its outline.

    Raises:
        BadSample: the annotation makes no sense.
    """
    name = f"annotation {one['id']}" if "id" in one else "an annotation"
    outline = _outline(one.get("segmentation"), name, height, width)
    box: Any = one.get("bbox")
    away: Any = one.get("distance")
    if box is None and outline is not None:
        box = [*outline.min(0).tolist(), *np.ptp(outline, axis=0).tolist()]
    if not _numbers(box) or len(box) != 4 or min(box[2:]) <= 0:
        raise BadSample(f"the bbox of {name} is {box}, not left, top, width and height, the last two above 0")
    if away is not None and (not _numbers([away]) or away <= 0):
        raise BadSample(f"the distance of {name} is {away}, not above 0; leave it out where it is unknown")
    x, y, wide, high = box
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + wide, width), min(y + high, height)
    if left >= right or top >= bottom:
        raise BadSample(f"the bbox of {name} is {box}, outside of its {width} x {height} pixels")
    return Instance((left, top, right - left, bottom - top), math.nan if away is None else away, outline)


def thinned(outline: Outline, vertices: int) -> Outline:
    """An outline without the vertices that add least to its area (Visvalingam and Whyatt 1993).

    A few at a time, no two neighbours of which at once.

    Args:
        outline: ``[K, 2]``.
        vertices: how many to keep at most.
    """
    while (extra := len(outline) - vertices) > 0:
        back, ahead = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
        area = abs(back[:, 0] * ahead[:, 1] - back[:, 1] * ahead[:, 0])
        gone = np.zeros(len(outline), dtype=bool)
        gone[area.argsort(kind="stable")[: max(extra // 4, 1)]] = True
        outline = outline[~gone | np.roll(gone, 1)]
    return outline


def _read(file: Path, root: Path) -> tuple[list[Listed], Skipped]:
    """The images that a file lists, and what is left out of it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        images: dict[Any, Listed] = {}
        strange = list[Any]()
        for each in content["images"]:
            size = each.get("height"), each.get("width")
            name = posixpath.normpath(str(each["file_name"]).replace("\\", "/"))
            name = name.removeprefix(f"{root.name}/")
            one = Listed(file, name, None if None in size else size)
            if images.setdefault(each["id"], one).name != name:
                raise UserError(
                    f"{file}: the id {each['id']} is that of {images[each['id']].name} and of {name}; give "
                    "each image one of its own"
                )
        for each in content["annotations"]:
            if each["image_id"] not in images:
                strange.append(each["image_id"])
            elif not int(each.get("iscrowd") or 0):
                images[each["image_id"]].annotations.append(each)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is no file of annotations as COCO's ({type(error).__name__}: {error}): it needs images "
            "with id and file_name, and annotations with image_id"
        ) from error
    if not strange:
        return list(images.values()), []
    why = f"{len(strange)} annotations are of images that it does not list, as {strange[0]!r}"
    if len(strange) == len(content["annotations"]):
        raise UserError(f"{file}: all {why}; it lists {next(iter(images), 'none')!r}")
    return list(images.values()), [(file.name, why)]


def _outline(given: Any, name: str, height: int, width: int) -> Outline | None:
    """The largest polygon of an object, or the longest outline of its mask."""
    if isinstance(given, Mapping):
        return _outline_of_runs(given, name, height, width)
    if given is not None and not isinstance(given, list):
        raise BadSample(f"the segmentation of {name} is neither polygons nor a mask in run lengths")
    if not all(_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in given or ()):
        raise BadSample(f"a polygon of {name} has no three vertices of x and y")
    parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in given or ()]
    return max(parts, key=_area) if parts else None


def _area(outline: Outline) -> float:
    x, y = outline.T
    return float(abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()))


def _outline_of_runs(given: Annotation, name: str, height: int, width: int) -> Outline | None:
    """The outline of a mask in run lengths (RLE), column by column."""
    counts = given.get("counts")
    runs: Any = _runs(counts) if isinstance(counts, str) else counts
    whole = _numbers(runs) and all(run >= 0 and run % 1 == 0 for run in runs)
    if not whole or sum(runs) != height * width or given.get("size") != [height, width]:
        raise BadSample(f"the mask of {name} does not fill its {height} x {width} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2, np.array(runs, dtype=np.int64))
    mask = torch.from_numpy(inside.reshape(width, height).T.astype(np.float32))
    if not mask.any():
        return None
    top, left = (int(mask.any(axis).nonzero()[0]) for axis in (1, 0))
    outline = outline_of(mask[top:, left:])
    return None if outline is None else np.asarray(outline + np.array([left, top]), dtype=np.float64)


def _runs(text: str) -> list[int]:
    """Run lengths of the letters of COCO's compressed form: five bits each, from the third on differences."""
    runs, value, shift = list[int](), 0, 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _numbers(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(x, int | float) and math.isfinite(x) for x in given)
