"""Data sets of one's own: what is taken as it is, what is converted, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from polymask import UserError
from polymask.data import as_dataset

IMAGES = torch.randint(0, 256, (20, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4


class Plain:
    """Map-style, as torch's own are."""

    def __init__(self, *samples):
        self.samples_ = samples

    def __len__(self):
        return len(self.samples_)

    def __getitem__(self, index):
        return self.samples_[index]


def test_pairs_are_divided_within_each_class_and_become_floats():
    data = as_dataset(TensorDataset(IMAGES, LABELS), test=0.2)
    assert (len(data.split("train")), len(data.split("test"))) == (16, 4)
    assert data.labels("test").sort().values.tolist() == [0, 1, 2, 3] and data.classes == list("0123")
    facts = {"samples": 16, "size": (6, 8), "channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert data.provides == facts and (data.key, data.skipped) == ("image", [])
    seen = set()
    for name in ("train", "test"):
        for i, label in enumerate(data.labels(name).tolist()):
            x = data.split(name)[i]["image"]
            (number,) = torch.nonzero((IMAGES.float() / 255 == x).flatten(1).all(1))[:, 0].tolist()
            assert x.dtype == torch.float32 and LABELS[number] == label
            seen.add(number)
    assert len(seen) == 20
    again = as_dataset(TensorDataset(IMAGES, LABELS), test=0.2)
    assert torch.equal(again.split("test")[1]["image"], data.split("test")[1]["image"])
    assert set(data.split("train")[0]) == {"image"}
    assert torch.equal(
        pickle.loads(pickle.dumps(data.split("test")))[0]["image"], data.split("test")[0]["image"]
    )


def test_two_data_sets_are_the_two_splits():
    train = [(x, int(y)) for x, y in zip(IMAGES.double() / 255, LABELS, strict=True)]
    test = [(x, int(y)) for x, y in zip(IMAGES[:3].double() / 255, LABELS, strict=False)]
    data = as_dataset(train=train, test=test, classes=["a", "b", "c", "d"])
    assert data.labels("test").tolist() == [0, 1, 2] and data.classes == ["a", "b", "c", "d"]
    assert data.split("test")[0]["image"].dtype == torch.float32
    assert [len(data.split(name)) for name in ("train", "test")] == [20, 3]


def test_tensors_and_dicts_with_labels_or_without():
    data = as_dataset(list(IMAGES))
    assert data.classes is None and data.labels("train") is None
    rows = [
        {"audio": torch.randn(40 + i), "label": -1 if i else 2, "speech": torch.tensor(True)}
        for i in range(9)
    ]
    data = as_dataset(rows, key="audio", test=0.0)
    assert data.key == "audio" and "size" not in data.provides
    assert data.labels("train").tolist() == [2, *[-1] * 8]
    assert set(data.split("train")[3]) == {"audio", "speech"} and len(data.split("train")[3]["audio"]) == 43
    with pytest.raises(UserError, match="no test samples"):
        data.split("test")


def test_labels_are_read_off_a_list_where_there_is_one():
    class Listed(Plain):
        targets = [1, 0, 1]

        def __getitem__(self, index):
            assert index == 0
            return super().__getitem__(index)

    data = as_dataset(Listed(*((x, 7) for x in IMAGES[:3])), test=0.0)
    assert data.labels("train").tolist() == [1, 0, 1]


def test_a_data_set_that_is_one_already_passes_untouched():
    data = as_dataset(list(IMAGES))
    assert as_dataset(data) is data


def test_pictures_are_within_zero_and_one():
    data = as_dataset(list(torch.randn(4, 1, 5, 5)))
    x = data.split("train")[0]["image"]
    assert data.to_image(x).min() == 0 and data.to_image(x).max() == 1
    assert torch.equal(data.to_image(x.sigmoid()), x.sigmoid())


def test_images_of_floats_beyond_any_scale_are_refused_where_they_show():
    black, white = torch.zeros(3, 6, 8), torch.full((3, 6, 8), 255.0)
    data = as_dataset([black, white, white / 255, (white / 255 - 0.45) / 0.22, black - 127], test=0.0)
    with pytest.raises(UserError, match="sample 1 is an image of floats of 255 to 255"):
        data.split("train")[1]
    assert all(data.split("train")[i] for i in (0, 2, 3, 4))


class Stream(IterableDataset):
    def __iter__(self):
        yield IMAGES[0]


@pytest.mark.parametrize(
    ("samples", "options", "reason"),
    [
        (Stream(), {}, "the data is a Stream, whose samples cannot be had by number; give a map-style"),
        (iter(IMAGES), {}, "whose samples cannot be had by number"),
        ([], {}, "the data is empty"),
        ("folder:photos", {}, "the data is 'folder:photos'; a name goes into the configuration"),
        (
            {"train": IMAGES, "test": IMAGES},
            {},
            r"the data is a dict of several: give as_dataset\(",
        ),
        (
            (Plain(*IMAGES), Plain(*IMAGES)),
            {},
            r"is a tuple of several: give as_dataset\(train",
        ),
        (
            [{"image": IMAGES[0], "labels": 1}],
            {},
            "as 'labels'; .* the class of a sample is called 'label'",
        ),
        (["a", "b"], {}, "sample 0 has a str as 'image'; text needs a vocabulary"),
        ([{"image": IMAGES[0], "name": "x"}], {}, "sample 0 has a str as 'name'"),
        ([object()], {}, "sample 0 has an object as 'image'; give a tensor"),
        ([{"x": IMAGES[0]}], {}, r"sample 0 has no 'image', but x; say which: as_dataset\(..., key="),
        ([(1, 2, 3)], {}, "sample 0 has 3 parts; give x"),
        (list(IMAGES.permute(0, 2, 3, 1)), {}, r"shape \[6, 8, 3\]; give \[channels, height, width\]"),
        (
            list(IMAGES.float()),
            {},
            "sample 0 is an image of floats of [0-9]+ to 25[0-9], which are neither 0 to 1",
        ),
        ([(IMAGES[0].numpy().astype("float64"), 1)], {}, r"divide them by what is white in them \(255\), or"),
        (list(IMAGES.long()), {}, "an image of torch.int64; give uint8, or floats"),
        ([(IMAGES[0], 0.5)], {}, "the label of sample 0 is 0.5; give whole numbers"),
        ([(IMAGES[0], "cat")], {}, "the label of sample 0 is 'cat'"),
        ([(IMAGES[0], 10**15)], {}, "label 1000000000000000: number the classes from 0 on, below 1,000,000"),
        ([(IMAGES[0], 3)], {"classes": ["a", "b"]}, "2 classes, but a sample has label 3"),
        (list(IMAGES), {"test": list(IMAGES[:, :1])}, r"train and test differ: .*\[3, 6, 8\].*\[1, 6, 8\]"),
        (list(IMAGES), {"test": 1.5}, "0 <= test < 1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(samples, options, reason):
    with pytest.raises(UserError, match=reason):
        as_dataset(samples, **options)


def test_what_a_sample_raises_names_the_sample():
    class Broken(Plain):
        def __getitem__(self, index):
            return IMAGES[index] // (index != 3 or 1 // 0)

    with pytest.raises(ZeroDivisionError) as caught:
        as_dataset(Broken(*range(9)), test=0.0).split("train")[3]
    assert caught.value.__notes__ == ["raised by the data: sample 3"]


def test_images_of_several_sizes_are_refused_where_they_show():
    data = as_dataset([*IMAGES[:3], IMAGES[3][:, :5]], test=0.0)
    with pytest.raises(UserError, match=r"sample 3 is .*\[3, 5, 8\], and sample 0 is .*\[3, 6, 8\]"):
        data.split("train")[3]


def test_grey_images_and_arrays_get_channels():
    data = as_dataset([(x, y) for x, y in zip(IMAGES[:, 0].numpy(), LABELS.numpy(), strict=True)])
    assert data.split("train")[0]["image"].shape == (1, 6, 8) and data.provides["channels"] == 1
    assert np.array_equal(np.bincount(data.labels("train")), [4] * 4)
