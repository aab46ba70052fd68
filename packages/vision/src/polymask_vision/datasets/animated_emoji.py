"""Emoji that move, from packages of npm."""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from polymask import UserError
from polymask.data import Split, Splits, class_names, class_numbers, held_out
from polymask.data.cache import cache_folder
from polymask.data.splits import Names
from polymask.types import Share
from polymask_vision.datasets.decode import Raw, fault
from polymask_vision.datasets.emoji import thing
from polymask_vision.datasets.npm import unpacked

PACKAGE, VERSION = "@lobehub/fluent-emoji-anim-1", "1.0.0"
INTEGRITY = "sha512-/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA=="

NAMES, NAMES_VERSION = "unicode-emoji-json", "0.9.0"
NAMES_INTEGRITY = (
    "sha512-HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng=="
)

SKINS = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
"""Code points of colours of skin."""


def animated_emoji(*, source: str | None = None, skin: bool = True, test: Share = 0.2) -> Splits[Animations]:
    """477 animated emoji of 256 x 256 pixels, one to five seconds each, on white, in 7 categories of Unicode.

    Their names in Unicode, which tell no skin, are captions.

    They are Microsoft's, taken from npm's package ``@lobehub/fluent-emoji-anim-1`` (165 MB, MIT), with names
    and categories of ``unicode-emoji-json`` (MIT), fetched once with ``npm pack``. Emoji of the first package
    that stand still are left out. What differs in skin, sex and direction alone stays on one side.

    Args:
        source: folder of both packages, unpacked (``animated-emoji:FOLDER``): ``assets`` and
            ``data-by-emoji.json``.
        skin: whether to have emoji of people in five colours of skin too.
        test: share of the emoji to hold out.
    """
    advice = "Or give the folder: animated-emoji:FOLDER."
    if source is None:
        cache = cache_folder("animated-emoji")
        root = unpacked(
            PACKAGE,
            VERSION,
            INTEGRITY,
            cache=cache / VERSION,
            wanted=lambda name: name.startswith("assets/"),
            advice=advice,
        )
        about = unpacked(
            NAMES,
            NAMES_VERSION,
            NAMES_INTEGRITY,
            cache=cache / f"names-{NAMES_VERSION}",
            wanted=lambda name: name in ("data-by-emoji.json", "LICENSE"),
            advice=advice,
        )
    else:
        root = about = Path(source).expanduser()
    known = _entries(about / "data-by-emoji.json")
    names, ends, classes, captions, families, skipped = [], [], list[str | None](), [], [], []
    for path in sorted(root.glob("assets/*.webp")):
        code = [point for point in path.stem.split("-") if point != "fe0f"]
        plain = "-".join(point for point in code if point not in SKINS)
        if not skin and plain != "-".join(code):
            continue
        if why := fault(path):
            skipped.append((path.name, why))
            continue
        lengths = list(durations(path.read_bytes()))
        if len(lengths) < 2:
            continue
        entry = known.get(plain, {})
        names.append(path.relative_to(root).as_posix())
        ends.append([ms / 1000 for ms in accumulate(lengths)])
        classes.append(entry.get("group"))
        captions.append(entry.get("name", ""))
        families.append(thing("-".join(code).upper(), entry.get("name", plain)))
    if not names:
        raise UserError(f"animated-emoji: there are no animations (assets/*.webp) in {root.absolute()}")
    titles = class_names(classes)
    labels = class_numbers(classes, titles)
    held = held_out(families, labels, test)
    animations = Animations(root, names, ends, captions)
    train, rest = (Split(animations, mine.nonzero()[:, 0], labels[mine]) for mine in (~held, held))
    return Splits(train=train, test=rest, classes=titles, skipped=skipped)


def example_source(folder: Path) -> str:
    """Squares that move in two categories."""
    (folder / "assets").mkdir()
    known = {}
    for i in range(12):
        character = chr(0x1F600 + i)
        frames = []
        for t in range(4):
            frame = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
            frame.paste((20 * i, 99, 200, 255), (2 * t, i, 2 * t + 4, i + 4))
            frames.append(frame)
        path = folder / "assets" / f"{ord(character):04x}.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=250, lossless=True)
        known[character] = {"name": f"thing {'abcdefghijkl'[i]}", "group": ("Objects", "Symbols")[i % 2]}
    (folder / "data-by-emoji.json").write_text(json.dumps(known))
    return str(folder)


class Animations:
    """Animated files that PIL reads, by number.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        ends: of each file, when each of its frames ends, in seconds.
        captions: of each file, empty where there is none.
    """

    def __init__(
        self, root: Path, names: Sequence[str], ends: Sequence[Sequence[float]], captions: Sequence[str]
    ) -> None:
        self.root, self.names, self.captions = root, Names(names), Names(captions)
        self._ends = [torch.tensor(one, dtype=torch.float64) for one in ends]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def caption(self, index: int) -> str:
        """Its name in Unicode."""
        return self.captions[index]

    def seconds(self, index: int) -> float:
        """When the last frame ends."""
        return float(self._ends[index][-1])

    def frames(self, index: int, times: Sequence[float]) -> list[Raw]:
        ends = self._ends[index].tolist()
        shown: list[Raw] = []
        with Image.open(self.root / self.names[index]) as image:
            for time in times:
                image.seek(min(bisect_right(ends, time), len(ends) - 1))
                shown.append(image.convert("RGBA"))
        return shown


def durations(data: bytes) -> Iterator[int]:
    """Milliseconds of each frame of an animated WebP; nothing of one that stands still.

    They are in the header of its frames (chunks ``ANMF`` of RIFF), so that nothing is decoded.
    """
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"ANMF" and at + 24 <= len(data):
            yield int.from_bytes(data[at + 20 : at + 23], "little")
        at += 8 + size + size % 2


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """Entries by code points without those of how to draw them."""
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"animated-emoji: {path} cannot be read: {error}") from error
    return {
        "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F): entry for emoji, entry in found.items()
    }
