"""Folders of images with boxes of objects, in the layout of COCO."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, Splits, reading
from polymask.data.folders import read_folder
from polymask.types import Count, Share
from polymask_vision.boxes import BOXES, DISTANCE, POLYGONS, some_of
from polymask_vision.datasets.decode import ENDINGS, fault, header, reason
from polymask_vision.datasets.folder import Files
from polymask_vision.instance_masks import outline_of

Annotation = Mapping[str, Any]


def boxes(
    *,
    source: str,
    images: str = "images",
    annotations: str = "annotations.json",
    vertices: Count = 16,
    labelled: Share = 1.0,
    test: Share = 0.1,
) -> Splits[BoxedFiles]:
    """Images and boxes of the objects in them, from files as COCO's: ``images/a.jpg``, ``annotations.json``.

    The file lists ``images`` (``id``, ``file_name`` below the folder of images) and ``annotations``
    (``image_id``, ``bbox`` as left, top, width and height in pixels). Where annotations have a ``distance``,
    samples hold it; where any has a ``segmentation`` of polygons, they hold the largest of each object, or
    the outline of its mask (RLE), and objects without one have their box. Crowds (``iscrowd``) are left out.
    Folders below that of the images are splits as in ``folder``. Samples are cropped to one size like the
    image: say one of its shape (``--data.size``).

    Boxes are cut at the edges of their image. Images without a box, not listed, damaged, or with an
    annotation that makes no sense, as a box outside or a distance of 0, are left out and listed in
    ``skipped``.

    Args:
        source: the folder with both (``boxes:PATH``).
        images: the folder of images in it.
        annotations: the file of annotations in it, or a folder of several; those whose names begin with
            ``instances``, if there are any. COCO as it is downloaded is ``--data.images . --data.annotations
            annotations``.
        vertices: of a polygon; one of more is thinned out evenly.
        labelled: share of the training images whose distances are known; the others keep their boxes.
        test: share of the images to hold out where there is no folder for it.
    """
    root = Path(source).expanduser()
    where = root / annotations
    if not where.exists() or not (root / images).is_dir():
        missing = f"file {where}" if not where.exists() else f"folder {root / images}"
        raise UserError(
            f"boxes:{source}: there is no {missing}: say where images and annotations are, --data.images and "
            "--data.annotations"
        )
    listed = [where]
    if where.is_dir():  # COCO's own has captions, and persons once more with their joints, beside instances
        listed = sorted(where.glob("instances*.json")) or sorted(where.glob("*.json"))
    found = _read(listed)
    looked = read_folder(
        str(root / images),
        ENDINGS,
        "images with boxes",
        lambda path: _look(path, found, path.relative_to(root / images).as_posix()),
    )
    files = BoxedFiles(looked.root, looked.names, looked.looks, vertices)
    splits = looked.splits(files, test)
    chosen = some_of(splits.train.names(), labelled)
    files.unknown = frozenset(splits.train.index[~chosen].tolist())
    return splits


def example_source(folder: Path) -> str:
    """Squares and triangles, large ones near."""
    (folder / "images").mkdir()
    listed: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for i in range(8):
        picture = Image.new("RGB", (32, 24), (20 * i, 80, 120))
        side = 4 + i
        corners = [(2, 3), (2 + side, 3), (2, 3 + side)]
        ImageDraw.Draw(picture).polygon(corners, fill=(255, 200, 30 * i))
        picture.paste((250, 20, 30), (18, 6, 18 + side, 6 + side))
        picture.save(folder / "images" / f"{i}.png")
        listed["images"].append({"id": i, "file_name": f"{i}.png"})
        outline = [float(x) for corner in corners for x in corner]
        listed["annotations"] += [
            {"image_id": i, "bbox": [2, 3, side, side], "distance": 40 / side, "segmentation": [outline]},
            {"image_id": i, "bbox": [18, 6, side, side], "distance": 40 / side},
        ]
    (folder / "annotations.json").write_text(json.dumps(listed))
    return str(folder)


class BoxedFiles(Files):
    """Image files and the objects in each, by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        annotations: of each image.
        vertices: of a polygon.
    """

    unknown: frozenset[int] = frozenset()
    """Numbers of images whose distances are withheld."""

    def __init__(
        self, root: Path, names: Sequence[str], annotations: Sequence[Sequence[Annotation]], vertices: int
    ) -> None:
        super().__init__(root, names)
        self.annotations, self.vertices = annotations, vertices
        every = [one for some in annotations for one in some]
        self.outlined = any(isinstance(one.get("segmentation"), list) for one in every)

    def objects(self, index: int) -> dict[str, Tensor]:
        own = self.annotations[index]
        box = torch.tensor([one["bbox"] for one in own], dtype=torch.float32)
        found = {BOXES: torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1)}
        away = [math.nan if one.get("distance") is None else float(one["distance"]) for one in own]
        known = torch.tensor(away, dtype=torch.float32)
        found[DISTANCE] = known.fill_(math.nan) if index in self.unknown else known
        if self.outlined:
            found[POLYGONS] = torch.stack([_outline(one, self.vertices) for one in own])
        return found


def _outline(one: Annotation, vertices: int) -> Tensor:
    """The largest polygon of an object, or its box: ``[K, 2]``, the last vertex repeated."""
    given = one.get("segmentation")
    parts = [torch.tensor(part, dtype=torch.float32).view(-1, 2) for part in given or ()]
    if parts:
        outline = max(parts, key=_area)
    else:
        x, y, width, height = map(float, one["bbox"])
        outline = torch.tensor([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    count = len(outline)
    if count > vertices:
        return outline[torch.arange(vertices) * count // vertices]
    return outline[torch.arange(vertices).clamp_max(count - 1)]


def _area(outline: Tensor) -> float:
    x, y = outline.unbind(1)
    return float((x * y.roll(-1) - y * x.roll(-1)).sum().abs())


def _read(files: Sequence[Path]) -> dict[str, list[Annotation]]:
    """Annotations by the name of the image."""
    found: dict[str, list[Annotation]] = {}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            names = {each["id"]: str(each["file_name"]) for each in content["images"]}
            for name in names.values():
                found.setdefault(name, [])
            for one in content["annotations"]:
                if not one.get("iscrowd"):
                    found[names[one["image_id"]]].append(one)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} is no file of annotations as COCO's ({type(error).__name__}: {error}): it needs "
                "images with id and file_name, and annotations with image_id"
            ) from error
    return found


def _fault_of(one: Annotation) -> str | None:
    """What is wrong with an annotation."""
    box: Any = one.get("bbox")
    given, away, name = one.get("segmentation"), one.get("distance"), _name(one)
    if not _numbers(box) or len(box) != 4 or min(box[2:]) <= 0:
        return f"the bbox of {name} is {box}, not left, top, width and height, the last two above 0"
    if isinstance(given, list) and not all(
        _numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in given
    ):
        return f"a polygon of {name} has no three vertices of x and y"
    if away is not None and (not _numbers([away]) or away <= 0):
        return f"the distance of {name} is {away}, not above 0; leave it out where it is unknown"
    return None


def _name(one: Annotation) -> str:
    return f"annotation {one['id']}" if "id" in one else "an annotation"


def _numbers(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(x, int | float) and math.isfinite(x) for x in given)


def _look(path: Path, annotations: Mapping[str, list[Annotation]], name: str) -> list[Annotation]:
    """The annotations of an image, by its name in the folder or that of the file alone."""
    if broken := fault(path):
        raise BadSample(broken)
    own = annotations.get(name, annotations.get(path.name))
    if own is None:
        raise BadSample("it is not listed in the annotations")
    if not own:
        raise BadSample("it has no box")
    for one in own:
        if wrong := _fault_of(one):
            raise BadSample(wrong)
    height, width = _size(path)
    return [
        {**one, "bbox": _clipped(one, height, width), "segmentation": _polygons(one, height, width)}
        for one in own
    ]


def _polygons(one: Annotation, height: int, width: int) -> Any:
    """The polygons of an object; of a mask in run lengths (RLE), column by column, its outline.

    Raises:
        BadSample: the runs do not fill the image.
    """
    given = one.get("segmentation")
    if not isinstance(given, Mapping):
        return given
    counts = given.get("counts")
    runs: Any = _runs(counts) if isinstance(counts, str) else counts
    whole = _numbers(runs) and all(run >= 0 and run % 1 == 0 for run in runs)
    if not whole or sum(runs) != height * width or given.get("size") != [height, width]:
        raise BadSample(f"the mask of {_name(one)} does not fill its {height} x {width} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2, np.array(runs, dtype=np.int64))
    mask = torch.from_numpy(inside.reshape(width, height).T.astype(np.float32))
    if not mask.any():
        return []
    top, left = (int(mask.any(axis).nonzero()[0]) for axis in (1, 0))
    outline = outline_of(mask[top:, left:])
    return [] if outline is None else [(outline + np.array([left, top])).ravel().tolist()]


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


def _size(path: Path) -> tuple[int, int]:
    """Height and width of an image, of which no more is read than need be.

    Raises:
        BadSample: it has none.
    """
    with reading(reason):
        try:
            with Image.open(path) as image:
                return header(image).size
        except UnidentifiedImageError:  # a TIFF of many bands
            return header(path.read_bytes()).size


def _clipped(one: Annotation, height: int, width: int) -> list[float]:
    """The box of an object, cut at the edges of its image.

    Raises:
        BadSample: nothing of it is within.
    """
    x, y, wide, high = one["bbox"]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + wide, width), min(y + high, height)
    if left >= right or top >= bottom:
        raise BadSample(
            f"the bbox of {_name(one)} is {one['bbox']}, outside of its {width} x {height} pixels"
        )
    return [left, top, right - left, bottom - top]
