"""CAD shapes of electronic components, from Debian's package of KiCad's library."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from polymask import UserError
from polymask.data import BadSample, Skipped, Split, Splits, class_numbers, evenly, whole
from polymask.data.cache import cache_folder
from polymask.data.debian import fetch
from polymask.data.splits import S, hash_key
from polymask.types import Count, Share
from polymask_pointcloud.datasets.base import Clouds
from polymask_pointcloud.datasets.files import read
from polymask_pointcloud.datasets.raw import Array, Raw, by_area

PACKAGE = "kicad-packages3d"
POINTS, LEAST = 2048, 50
_INSTALLED = "usr/share/kicad/3dmodels"
_STEP = 2.0**-14


def cad(*, source: str | None = None, per_class: Count | None = None, test: Share = 0.25) -> Splits[Sampled]:
    """6,227 shapes of connectors, packages, capacitors and other parts, drawn for KiCad (CC BY-SA 4.0).

    They are looked for in the cache; then taken from Debian's package ``kicad-packages3d``, installed or
    fetched with ``apt-get download`` (379 MB, no root needed). The first time, 2,048 points of each are
    sampled by area and kept with their normals (160 MB, minutes).

    A class is the first word of a shape's library, where there are 50 shapes or more in two families or
    more; others are left out. A family is a library and the first two words of a shape's name, numbers apart
    (``JST_EH``): the shapes of one family differ in size or count of pins, so families stay on one side of
    the split.

    Args:
        source: folder that holds libraries of ``.wrl`` files (``cad:FOLDER``); read each time.
        per_class: maximum number of shapes of each class; half of all are connectors.
        test: share of each class to hold out, about.
    """
    if source is None:
        names, shapes, skipped = _cached(cache_folder("cad"))
    else:
        names, shapes, skipped = sample_all(Path(source).expanduser())
    classes, which = select(names, per_class)
    sampled = Sampled([names[i] for i in which], shapes, which)
    labels = class_numbers(map(kind, sampled.names), classes)
    train, held = divide(whole(sampled, labels), list(map(family, sampled.names)), test)
    return Splits(train=train, test=held, classes=classes, skipped=skipped)


def example_source(folder: Path) -> str:
    """Tetrahedra of two made-up libraries."""
    random = np.random.default_rng(0)
    for library in ("Connector_A", "Package_B"):
        (folder / f"{library}.3dshapes").mkdir()
        for i in range(LEAST):
            corners = " ".join(f"{x:.4f}" for x in random.random(12))
            (folder / f"{library}.3dshapes" / f"{'VWXYZ'[i % 5]}_{i}.wrl").write_text(
                "#VRML V2.0 utf8\nShape { geometry IndexedFaceSet { coordIndex [0,1,2,-1,0,3,1,-1,0,2,3,"
                f"-1,1,3,2,-1] coord Coordinate {{ point [{corners}] }} }} }}\n"
            )
    return str(folder)


class Sampled(Clouds):
    """Shapes as points with normals, in steps of a small fraction.

    Args:
        names: ``LIBRARY/SHAPE`` of each.
        shapes: int16 ``[m, points, 6]``, memory-mapped or not.
        which: int64, the number of each in ``shapes``.
    """

    features = ("normals",)

    def __init__(self, names: Sequence[str], shapes: Array, which: Sequence[int]) -> None:
        self.names, self.shapes, self.which = list(names), shapes, list(which)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Raw:
        table = self.shapes[self.which[index]] * _STEP
        return Raw(table[:, :3], {"normals": table[:, 3:]})

    def name(self, index: int) -> str:
        return self.names[index]


def divide(split: Split[S], families: Sequence[str], share: float) -> tuple[Split[S], Split[S]]:
    """Train and test, families whole: a likeness of a test cloud is never trained on.

    In each class, families are put on the test side in the order of a hash of their names while they fit into
    the share; where none fits, the smallest. One family at least stays for training.

    Args:
        split: all of them.
        families: of each.
        share: of the clouds of each class, in [0, 1).

    Raises:
        UserError: a share out of range.
    """
    if not 0 <= share < 1:
        raise UserError(f"test must be a share of the clouds, 0 <= test < 1, got {share}")
    labels = [0] * len(split) if split.labels is None else split.labels.tolist()
    classes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (label, family) in enumerate(zip(labels, families, strict=True)):
        classes[label][family].append(place)
    test = torch.zeros(len(split), dtype=torch.bool)
    for members in classes.values() if share else ():
        names = sorted(members, key=hash_key)
        room = round(share * sum(map(len, members.values())))
        chosen: list[str] = []
        for name in names:
            if len(members[name]) <= room and len(chosen) < len(names) - 1:
                chosen.append(name)
                room -= len(members[name])
        if not chosen and len(names) > 1:
            chosen = [min(names, key=lambda name: len(members[name]))]
        for name in chosen:
            test[members[name]] = True
    return split.at(~test), split.at(test)


def kind(name: str) -> str:
    """The first word of a shape's library."""
    return re.split("[_.]", name)[0]


