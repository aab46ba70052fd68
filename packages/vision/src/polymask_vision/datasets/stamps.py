"""Pictures of Tux Paint, from Debian's package."""

from __future__ import annotations

from pathlib import Path

from polymask import UserError
from polymask.data import Splits
from polymask.data.cache import cache_folder
from polymask.data.debian import unpacked
from polymask.types import Share
from polymask_vision.datasets.cutouts import CutOuts, cut_outs, example_picture, family

PACKAGE, INSIDE = "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps"

VARIANTS = ("_mirror", "_flip")
"""Ends of names of pictures that are others turned around."""


def stamps(*, source: str | None = None, background: str = "white", test: Share = 0.2) -> Splits[CutOuts]:
    """785 photographs and drawings of animals, food, tools, ..., cut out, with an English caption each.

    They are taken from Debian's package ``tuxpaint-stamps-default`` (GPL-2), installed or fetched once with
    ``apt-get download`` (161 MB, no root needed). Classes are its 16 folders. A ``label_map`` says where
    the object is and where the ground.

    Pictures whose captions differ in colours, numbers and sizes alone are of one thing and stay on one side.

    Args:
        source: folder that holds the class folders (``stamps:FOLDER``).
        background: of the cut-outs: a colour by name or ``#RRGGBB``, or the path of an image.
        test: share of the things to hold out.
    """
    root = (
        unpacked(INSIDE, PACKAGE, cache=cache_folder("stamps"), advice="Or give the folder: stamps:FOLDER.")
        if source is None
        else Path(source).expanduser()
    )
    names = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/**/*.png")) if _is_one(path)]
    if not names:
        raise UserError(f"stamps: there are no pictures (CLASS/NAME.png) in {root.absolute()}")
    captions = [_caption(root / name) for name in names]
    classes = [name.partition("/")[0] for name in names]
    return cut_outs(root, names, classes, captions, list(map(family, captions)), background, test)


def example_source(folder: Path) -> str:
    """Discs in two classes, each thing twice in other colours."""
    for i in range(24):
        path = folder / ("food", "tools")[i % 2] / "deep" / f"{i}.png"
        example_picture(path, i)
        path.with_suffix(".txt").write_text(f"A {('red', 'blue')[i // 12]} {'abcdefghijkl'[i % 12] * 3}.\n")
    return str(folder)


def _is_one(path: Path) -> bool:
    return not path.stem.endswith(VARIANTS)


def _caption(path: Path) -> str:
    """The first line of the text beside a picture, else its name."""
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.is_file() else []
    return lines[0].strip() if lines and lines[0].strip() else path.stem
