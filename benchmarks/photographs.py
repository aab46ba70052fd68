"""Natural photographs as a folder of labelled pictures, from three of Debian's packages of wallpapers.

    uv run benchmarks/photographs.py runs/photographs

writes crops of 32 x 32 pixels, each photograph a class: ``train`` has those of its left 60 %, ``test``
those of its right 30 %, so that no pixel is in both. What there is to learn is to tell a place by its
colours, textures and shapes. Crops of nothing but sky are left out. Needs ``apt-get download`` and
``dpkg-deb``; nothing is installed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from command import command
from PIL import Image, ImageStat

from polymask.data.debian import fetch

PACKAGES = ("lomiri-wallpapers-16.04", "mate-backgrounds", "plasma-workspace-wallpapers")
PHOTOGRAPHS = (
    *("Bridge", "Dragonfly", "Picture_0B", "Picture_1A", "Wine", "aitzgorri", "free", "friends", "greentock"),
    *("life", "picosdeeuropa", "seeding", "sunset"),
    *("Aqua", "Blinds", "Dune", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm", "TwoWings"),
    *("Wood", "YellowFlower"),
    *("Autumn", "BytheWater", "ColdRipple", "ColorfulCups", "EveningGlow", "FallenLeaf", "Kite"),
    *("OneStandsOut", "Path", "Volna", "summer_1am"),
)
"""Those of the pictures in these packages that a camera took."""

HEIGHT, SIDE, STEP = 320, 32, 16
"""Height that photographs are shrunk to, side of a crop, and from one crop to the next, in pixels."""

FLAT = 8.0
"""Standard deviation of the grey values, of 255, below which a crop shows nothing."""


def make(folder: Path) -> None:
    """Fetch the photographs and write their crops.

    Args:
        folder: what to write, with a subfolder per split and class.
    """
    with tempfile.TemporaryDirectory() as place:
        fetch(place, *PACKAGES)
        for name in PHOTOGRAPHS:
            with Image.open(find(Path(place), name)) as picture:
                write(shrunk(picture), folder, name)
    for split in ("train", "test"):
        count = sum(1 for _ in (folder / split).rglob("*.png"))
        print(f"{folder / split}: {count} crops of {len(PHOTOGRAPHS)} photographs")


def find(place: Path, name: str) -> Path:
    """The largest file of a photograph, whose name or folder begins with its name."""
    files = [
        path
        for path in place.rglob("*")
        if path.suffix in (".jpg", ".png")
        and "dark" not in path.parent.name
        and (path.name.startswith((f"{name}.", f"{name}_")) or f"/{name}/contents/images/" in str(path))
    ]
    return max(files, key=lambda path: path.stat().st_size)


def shrunk(picture: Image.Image) -> Image.Image:
    """A photograph in colour, ``HEIGHT`` pixels high."""
    width = round(picture.width * HEIGHT / picture.height)
    return picture.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS)


def write(picture: Image.Image, folder: Path, name: str) -> None:
    """The crops of one photograph."""
    spans = {"train": (0, 0.6 * picture.width), "test": (0.7 * picture.width, picture.width)}
    for split, (left, right) in spans.items():
        target = folder / split / name
        target.mkdir(parents=True, exist_ok=True)
        for y in range(0, HEIGHT - SIDE + 1, STEP):
            for x in range(round(left), int(right) - SIDE + 1, STEP):
                crop = picture.crop((x, y, x + SIDE, y + SIDE))
                if ImageStat.Stat(crop.convert("L")).stddev[0] >= FLAT:
                    crop.save(target / f"{y:03}-{x:04}.png")


if __name__ == "__main__":
    command(make)