def family(name: str) -> str:
    """A shape's library and the first two words of its name: what is left out of a name are numbers."""
    library, _, shape = name.partition("/")
    return "_".join([library, *re.findall("[A-Za-z]+", shape)[:2]])


def select(names: Sequence[str], per_class: int | None = None) -> tuple[list[str], list[int]]:
    """Classes, and the numbers of their shapes, evenly spaced where there are more than ``per_class``.

    Raises:
        UserError: no class has enough shapes.
    """
    counts = Counter(map(kind, names))
    families = Counter(map(kind, set(map(family, names))))
    classes = sorted(word for word, n in counts.items() if n >= LEAST and families[word] > 1)
    if not classes:
        raise UserError(f"no class of {LEAST} shapes or more among {len(names)} in {len(counts)} libraries")
    which: list[int] = []
    for word in classes:
        mine = [i for i, name in enumerate(names) if kind(name) == word]
        which += [mine[i] for i in evenly(len(mine), per_class)]
    return classes, sorted(which)


def sample_all(root: Path, points: int = POINTS) -> tuple[list[str], Array, Skipped]:
    """Names, points and normals of all ``.wrl`` files of the libraries in a folder; what could not be read.

    Raises:
        UserError: there are none.
    """
    paths = sorted(root.glob("*/*.wrl"))
    skipped: Skipped = []
    names, shapes = [], []
    for path, shape in zip(paths, _in_parallel(paths, points), strict=True):
        name = f"{path.parent.name}/{path.stem}"
        if isinstance(shape, str):
            skipped.append((name, shape))
        else:
            names.append(name)
            shapes.append(shape)
    if not shapes:
        reason = f"; skipped {len(skipped)}, first {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"no shapes (LIBRARY/NAME.wrl) in {root.absolute()}{reason}")
    return names, np.stack(shapes), skipped


def _in_parallel(paths: Sequence[Path], points: int) -> Iterable[Array | str]:
    if len(paths) < 500:  # processes take longer to start
        return [sample(path, points) for path in paths]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(sample, paths, [points] * len(paths), chunksize=32))


def sample(path: Path, points: int) -> Array | str:
    """One shape, centred and scaled into the unit sphere, int16 ``[points, 6]``; or why it cannot be had."""
    try:
        cloud = by_area(read(path), points, np.random.default_rng(0))
    except BadSample as error:
        return str(error)
    place = cloud.points - cloud.points.mean(0)
    place = place / max(np.linalg.norm(place, axis=1).max(), 1e-12)
    table = np.concatenate([place, cloud.features["normals"]], axis=1)
    return np.asarray(np.round(table / _STEP), dtype=np.int16)


def _cached(root: Path) -> tuple[list[str], Array, Skipped]:
    """The same of the whole library, from the cache, which is filled if need be."""
    archive, listing = root / f"points-{POINTS}.npy", root / f"names-{POINTS}.json"
    if not listing.exists():
        _obtain(root, archive, listing)
    try:
        found = json.loads(listing.read_text())
        shapes = np.load(archive, mmap_mode="r")
        if shapes.shape != (len(found["names"]), POINTS, 6):
            raise ValueError(f"points of shape {shapes.shape} for {len(found['names'])} names")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the CAD shapes in {root} are damaged ({error}): delete it and try again") from error
    return found["names"], shapes, [(name, reason) for name, reason in found["skipped"]]


def _obtain(root: Path, archive: Path, listing: Path) -> None:
    """Fill the cache.

    Raises:
        UserError: it cannot be done here, and what to do by hand.
    """
    with tempfile.TemporaryDirectory() as folder:
        installed = Path("/", _INSTALLED)
        if not installed.is_dir():
            try:
                fetch(folder, PACKAGE)
            except OSError as error:
                raise UserError(
                    f"{error}\nGet it where there is a network, unpack it and give the folder of its "
                    "libraries: cad:FOLDER. The data set 'shapes' is a built-in part of it."
                ) from error
            installed = Path(folder, _INSTALLED)
        names, shapes, skipped = sample_all(installed)
    root.mkdir(parents=True, exist_ok=True)
    part = root / f"{os.getpid()}.part"
    with part.open("wb") as file:
        np.save(file, shapes)
    part.replace(archive)
    # the listing is last, so that where it is, all is
    part.write_text(json.dumps({"names": names, "skipped": skipped}))
    part.replace(listing)
