"""Splits follow a fixed rule, broken pictures are replaced and reported, nothing depends on the process."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import UserError
from polymask.portions import Portion, numbered, whole
from polymask_vision.datasets.base import Arrays, ImageDataset, prepare
from polymask_vision.datasets.portions import Names, class_names, divide
from polymask_vision.datasets.prepare import Preparation


class Numbers:
    """Pictures of one shade each, which says their number; some cannot be read."""

    def __init__(self, n: int, broken: tuple[int, ...] = (), error: Exception | None = None) -> None:
        self.n, self.broken, self.error = n, broken, error or OSError(5, "the disk is on fire")

    def __len__(self) -> int:
        return self.n

    def read(self, index: int) -> Tensor:
        if index in self.broken:
            raise self.error
        return torch.full((1, 4, 4), index, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return f"picture {index}"


PLAIN = Preparation(size=4, mean=(0.0,), std=(1 / 255,))


def dataset(source: Numbers, labels: Tensor | None = None, **options: Any) -> ImageDataset:
    return ImageDataset(
        whole(source, labels), whole(source, labels), options.pop("preparation", PLAIN), **options
    )


def seen(data: ImageDataset) -> list[int]:
    samples = data.split("train")
    return [int(samples[i]["image"][0, 0, 0].round()) for i in range(len(samples))]


# ------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_every_class_gives_its_share_to_test(share: float) -> None:
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 2)
    train, test = divide(Numbers(50), labels, share)
    counts = test.labels.bincount(minlength=3).tolist()  # type: ignore[union-attr]
    assert counts == [max(round(share * n), 1) for n in (40, 8, 2)]
    assert sorted(torch.cat([train.index, test.index]).tolist()) == list(range(50))
    for part in (train, test):
        assert torch.equal(labels[part.index], part.labels)  # type: ignore[arg-type]


def test_the_pictures_whose_names_hash_lowest_are_test() -> None:
    def key(i: int) -> int:
        digest = hashlib.blake2b(f"picture {i}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    _, test = divide(Numbers(30), None, 0.2)
    assert test.index.tolist() == sorted(sorted(range(30), key=key)[:6])


def test_more_pictures_move_few_from_side_to_side() -> None:
    before, after = (set(divide(Numbers(n), None, 0.2)[1].index.tolist()) for n in (1000, 1010))
    assert len(before & after) > 190


def test_a_class_of_one_is_trained_on_and_a_share_of_nothing_leaves_no_test() -> None:
    train, test = divide(Numbers(3), torch.tensor([0, 1, 1]), 0.1)
    assert 0 in train.index
    assert len(test) == 1
    train, test = divide(Numbers(3), None, 0.0)
    assert (len(train), len(test)) == (3, 0)
    data = ImageDataset(train, test, PLAIN)
    with pytest.raises(UserError, match="no test images.*another share"):
        data.split("test")


@pytest.mark.parametrize("share", [1.0, -0.1, 5])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(UserError, match="0 <= test < 1"):
        divide(Numbers(5), None, share)


def test_a_limit_is_evenly_spaced() -> None:
    labels = torch.arange(4).repeat_interleave(25)
    data = dataset(Numbers(100), labels, limit=8)
    assert data.labels("train").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # type: ignore[union-attr]
    assert seen(data) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert data.provides["samples"] == 8


# ------------------------------------------------------------------------------------------- facts


def test_facts_for_the_parts_that_follow() -> None:
    data = dataset(Numbers(3))
    assert data.provides == {
        "size": (4, 4),
        "channels": 1,
        "mean": (0.0,),
        "std": (1 / 255,),
        "samples": 3,
    }
    assert data.key == "image"
    assert data.labels("train") is None
    assert data.classes is None


def test_numbers_sort_by_value_before_words() -> None:
    classes = class_names(["10", "9", "b"], ["a", "9", "-1"])
    assert classes == ["9", "10", "-1", "a", "b"]
    assert numbered(["a", "10", None], classes).tolist() == [3, 1, -1]


def test_names_are_kept_whatever_they_are_made_of() -> None:
    texts = ["", "a", "ünïcödé/画像.png", "broken \udce9 bytes", "end", ""]
    names = pickle.loads(pickle.dumps(Names(texts)))
    assert [names[i] for i in range(len(names))] == texts


# ---------------------------------------------------------------------------------------- pictures


def test_in_memory_and_one_by_one_agree() -> None:
    images = torch.randint(0, 256, (7, 3, 9, 9), dtype=torch.uint8)
    options = {"size": (8, 6), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    at = torch.tensor([5, 0, 2])
    portion = Portion(Arrays(images), at)
    ready = ImageDataset(portion, portion, Preparation(**options))  # type: ignore[arg-type]
    samples = ready.split("train", augment=True)
    for i, number in enumerate(at.tolist()):
        torch.testing.assert_close(samples[i]["image"], ready.preparation(images[number]))
    flipping = ImageDataset(portion, portion, Preparation(**options, augment="flip"))  # type: ignore[arg-type]
    torch.manual_seed(0)
    one_by_one = [flipping.split("train", augment=True)[0]["image"] for _ in range(20)]
    plain = samples[0]["image"]
    assert any(torch.allclose(x, plain) for x in one_by_one)
    assert any(torch.allclose(x, plain.flip(-1)) for x in one_by_one)
    assert torch.equal(flipping.split("train")[0]["image"], plain)


def test_a_broken_picture_is_replaced_by_the_next_of_its_class() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    data = dataset(Numbers(6, broken=(2, 5)), labels)
    with pytest.warns(UserWarning, match="stands in") as caught:
        assert seen(data) == [0, 1, 4, 3, 4, 1]
    assert [str(w.message) for w in caught] == [
        "picture 2: the disk is on fire; picture 4 stands in for it",
        "picture 5: the disk is on fire; picture 1 stands in for it",
    ]
    assert data.skipped == [("picture 2", "the disk is on fire"), ("picture 5", "the disk is on fire")]


def test_a_replacement_draws_the_chance_that_the_picture_would_have() -> None:
    """So that a resumed run, which has not met the broken file before, draws alike."""
    preparation = Preparation(size=4, mean=(0.0,), std=(1.0,), augment="crop-flip")
    states = []
    for broken in ((), (1,)):
        data = dataset(Numbers(4, broken=broken), preparation=preparation)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.split("train", augment=True)[1]
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("error", [RuntimeError("odd"), SyntaxError("broken PNG"), KeyError("bytes")])
def test_whatever_a_source_raises_is_a_broken_picture(error: Exception) -> None:
    data = dataset(Numbers(3, broken=(0,), error=error))
    with pytest.warns(UserWarning, match="picture 0"):
        assert seen(data)[0] == 1


# --------------------------------------------------------------------------------- open size, colour


def ask(**options: Any) -> dict[str, Any]:
    return {
        "size": None,
        "channels": None,
        "mean": None,
        "std": None,
        "augment": "none",
        "crop_scale": (0.2, 1.0),
        **options,
    }


class Shaped(Numbers):
    def __init__(self, shapes: list[tuple[int, int, int]]) -> None:
        super().__init__(len(shapes))
        self.shapes = shapes

    def read(self, index: int) -> Tensor:
        return torch.zeros(self.shapes[index], dtype=torch.uint8)


def portion(*shapes: tuple[int, int, int]) -> Portion:
    return whole(Shaped(list(shapes)), None)


def test_one_common_size_is_kept_and_others_become_224() -> None:
    assert prepare(portion((3, 20, 30), (3, 20, 30)), **ask()).size == (20, 30)
    assert prepare(portion((3, 20, 30), (3, 30, 20)), **ask()).size == (224, 224)
    assert prepare(portion((3, 500, 400)), **ask()).size == (224, 224)
    assert prepare(portion((3, 20, 30)), **ask(size=16)).size == (16, 16)


def test_grey_only_where_all_are_grey() -> None:
    assert prepare(portion((1, 8, 8), (1, 8, 8)), **ask()).channels == 1
    mixed = prepare(portion((1, 8, 8), (3, 8, 8)), **ask())
    assert (mixed.channels, mixed.mean) == (3, (0.485, 0.456, 0.406))
    assert prepare(portion((3, 8, 8)), **ask(channels=1)).channels == 1


def test_statistics_must_fit_the_channels() -> None:
    own = prepare(portion((3, 8, 8)), **ask(mean=(0.1, 0.2, 0.3), std=(1, 2, 3)))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    with pytest.raises(UserError, match="3 numbers"):
        prepare(portion((3, 8, 8)), **ask(mean=(0.1,), std=(0.2,)))
    with pytest.raises(UserError, match="1 or 3"):
        prepare(portion((3, 8, 8)), **ask(channels=2))


def test_only_readable_pictures_are_looked_at() -> None:
    assert prepare(whole(Numbers(3, broken=(0, 2)), None), **ask()).size == (4, 4)
    with pytest.raises(UserError, match=r"none of the images can be read; picture 2: .*fire"):
        prepare(whole(Numbers(3, broken=(0, 1, 2)), None), **ask())
