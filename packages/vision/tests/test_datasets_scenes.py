"""Scenes: texts say what the maps hold, and sizes say nothing of distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from polymask import UserError, build
from polymask_vision.datasets.scene_drawing import COLOURS, DIGITS, SHAPES, Thing, render
from polymask_vision.datasets.scenes import TOPICS, scenes


def source(**options: Any) -> Any:
    return scenes(**({"count": 200, "pixels": 32} | options)).train.source


def named(scene: tuple[Thing, ...], words: str) -> Thing:
    _, colour, kind = words.split()
    return next(one for one in scene if one.colour == colour and SHAPES[one.kind] == kind)


def test_answers_are_true_of_what_is_drawn() -> None:
    found = source(texts="questions")
    firsts, seen = 0, {0: 0, 1: 0}
    for number, scene in enumerate(found.scenes):
        text, (start, stop) = found.caption(number), found.response(number)
        asked, answer = text[:start], text[start:stop]
        assert text == asked + answer and asked.endswith("? ")
        one, other = asked.rstrip("? ").split(", ")[1].split(" or ")
        right, wrong = named(scene, answer), named(scene, other if answer == one else one)
        firsts += answer == one
        seen[found.topic(number)] += 1
        values = found.maps(number)["value_map"]
        if TOPICS[found.topic(number)] == "size":
            assert "larger" in asked and right.size > 1.29 * wrong.size
        else:
            assert "nearer" in asked and wrong.distance > 1.29 * right.distance
            assert (values == float(np.float32(1 / right.distance))).any()
    assert 70 < firsts < 130 and min(seen.values()) > 70


def test_size_on_the_image_says_nothing_of_distance_and_neither_does_the_side() -> None:
    things = [one for scene in source(count=1500).scenes for one in scene]
    size, distance, x = (
        np.array([getattr(one, name) for one in things]) for name in ("size", "distance", "x")
    )
    for a, b in ((size, distance), (size, x), (distance, x)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.08
    assert size.min() >= 0.15 and size.max() <= 0.4501 and distance.min() >= 1 and distance.max() <= 4.001


def test_near_things_hide_far_ones_and_stand_lower() -> None:
    near = Thing(kind=1, colour="red", size=0.4, distance=1.25, x=0.5, example=0)
    far = Thing(kind=1, colour="blue", size=0.4, distance=2.5, x=0.55, example=0)
    image, nearness, classes = render((near, far), 40, digits=False)
    assert image.shape == (3, 40, 40) and image.dtype == np.uint8
    # at the bottom of the one that is near: 0.3 + 0.7 / 1.25
    rows = np.flatnonzero((nearness == np.float32(1 / 1.25)).any(1))
    assert abs((rows[-1] + 1) / 40 - 0.86) < 0.03
    assert abs((nearness == np.float32(1 / 1.25)).sum() - 16 * 16) <= 16
    assert 0 < (nearness == np.float32(1 / 2.5)).sum() < 14 * 16
    assert set(np.unique(classes)) == {0, 1, 3}
    assert (nearness[0] == 0).all() and (classes[0] == 0).all() and (classes[-1] == 1).all()
    assert (np.diff(nearness[:, 0]) >= 0).all()
    # haze: what is far is nearer to the colour of the sky
    for colour, thing in (("red", near), ("blue", far)):
        shown = image[:, (nearness == np.float32(1 / thing.distance)) & (classes == 3)][:, 0]
        assert bool(abs(shown.astype(int) - COLOURS[colour]).max() > 30) is (thing is far)


def test_every_shape_and_digit_fills_a_part_of_its_square() -> None:
    for names in (SHAPES, DIGITS):
        for kind in range(len(names)):
            one = Thing(kind=kind, colour="black", size=0.4, distance=1.5, x=0.5, example=3)
            share = (render((one,), 60, names is DIGITS)[2] == 2 + kind).sum() / 24**2
            assert 0.1 < share <= 1.05 and bool(share > 0.95) is (names[kind] == "square")


def test_captions_begin_with_what_is_nearest() -> None:
    found = scenes(count=40, pixels=16, texts="captions")
    every = found.train.source
    assert found.train.labels is not None
    for place, number in enumerate(found.train.index.tolist()):
        scene, text = every.scenes[number], every.caption(number)
        nearest = min(scene, key=lambda one: one.distance)
        assert text.startswith(f"the {nearest.colour} {SHAPES[nearest.kind]} in front of ")
        assert int(found.train.labels[place]) == nearest.kind
        assert every.response(number) == (0, len(text)) and every.topic(number) == -1
        largest = named(scene, text.rpartition(". ")[2].removesuffix(" looks largest"))
        assert largest.size == max(one.size for one in scene)


def test_a_share_of_texts_has_no_image_and_answers_from_its_words() -> None:
    found = source(text_only=0.3)
    blind = [number for number in range(200) if not found.has_image(number)]
    assert 40 < len(blind) < 80
    for number in blind:
        text, (start, stop) = found.caption(number), found.response(number)
        assert text[start:stop] == text.partition(" is larger than ")[2].partition(".")[0]
        assert (found.read(number) == 127).all()
        maps = found.maps(number)
        assert maps["value_map"].isnan().all() and (maps["label_map"] == -1).all()


def test_scenes_are_the_same_each_time_and_differ_by_seed() -> None:
    one, again, other = source(), source(), source(seed=1)
    assert [one.caption(k) for k in range(200)] == [again.caption(k) for k in range(200)]
    assert torch.equal(one.read(7), again.read(7)) and not torch.equal(one.read(7), other.read(7))
    for options, said in (({"things": "cats"}, "things='cats'"), ({"test": 1.0}, "leaves some to train on")):
        with pytest.raises(UserError, match=said):
            scenes(**({"count": 10} | options))  # type: ignore[arg-type]


def test_samples_hold_maps_and_mark_the_words_of_the_response() -> None:
    pytest.importorskip("polymask_language")
    options = {"count": 150, "pixels": 16, "text_vocab": "bpe", "text_length": 100, "text_only": 0.2}
    data = build("vision/scenes", "datasets", **options)
    assert data.provides["map_classes"] == 7 and data.map_classes[:2] == ("sky", "ground")
    samples, tokenizer = data.split("train"), data.texts.vocabulary.tokenizer
    index = data.splits["train"].index.tolist()
    every = data.splits["train"].source
    for k in range(30):
        sample, number = samples[k], index[k]
        start, stop = every.response(number)
        marked = sample["text"][sample["response"]]
        assert int(marked[-1]) == data.provides["text"]["end_id"]
        assert tokenizer.decode(marked.tolist()).strip() == every.caption(number)[start:stop]
        assert bool(sample["has_image"]) is every.has_image(number)
        assert int(sample["topic"]) == every.topic(number)
        assert sample["value_map"].shape == sample["label_map"].shape == (16, 16)
