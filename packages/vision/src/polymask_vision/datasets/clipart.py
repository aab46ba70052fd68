"""Open Clip Art, from Debian's package."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from polymask import UserError
from polymask.data import Splits
from polymask.data.cache import cache_folder
from polymask.data.debian import unpacked
from polymask.types import Share
from polymask_vision.datasets.cutouts import CutOuts, cut_outs, example_picture, family

PACKAGE, INSIDE = "openclipart-png", "usr/share/openclipart/png"

UNSORTED = "unsorted"
"""The folder of what is in no class."""


def clipart(*, source: str | None = None, background: str = "white", test: Share = 0.2) -> Splits[CutOuts]:
    """6,732 drawings of Open Clip Art on a ground of choice (public domain).

    They are taken from Debian's package ``openclipart-png``, installed or fetched once with ``apt-get
    download`` (131 MB, no root needed). Classes are its folders (animals, buildings, ...), of very
    different sizes; pictures of ``unsorted`` and links to others are left out. Captions are the words of a
    file's name. A ``label_map`` says where something is drawn.

    Files whose names differ in numbers, colours and sizes alone are of one thing and stay on one side.

    Args:
        source: folder that holds the class folders (``clipart:FOLDER``).
        background: of the drawings: a colour by name or ``#RRGGBB``, or the path of an image.
        test: share of the things to hold out.
    """
    root = (
        unpacked(INSIDE, PACKAGE, cache=cache_folder("clipart"), advice="Or give the folder: clipart:FOLDER.")
        if source is None
        else Path(source).expanduser()
    )
    names = [
        path.relative_to(root).as_posix()
        for path in sorted(root.glob("*/**/*.png"))
        if path.relative_to(root).parts[0] != UNSORTED
    ]
    if not names:
        raise UserError(f"clipart: there are no pictures (CLASS/NAME.png) in {root.absolute()}")
    names = _distinct(root, names)
    captions = [" ".join(re.findall(r"[^\W_]+", Path(name).stem)) for name in names]
    classes = [name.partition("/")[0] for name in names]
    return cut_outs(root, names, classes, captions, list(map(family, captions)), background, test)


def _distinct(root: Path, names: Sequence[str]) -> list[str]:
    """Without files that are links to others, or copies of them where those were unpacked."""
    sizes = {name: (root / name).stat().st_size for name in names}
    shared = Counter(sizes.values())
    found: dict[tuple[int, bytes], str] = {}
    for name, size in sizes.items():
        content = (root / name).read_bytes() if shared[size] > 1 else name.encode()
        found.setdefault((size, hashlib.sha256(content).digest()), name)
    return list(found.values())


def example_source(folder: Path) -> str:
    """Discs in two classes, each thing twice."""
    for i in range(24):
        example_picture(
            folder / ("food", "tools")[i % 2] / f"{'abcdefghijkl'[i % 12] * 3}_{i // 12:02}.png", i
        )
    return str(folder)
