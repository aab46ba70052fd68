"""Folders as people have them: classes or none, several formats, broken files, links, odd names."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from polymask import UserError
from polymask.cli import main
from polymask.data import open_data

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path: Path, shade: tuple[int, ...] | int = RED, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "L" if isinstance(shade, int) else "RGB"
    Image.new(mode, size, shade).save(path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name, shade in (("blue", BLUE), ("green", GREEN), ("red", RED)):
        for i in range(10):
            save(tmp_path / name / f"{i}.png", shade)
    return tmp_path


def test_class_folders_are_classes(classes: Path) -> None:
    data = open_data(f"vision/folder:{classes}", test=0.2)
    assert data.classes == ["blue", "green", "red"]
    for split, n in (("train", 8), ("test", 2)):
        samples, labels = data.split(split), data.labels(split)  # type: ignore[arg-type]
        assert labels.tolist() == [c for c in range(3) for _ in range(n)]  # type: ignore[union-attr]
        for i in range(3 * n):
            picture = data.to_image(samples[i]["image"])
            assert picture.mean(dim=(1, 2)).argmax() == 2 - labels[i]  # type: ignore[index]


def test_without_class_folders_there_are_no_labels(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png")
    save(tmp_path / "deep" / "er" / "x.png")
    data = open_data(f"vision/folder:{tmp_path}")
    assert data.classes is None
    assert data.labels("train") is None
    assert data.labels("test") is None
    assert len(data.split("train")) + len(data.split("test")) == 5


def test_one_class_is_a_class(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "only" / "deep" / f"{i}.png")
    data = open_data(f"vision/folder:{tmp_path}")
    assert data.classes == ["only"]
    assert data.labels("train").tolist() == [0] * 4  # type: ignore[union-attr]


@pytest.mark.parametrize("held", ["test", "val", "valid", "validation", "Val"])
def test_split_folders_are_splits(classes: Path, held: str) -> None:
    for name in ("blue", "green", "red"):
        (classes / "train").mkdir(exist_ok=True)
        (classes / name).rename(classes / "train" / name)
    save(classes / held / "red" / "a.png")
    save(classes / held / "violet" / "b.png")
    data = open_data(f"vision/folder:{classes}")
    assert data.classes == ["blue", "green", "red", "violet"]
    assert len(data.split("train")) == 30
    assert data.labels("test").tolist() == [2, 3]  # type: ignore[union-attr]


def test_a_test_folder_without_labels_gives_way_to_one_with(tmp_path: Path) -> None:
    """As ImageNet comes: train and val in class folders, test in none."""
    for name in ("train/a/1", "train/b/1", "val/a/2", "val/b/2", "test/1", "test/2", "test/3"):
        save(tmp_path / f"{name}.png")
    data = open_data(f"vision/folder:{tmp_path}")
    assert data.labels("test").tolist() == [0, 1]  # type: ignore[union-attr]


def test_a_train_folder_alone_is_divided(classes: Path) -> None:
    train = classes / "train"
    train.mkdir()
    for name in ("blue", "green", "red"):
        (classes / name).rename(train / name)
    data = open_data(f"vision/folder:{classes}", test=0.5)
    assert data.classes == ["blue", "green", "red"]
    assert len(data.split("test")) == 15


def test_the_split_does_not_depend_on_where_the_folder_lies(classes: Path, tmp_path: Path) -> None:
    before = (
        open_data(f"vision/folder:{classes}").labels("test"),
        len(open_data(f"vision/folder:{classes}").split("test")),
    )
    names = held(classes)
    moved = classes.rename(classes.with_name("moved"))
    assert held(moved) == names
    assert before[1] == 3


def held(folder: Path) -> list[str]:
    test = open_data(f"vision/folder:{folder}").splits["test"]  # type: ignore[attr-defined]
    return [test.source.name(i) for i in test.index.tolist()]


def test_formats_depths_and_cases_side_by_side(tmp_path: Path) -> None:
    for ending in ("jpg", "JPEG", "png", "webp", "bmp", "tif", "tiff"):
        save(tmp_path / f"red.{ending}")
    Image.fromarray(np.full((10, 12), 65535, dtype=np.uint16)).save(tmp_path / "white.png")
    Image.new("RGBA", (12, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("P", (12, 10)).save(tmp_path / "palette.png")
    data = open_data(f"vision/folder:{tmp_path}", test=0)
    source, samples = data.splits["train"].source, data.split("train")  # type: ignore[attr-defined]
    found = {source.name(i): data.to_image(samples[i]["image"]).mean(dim=(1, 2)) for i in range(len(samples))}
    assert len(found) == 10
    for name, mean in found.items():
        expected = {"red": (1, 0, 0), "whi": (1, 1, 1), "cle": (1, 1, 1), "pal": (0, 0, 0)}[name[:3]]
        assert (mean - torch.tensor(expected)).abs().max() < 0.02, name


def test_broken_files_are_skipped_counted_and_named(classes: Path) -> None:
    whole = (classes / "red" / "0.png").read_bytes()
    (classes / "red" / "cut.png").write_bytes(whole[:-20])
    (classes / "red" / "zero.jpg").touch()
    (classes / "red" / "words.jpg").write_text("not a picture at all")
    (classes / "notes.txt").write_text("which is which")
    (classes / ".hidden.png").write_bytes(whole)
    (classes / ".cache").mkdir()
    (classes / ".cache" / "x.png").write_bytes(whole)
    os.symlink(classes / "nowhere.png", classes / "green" / "dangling.png")
    data = open_data(f"vision/folder:{classes}")
    assert len(data.split("train")) + len(data.split("test")) == 30
    assert dict(data.skipped) == {
        "notes.txt": "its suffix is not among those of images",
        "green/dangling.png": "No such file or directory",
        "red/cut.png": dict(data.skipped)["red/cut.png"],
        "red/words.jpg": "not an image: its content is of no known format",
        "red/zero.jpg": "empty file",
    }
    assert "truncated" in dict(data.skipped)["red/cut.png"]
    assert data.classes == ["blue", "green", "red"]


def test_damage_within_a_file_shows_when_it_is_used(classes: Path) -> None:
    path = classes / "green" / "3.png"
    raw = bytearray(path.read_bytes())
    start = raw.index(b"IDAT")
    raw[start + 4 : start + 20] = bytes(16)
    path.write_bytes(raw)
    data = open_data(f"vision/folder:{classes}", test=0)
    assert data.skipped == []
    with pytest.warns(UserWarning, match=r"green/3\.png.*green/4\.png stands in"):
        samples = [data.split("train")[i]["image"] for i in range(30)]
    assert torch.equal(samples[13], samples[14])
    assert [name for name, _ in data.skipped] == ["green/3.png"]


def test_workers_report_it_too(classes: Path) -> None:
    data = open_data(f"vision/folder:{classes}", test=0)
    (classes / "blue" / "9.png").write_bytes(b"")
    loader: DataLoader[Any] = DataLoader(
        data.split("train"),  # type: ignore[arg-type]
        batch_size=10,
        num_workers=1,
        multiprocessing_context="fork",
    )
    assert len(list(loader)) == 3
    assert [name for name, _ in data.skipped] == ["blue/9.png"]


def test_a_file_that_goes_away_is_replaced(classes: Path) -> None:
    data = open_data(f"vision/folder:{classes}", test=0)
    (classes / "blue" / "9.png").unlink()
    with pytest.warns(UserWarning, match=r"blue/9\.png: No such file or directory; blue/0\.png stands in"):
        data.split("train")[9]


def test_links_are_followed_and_never_in_circles(
    classes: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "a.png", BLUE)
    os.symlink(elsewhere, classes / "linked")
    os.symlink(classes / "red" / "0.png", classes / "blue" / "link.png")
    os.symlink(classes, classes / "red" / "around")
    os.symlink(classes / "red", classes / "red" / "self")
    data = open_data(f"vision/folder:{classes}", test=0)
    assert data.classes == ["blue", "green", "linked", "red"]
    assert data.labels("train").bincount().tolist() == [11, 10, 1, 10]  # type: ignore[union-attr]


def test_names_in_any_script_and_in_none(tmp_path: Path) -> None:
    for name in ("ünï cödé.png", "画像 (1).png", "a'b\"c.png", "emoji 🦊.png"):
        save(tmp_path / "çlass" / name)
    os.rename(tmp_path / "çlass" / "a'b\"c.png", os.fsencode(tmp_path / "çlass") + b"/latin \xe9.png")
    data = open_data(f"vision/folder:{tmp_path}", test=0)
    assert data.classes == ["çlass"]
    samples = data.split("train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(samples[i]["image"].shape == (3, 10, 12) for i in range(4)) == 4


def test_size_and_colour_follow_the_pictures(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "grey" / f"{i}.png", 100 + i, size=(20, 16))
        save(tmp_path / "mixed" / f"{i}.png", 100 + i, size=(20, 16 + i))
        save(tmp_path / "colour" / f"{i}.png", RED, size=(20, 16))
    facts = {n: open_data(f"vision/folder:{tmp_path / n}").provides for n in ("grey", "mixed", "colour")}
    assert {n: (f["size"], f["channels"]) for n, f in facts.items()} == {
        "grey": ((16, 20), 1),
        "mixed": ((224, 224), 1),
        "colour": ((16, 20), 3),
    }
    given = open_data(f"vision/folder:{tmp_path / 'colour'}", size=8, channels=1, mean=(0.5,), std=(0.5,))
    assert given.split("train")[0]["image"].shape == (1, 8, 8)
    assert given.provides["mean"] == (0.5,)


def test_samples_survive_pickling(classes: Path) -> None:
    samples = open_data(f"vision/folder:{classes}").split("train")
    assert torch.equal(pickle.loads(pickle.dumps(samples))[5]["image"], samples[5]["image"])


def test_nothing_usable_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        open_data(f"vision/folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"no images \(\.jpg"):
        open_data(f"vision/folder:{tmp_path}")
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(UserError, match=r"skipped 1 files, first a\.png: not an image"):
        open_data(f"vision/folder:{tmp_path}")
    with pytest.raises(UserError, match="source"):
        open_data("vision/folder")


def test_a_home_folder_may_be_short(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(classes.parent))
    assert open_data(f"vision/folder:~/{classes.name}").classes == ["blue", "green", "red"]


def test_help_shows_the_options_of_reader_and_preparation(
    classes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "vision/mae", "--data", f"folder:{classes}", "--help"]) == 0
    text = capsys.readouterr().out
    own, prepared = text.index("data: vision/folder"), text.index("data, prepared by ImageDataset")
    assert own < text.index("--data.test") < prepared < text.index("--data.crop_scale")
    assert text.count("--data.size") == 1
