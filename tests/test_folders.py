"""A layout of a folder gives the same splits, classes and skips, whatever kind of file it holds."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from polymask import UserError
from polymask.data import SplitName, open_data
from polymask.evaluation.probe import labels_of


def image(path: Path, number: int) -> None:
    Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(path)


def audio(path: Path, number: int) -> None:
    soundfile.write(path, 0.1 * np.sin(np.arange(800) * (number % 999 + 1) / 50), 8000)


def text(path: Path, number: int) -> None:
    path.write_text(f"document number {number} says little of fish {number}.")


def points(path: Path, number: int) -> None:
    np.save(path, np.random.default_rng(number).random((20, 3)))


KINDS: dict[str, tuple[str, Callable[[Path, int], None], dict[str, Any]]] = {
    "vision": (".png", image, {}),
    "audio": (".wav", audio, {}),
    "language": (".txt", text, {"vocab_size": 300}),
    "pointcloud": (".npy", points, {"points": 16}),
}


class Made:
    """A folder of one kind of file, and what opening it gives."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.root = kind, root
        self.suffix, self.write, self.options = KINDS[kind]

    def add(self, *names: str) -> None:
        for name in names:
            path = self.root / f"{name}{self.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write(path, zlib.crc32(path.as_posix().encode()))

    def open(self, **options: Any) -> Any:
        return open_data(f"{self.kind}/folder:{self.root}", **{**self.options, **options})

    def found(self, data: Any, split: SplitName) -> dict[str, str | None]:
        """Names of a split without their suffix, and the class of each, None where unknown."""
        labels = data.labels(split)
        if self.kind == "language":
            texts = {(self.root / name).read_text(): name for name in self.files()}
            names = [texts[data.corpus.texts[i]] for i in data.documents[split].tolist()]
        else:
            names = data.splits[split].names()
        classes = (
            [None if label < 0 else data.classes[label] for label in labels] if labels is not None else []
        )
        names = [name.removesuffix(self.suffix) for name in names]
        return dict(zip(names, classes or [None] * len(names), strict=True))

    def files(self) -> list[str]:
        return [
            p.relative_to(self.root).as_posix()
            for p in sorted(self.root.rglob(f"*{self.suffix}"))
            if p.is_file()
        ]

    def skipped(self, data: Any) -> dict[str, str]:
        return {name.removesuffix(self.suffix): reason for name, reason in data.skipped}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return Made(request.param, tmp_path / "data")


def test_flat_files_have_no_classes(made: Made) -> None:
    made.add(*(f"f{i}" for i in range(10)))
    data = made.open(test=0.2)
    train, test = made.found(data, "train"), made.found(data, "test")
    assert (len(train), len(test)) == (8, 2) and not train.keys() & test.keys()
    assert data.classes is None and data.labels("train") is None


def test_class_folders_at_any_depth(made: Made) -> None:
    made.add(*(f"{c}/{i}" for c in ("10", "9", "b") for i in range(4)), "b/deep/er/4")
    data = made.open(test=0.25)
    assert data.classes == ["9", "10", "b"]
    train, test = made.found(data, "train"), made.found(data, "test")
    assert sorted(test.values()) == ["10", "9", "b"] and len(train) == 10
    assert all(name.partition("/")[0] == label for name, label in {**train, **test}.items())
    assert data.skipped == []


def test_a_few_files_beside_class_folders_are_told(made: Made) -> None:
    made.add(*(f"{c}/{i}" for c in "ab" for i in range(4)), "loose")
    with pytest.warns(UserWarning, match=rf"1 of 9 .* \(the first: loose{made.suffix}\), .* no labels"):
        data = made.open()
    assert data.classes is None


@pytest.mark.parametrize("held", ["test", "val", "valid", "validation", "Test", "testing", "dev", "eval"])
def test_train_and_held_out(made: Made, held: str) -> None:
    train = "training" if held == "testing" else "train"
    made.add(f"{train}/a/1", f"{train}/b/2", f"{held}/a/3", f"{held}/c/4")
    data = made.open()
    assert data.classes == ["a", "b", "c"]
    assert made.found(data, "train") == {f"{train}/a/1": "a", f"{train}/b/2": "b"}
    assert made.found(data, "test") == {f"{held}/a/3": "a", f"{held}/c/4": "c"}


def test_a_flat_test_folder_gives_way_to_one_with_classes(made: Made) -> None:
    made.add("train/a/1", "train/b/2", "val/a/3", "val/b/4", "test/5", "test/6")
    data = made.open()
    assert data.classes == ["a", "b"]
    assert made.found(data, "test") == {"val/a/3": "a", "val/b/4": "b"}
    assert made.skipped(data) == {"test/": "val/ is held out"}


def test_a_flat_test_folder_alone_has_unknown_labels(made: Made) -> None:
    made.add("train/a/1", "train/b/2", "test/5", "test/6")
    data = made.open()
    assert data.classes == ["a", "b"] and data.labels("train").tolist() == [0, 1]
    assert data.labels("test").tolist() == [-1, -1]


def test_val_alone_is_divided_and_is_no_class(made: Made) -> None:
    made.add(*(f"val/{c}/{i}" for c in "ab" for i in range(5)))
    data = made.open(test=0.2)
    assert data.classes == ["a", "b"]
    assert len(made.found(data, "train")) == 8 and sorted(made.found(data, "test").values()) == ["a", "b"]


