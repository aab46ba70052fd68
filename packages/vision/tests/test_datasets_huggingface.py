"""Local folders in the hub's layout: columns, splits and classes are found, bytes decoded by us."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polymask import UserError
from polymask.data import open_data

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(shade: int, size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, split: str, columns: dict[str, list[Any]], **features: Any) -> None:
    """One parquet file of a split, as the hub stores them."""
    kinds = datasets.Features({name: features[name] for name in columns})
    table = datasets.Dataset.from_dict(columns, features=kinds)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def images(*shades: int) -> list[dict[str, Any]]:
    return [{"bytes": png(shade), "path": None} for shade in shades]


IMAGE = datasets.Image()
ANIMAL = datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize("more", [{}, {"streaming": True, "images": 9}])
def test_splits_and_columns_are_found(tmp_path: Path, more: dict[str, Any]) -> None:
    write(tmp_path, "train", {"img": images(10, 20, 30), "label": [0, 1, 0]}, img=IMAGE, label=ANIMAL)
    write(tmp_path, "validation", {"img": images(40), "label": [1]}, img=IMAGE, label=ANIMAL)
    data = open_data(f"vision/hf:{tmp_path}", **more)
    assert data.classes == ["cat", "dog"]
    assert data.provides["size"] == (6, 8)
    assert data.labels("train").tolist() == [0, 1, 0]  # type: ignore[union-attr]
    assert data.labels("test").tolist() == [1]  # type: ignore[union-attr]
    shades = [round(float(data.to_image(data.split("train")[i]["image"])[0, 0, 0]) * 255) for i in range(3)]
    assert shades == [10, 20, 30]
    assert round(float(data.to_image(data.split("test")[0]["image"])[0, 0, 0]) * 255) == 40
    source = data.splits["train"].source  # type: ignore[attr-defined]
    assert source.read(1) == png(20)  # the library decodes nothing


def test_test_goes_before_validation_and_one_split_is_divided(tmp_path: Path) -> None:
    for name, shades in (("train", (1, 2)), ("validation", (3,)), ("test", (4, 5, 6))):
        write(tmp_path / "three", name, {"image": images(*shades)}, image=IMAGE)
    data = open_data(f"vision/hf:{tmp_path / 'three'}")
    assert len(data.split("test")) == 3
    assert data.classes is None
    assert data.labels("train") is None
    write(tmp_path / "one", "train", {"image": images(*range(20))}, image=IMAGE)
    data = open_data(f"vision/hf:{tmp_path / 'one'}", test=0.25)
    assert (len(data.split("train")), len(data.split("test"))) == (15, 5)


def test_classes_by_name_or_number(tmp_path: Path) -> None:
    for kind, values, known in (("string", ["b", "a", "b"], ["a", "b"]), ("int64", [10, 9, 10], ["9", "10"])):
        columns = {"image": images(1, 2, 3), "category": values}
        write(tmp_path / kind, "train", columns, image=IMAGE, category=datasets.Value(kind))
        data = open_data(f"vision/hf:{tmp_path / kind}", test=0)
        assert data.classes == known
        assert data.labels("train").tolist() == [1, 0, 1]  # type: ignore[union-attr]


def test_columns_may_be_chosen(tmp_path: Path) -> None:
    columns = {"image": images(1, 2), "depth": images(50, 60), "label": [0, 1], "breed": ["x", "x"]}
    kinds = {"image": IMAGE, "depth": IMAGE, "label": ANIMAL, "breed": datasets.Value("string")}
    write(tmp_path, "train", columns, **kinds)
    with pytest.raises(UserError, match=r"2 columns of images; choose one .*image, depth"):
        open_data(f"vision/hf:{tmp_path}")
    data = open_data(f"vision/hf:{tmp_path}", image="depth", label="breed", test=0)
    assert data.classes == ["x"]
    assert round(float(data.to_image(data.split("train")[1]["image"])[0, 0, 0]) * 255) == 60
    assert open_data(f"vision/hf:{tmp_path}", image="depth", label="none").labels("train") is None
    with pytest.raises(UserError, match="no column 'colour'; it has image, depth"):
        open_data(f"vision/hf:{tmp_path}", image="colour")


def test_a_broken_image_is_replaced(tmp_path: Path) -> None:
    columns = {"image": images(1, 2, 3)}
    columns["image"][1]["bytes"] = png(2)[:-30]
    write(tmp_path, "train", columns, image=IMAGE)
    data = open_data(f"vision/hf:{tmp_path}", test=0)
    with pytest.warns(UserWarning, match="stands in"):
        image = data.to_image(data.split("train")[1]["image"])
    assert round(float(image[0, 0, 0]) * 255) == 3
    assert len(data.skipped) == 1


def test_arrays_are_images_too(tmp_path: Path) -> None:
    arrays = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    write(tmp_path, "train", {"x": list(arrays)}, x=datasets.Array2D(shape=(5, 4), dtype="uint8"))
    data = open_data(f"vision/hf:{tmp_path}", test=0)
    assert (data.provides["size"], data.provides["channels"]) == ((5, 4), 1)
    found = data.to_image(data.split("train")[1]["image"])[0] * 255
    torch.testing.assert_close(found, torch.from_numpy(arrays[1]).float())


def test_samples_survive_pickling(tmp_path: Path) -> None:
    write(tmp_path, "train", {"image": images(1, 2)}, image=IMAGE)
    samples = open_data(f"vision/hf:{tmp_path}", test=0).split("train")
    assert torch.equal(pickle.loads(pickle.dumps(samples))[1]["image"], samples[1]["image"])


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_are_a_text_or_several_of_each_image(tmp_path: Path, streaming: bool) -> None:
    text, more = datasets.Value("string"), {"streaming": streaming, "images": 9, "test": 0}
    columns = {"image": images(1, 2, 3), "text": ["one", None, "three"], "all": [["a", "b"], [], [" "]]}
    write(tmp_path, "train", columns, image=IMAGE, text=text, all=datasets.List(text))
    data: Any = open_data(f"vision/hf:{tmp_path}", **more)
    assert data.captions("train") == ["one", "", "three"]
    data = open_data(f"vision/hf:{tmp_path}", caption="all", **more)
    source = data.splits["train"].source
    assert data.captions("train") == ["a", "", ""] and source.wordings(0) == ["a", "b"]
    assert open_data(f"vision/hf:{tmp_path}", caption="none", **more).captions("train") is None
    with pytest.raises(UserError, match="no column 'nothing'"):
        open_data(f"vision/hf:{tmp_path}", caption="nothing", **more)
    pytest.importorskip("polymask_language")
    with pytest.warns(UserWarning, match="1 left out, 2 used"):
        words = open_data(f"vision/hf:{tmp_path}", text_vocab="bpe", text_vocab_size=300, **more)
    assert words.split("train")[0]["text"].dtype == torch.int64


@pytest.mark.parametrize("streaming", [False, True])
def test_of_many_the_first_images_are_taken(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path, "train", {"image": images(*range(0, 120, 10))}, image=IMAGE)
    data = open_data(f"vision/hf:{tmp_path}", streaming=streaming, images=5, test=0)
    samples = data.split("train")
    shades = [round(float(data.to_image(samples[i]["image"])[0, 0, 0]) * 255) for i in range(len(samples))]
    assert shades == [0, 10, 20, 30, 40]
    assert torch.equal(pickle.loads(pickle.dumps(samples))[1]["image"], samples[1]["image"])


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="how much of the stream"):
        open_data(f"vision/hf:{tmp_path}", streaming=True)
    with pytest.raises(UserError, match=r"hf: cannot load 'nobody/nothing' \(no folder of that name here\)"):
        open_data("vision/hf:nobody/nothing")
    write(tmp_path, "train", {"text": ["a"]}, text=datasets.Value("string"))
    with pytest.raises(UserError, match=r"0 columns of images.*text"):
        open_data(f"vision/hf:{tmp_path}")


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ()])
def test_what_save_to_disk_wrote(tmp_path: Path, splits: tuple[str, ...]) -> None:
    kinds = datasets.Features({"image": IMAGE, "label": ANIMAL})
    table = datasets.Dataset.from_dict({"image": images(*range(20)), "label": [0, 1] * 10}, features=kinds)
    saved = datasets.DatasetDict(dict.fromkeys(splits, table)) if splits else table
    saved.save_to_disk(tmp_path / "saved")
    data = open_data(f"vision/hf:{tmp_path / 'saved'}")
    assert data.classes == ["cat", "dog"]
    counts = [len(data.split(name)) for name in ("train", "test")]
    assert counts == [20, 20] if "test" in splits else sum(counts) == 20
