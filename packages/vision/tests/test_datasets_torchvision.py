"""Classes of torchvision.datasets by name: splits, labels and classes are found, nothing is downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from polymask import UserError
from polymask.data import open_data


def test_fake_data_is_divided_and_its_labels_read_off() -> None:
    arguments = {"size": 40, "image_size": (3, 16, 20), "num_classes": 4}
    data = open_data("torchvision:FakeData", arguments=arguments, test=0.25)
    theirs = torchvision.datasets.FakeData(**arguments)
    assert data.provides["size"] == (16, 20)
    assert data.classes == ["0", "1", "2", "3"]
    train = data.splits["train"]  # type: ignore[attr-defined]
    for i in (0, 7, 20):
        image, label = theirs[int(train.index[i])]
        assert data.labels("train")[i] == label  # type: ignore[index]
        picture = data.to_image(data.split("train")[i]["image"]) * 255
        torch.testing.assert_close(
            picture, torch.from_numpy(np.array(image)).permute(2, 0, 1).float(), atol=1e-3, rtol=0
        )
    assert len(data.split("test")) == pytest.approx(10, abs=2)


def cifar(root: Path) -> None:
    """A folder in CIFAR10's layout, five images a batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        entry = {"data": np.full((5, 3072), 10 * k, dtype=np.uint8), "labels": [k % 3] * 5}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c"]}))


def test_train_and_test_of_a_class_that_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = open_data("torchvision:CIFAR10", root=str(tmp_path))
    assert data.provides["size"] == (32, 32)
    assert data.classes == ["a", "b", "c"]
    assert data.labels("train").bincount().tolist() == [10, 10, 5]  # type: ignore[union-attr]
    assert data.labels("test").tolist() == [2] * 5  # type: ignore[union-attr]
    shade = data.to_image(data.split("test")[0]["image"]) * 255
    torch.testing.assert_close(shade, torch.full((3, 32, 32), 50.0))


def test_image_folders_need_a_root_and_download_nothing(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (9, 9), 20 * i).save(tmp_path / name / f"{i}.png")
    data = open_data("torchvision:ImageFolder", root=str(tmp_path), test=0.25)
    assert data.classes == ["cat", "dog"]
    assert data.labels("train").tolist() == [0, 0, 0, 1, 1, 1]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="torchvision:ImageFolder"):
        open_data("torchvision:ImageFolder", root=str(tmp_path / "nowhere"))


class Recorded:
    """Notes how it was opened; a stand-in for classes that choose a part by ``split``."""

    opened: ClassVar[list[dict[str, Any]]] = []
    splits: ClassVar[tuple[str, ...]] = ("train", "val")
    _samples: ClassVar[list[tuple[str, int]]] = [("a", 1), ("b", 0)]

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split not in self.splits:
            raise ValueError(f"no split {split}")
        self.opened.append({"root": root, "split": split, "download": download})

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (4, 4)), 9


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Recorded)
    monkeypatch.setattr(Recorded, "opened", [])
    return Recorded


def test_splits_are_tried_in_order_and_files_kept_in_the_cache(
    recorded: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = open_data("torchvision:CIFAR10")
    root = str(tmp_path / "polymask" / "torchvision" / "CIFAR10")
    assert recorded.opened == [{"root": root, "split": split, "download": True} for split in ("train", "val")]
    assert data.labels("train").tolist() == [1, 0]  # type: ignore[union-attr]


def test_a_chosen_split_is_divided(recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "splits", ("letters",))
    data = open_data("torchvision:CIFAR10", root="here", test=0, arguments={"split": "letters"})
    assert len(recorded.opened) == 1
    assert len(data.split("train")) == 2


def test_a_class_that_hands_on_its_arguments_is_asked_for_both_parts() -> None:
    from polymask_vision.datasets.torchvision_sets import _parameters

    assert {"split", "train", "download"} <= _parameters(torchvision.datasets.EMNIST)
    assert "train" not in _parameters(torchvision.datasets.ImageNet)


def test_unknown_names_are_answered_with_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean CIFAR10"):
        open_data("torchvision:cifar10")
    with pytest.raises(UserError, match="FakeData"):
        open_data("torchvision:Imaginary")
    with pytest.raises(UserError, match="unexpected keyword"):
        open_data("torchvision:FakeData", arguments={"colour": 1})
