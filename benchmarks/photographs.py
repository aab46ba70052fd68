"""Natural photographs as a folder of labelled pictures, from three of Debian's packages of wallpapers.

    uv run benchmarks/photographs.py runs/photographs

writes crops of 32 x 32 pixels, or of another ``--side``, each photograph a class: ``train`` has those of its
left 60 %, ``test`` those of its right 30 %, so that no pixel is in both. What there is to learn is to tell a
place by its colours, textures and shapes. Crops of nothing but sky are left out. Needs ``apt-get download``
and ``dpkg-deb``; nothing is installed.
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

ACROSS = 10
"""Crops that a photograph is high; from one crop to the next is half a crop."""

FLAT = 8.0
"""Standard deviation of the grey values, of 255, below which a crop shows nothing."""


def make(folder: Path, side: int = 32) -> None:
    """Fetch the photographs and write their crops.

    Args:
        folder: what to write, with a subfolder per split and class.
        side: of a crop in pixels; photographs are shrunk to ten times its height.
    """
    with tempfile.TemporaryDirectory() as place:
        fetch(place, *PACKAGES)
        for name in PHOTOGRAPHS:
            with Image.open(find(Path(place), name)) as picture:
                write(shrunk(picture, ACROSS * side), folder, name, side)
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


def shrunk(picture: Image.Image, height: int) -> Image.Image:
    """A photograph in colour, so many pixels high."""
    width = round(picture.width * height / picture.height)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def write(picture: Image.Image, folder: Path, name: str, side: int) -> None:
    """The crops of one photograph."""
    spans = {"train": (0, 0.6 * picture.width), "test": (0.7 * picture.width, picture.width)}
    for split, (left, right) in spans.items():
        target = folder / split / name
        target.mkdir(parents=True, exist_ok=True)
        for y in range(0, picture.height - side + 1, side // 2):
            for x in range(round(left), int(right) - side + 1, side // 2):
                crop = picture.crop((x, y, x + side, y + side))
                if ImageStat.Stat(crop.convert("L")).stddev[0] >= FLAT:
                    crop.save(target / f"{y:03}-{x:04}.png")


if __name__ == "__main__":
    command(make)
