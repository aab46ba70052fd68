"""Splits follow a fixed rule, broken pictures are replaced and reported, nothing depends on the process."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polymask import Run, UserError, build
from polymask.data import Split, Splits, as_dataset, describe, divide, whole
from polymask.evaluation.probe import labels_of
from polymask.training import TrainOptions, fit
from polymask_vision.datasets.base import ImageDataset
from polymask_vision.datasets.memory import Arrays
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


PLAIN: dict[str, Any] = {"size": 4, "channels": 1, "mean": (0.0,), "std": (1 / 255,)}


def dataset(source: Numbers, labels: Tensor | None = None, **options: Any) -> ImageDataset:
    found = Splits(train=whole(source, labels), test=whole(source, labels))
    return ImageDataset(found, **{**PLAIN, **options})


def seen(data: ImageDataset) -> list[int]:
    samples = data.split("train")
    return [int(samples[i]["image"][0, 0, 0].round()) for i in range(len(samples))]


# ------------------------------------------------------------------------------------------ splits


def test_a_class_of_one_is_trained_on_and_a_share_of_nothing_leaves_no_test() -> None:
    train, test = divide(whole(Numbers(3), torch.tensor([0, 1, 1])), 0.1)
    assert 0 in train.index
    assert len(test) == 1
    train, test = divide(whole(Numbers(3)), 0.0)
    assert (len(train), len(test)) == (3, 0)
    data = ImageDataset(Splits(train=train, test=test), **PLAIN)
    with pytest.raises(UserError, match="no test images.*another share"):
        data.split("test")


def test_a_limit_is_evenly_spaced() -> None:
    labels = torch.arange(4).repeat_interleave(25)
    data = dataset(Numbers(100), labels, limit=8)
    assert data.labels("train").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # type: ignore[union-attr]
    assert seen(data) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert data.provides["samples"] == 8


# ------------------------------------------------------------------------------------------- facts


def test_facts_for_the_parts_that_follow() -> None:
    data = dataset(Numbers(3))
    prepared = {"size": (4, 4), "channels": 1, "mean": (0.0,), "std": (1 / 255,), "range": (0, 255)}
    assert data.provides == {**prepared, "samples": 3, "preparation": prepared}
    assert data.key == "image"
    assert data.labels("train") is None
    assert data.classes is None


# ---------------------------------------------------------------------------------------- pictures


def test_in_memory_and_one_by_one_agree() -> None:
    images = torch.randint(0, 256, (7, 3, 9, 9), dtype=torch.uint8)
    options: dict[str, Any] = {"size": (8, 6), "channels": 3, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    at = torch.tensor([5, 0, 2])
    found = Splits(train=Split(Arrays(images), at), test=Split(Arrays(images), at))
    ready = ImageDataset(found, **options)
    samples = ready.split("train", augment=True)
    for i, number in enumerate(at.tolist()):
        torch.testing.assert_close(samples[i]["image"], ready.preparation(images[number]))
    flipping = ImageDataset(found, **options, augment="flip")
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
    states = []
    for broken in ((), (1,)):
        data = dataset(Numbers(4, broken=broken), augment="crop-flip")
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


def prepared(split: Split[Any], **options: Any) -> Preparation:
    return ImageDataset(Splits(train=split, test=split), **options).preparation


class Shaped(Numbers):
    def __init__(self, shapes: list[tuple[int, int, int]]) -> None:
        super().__init__(len(shapes))
        self.shapes = shapes

    def read(self, index: int) -> Tensor:
        return torch.zeros(self.shapes[index], dtype=torch.uint8)


def shaped(*shapes: tuple[int, int, int]) -> Split:
    return whole(Shaped(list(shapes)), None)


def test_one_common_size_is_kept_and_others_become_224() -> None:
    assert prepared(shaped((3, 20, 30), (3, 20, 30))).size == (20, 30)
    assert prepared(shaped((3, 20, 30), (3, 30, 20))).size == (224, 224)
    assert prepared(shaped((3, 500, 400))).size == (224, 224)
    assert prepared(shaped((3, 20, 30)), size=16).size == (16, 16)


def test_grey_only_where_all_are_grey() -> None:
    assert prepared(shaped((1, 8, 8), (1, 8, 8))).channels == 1
    mixed = prepared(shaped((1, 8, 8), (3, 8, 8)))
    assert (mixed.channels, mixed.mean) == (3, (0.485, 0.456, 0.406))
    assert prepared(shaped((3, 8, 8)), channels=1).channels == 1


def test_statistics_must_fit_the_channels() -> None:
    own = prepared(shaped((3, 8, 8)), mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    with pytest.raises(UserError, match="3 numbers"):
        prepared(shaped((3, 8, 8)), mean=(0.1,), std=(0.2,))
    with pytest.raises(UserError, match="channels must be 1 or more"):
        prepared(shaped((3, 8, 8)), channels=0)
    bands = prepared(shaped((13, 8, 8), (13, 8, 8)))
    assert (bands.channels, set(bands.mean), set(bands.std)) == (13, {0.5}, {0.5})


def test_only_readable_pictures_are_looked_at() -> None:
    assert prepared(whole(Numbers(3, broken=(0, 2)), None)).size == (4, 4)
    with pytest.raises(UserError, match=r"none of the images can be read; picture 2: .*fire"):
        prepared(whole(Numbers(3, broken=(0, 1, 2)), None))


# ------------------------------------------------------------------------------- range of values


def of(*images: Tensor | Any, **options: Any) -> ImageDataset:
    class Some(Numbers):
        def read(self, index: int) -> Any:
            return images[index]

    split = whole(Some(len(images)))
    return ImageDataset(Splits(train=split, test=split), **options)


def test_values_of_no_known_range_are_refused_with_file_and_range() -> None:
    heights = [np.linspace(low, 1000 + low, 64, dtype=np.float32).reshape(8, 8) for low in (200, -40)]
    message = r"picture 0 holds values of 200 to 1,200, .* -40 to 1,200: .*--data\.range '\[-40,1200\]'"
    with pytest.raises(UserError, match=message):
        of(*heights)
    data = of(*heights, range=(-40, 1200))
    assert data.provides["range"] == (-40, 1200) and data.preparation.channels == 1
    seen = data.to_image(data.split("train")[0]["image"])[0]
    torch.testing.assert_close(seen, (torch.from_numpy(heights[0]) + 40) / 1240)
    with pytest.raises(UserError, match="LOW < HIGH"):
        of(*heights, range=(5, 5))
    with pytest.raises(UserError, match=r"--data\.range '\[7,8\]'"):
        of(np.full((8, 8), 7, dtype=np.float32))


def test_twelve_bits_in_sixteen_are_told() -> None:
    scan = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    with pytest.warns(UserWarning, match=r"at most 3,780 .* 12 bits, give --data\.range '\[0,4095\]'"):
        of(scan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of(scan, range=(0, 4095)).split("train")[0]["image"].isfinite().all()
        of(scan * 17)


def test_an_image_mostly_outside_the_range_is_told_once() -> None:
    scans = [np.arange(64, dtype=np.uint16).reshape(8, 8) * 100] * 3
    samples = of(*scans, range=(0, 1000)).split("train")
    with pytest.warns(
        UserWarning, match=r"picture 0: 83% of its values .* 0 to 1,000 and are clipped"
    ) as told:
        samples[0], samples[1]
    assert len(told) == 1


def test_memory_images_heed_the_range() -> None:
    images = torch.full((4, 1, 4, 4), 50, dtype=torch.uint8)
    found = Splits(train=whole(Arrays(images)), test=whole(Arrays(images)))
    data = ImageDataset(found, range=(0, 100), mean=(0.0,), std=(1.0,))
    assert data.split("train")[0]["image"].unique().tolist() == [0.5]


def test_what_reaches_the_system_is_described() -> None:
    scan = np.arange(64, dtype=np.uint16).reshape(8, 8) * 100
    lines = of(scan, range=(0, 4800), mean=(0.5,), std=(0.5,)).describe()
    assert lines["values"] == "0 to 4,800, as 0 to 1"
    assert lines["clipped"] == "23.4% of the values, in a sample of 1"
    assert lines["size"] == "8 x 8 pixels, 1 channel"
    assert lines["normalised"] == "mean 0.23, standard deviation 0.67"
    assert describe(of(scan * 10)).items() >= {"left out": "none", "values": "0 to 65,535, as 0 to 1"}.items()
    lines = dataset(Numbers(8, broken=(2, 5))).describe()
    assert lines["clipped"].endswith("in a sample of 6")
    assert lines["unreadable"] == "2 of 8 looked at, first picture 2: the disk is on fire"


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_an_exhausted_machine_stops_a_run(error: Exception) -> None:
    data = dataset(Numbers(3))
    data.splits["train"].source.broken, data.splits["train"].source.error = (1,), error
    samples = data.split("train")
    with pytest.raises(UserError, match="out of memory or of open files while reading picture 1"):
        samples[1]
    assert data.skipped == []


# ------------------------------------------------------------------------------------------- views


def test_two_views_are_two_augmentations_of_one_image() -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    found = Splits(train=whole(Arrays(images)), test=whole(Arrays(images)))
    one, two = (ImageDataset(found, augment="crop-flip", views=views) for views in (1, 2))
    torch.manual_seed(0)
    first = one.split("train", augment=True)[1]
    torch.manual_seed(0)
    both = two.split("train", augment=True)[1]
    assert set(first) == {"image"} and set(both) == {"image", "other"}
    assert torch.equal(first["image"], both["image"])
    assert both["other"].shape == both["image"].shape and not torch.equal(both["other"], both["image"])
    plain = two.split("test")[1]
    assert torch.equal(plain["image"], plain["other"]) and torch.equal(
        plain["image"], one.split("test")[1]["image"]
    )


def test_the_second_view_may_have_an_augmentation_of_its_own() -> None:
    images = torch.rand(4, 3, 32, 32).mul(255).to(torch.uint8)
    found = Splits(train=whole(Arrays(images)), test=whole(Arrays(images)))
    data = ImageDataset(found, views=2, augment="none", other_augment="three-augment")
    sample, plain = data.split("train", augment=True)[1], data.split("train")[1]
    assert torch.equal(sample["image"], plain["image"]) and torch.equal(plain["image"], plain["other"])
    assert not torch.equal(sample["other"], plain["other"])
    with pytest.raises(UserError, match="give --data.views 2 with it"):
        ImageDataset(found, other_augment="flip")


def test_other_numbers_of_views_are_refused_and_equal_views_are_told() -> None:
    for views in (0, 3):
        with pytest.raises(UserError, match=f"views={views}: a sample has 1 view of an image, or 2"):
            dataset(Numbers(3), views=views)
    with pytest.warns(UserWarning, match="both views of an image are the same; choose an augment"):
        data = dataset(Numbers(3), views=2)
    sample = data.split("train", augment=True)[2]
    assert torch.equal(sample["image"], sample["other"])


def test_what_a_reader_suggests_counts_where_nothing_is_set_and_it_fits() -> None:
    source = whole(Numbers(3))
    found = Splits(train=source, test=source, suggested={"mean": (0.3,), "std": (0.2,)})
    assert ImageDataset(found).provides["mean"] == (0.3,)
    assert ImageDataset(found, mean=(0.1,), std=(0.2,)).provides["mean"] == (0.1,)
    assert ImageDataset(found, channels=3).provides["mean"] == (0.485, 0.456, 0.406)


def test_samples_of_ones_own_can_be_trained_on(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    data = as_dataset([(x, i % 2) for i, x in enumerate(images)])
    system = build("vision/mae", preset="tiny", facts=data.provides)
    options = TrainOptions(steps=2, batch_size=4, accelerator="cpu")
    fit(Run(tmp_path / "run", system, data, options), progress=False)
    assert labels_of(data)[0].unique().tolist() == [0, 1]
