"""Folders of pairs of pictures of one scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import BadSample, Splits, evenly
from polymask.data.folders import read_folder
from polymask.types import Share
from polymask_vision.datasets.decode import ENDINGS, fault
from polymask_vision.datasets.folder import Files
from polymask_vision.datasets.maps import MaskReader
from polymask_vision.datasets.segmentation import LOOK, mask_of

ONE, TWO = "_1", "_2"
"""Ends of names of pictures that lie beside one another."""

SECOND = "the second of a pair"


def pairs(
    *,
    source: str,
    first: str = "left",
    second: str = "right",
    values: str | None = None,
    ignore: float | None = None,
    test: Share = 0.1,
) -> Splits[PairFiles]:
    """Two pictures of each scene, as samples ``image`` and ``other``: from two cameras, or of two moments.

    They lie in two folders under one name, ``left/a/b.jpg`` and ``right/a/b.png``; or, where the folder
    ``first`` is not there, beside one another as ``a/b_1.jpg`` and ``a/b_2.png``. Folders within are splits
    and classes as in ``folder``. The two may differ in size and format.

    A third folder may hold a value of each pixel of the first pictures, their disparity or depth, as
    ``disparity/a/b.pfm``, a grey image of 8 or 16 bits or floats, or ``.npy``; samples hold it as
    ``value_map``, as it is stored, which ``vision/dense`` predicts.

    Pictures without a partner or a map, and pairs of which one is damaged, are left out and listed in
    ``skipped``. That the two show much of the same is not looked into.

    Args:
        source: the folder (``pairs:PATH``).
        first: the folder of first pictures in it.
        second: that of second pictures.
        values: that of maps, of the size of the first pictures; by default there are none.
        ignore: value of pixels that are not known, 0 in KITTI's maps; NaN and infinity are none either way.
        test: share of each class of pairs to hold out where there is no folder for it.
    """
    root = Path(source).expanduser()
    if not root.is_dir():
        raise UserError(f"pairs:{source}: there is no folder {root.absolute()}")
    apart = (root / first).is_dir()
    if first != "left" and not apart:
        raise UserError(
            f"pairs:{source}: there is no folder {(root / first).absolute()} of first pictures; there are "
            f"{', '.join(sorted(path.name for path in root.glob('*/'))) or 'none'}"
        )
    maps = None if values is None else root / values
    if apart and not (root / second).is_dir():
        raise UserError(
            f"pairs:{source}: there is {first}, and no folder {(root / second).absolute()} of second "
            "pictures: say where they are, --data.second NAME"
        )
    if maps is not None and not apart:
        raise UserError(
            f"pairs:{source}: maps lie beside folders of first and second pictures, and there is no folder "
            f"{(root / first).absolute()}"
        )
    if maps is not None and not maps.is_dir():
        raise UserError(
            f"pairs:{source}: there is no folder {maps.absolute()} of maps: say where it is, --data.values "
            "NAME"
        )
    here, there = (root / first, root / second) if apart else (root, root)
    if apart and here.resolve() == there.resolve():
        raise UserError(
            f"pairs:{source}: {first} and {second} are one folder, and each picture would be paired with "
            "itself: give --data.second another"
        )

    def look(path: Path) -> tuple[str, str]:
        partner = _apart(path, here, there) if apart else _beside(path, root)
        return partner, "" if maps is None else mask_of(path, here, maps, "map")

    what = f"pictures with a partner in {second}" if apart else "pairs NAME_1 and NAME_2"
    found = read_folder(str(here), ENDINGS, what + (f" and a map in {values}" if values else ""), look)
    skipped = [(name, why) for name, why in found.skipped if why != SECOND]
    if apart:
        skipped += _left_over(here, there)
    others, names = ([both[i] for both in found.looks] for i in (0, 1))
    files = PairFiles(here, found.names, Files(there, others))
    if maps is not None:
        reader = MaskReader(None, values=True, ignore=ignore)
        reader.check((names[i], (maps / names[i]).read_bytes()) for i in evenly(len(names), LOOK))
        files = PairMapFiles(here, found.names, Files(there, others), Files(maps, names), reader)
    return dataclasses.replace(found, skipped=skipped).splits(files, test)


def example_source(folder: Path) -> str:
    """A square seen from two places."""
    for name, shift in (("left", 0), ("right", 3)):
        (folder / name).mkdir()
        for i in range(8):
            image = Image.new("RGB", (16, 16), (30 * i, 80, 120))
            image.paste((255, 200, 30 * i), (6 - shift, i, 10 - shift, i + 5))
            image.save(folder / name / f"{i}.png")
    return str(folder)


class PairFiles(Files):
    """Image files and second pictures by number.

    Args:
        root: the folder that names are relative to.
        names: of the first pictures.
        others: the second pictures.
    """

    def __init__(self, root: Path, names: Sequence[str], others: Files) -> None:
        super().__init__(root, names)
        self.others = others

    def other(self, index: int) -> bytes:
        return self.others.read(index)


class PairMapFiles(PairFiles):
    """The same with a value of each pixel of the first pictures.

    Args:
        root: the folder that names are relative to.
        names: of the first pictures.
        others: the second pictures.
        values: the maps.
        reader: turns a file into a map.
    """

    map_classes = None

    def __init__(
        self, root: Path, names: Sequence[str], others: Files, values: Files, reader: MaskReader
    ) -> None:
        super().__init__(root, names, others)
        self.values, self.reader = values, reader

    def maps(self, index: int) -> dict[str, Tensor]:
        return self.reader(self.values.read(index))


def _apart(path: Path, first: Path, second: Path) -> str:
    """The name of the second picture of one, in another folder."""
    stem = (second / path.relative_to(first)).with_suffix("")
    return _partner(path, stem, second)


def _beside(path: Path, root: Path) -> str:
    """The name of the second picture of one, beside it."""
    stem, end = path.stem[: -len(ONE)], path.stem[-len(ONE) :]
    if end == ONE:
        return _partner(path, path.with_name(stem + TWO), root)
    if end == TWO:
        _found(path.with_name(stem + ONE))
        raise BadSample(SECOND)
    raise BadSample(f"its name ends in neither {ONE} nor {TWO}")


def _partner(path: Path, stem: Path, root: Path) -> str:
    if broken := fault(path):
        raise BadSample(broken)
    partner = _found(stem)
    if broken := fault(partner):
        raise BadSample(f"its partner {partner.name}: {broken}")
    return partner.relative_to(root).as_posix()


def _found(stem: Path) -> Path:
    """The picture of a name, whatever its suffix."""
    for suffix in ENDINGS:
        for one in (suffix, suffix.upper()):
            if (path := stem.with_name(stem.name + one)).is_file():
                return path
    raise BadSample(f"it has no partner {stem.name}{ENDINGS[0]}, or of another suffix")


def _left_over(first: Path, second: Path) -> list[tuple[str, str]]:
    """Second pictures without a first."""
    there = {path.relative_to(first).with_suffix("").as_posix() for path in first.rglob("*")}
    return [
        (f"{second.name}/{path.relative_to(second).as_posix()}", f"it has no partner in {first.name}")
        for path in sorted(second.rglob("*"))
        if path.suffix.lower() in ENDINGS and path.relative_to(second).with_suffix("").as_posix() not in there
    ]