def test_val_beside_classes_is_one_of_them(made: Made) -> None:
    made.add("val/1", "val/2", "cat/3", "cat/4")
    assert made.open().classes == ["cat", "val"]


def test_splits_may_lie_within_classes(made: Made) -> None:
    made.add("a/train/1", "a/train/2", "a/test/3", "b/train/4", "b/test/5", "b/val/6")
    data = made.open()
    assert data.classes == ["a", "b"]
    assert made.found(data, "train") == {"a/train/1": "a", "a/train/2": "a", "b/train/4": "b"}
    assert made.found(data, "test") == {"a/test/3": "a", "b/test/5": "b"}
    assert made.skipped(data) == {"b/val/": "test/ is held out"}


def test_folders_beside_splits_are_told(made: Made) -> None:
    made.add("train/1", "train/2", "test/3", "extra/4")
    (made.root / "annotations").mkdir()
    data = made.open()
    assert len(made.found(data, "train")) == 2
    assert made.skipped(data) == {"extra/": "it lies beside train/"}


def test_a_class_may_be_called_train(made: Made) -> None:
    made.add(*(f"{vehicle}/{i}" for vehicle in ("bus", "train") for i in range(5)))
    assert made.open().classes == ["bus", "train"]


def test_one_class_is_a_class(made: Made) -> None:
    made.add(*(f"only/{i}" for i in range(5)))
    data = made.open(test=0.2)
    assert data.classes == ["only"] and data.labels("train").tolist() == [0] * 4


def test_unlabeled_is_no_class(made: Made) -> None:
    made.add("train/a/1", "train/b/2", "train/unlabeled/3", "test/a/4")
    data = made.open()
    assert data.classes == ["a", "b"]
    assert made.found(data, "train") == {"train/a/1": "a", "train/b/2": "b", "train/unlabeled/3": None}


def test_a_class_of_which_nothing_is_left_is_told(made: Made) -> None:
    made.add("a/1", "b/2")
    for name in ("gone", "empty", "unlabelled", ".hidden"):
        (made.root / name).mkdir()
    (made.root / f"gone/3{made.suffix}").touch()
    with pytest.warns(UserWarning, match=r"2 of 4 class folders in .* no classes: empty, gone$"):
        data = made.open()
    assert data.classes == ["a", "b"]


def test_classes_of_one_sample_are_said_to_leave_none_to_probe(made: Made) -> None:
    made.add(*(f"{i}/{i}" for i in range(5)))
    data = made.open()
    assert len(data.classes) == 5
    with pytest.raises(UserError, match="a probe needs test samples, .*: a class of one sample holds none"):
        labels_of(data)


def test_links_are_followed_and_never_in_circles(made: Made, tmp_path: Path) -> None:
    made.add("a/1", "b/2")
    elsewhere = Made(made.kind, tmp_path / "elsewhere")
    elsewhere.add("3")
    for link, target in (
        ("linked", tmp_path / "elsewhere"),
        ("a/up", made.root),
        ("a/self", made.root / "a"),
        ("a/other", made.root / "b"),  # which leads back
        ("b/other", made.root / "a"),
    ):
        (made.root / link).symlink_to(target)
    (made.root / f"b/itself{made.suffix}").symlink_to(made.root / f"b/itself{made.suffix}")
    data = made.open(test=0.0)
    assert data.classes == ["a", "b", "linked"]
    assert data.labels("train").bincount().tolist() == [2, 2, 1]
    skipped = made.skipped(data)
    assert {name for name, why in skipped.items() if why == "a link to a folder around it"} == {
        "a/up",
        "a/self",
        "a/other/other",
        "b/other/other",
        "b/other/up",
        "b/other/self",
    }
    assert "symbolic links" in skipped["b/itself"]


def test_what_is_left_out_is_named_with_the_reason(made: Made) -> None:
    made.add("a/1", "b/2", "b/.hidden", ".cache/x")
    (made.root / f"a/empty{made.suffix}").touch()
    (made.root / "a/notes.pdf").write_text("words")
    (made.root / "a/README").write_text("words")
    (made.root / f"b/gone{made.suffix}").symlink_to(made.root / "nowhere")
    os.mkfifo(made.root / f"b/pipe{made.suffix}")
    (made.root / f"b/linked{made.suffix}").symlink_to(made.root / f"b/pipe{made.suffix}")
    (made.root / f"b/device{made.suffix}").symlink_to("/dev/null")
    data = made.open(test=0.0)
    assert made.found(data, "train") == {"a/1": "a", "b/2": "b"}
    skipped = made.skipped(data)
    other = {skipped.pop("a/notes.pdf"), skipped.pop("a/README")}
    assert len(other) == 1 and other.pop().startswith("its suffix is not among those of ")
    assert skipped == {
        "a/empty": "empty file",
        "b/gone": "No such file or directory",
        "b/pipe": "a named pipe, not a file",
        "b/linked": "a named pipe, not a file",
        "b/device": "a device, not a file",
    }


def test_nothing_to_read_is_said(made: Made) -> None:
    with pytest.raises(UserError, match=r"^no .* \(\..*\) in "):
        made.open()
    made.add("test/1", "test/2")
    (made.root / "train").mkdir()
    with pytest.raises(UserError, match=r"^no .* in .*train"):
        made.open()
    with pytest.raises(UserError, match="there is no folder"):
        open_data(f"{made.kind}/folder:{made.root}/nowhere")
