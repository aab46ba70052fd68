"""Drawn scenes of a few things on a ground, with their depth, their classes, and texts about them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polymask import UserError
from polymask.data import Splits, whole
from polymask.types import Count, Share, Whole
from polymask_vision.datasets.maps import LABELS, VALUES
from polymask_vision.datasets.scene_drawing import COLOURS, DIGITS, SHAPES, Array, Thing, render

TOPICS = ("size", "depth", "told")
"""What questions are about; the last is a question of what the text itself says, without an image."""

APART = 1.3
"""Least factor between the sizes, and between the distances, of things that are compared."""


@dataclass(frozen=True)
class Text:
    """What is said of a scene, which characters of it are a response, and its topic, -1 of captions."""

    text: str
    response: tuple[int, int]
    topic: int


def scenes(
    *,
    count: Count = 4000,
    pixels: Count = 48,
    things: Literal["shapes", "digits"] = "shapes",
    texts: Literal["captions", "questions", "both"] = "both",
    text_only: Share = 0.0,
    seed: Whole = 0,
    test: Share = 0.2,
) -> Splits[Scenes]:
    """Two or three things of different sizes and distances on a ground, drawn by rule, each with a text.

    Size on the image and distance are drawn independently; distance shows by where a thing stands, by what it
    hides, and by haze. Beside ``image`` there are ``value_map``, nearness (1 over distance; the sky 0), and
    ``label_map``: sky, ground and kinds. A text is a caption, or a question with its answer: which of two
    things looks larger, which is nearer; samples say which of its tokens are the ``response``, all of a
    caption's. A share is without an image, and asks about what it says. Classes are kinds of what is nearest.

    Args:
        count: how many scenes.
        pixels: height and width.
        things: shapes, or the handwritten digits of scikit-learn.
        texts: captions, questions, or one of both at random.
        text_only: share of samples without an image.
        seed: of all that is drawn at random.
        test: share of the scenes to hold out.
    """
    for name, given, known in (
        ("things", things, ("shapes", "digits")),
        ("texts", texts, ("captions", "questions", "both")),
    ):
        if given not in known:
            raise UserError(f"{name}={given!r}: choose of {', '.join(known)}")
    held = round(test * count)
    if held == count:
        raise UserError(f"test={test}: give a share of the scenes that leaves some to train on")
    chance = random.Random(seed)
    names = SHAPES if things == "shapes" else DIGITS
    drawn, told = list[tuple[Thing, ...]](), list[Text]()
    for _ in range(count):
        scene = draw_scene(chance, len(names))
        asks = texts == "questions" or (texts == "both" and chance.random() < 0.5)
        blind = chance.random() < text_only
        text = say(scene, names, chance) if blind else ask(scene, names, chance)
        if not asks and not blind:
            text = describe(scene, names)
        drawn.append(scene)
        told.append(text)
    source = Scenes(drawn, told, names, pixels)
    labels = torch.tensor([min(scene, key=lambda one: one.distance).kind for scene in drawn])
    every = whole(source, labels)
    is_test = torch.arange(count) < held
    shown = [source.read(i).double() / 255 for i in range(held, min(held + 64, count))]
    some = torch.stack(shown).transpose(0, 1).flatten(1)
    suggested = {"mean": tuple(some.mean(1).tolist()), "std": tuple(some.std(1).tolist())}
    return Splits(train=every.at(~is_test), test=every.at(is_test), classes=list(names), suggested=suggested)


class Scenes:
    """Scenes by number, each drawn when it is asked for.

    Args:
        scenes: things of each.
        texts: about each.
        names: of kinds.
        pixels: height and width.
    """

    topics = TOPICS

    def __init__(
        self, scenes: Sequence[tuple[Thing, ...]], texts: Sequence[Text], names: Sequence[str], pixels: int
    ) -> None:
        self.scenes, self.texts, self.pixels = list(scenes), list(texts), pixels
        self.map_classes = ("sky", "ground", *names)
        self.digits = names is DIGITS
        self._last: tuple[int, tuple[Array, Array, Array]] | None = None

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> Tensor:
        return torch.from_numpy(self._drawn(index)[0])

    def maps(self, index: int) -> dict[str, Tensor]:
        _, nearness, labels = self._drawn(index)
        return {VALUES: torch.from_numpy(nearness), LABELS: torch.from_numpy(labels)}

    def name(self, index: int) -> str:
        return f"scene {index}"

    def caption(self, index: int) -> str:
        return self.texts[index].text

    def response(self, index: int) -> tuple[int, int]:
        return self.texts[index].response

    def topic(self, index: int) -> int:
        return self.texts[index].topic

    def has_image(self, index: int) -> bool:
        return self.texts[index].topic != TOPICS.index("told")

    def _drawn(self, index: int) -> tuple[Array, Array, Array]:
        # an image and its maps are asked for one after the other
        if self._last is None or self._last[0] != index:
            if self.has_image(index):
                drawn = render(self.scenes[index], self.pixels, self.digits)
            else:
                n = self.pixels
                blank = np.full((3, n, n), 127, np.uint8)
                drawn = blank, np.full((n, n), np.nan, np.float32), np.full((n, n), -1, np.int64)
            self._last = index, drawn
        return self._last[1]


# ------------------------------------------------------------------------------------- what is there


def draw_scene(chance: random.Random, kinds: int) -> tuple[Thing, ...]:
    """Two or three things, of different colours, sizes and distances, side by side."""
    n = chance.choice((2, 3))
    columns = chance.sample(range(n), n)
    sizes, distances = (_apart(chance, n, *ends) for ends in ((0.15, 0.45), (1.0, 4.0)))
    return tuple(
        Thing(
            kind=chance.randrange(kinds),
            colour=colour,
            size=size,
            distance=distance,
            x=(column + 0.5 + chance.uniform(-0.2, 0.2)) / n,
            example=chance.randrange(100),
        )
        for colour, size, distance, column in zip(
            chance.sample(list(COLOURS), n), sizes, distances, columns, strict=True
        )
    )


def _apart(chance: random.Random, n: int, low: float, high: float) -> list[float]:
    """Numbers in any order, each larger than the one below by a factor of :data:`APART` or more."""
    room = (high / low) / APART ** (n - 1)
    steps = sorted(room ** chance.random() for _ in range(n))
    numbers = [low * step * APART**k for k, step in enumerate(steps)]
    chance.shuffle(numbers)
    return numbers


# --------------------------------------------------------------------------------------- what is said


def _named(thing: Thing, names: Sequence[str]) -> str:
    return f"the {thing.colour} {names[thing.kind]}"


def describe(scene: Sequence[Thing], names: Sequence[str]) -> Text:
    """A caption: what is in front of what, and which of them looks largest."""
    rows = [_named(one, names) for one in sorted(scene, key=lambda one: one.distance)]
    largest = _named(max(scene, key=lambda one: one.size), names)
    text = " in front of ".join(rows) + f". {largest} looks largest"
    return Text(text, (0, len(text)), -1)


def ask(scene: Sequence[Thing], names: Sequence[str], chance: random.Random) -> Text:
    """Which of two things looks larger, or is nearer."""
    one, other = chance.sample(list(scene), 2)
    topic = chance.choice(TOPICS[:2])
    if topic == "size":
        question, right = "which looks larger", max((one, other), key=lambda thing: thing.size)
    else:
        question, right = "which is nearer", min((one, other), key=lambda thing: thing.distance)
    return _answered(
        f"{question}, {_named(one, names)} or {_named(other, names)}? ", _named(right, names), topic
    )


def say(scene: Sequence[Thing], names: Sequence[str], chance: random.Random) -> Text:
    """Which of two things is smaller, given that in words."""
    pair = chance.sample(list(scene), 2)
    small, large = sorted(pair, key=lambda thing: thing.size)
    told = f"{_named(large, names)} is larger than {_named(small, names)}. "
    one, other = (_named(thing, names) for thing in pair)
    return _answered(f"{told}which is smaller, {one} or {other}? ", _named(small, names), "told")


def _answered(question: str, answer: str, topic: str) -> Text:
    return Text(question + answer, (len(question), len(question) + len(answer)), TOPICS.index(topic))
