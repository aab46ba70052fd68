"""Emoji as two vendors draw them, from packages of npm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from polymask import UserError
from polymask.data import Splits
from polymask.data.cache import cache_folder
from polymask.types import Share
from polymask_vision.datasets.cutouts import SHADES, CutOuts, cut_outs, example_picture, family
from polymask_vision.datasets.npm import unpacked

VERSION = "16.0.0"

INTEGRITY = {
    "twitter": "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4p"
    "LYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    "google": "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQ"
    "lemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
}

PEOPLE = (
    *("1F468", "1F469", "1F9D1", "2640", "2642", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"),
    *("200D", "FE0F", "27A1"),
)
"""Code points that say of a person man, woman or neither, skin and direction, or that join others."""

SWATCHES = "Component"
"""The category of colours of skin and hair."""


def emoji(
    *,
    source: str | None = None,
    vendor: Literal["twitter", "google", "both"] = "twitter",
    skin: bool = False,
    background: str = "white",
    test: Share = 0.2,
) -> Splits[CutOuts]:
    """1,906 emoji of 64 x 64 pixels as Twitter or Google draws them, with names, in 9 categories.

    They are taken from npm's packages ``emoji-datasource-twitter`` and ``emoji-datasource-google`` (MIT; the
    drawings CC BY 4.0 and Apache-2.0), fetched once with ``npm pack`` (62 and 74 MB). A ``label_map`` says
    where something is drawn.

    The same emoji of both vendors stays on one side, with what differs from it in skin, sex, colour or size.

    Args:
        source: folder of an unpacked package, or of several in one (``emoji:FOLDER``): ``emoji.json`` and
            ``img/VENDOR/64``.
        vendor: whose drawings, or both.
        skin: whether to have emoji of people in five colours of skin too.
        background: a colour by name or ``#RRGGBB``, or the path of an image.
        test: share of the emoji to hold out.
    """
    vendors = ("twitter", "google") if vendor == "both" else (vendor,)
    folders = {one: _package(one) if source is None else Path(source).expanduser() for one in vendors}
    root = cache_folder("emoji") if source is None else Path(source).expanduser()
    names, classes, captions, families = [], [], [], []
    for one, folder in folders.items():
        for entry in _entries(folder / "emoji.json"):
            if entry["category"] == SWATCHES or not entry[f"has_img_{one}"]:
                continue
            drawn = [entry, *(entry.get("skin_variations", {}).values() if skin else ())]
            for image in drawn:
                path = folder / "img" / one / "64" / image["image"]
                names.append(path.relative_to(root).as_posix())
                classes.append(entry["category"])
                captions.append(entry["name"].lower())
                families.append(thing(entry["unified"], entry["name"]))
    return cut_outs(root, names, classes, captions, families, background, test)


def thing(code: str, name: str) -> str:
    """What an emoji is of, whatever its sex, skin, colour and size.

    Args:
        code: its code points, ``1F3C3-200D-2642-FE0F``.
        name: its name in Unicode.
    """
    left = [point for point in code.split("-") if point not in PEOPLE]
    shaded = len(left) == 1 and any(word in SHADES for word in re.findall("[a-z]+", name.lower()))
    return family(name) if shaded else "-".join(left) or "person"


def example_source(folder: Path) -> str:
    """Discs in two categories, as both vendors draw them."""
    entries = []
    for i in range(20):
        entries.append(
            {
                "name": f"THING {'ABCDEFGHIJKLMNOPQRST'[i]}",
                "unified": f"1F6{i:02}",
                "image": f"1f6{i:02}.png",
                "category": ("Objects", "Symbols")[i % 2],
                "has_img_twitter": True,
                "has_img_google": True,
            }
        )
        for vendor in INTEGRITY:
            example_picture(folder / "img" / vendor / "64" / f"1f6{i:02}.png", i)
    (folder / "emoji.json").write_text(json.dumps(entries))
    return str(folder)


def _package(vendor: str) -> Path:
    wanted = (f"img/{vendor}/64/", "emoji.json", "LICENSE")
    return unpacked(
        f"emoji-datasource-{vendor}",
        VERSION,
        INTEGRITY[vendor],
        cache=cache_folder("emoji") / f"{vendor}-{VERSION}",
        wanted=lambda name: name.startswith(wanted),
        advice="Or give the folder: emoji:FOLDER.",
    )


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"emoji: {path} cannot be read: {error}") from error
    return found
