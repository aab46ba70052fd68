"""Digits that move over photographs: made up, small, with nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from polymask import UserError
from polymask.data import Split, Splits
from polymask_vision.datasets.digits import digits

FRAMES, SIDE, STEP, DIGIT = 8, 32, 2, 16
"""Frames of a clip, pixels along a side of it, of a movement from frame to frame, and of a digit."""

DIRECTIONS = {
    "right": (0, 1),
    "down right": (1, 1),
    "down": (1, 0),
    "down left": (1, -1),
    "left": (0, -1),
    "up left": (-1, -1),
    "up": (-1, 0),
    "up right": (-1, 1),
}
"""Rows and columns of a movement, in units of it."""

COLOURED: Any = {"mean": (0.2316, 0.2422, 0.2196), "std": (0.2121, 0.1767, 0.1856)}
"""Of coloured clips; grey ones have their own."""


COLOURS = {
    "red": (1.0, 0.2, 0.2),
    "green": (0.2, 1.0, 0.2),
    "blue": (0.3, 0.3, 1.0),
    "yellow": (1.0, 1.0, 0.2),
    "purple": (1.0, 0.2, 1.0),
    "cyan": (0.2, 1.0, 1.0),
}
"""What a digit is multiplied by, in each channel."""

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Fact = Literal["colour", "digit", "direction"]


def moving_digits(
    *, label: Fact = "digit", coloured: bool = False, told: Sequence[Fact] = ("colour", "digit", "direction")
) -> Splits[MovingDigits]:
    """1,797 clips of 8 frames of 32 x 32 pixels, made up: a digit moves over a still photograph.

    Digits are scikit-learn's, of hands of their own in the test split; each moves 2 pixels a frame in one of
    eight directions. The ground is a crop of one of the two photographs that scikit-learn brings along, at
    half of its brightness. Where, which way and over what is a fixed function of the number of the digit.
    Each clip has three captions that say the same, "a red seven moving down left".

    Args:
        label: what the classes are.
        coloured: paint each digit in one of six colours, and leave the photographs theirs; all is grey
            without.
        told: what captions tell, where it is so: a label that they do not tell is learned from the clips
            alone.
    """
    facts = ("colour", "digit", "direction")
    if label not in facts:
        raise UserError(f"label={label!r}: choose 'digit', 'direction' or 'colour'")
    if label == "colour" and not coloured:
        raise UserError("label='colour' is of coloured digits: give --data.coloured true")
    if not set(told) <= set(facts):
        raise UserError(f"told={list(told)}: captions can tell of {', '.join(facts)}")
    found = digits()
    every = torch.empty(len(found.train.source), dtype=torch.int64)
    for split in (found.train, found.test):
        assert split.labels is not None
        every[split.index] = split.labels
    source = MovingDigits(found.train.source.images, every, coloured, told)
    classes = {"digit": every, "direction": source.direction, "colour": source.colour}[label]
    train, test = (Split(source, split.index, classes[split.index]) for split in (found.train, found.test))
    grey: dict[str, Any] = {"mean": (0.2502,), "std": (0.2091,)}
    return Splits(
        train=train,
        test=test,
        classes={"digit": found.classes, "direction": list(DIRECTIONS), "colour": list(COLOURS)}[label],
        suggested={**(COLOURED if coloured else grey), "frames": FRAMES},
    )


class MovingDigits:
    """Clips by number, each made when it is asked for.

    Args:
        images: uint8 ``[n, 1, 8, 8]``.
        digit: which each is, int64 ``[n]``.
        coloured: three channels rather than one.
        told: what captions tell.
    """

    def __init__(self, images: Tensor, digit: Tensor, coloured: bool, told: Sequence[Fact]) -> None:
        n, chance = len(images), torch.Generator().manual_seed(0)
        self.images = F.interpolate(images.float(), size=DIGIT, mode="bilinear").to(torch.uint8)[:, 0]
        self.direction = torch.randint(len(DIRECTIONS), (n,), generator=chance)
        move = torch.tensor(list(DIRECTIONS.values()))[self.direction]
        reach = STEP * (FRAMES - 1)
        room = SIDE - DIGIT - reach * move.abs()
        start = (torch.rand(n, 2, generator=chance) * (room + 1)).long()
        # who moves towards the beginning begins at the end
        self.start, self.move = start + reach * (move < 0), STEP * move
        photographs = [torch.tensor(x).float() / 2 for x in load_sample_images().images]
        shown = torch.stack(photographs)[:, ::2, ::2].permute(0, 3, 1, 2)
        self.grounds = (shown if coloured else shown.mean(1, keepdim=True)).to(torch.uint8).contiguous()
        places = torch.tensor([len(self.grounds), *(x - SIDE + 1 for x in self.grounds.shape[2:])])
        self.ground = (torch.rand(n, 3, generator=chance) * places).long()
        self.colour = torch.randint(len(COLOURS), (n,), generator=chance)
        tints = torch.tensor(list(COLOURS.values())) if coloured else torch.ones(len(COLOURS), 1)
        self.tints = tints[..., None, None]
        self.digit, self.told = digit, set(told) if coloured else set(told) - {"colour"}

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"digit {index}"

    def seconds(self, index: int) -> float:
        """One second."""
        return 1.0

    def caption(self, index: int) -> str:
        """The first of :meth:`wordings`."""
        return self.wordings(index)[0]

    def wordings(self, index: int) -> list[str]:
        """Three that tell the same."""
        colour = list(COLOURS)[self.colour[index]] if "colour" in self.told else ""
        digit = WORDS[self.digit[index]] if "digit" in self.told else "digit"
        what = f"{colour} {digit}".strip()
        if "direction" not in self.told:
            return [f"a {what} over a photograph", f"a photograph behind a {what}", f"the {what} moves"]
        way = list(DIRECTIONS)[self.direction[index]]
        return [
            f"a {what} moving {way}",
            f"a photograph behind a {what} that goes {way}",
            f"{way} goes the {what}",
        ]

    def frames(self, index: int, times: Sequence[float]) -> list[Tensor]:
        which, top, left = self.ground[index].tolist()
        still = self.grounds[which, :, top : top + SIDE, left : left + SIDE]
        digit = (self.images[index] * self.tints[self.colour[index]]).to(torch.uint8)
        shown = []
        for time in times:
            y, x = (self.start[index] + self.move[index] * min(int(time * FRAMES), FRAMES - 1)).tolist()
            frame = still.clone()
            part = frame[:, y : y + DIGIT, x : x + DIGIT]
            part.copy_(torch.maximum(part, digit))
            shown.append(frame)
        return shown
