"""Folders of images with boxes of objects, in the layout of COCO."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, Splits
from polymask.data.folders import read_folder
from polymask.types import Count, Share
from polymask_vision.boxes import BOXES, DISTANCE, POLYGONS, some_of
from polymask_vision.datasets.coco import Annotations, Instance, objects_of, thinned
from polymask_vision.datasets.decode import ENDINGS, fault
from polymask_vision.datasets.folder import Files
from polymask_vision.datasets.segmentation import size_of


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

    The file lists ``images`` (``id``, ``file_name`` below the folder of images, or its last part where no
    two images are called alike, and where known ``width`` and ``height``) and ``annotations`` (``image_id``,
    ``bbox`` as left, top, width and height in pixels). Where annotations have a ``distance``, samples hold
    it; where any has a ``segmentation``, they hold the largest of its polygons, or the longest outline of its
    mask (RLE), and objects without one have their box; what has an outline needs no ``bbox``. Crowds
    (``iscrowd``) are left out. Folders below that of the images are splits as in ``folder``. Samples are
    cropped to one size like the image: say one of its shape (``--data.size``).

    Boxes are cut at the edges of their image. Images without a box, not listed, missing, damaged, of another
    size than listed, or with an annotation that makes no sense, as a box outside or a distance of 0, are left
    out and listed in ``skipped``.

    Args:
        source: the folder with both (``boxes:PATH``).
        images: the folder of images in it.
        annotations: the file of annotations in it, or a folder of several; those whose names begin with
            ``instances``, if there are any. Of an image that several list, all objects count, each once.
            COCO as it is downloaded is ``--data.images . --data.annotations annotations``.
        vertices: of an outline, 3 or more; one of more loses those that add least to its area.
        labelled: share of the training images whose distances are known; the others keep their boxes.
        test: share of the images to hold out where there is no folder for it.
    """
    if vertices < 3:
        raise UserError(f"vertices={vertices}: an outline has 3 or more")
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
    if not listed:
        raise UserError(f"boxes:{source}: there is no .json file in {where}: say where annotations are")
    found = Annotations(listed, root / images)

    def look(path: Path) -> list[Instance]:
        own = found.find(path.relative_to(root / images).as_posix())
        if broken := fault(path):
            raise BadSample(broken)
        return [one.thinned(vertices) for one in objects_of(own, *size_of(path))]

    looked = read_folder(str(root / images), ENDINGS, "images with boxes", look)
    files = BoxedFiles(looked.root, looked.names, looked.looks, vertices)
    # empty files are named already, and were not looked at
    skipped = dict(found.missing()) | dict(looked.skipped)
    splits = dataclasses.replace(looked, skipped=sorted(skipped.items())).splits(files, test)
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
        instances: the objects of each image.
        vertices: of an outline.
    """

    unknown: frozenset[int] = frozenset()
    """Numbers of images whose distances are withheld."""

    def __init__(
        self, root: Path, names: Sequence[str], instances: Sequence[Sequence[Instance]], vertices: int
    ) -> None:
        super().__init__(root, names)
        self.instances, self.vertices = instances, vertices
        self.outlined = any(one.outline is not None for some in instances for one in some)

    def objects(self, index: int) -> dict[str, Tensor]:
        own = self.instances[index]
        box = torch.tensor([one.box for one in own], dtype=torch.float32)
        known = torch.tensor([one.distance for one in own], dtype=torch.float32)
        found = {
            BOXES: torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1),
            DISTANCE: known.fill_(math.nan) if index in self.unknown else known,
        }
        if self.outlined:
            found[POLYGONS] = torch.stack([_outline(one, self.vertices) for one in own])
        return found


def _outline(one: Instance, vertices: int) -> Tensor:
    """The outline of an object, or its box: ``[K, 2]``, the last vertex repeated."""
    x, y, width, height = one.box
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    outline = thinned(corners if one.outline is None else one.outline, vertices)
    padded = outline[np.arange(vertices).clip(max=len(outline) - 1)]
    return torch.from_numpy(padded.astype(np.float32))
