"""Drawn persons with captions that name their attributes, some of them false where asked."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, whole
from polymask.data.cache import cache_folder, whole_or_not
from polymask.types import Count, Share, Whole
from polymask_vision.datasets.memory import Arrays

ATTRIBUTES: dict[str, dict[str, str]] = {
    "style": {
        "short": "SHORT_FLAT",
        "long": "STRAIGHT_1",
        "curly": "CURLY",
        "bobbed": "BOB",
        "shaggy": "SHAGGY",
        "braided": "BRAIDS",
    },
    "hair": {
        "black": "BLACK",
        "blond": "BLONDE",
        "brown": "BROWN",
        "auburn": "AUBURN",
        "silver": "SILVER_GRAY",
        "pink": "PASTEL_PINK",
    },
    "colour": {
        "black": "BLACK",
        "blue": "BLUE_03",
        "grey": "GRAY_02",
        "red": "RED",
        "white": "WHITE",
        "green": "PASTEL_GREEN",
        "yellow": "PASTEL_YELLOW",
        "orange": "PASTEL_ORANGE",
    },
    "clothes": {
        "hoodie": "HOODIE",
        "sweater": "COLLAR_SWEATER",
        "shirt": "SHIRT_CREW_NECK",
        "overall": "OVERALL",
    },
    "eyes": {"": "NONE", "glasses": "ROUND", "sunglasses": "SUNGLASSES", "eyepatch": "EYEPATCH"},
    "face": {"": "NONE", "beard": "BEARD_MEDIUM", "moustache": "MOUSTACHE_MAGNUM"},
}
"""Words of captions, and what python-avatars calls them; an attribute without a word is not mentioned."""

Person = dict[str, str]


def persons(
    *, count: Count = 2000, pixels: Count = 64, false: Share = 0.0, seed: Whole = 0, test: Share = 0.2
) -> Splits[Persons]:
    """Drawn persons who differ in hair, clothes and what is on their faces, with a caption that says so.

    The drawings are those of python-avatars (MIT), made once and kept in the cache, 22 ms each. No two
    persons have all attributes alike. A share of the training captions can be made false: one of their
    attributes is another one of its kind, and samples say of which words that holds (``planted``). This is
    drawn and captioned by rule: what is found on it is about mechanisms.

    Args:
        count: how many persons.
        pixels: height and width of a drawing.
        false: share of training captions of which one attribute is false; those to test on are true.
        seed: of the choice of persons, of their captions, and of what is false.
        test: share of the persons to hold out.
    """
    if not 0 <= test < 1 or round(test * count) == count:
        raise UserError(f"test must be a share of the persons that leaves some to train on, got {test}")
    every = list(itertools.product(*ATTRIBUTES.values()))
    if count > len(every):
        raise UserError(f"there are {len(every):,} persons that differ, and count={count:,} are asked for")
    chance = random.Random(seed)
    people = [dict(zip(ATTRIBUTES, one, strict=True)) for one in chance.sample(every, count)]
    held = round(test * count)
    told = [describe(person, chance.random() < 0.5) for person in people]
    captions, spans = list[str](), list[tuple[int, int] | None]()
    for number, (text, where) in enumerate(told):
        span = None
        if number >= held and chance.random() < false:
            text, span = make_false(text, where, chance)
        captions.append(text)
        spans.append(span)
    source = Persons(_drawings(people, pixels, seed), captions, spans)
    everyone = whole(source)
    is_test = torch.arange(count) < held
    return Splits(train=everyone.at(~is_test), test=everyone.at(is_test))


class Persons(Arrays):
    """Drawings in memory, their captions, and where these were made false.

    Args:
        images: uint8 ``[n, 3, H, W]``.
        captions: of each.
        planted: from which character to which each is false, None of those that are true.
    """

    def __init__(
        self, images: Tensor, captions: Sequence[str], planted: Sequence[tuple[int, int] | None]
    ) -> None:
        super().__init__(images)
        self.captions, self.spans = list(captions), list(planted)

    def name(self, index: int) -> str:
        return f"person {index}"

    def caption(self, index: int) -> str:
        return self.captions[index]

    def planted(self, index: int) -> tuple[int, int] | None:
        return self.spans[index]


def describe(person: Person, hair_first: bool) -> tuple[str, dict[str, tuple[int, int]]]:
    """A caption, and from which character to which it names each attribute."""
    hair = ["with ", ("style", ""), " ", ("hair", ""), " hair"]
    clothes = ["in a ", ("colour", ""), " ", ("clothes", "")]
    parts: list[Any] = ["a person ", *(hair if hair_first else clothes), " and "]
    parts += clothes if hair_first else hair
    parts += [", wearing ", ("eyes", "")] if person["eyes"] else []
    parts += [", with a ", ("face", "")] if person["face"] else []
    text, where = "", dict[str, tuple[int, int]]()
    for part in parts:
        word = part if isinstance(part, str) else person[part[0]]
        if not isinstance(part, str):
            where[part[0]] = len(text), len(text) + len(word)
        text += word
    return text, where


def make_false(
    text: str, where: dict[str, tuple[int, int]], chance: random.Random
) -> tuple[str, tuple[int, int]]:
    """The caption with another word for one of its attributes, and where that stands."""
    kind = chance.choice(sorted(where))
    start, stop = where[kind]
    others = [word for word in ATTRIBUTES[kind] if word not in ("", text[start:stop])]
    word = chance.choice(others)
    return text[:start] + word + text[stop:], (start, start + len(word))


def _drawings(people: Sequence[Person], pixels: int, seed: int) -> Tensor:
    """uint8 ``[n, 3, H, W]``, from the cache or drawn."""
    try:
        import python_avatars
        import resvg_py
    except ImportError as error:
        raise UserError(
            "persons are drawn by python-avatars: pip install 'polymask-vision[persons]'"
        ) from error
    made_of = (
        len(people),
        pixels,
        seed,
        version("python-avatars"),
        version("resvg-py"),
        sorted(ATTRIBUTES.items()),
    )
    name = hashlib.blake2b(repr(made_of).encode(), digest_size=16).hexdigest()
    folder = cache_folder("persons") / name
    if not folder.is_dir():
        images = [
            _draw(python_avatars, resvg_py, person, pixels, number) for number, person in enumerate(people)
        ]
        with whole_or_not(folder) as part:
            np.save(part / "images.npy", np.stack(images))
    return torch.from_numpy(np.load(folder / "images.npy"))


def _draw(avatars: Any, resvg: Any, person: Person, pixels: int, number: int) -> np.ndarray[Any, Any]:
    """One person; skin and mouth, which no caption names, go by its number."""
    word = {kind: ATTRIBUTES[kind][said] for kind, said in person.items()}
    chance = random.Random(number)
    drawing = avatars.Avatar(
        style=avatars.AvatarStyle.TRANSPARENT,
        top=avatars.HairType[word["style"]],
        hair_color=avatars.HairColor[word["hair"]],
        facial_hair=avatars.FacialHairType[word["face"]],
        facial_hair_color=avatars.HairColor[word["hair"]],
        clothing=avatars.ClothingType[word["clothes"]],
        clothing_color=avatars.ClothingColor[word["colour"]],
        accessory=avatars.AccessoryType[word["eyes"]],
        skin_color=avatars.SkinColor[chance.choice(["PALE", "LIGHT", "TANNED", "BROWN", "DARK_BROWN"])],
        mouth=avatars.MouthType[chance.choice(["DEFAULT", "SMILE", "SERIOUS", "TWINKLE"])],
    )
    png = resvg.svg_to_bytes(svg_string=drawing.render(), width=pixels, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as file:
        person_on_white = Image.new("RGBA", (pixels, pixels), "white")
        cut_out = file.convert("RGBA")
        cut_out.thumbnail((pixels, pixels))
        person_on_white.alpha_composite(cut_out, ((pixels - cut_out.width) // 2, pixels - cut_out.height))
    return np.asarray(person_on_white.convert("RGB")).transpose(2, 0, 1)
