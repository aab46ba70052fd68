"""Drawn text: the same whenever it is drawn, within its outlines, which are of lines that do not meet."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch

from polymask import UserError
from polymask_vision.datasets.base import ImageDataset
from polymask_vision.datasets.curved_text import Arc, arcs, curved_text
from polymask_vision.datasets.text_strips import printed, printed_lines
from polymask_vision.instance_masks import in_image

COUNT, SIDE = 24, 64


def drawn(**options):
    return curved_text(**{"count": COUNT, "pixels": SIDE, "height": (7.0, 10.0), **options})


def masks(source, index):
    outlines = source.objects(index)["polygons"]
    return in_image(outlines[None], torch.ones(1, len(outlines), dtype=torch.bool), (SIDE, SIDE))[0]


def test_an_image_is_a_function_of_its_number_and_the_seed():
    one, two, other = drawn(), drawn(), drawn(seed=1)
    order = [(one.train.source, k) for k in range(4)], [(two.train.source, k) for k in (3, 1, 0, 2)]
    first = {k: source.read(k) for source, k in order[0]}
    for source, k in order[1]:
        assert torch.equal(source.read(k), first[k])
        assert torch.equal(source.objects(k)["polygons"], one.train.source.objects(k)["polygons"])
        assert not torch.equal(other.train.source.read(k), first[k])
    assert not torch.equal(first[0], first[1])
    splits = drawn(count=50, test=0.2)
    assert len(splits.test) == 10 and len(splits.train) == 40
    assert not set(splits.test.index.tolist()) & set(splits.train.index.tolist())


def test_ink_lies_within_outlines_and_fills_them():
    source = drawn().train.source
    for k in range(8):
        image = source.read(k).float() / 255
        there = masks(source, k)
        any_line = there.any(0)
        ground = image[:, ~any_line]
        typical = ground.median(1).values[:, None, None]
        far = (image - typical).abs().mean(0)
        assert (far[~any_line] > 0.35).float().mean() < 0.01
        for line in there:
            marked = (far[line] > 0.25).float().mean()
            assert 0.08 < marked < 0.7


def test_lines_are_neighbours_or_alone():
    dense, single = drawn(dense=1.0).train.source, drawn(dense=0.0).train.source
    for k in range(COUNT):
        assert len(single.objects(k)["polygons"]) == 1
        lines = masks(dense, k)
        assert 2 <= len(lines) <= 4 and lines.flatten(1).any(1).all()
        assert lines.sum(0).max() == 1  # lines do not meet
        boxes = dense.objects(k)["boxes"]
        outlines = dense.objects(k)["polygons"]
        assert torch.equal(boxes, torch.cat([outlines.amin(1), outlines.amax(1)], dim=1))
        assert (boxes >= 0).all() and (boxes <= SIDE).all()
    intruded = 0
    for k in range(COUNT):
        (left, top, right, bottom), lines = dense.objects(k)["boxes"][1].long().tolist(), masks(dense, k)
        intruded += bool(lines[[j != 1 for j in range(len(lines))], top:bottom, left:right].any())
    assert intruded > COUNT / 2


def test_printed_lines_are_those_of_the_page_and_others_to_test_on():
    pytest.importorskip("skimage")
    lines = printed_lines()
    assert len(lines) == 6 and all(8 < line.height < 30 and line.width > 150 for line in lines)
    ink = [np.array(line) / 255 for line in lines]
    assert all(0.1 < one.mean() < 0.45 and one[:, 0].any() and one[:, -1].any() for one in ink)
    chance = random.Random(0)
    strip = printed(lines[:1], chance, 40.0, 8.0)
    assert strip.shape == (8, 40) and 0.05 < strip.mean() < 0.5
    splits = drawn(count=6, test=0.5, glyphs="printed")
    held, first, second = splits.train.source.strips
    assert held == len(splits.test) == 3
    assert [len(one.args[0]) for one in (first, second)] == [2, 4]
    for number, which in ((2, first), (3, second)):
        calls = []
        splits.train.source.strips = (held, *(partial(seen, calls, one) for one in (first, second)))
        splits.train.source.read(number)
        assert calls and all(one is which for one in calls)


def seen(calls, strip, *arguments):
    calls.append(strip)
    return strip(*arguments)


@pytest.mark.parametrize("turned", [False, True])
def test_a_straight_strip_becomes_the_line_within_its_outline(turned):
    """Its left half is ink: so is the first half of the line, from the first letter on."""
    arc = Arc(32.0, 72.0 if not turned else -8.0, 40.0, 0.0 if not turned else 3.14159265, 40.0, 8.0, turned)
    strip = torch.zeros(8, 40)
    strip[:, :20] = 1
    ink = arc.ink(strip, 64)
    outline = arc.outline()
    half = torch.cat([outline[:4], outline[12:]])
    (line,) = in_image(outline[None, None], torch.ones(1, 1, dtype=torch.bool), (64, 64))[0]
    (start,) = in_image(half[None, None], torch.ones(1, 1, dtype=torch.bool), (64, 64))[0]
    assert outline[0, 0] < outline[7, 0]  # read from left to right
    assert outline[:8, 1].mean() < outline[8:, 1].mean()  # the top is above
    assert ink[start].mean() > 0.9 and ink[~line].max() < 0.7 and ink[~line].mean() < 0.01
    assert ink[line].mean() == pytest.approx(0.5, abs=0.06)


def test_all_lines_fit_however_large():
    for seed in range(30):
        for arc in arcs(random.Random(seed), 40, True, (8.0, 9.0), (1.0, 2.0)):
            assert (arc.outline() >= 0).all() and (arc.outline() <= 40).all()


def test_outlines_move_with_their_image():
    """Scaled to another size, and flipped: what is within an outline is what was within."""
    found = drawn(dense=1.0)
    for options in ({"size": 96}, {"size": 64, "augment": "flip"}, {"size": 48, "augment": "crop-flip"}):
        data = ImageDataset(found, **options)
        samples = data.split("train", augment="augment" in options)
        torch.manual_seed(0)
        for k in range(6):
            sample = samples[k]
            image, outlines = sample["image"], sample["polygons"]
            size = tuple(image.shape[1:])
            inside = in_image(outlines[None], torch.ones(1, len(outlines)).bool(), size)[0].any(0)
            if inside.sum() < 50:
                continue
            # ink changes fast from place to place, and ground does not
            edges = (image[:, 1:, 1:] - image[:, :-1, :-1]).abs().mean(0)
            cut = inside[1:, 1:]
            assert edges[cut].mean() > 3 * edges[~cut].mean()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"height": (9.0,)}, "height takes two numbers"),
        ({"gap": (2.0, 1.0)}, "0 < low <= high"),
        ({"height": (20.0, 40.0)}, "--data.pixels 164"),
        ({"test": 1.0}, "leaves some to train on"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, match):
    with pytest.raises(UserError, match=match):
        drawn(**options)
