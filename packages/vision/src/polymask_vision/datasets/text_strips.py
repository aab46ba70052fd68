"""Straight lines of text as ink: of a font, or of a printed page."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from polymask import UserError

Strip = Callable[[random.Random, float, float], Tensor]
"""Makes a straight line of text of a length and height in pixels: ``[h, w]``, ink in [0, 1]."""

WORDS = """
about after again always answer before began being better between both bring build call came carry
change city close color could country course cover cross does door down draw early earth every example
face family farm father feel field figure first follow food form found four friend from give good great
group grow hand hard have head hear help here high home horse hour house idea island keep kind know land
large last late learn leave letter life light line list little live long look make many mark mean might
mile money more morning mother mountain move music name near need never night north notice number often
open order other page paper part people picture place plain plant play point port press question quick
rain reach read right river road rock room round school science second seem sentence serve ship short
show side simple sing size slow small song sound south space spell stand start state stay step still
stop story street study table take talk teach tell thing think thought three time together town travel
tree true turn under unit until usual voice vowel walk want warm watch water wheel where which while
white whole wind wonder wood word work world would write year young
""".split()  # noqa: SIM905  a list of them would have a line each
"""What lines are made of."""


def drawn(chance: random.Random, length: float, height: float) -> Tensor:
    """A straight line of text that fills its width, ``[h, w]`` in [0, 1], as large as it will be seen."""
    font = _font(max(round(height * 0.95), 4))
    text = chance.choice(WORDS)
    while font.getlength(text) < length * 0.9:
        text = f"{text} {chance.choice(WORDS)}"
    if chance.random() < 0.3:
        text = text.upper()
    left, top, right, bottom = font.getbbox(text)
    strip = Image.new("L", (max(round(right - left), 1), max(round(bottom - top), 1)))
    ImageDraw.Draw(strip).text((-left, -top), text, fill=255, font=font)
    # letters are cut where the line ends, and no more squeezed than the last word asks for
    return _fitted(strip.crop((0, 0, min(strip.width, round(length * 1.15)), strip.height)), length, height)


def printed(lines: Sequence[Image.Image], chance: random.Random, length: float, height: float) -> Tensor:
    """A part of a printed line as long as its height asks for, ``[h, w]`` in [0, 1]."""
    line = chance.choice(lines)
    width = min(round(length / height * line.height), line.width)
    start = chance.randint(0, line.width - width)
    return _fitted(line.crop((start, 0, start + width, line.height)), length, height)


def _fitted(strip: Image.Image, length: float, height: float) -> Tensor:
    strip = strip.resize((max(round(length), 1), max(round(height), 1)), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(strip)).float() / 255


@functools.cache
def printed_lines() -> list[Image.Image]:
    """The six lines of scikit-image's photograph of a page, their ink in [0, 255], unevenly lit no more."""
    try:
        from skimage import data, filters
    except ImportError as error:
        raise UserError(
            "the printed page is scikit-image's: pip install 'polymask-vision[instances]'"
        ) from error
    photograph: Any = data.page
    threshold: Any = filters.threshold_local
    page = photograph().astype(float)
    ink = np.clip((threshold(page, 51) - page - 8) / 60, 0, 1)
    # rows without ink lie between lines; the lines below are of a margin, slanted
    full = np.diff(((ink > 0.3).sum(1) > 6).astype(int), prepend=0, append=0)
    ends = zip(np.flatnonzero(full == 1), np.flatnonzero(full == -1), strict=True)
    rows = [(top, bottom) for top, bottom in ends if bottom - top >= 10][:6]
    found = []
    for top, bottom in rows:
        there = np.flatnonzero((ink[top:bottom] > 0.3).any(0))
        found.append(Image.fromarray((ink[top:bottom, there[0] : there[-1] + 1] * 255).astype(np.uint8)))
    return found


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)
