"""The data sets that need no download are what they say, and every data set is found by name."""

from __future__ import annotations

import pickle
from importlib.resources import files

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from polymask import UserError, build
from polymask.data import Dataset, collate, open_data


@pytest.mark.parametrize(
    ("name", "size", "train", "test"), [("digits", 8, 1442, 355), ("fashion", 28, 6000, 2000)]
)
def test_counts_shapes_and_statistics(name: str, size: int, train: int, test: int) -> None:
    data = open_data(name)
    assert data.provides["size"] == (size, size)
    assert data.provides["channels"] == 1
    assert len(data.classes or ()) == 10
    assert data.skipped == []
    for split, n in (("train", train), ("test", test)):
        samples, labels = data.split(split), data.labels(split)  # type: ignore[arg-type]
        assert len(samples) == n
        assert labels is not None
        assert labels.dtype == torch.int64
        counts = labels.bincount()
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 7
        images = collate([samples[i] for i in range(n)])["image"]
        assert images.shape == (n, 1, size, size)
        assert images.dtype == torch.float32
        assert abs(images.mean()) < 0.05
        assert abs(images.std() - 1) < 0.05


def test_digits_are_scikit_learns_and_test_has_other_writers() -> None:
    data, theirs = open_data("digits"), load_digits()
    for c in range(10):
        original = theirs.images[theirs.target == c] / 16
        for split, part in (
            ("train", original[: -(len(original) // 5)]),
            ("test", original[-(len(original) // 5) :]),
        ):
            labels = data.labels(split)  # type: ignore[arg-type]
            samples = data.split(split)  # type: ignore[arg-type]
            mine = [data.to_image(samples[int(i)]["image"])[0] for i in (labels == c).nonzero()]  # type: ignore[union-attr]
            assert np.abs(torch.stack(mine).numpy() - part).max() <= 0.5 / 255 + 1e-6


def test_fashion_is_sorted_by_class_and_distinct() -> None:
    data = open_data("fashion")
    for split, n in (("train", 600), ("test", 200)):
        labels = data.labels(split)  # type: ignore[arg-type]
        assert torch.equal(labels, torch.arange(10).repeat_interleave(n))
    images = data.split("train").images.flatten(1)  # type: ignore[attr-defined]
    assert len(images.unique(dim=0)) > 5990
    # a trouser is brighter in its two legs than between them, a bag is not
    trouser, bag = (
        data.to_image(images[labels0]).view(-1, 28, 28).mean(dim=0)
        for labels0 in (slice(600, 1200), slice(4800, 5400))
    )
    assert trouser[24, 10] > 2 * trouser[24, 14]
    assert bag[24, 10] < 1.5 * bag[24, 14]


def test_the_licence_lies_beside_the_pictures() -> None:
    folder = files("polymask_vision").joinpath("samples/fashion")
    assert "Zalando" in folder.joinpath("LICENSE").read_text()
    size = sum(folder.joinpath(f"{name}.png").stat().st_size for name in ("train", "test"))  # type: ignore[attr-defined]
    assert size < 3.5e6


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_options_reach_the_data(name: str) -> None:
    data = open_data(name, size=(12, 16), limit=20, augment="crop-flip", crop_scale=(0.5, 1.0))
    assert data.provides["size"] == (12, 16)
    samples = data.split("train", augment=True)
    assert len(samples) == 20
    assert samples[0]["image"].shape == (1, 12, 16)
    assert not torch.equal(samples[0]["image"], samples[0]["image"])
    held = data.split("test")
    assert torch.equal(held[0]["image"], held[0]["image"])
    with pytest.raises(UserError, match="augment"):
        open_data(name, augment="rotate")
    with pytest.raises(UserError, match="did you mean --size"):
        open_data(name, sise=3)


def test_a_data_set_survives_pickling() -> None:
    for augment in (False, True):
        samples = open_data("digits", augment="flip").split("train", augment=augment)
        torch.manual_seed(0)
        before = samples[3]["image"]
        torch.manual_seed(0)
        assert torch.equal(pickle.loads(pickle.dumps(samples))[3]["image"], before)


def test_it_is_the_protocol_and_fits_a_system() -> None:
    data: Dataset = open_data("digits")
    system = build("vision/mae", preset="small", facts=data.provides)
    assert system.tokenizer.size == (8, 8)  # type: ignore[union-attr]
    assert system.tokenizer.channels == 1  # type: ignore[union-attr]


def test_blocks_of_patches_are_registered_with_image_defaults() -> None:
    data = open_data("digits")
    system = build(
        "vision/simmim",
        preset="small",
        facts=data.provides,
        masking="vision/block",
        tokenizer={"patch_size": 1},
    )
    batch = collate([data.split("train")[i] for i in range(8)])
    from polymask import Step

    mask = system.masks(batch, Step())["mask"].mask
    hidden = mask.hidden.view(8, 8, 8).float()
    assert (hidden.flatten(1).sum(dim=1) == round(0.4 * 64)).all()
    neighbours = (hidden[:, :, 1:] * hidden[:, :, :-1]).sum() / hidden[:, :, 1:].sum()
    assert neighbours > 0.6  # at random it would be 0.4
