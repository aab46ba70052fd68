"""Digits that move over photographs: made up, small, with nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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


def moving_digits(*, label: Literal["digit", "direction"] = "digit") -> Splits[MovingDigits]:
    """1,797 grey clips of 8 frames of 32 x 32 pixels, made up: a digit moves over a still photograph.

    Digits are scikit-learn's, of hands of their own in the test split; each moves 2 pixels a frame in one of
    eight directions. The ground is a crop of one of the two photographs that scikit-learn brings along, at
    half of its brightness. Where, which way and over what is a fixed function of the number of the digit.

    Args:
        label: what the classes are.
    """
    if label not in ("digit", "direction"):
        raise UserError(f"label={label!r}: choose 'digit' or 'direction'")
    found = digits()
    source = MovingDigits(found.train.source.images)

    def moving(split: Split) -> Split[MovingDigits]:  # type: ignore[type-arg]
        labels = split.labels if label == "digit" else source.direction[split.index]
        return Split(source, split.index, labels)

    return Splits(
        train=moving(found.train),
        test=moving(found.test),
        classes=found.classes if label == "digit" else list(DIRECTIONS),
        suggested={"mean": (0.2502,), "std": (0.2091,), "frames": FRAMES},
    )


class MovingDigits:
    """Clips by number, each made when it is asked for.

    Args:
        images: uint8 ``[n, 1, 8, 8]``.
    """

    def __init__(self, images: Tensor) -> None:
        n, chance = len(images), torch.Generator().manual_seed(0)
        self.images = F.interpolate(images.float(), size=DIGIT, mode="bilinear").to(torch.uint8)[:, 0]
        self.direction = torch.randint(len(DIRECTIONS), (n,), generator=chance)
        move = torch.tensor(list(DIRECTIONS.values()))[self.direction]
        reach = STEP * (FRAMES - 1)
        room = SIDE - DIGIT - reach * move.abs()
        start = (torch.rand(n, 2, generator=chance) * (room + 1)).long()
        # who moves towards the beginning begins at the end
        self.start, self.move = start + reach * (move < 0), STEP * move
        photographs = [torch.from_numpy(x.mean(-1) / 2).to(torch.uint8) for x in load_sample_images().images]
        self.grounds = torch.stack(photographs)[:, ::2, ::2].contiguous()
        places = torch.tensor([len(self.grounds), *(x - SIDE + 1 for x in self.grounds.shape[1:])])
        self.ground = (torch.rand(n, 3, generator=chance) * places).long()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"digit {index}"

    def seconds(self, index: int) -> float:
        """One second."""
        return 1.0

    def frames(self, index: int, times: Sequence[float]) -> list[Tensor]:
        which, top, left = self.ground[index].tolist()
        still = self.grounds[which, top : top + SIDE, left : left + SIDE]
        shown = []
        for time in times:
            y, x = (self.start[index] + self.move[index] * min(int(time * FRAMES), FRAMES - 1)).tolist()
            frame = still.clone()
            part = frame[y : y + DIGIT, x : x + DIGIT]
            part.copy_(torch.maximum(part, self.images[index]))
            shown.append(frame[None])
        return shown
