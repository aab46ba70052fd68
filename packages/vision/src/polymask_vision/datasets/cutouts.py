"""Pictures with a transparent ground, which is replaced by one of choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, class_names, class_numbers, held_out, whole
from polymask.data.splits import Names
from polymask_vision.datasets.decode import fault
from polymask_vision.datasets.maps import LABELS

SHADES = (
    *(
        "amber",
        "aqua",
        "beige",
        "black",
        "blond",
        "blue",
        "bright",
        "brown",
        "cyan",
        "dark",
        "gold",
        "golden",
    ),
    *("gray", "green", "grey", "lavender", "light", "lime", "magenta", "maroon", "navy", "olive", "orange"),
    *("pale", "pink", "purple", "red", "silver", "tan", "teal", "turquoise", "violet", "white", "yellow"),
    *("big", "heavy", "large", "little", "medium", "small", "tiny", "filled", "outline", "outlined"),
)
"""Words that tell drawings of one thing apart."""


MOST = 4_000_000
"""Pixels of a picture; a few drawings have a hundred times as many, and take seconds to read."""


class CutOuts:
    """Files of pictures by number, each on the ground and in the middle of a square.

    Samples have a ``label_map`` too: 1 where a picture is opaque, 0 on its ground.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        captions: a few words about each.
        background: a colour by name or as ``#RRGGBB``, or the path of an image that fills the ground.

    Raises:
        UserError: the background is neither.
    """

    map_classes = ("ground", "object")

    def __init__(self, root: Path, names: Sequence[str], captions: Sequence[str], background: str) -> None:
        self.root, self.names, self.captions = root, Names(names), Names(captions)
        self.ground = _ground(background)
        self._last: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        picture = self._square(index)
        if isinstance(self.ground, Image.Image):
            ground = ImageOps.fit(self.ground, picture.size).convert("RGBA")
        else:
            ground = Image.new("RGBA", picture.size, self.ground)
        return Image.alpha_composite(ground, picture).convert("RGB")

    def maps(self, index: int) -> dict[str, Tensor]:
        opacity = self._square(index).getchannel("A").point(lambda x: x > 127)
        label = torch.frombuffer(bytearray(opacity.tobytes()), dtype=torch.uint8).long()
        return {LABELS: label.view(opacity.height, opacity.width)}

    def name(self, index: int) -> str:
        return self.names[index]

    def caption(self, index: int) -> str:
        return self.captions[index]

    def _square(self, index: int) -> Image.Image:
        # an image and its map are read one after the other
        if self._last is None or self._last[0] != index:
            with Image.open(Path(self.root, self.names[index])) as file:
                picture = file.convert("RGBA")
            side = max(picture.size)
            square = Image.new("RGBA", (side, side))
            square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
            self._last = index, square
        return self._last[1]


def cut_outs(
    root: Path,
    names: Sequence[str],
    classes: Sequence[str],
    captions: Sequence[str],
    families: Sequence[str],
    background: str,
    share: float,
) -> Splits[CutOuts]:
    """Splits of pictures, whole families on one side.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        classes: of each.
        captions: a few words about each.
        families: what each is a drawing of: other drawings of that are on the same side.
        background: see :class:`CutOuts`.
        share: of the families of each class to hold out.

    Raises:
        UserError: there are no pictures.
    """
    broken = {name: why for name in names if (why := fault(root / name) or _too_large(root / name))}
    kept = [i for i, name in enumerate(names) if name not in broken]
    if not kept:
        raise UserError(
            f"no pictures in {root}" + "".join(f"; {k}: {v}" for k, v in list(broken.items())[:1])
        )
    source = CutOuts(root, [names[i] for i in kept], [captions[i] for i in kept], background)
    known = class_names(classes)
    every = whole(source, class_numbers([classes[i] for i in kept], known))
    test = held_out([families[i] for i in kept], None, share)
    return Splits(train=every.at(~test), test=every.at(test), classes=known, skipped=sorted(broken.items()))


def _too_large(path: Path) -> str | None:
    # read from the head of the file, where PIL would warn of such sizes
    with path.open("rb") as file:
        size = file.read(24)[16:]
    pixels = int.from_bytes(size[:4], "big") * int.from_bytes(size[4:], "big")
    return f"its {pixels:,} pixels are more than {MOST:,}" if pixels > MOST else None


def family(text: str) -> str:
    """What a caption or the name of a file is about, without articles, numbers, colours and sizes."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    if words[:1] in (["a"], ["an"], ["the"]):
        words = words[1:]
    return " ".join(word for word in words if word not in SHADES) or text


def example_picture(path: Path, number: int) -> None:
    """Write a disc of some colour on a transparent ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", (24, 16))
    picture.paste((40 * number % 256, 90, 200, 255), (4 + number % 5, 4, 16, 12))
    picture.save(path)


def _ground(background: str) -> Image.Image | tuple[int, ...]:
    try:
        return ImageColor.getcolor(background, "RGBA")  # type: ignore[return-value]
    except ValueError:
        path = Path(background).expanduser()
    if path.is_file() and fault(path) is None:
        with Image.open(path) as image:
            return image.convert("RGB")
    raise UserError(
        f"background={background!r} is neither a colour (white, '#e0d0c0') nor an image file that could fill "
        "the ground"
    )
