"""Folders of images in layers: one folder for each layer, files of the same names."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, Splits, evenly
from polymask.data.folders import read_folder
from polymask.types import Count, Share
from polymask_vision.datasets.decode import ENDINGS, fault, header, planes
from polymask_vision.datasets.folder import Files
from polymask_vision.datasets.maps import LABELS, MaskReader
from polymask_vision.datasets.segmentation import size_of, stored_size

KEY = "image"

LOOK = 64
"""How many samples are read for mean and deviation of values, evenly spaced."""


def layers(
    *,
    source: str,
    image: str = "image",
    classes: Mapping[str, Count] | None = None,
    tasks: tuple[str, ...] = (),
    test: Share = 0.1,
) -> Splits[LayerFiles]:
    """Images and further layers of the same pixels: ``image/a/b.jpg``, ``depth/a/b.npy``, ``ground/a/b.png``.

    Every folder beside that of the images is a layer of its name. One of values has images of any depth, or
    ``.npy`` of ``[H, W]`` or ``[H, W, C]``, where NaN is unknown; values are brought to mean 0 and deviation
    1 over some of the training samples. One of classes holds the number of a class at each pixel, 255
    unknown. Folders within the layers are splits and classes as in ``folder``.

    A layer of another size than its image, and of the same shape, is brought to that by nearest pixels. Where
    a layer lacks the file of an image, it is unknown there: so few samples may have labels. Images that
    are damaged, and those with a damaged file in a layer or one of another shape, are left out and listed in
    ``skipped``. A folder with no file of any image is no layer.

    Args:
        source: the folder with all of them (``layers:PATH``).
        image: the folder of the images in it.
        classes: how many classes each layer of classes has, ``{ground: 8}``; others are of values.
        tasks: layers to be predicted, which are never seen.
        test: share of each class of images to hold out where there is no folder for it.
    """
    root, classes = Path(source).expanduser(), dict(classes or {})
    if not (root / image).is_dir():
        there = sorted(path.name for path in root.glob("*/")) if root.is_dir() else []
        raise UserError(
            f"layers:{source}: there is no folder {(root / image).absolute()}; "
            + (f"there are {', '.join(there)}: " if there else "")
            + "say where images are, --data.image"
        )
    others = sorted(p.name for p in root.glob("*/") if p.name != image and not p.name.startswith("."))
    if KEY in others:
        raise UserError(f"layers:{source}: {KEY} is what images are called, rename the layer {root / KEY}")
    for what, names in {"classes": classes, "tasks": tasks}.items():
        if unknown := [name for name in names if name not in others]:
            raise UserError(
                f"{what}: layers:{source} has no folder {', '.join(unknown)} beside {image}, but "
                f"{', '.join(others) or 'none'}"
            )
    found = read_folder(
        str(root / image), ENDINGS, "images in layers", lambda path: _look(path, root, image, others)
    )
    beside = {name: [each[k] for each in found.looks] for k, name in enumerate(others)}
    for name in [one for one, files in beside.items() if not any(files) and one not in (*classes, *tasks)]:
        warnings.warn(f"layers:{source}: {name} has no file of any image and is no layer", stacklevel=2)
        del beside[name]
    files = LayerFiles(found.root, found.names, root, beside, classes, tasks)
    splits = found.splits(files, test)
    files.examine(splits.train.index.tolist())
    return splits


def example_source(folder: Path) -> str:
    """Squares, how far away they are, and which of their pixels are known to be one."""
    for name in ("image", "distance", "object"):
        (folder / name).mkdir()
    for i in range(8):
        square = np.zeros((16, 16), dtype=np.uint8)
        square[i : i + 6, 4:10] = 1
        Image.fromarray(square * 200 + 20).convert("RGB").save(folder / "image" / f"{i}.png")
        np.save(folder / "distance" / f"{i}.npy", np.where(square, 2.5, np.nan).astype(np.float32))
        if i % 2:
            Image.fromarray(square).save(folder / "object" / f"{i}.png")
    return str(folder)


class LayerFiles(Files):
    """Image files and files of their layers by number.

    Args:
        root: the folder that names of images are relative to.
        names: of the images.
        layer_root: the folder that names in layers are relative to.
        others: by layer, the name of the file of each image, empty where there is none.
        classes: how many classes layers of classes have.
        tasks: layers to be predicted.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        layer_root: Path,
        others: Mapping[str, Sequence[str]],
        classes: Mapping[str, int],
        tasks: tuple[str, ...],
    ) -> None:
        super().__init__(root, names)
        self.others = {name: Files(layer_root, files) for name, files in others.items()}
        self.classes, self.tasks, self.class_layers = classes, tasks, tuple(classes)
        self.map_classes = None
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}
        self.layers = {KEY: 3}

    def examine(self, index: Sequence[int]) -> None:
        """Look at some samples of each layer: of values, for mean, deviation and how many most pixels have.

        Args:
            index: numbers of the training samples.

        Raises:
            UserError: a layer has no file for any of them, nothing in it is known, or most hold no classes.
        """
        for name, files in self.others.items():
            there = [i for i in index if files.names[i]]
            some = [there[k] for k in evenly(len(there), LOOK)]
            if not some:
                raise UserError(f"the layer {name} has no file for any of {len(index)} training images")
            if name in self.classes:
                self._examine_classes(name, some)
            else:
                self._standardise(name, some)

    def _examine_classes(self, name: str, index: Sequence[int]) -> None:
        self.layers[name] = self.classes[name]
        wrong, seen = list[str](), set[int]()
        for i in index:
            try:
                label = self._labels(name, i)
            except BadSample as error:
                wrong.append(f"{self.others[name].names[i]}: {error}")
                continue
            seen.update(np.unique(label.numpy()).tolist())
        rule = f"a layer of {self.classes[name]} classes holds their numbers, from 0 on, and 255 for unknown"
        if 2 * len(wrong) > len(index):
            raise UserError(f"{len(wrong)} of {len(index)} files of the layer {name}, {wrong[0]}; {rule}")
        if seen <= {-1}:
            raise UserError(f"no pixel in {len(index)} files of the layer {name} has a class; {rule}")
        if seen == {-1, 0}:
            raise UserError(f"{len(index)} files of the layer {name} hold 0 and 255 alone; {rule}")

    def _standardise(self, name: str, index: Sequence[int]) -> None:
        values = [self._values(name, i).flatten(1) for i in index]
        usual = Counter(map(len, values)).most_common(1)[0][0]  # others are left out as they are read
        x = torch.cat([each for each in values if len(each) == usual], dim=1).double()
        x = x[:, x.isfinite().all(0)]
        if not x.shape[1]:
            raise UserError(f"no value in {len(index)} files of the layer {name} is known: all are NaN")
        self.layers[name] = len(x)
        deviation = x.std(1) if x.shape[1] > 1 else torch.zeros(len(x))
        # a constant layer becomes 0
        deviation = torch.where(deviation > 0, deviation, 1.0)
        self.statistics[name] = x.mean(1)[:, None, None], deviation[:, None, None]

    def maps(self, index: int) -> dict[str, Tensor]:
        found = {}
        for name, files in self.others.items():
            if not files.names[index]:
                size = header(self.read(index)).size
                shape = size if name in self.classes else (self.layers[name], *size)
                blank = torch.full(shape, -1) if name in self.classes else torch.full(shape, torch.nan)
                found[name] = blank
            elif name in self.classes:
                found[name] = self._labels(name, index)
            else:
                mean, std = self.statistics[name]
                values = self._values(name, index)
                if len(values) != len(mean):
                    raise BadSample(
                        f"its {name} has {len(values)} values at a pixel, others have {len(mean)}"
                    )
                found[name] = ((values - mean) / std).float()
        return found

    def _labels(self, name: str, index: int) -> Tensor:
        """Classes, int64 ``[H, W]``.

        Raises:
            BadSample: there is something else.
        """
        label = MaskReader(None, False, None)(self.others[name].read(index))[LABELS]
        if int(label.max()) >= self.classes[name]:
            raise BadSample(f"its {name} holds {int(label.max())}, of no class")
        return label

    def _values(self, name: str, index: int) -> Tensor:
        """As they are in the file, float64 ``[C, H, W]``."""
        return torch.from_numpy(planes(self.others[name].read(index)).astype(np.float64))


def _look(path: Path, root: Path, image: str, others: Sequence[str]) -> tuple[str, ...]:
    """The name of the file of an image in each layer, empty where there is none."""
    if broken := fault(path):
        raise BadSample(broken)
    height, width = size_of(path)
    found = []
    for name in others:
        stem = (root / name / path.relative_to(root / image)).with_suffix("")
        files = (stem.with_name(stem.name + suffix) for suffix in (".npy", ".png", *ENDINGS))
        there = next((file for file in files if file.is_file()), None)
        if there is not None:
            if broken := fault(there):
                raise BadSample(f"its {name}: {broken}")
            h, w = stored_size(there)
            if h * width != w * height:
                raise BadSample(f"it is {height} x {width} pixels, and its {name} {h} x {w}")
        found.append("" if there is None else there.relative_to(root).as_posix())
    return tuple(found)
