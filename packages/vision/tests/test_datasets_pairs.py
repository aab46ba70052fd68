"""Pairs of pictures: folders, the built-in pair, and what is done to either picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import open_data
from polymask.testing import check_part
from polymask_vision.datasets.prepare import Preparation

PLAIN: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def save(path: Path, shade: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)


def shades(data: Any) -> list[tuple[int, int]]:
    found = []
    for name in ("train", "test"):
        for sample in data.split(name):
            found.append(tuple(round(float(sample[key].mean()) * 255) for key in ("image", "other")))
    return sorted(found)


@pytest.mark.parametrize("name", ["pairs", "motorcycle", "video-pairs"])
def test_readers_keep_the_promises_of_data_sets(name: str) -> None:
    if name == "motorcycle":
        pytest.importorskip("skimage")
    if name == "video-pairs":
        pytest.importorskip("av")
    found = check_part(f"vision/{name}", kind="datasets")
    assert found and not [result for result in found if result.outcome != "passed"]


def test_two_folders_are_paired_by_name_whatever_the_format(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / "left" / "a" / f"{i}.png", 10 * i)
        save(tmp_path / "right" / "a" / f"{i}.bmp", 10 * i + 5, (12, 12))
    save(tmp_path / "left" / "a" / "alone.png", 200)
    save(tmp_path / "right" / "a" / "left over.png", 201)
    save(tmp_path / "left" / "a" / "torn.png", 202)
    (tmp_path / "right" / "a" / "torn.png").write_bytes(b"no image")
    data: Any = open_data(f"vision/pairs:{tmp_path}", test=0.3, size=8, **PLAIN)
    assert shades(data) == [(10 * i, 10 * i + 5) for i in range(6)] and data.classes == ["a"]
    skipped = dict(data.skipped)
    assert len(skipped) == 3
    assert "no partner alone" in skipped["a/alone.png"] and "torn.png: " in skipped["a/torn.png"]
    assert "no partner in left" in skipped["right/a/left over.png"]
    same = open_data(f"vision/pairs:{tmp_path}", first="right", second="left", test=0.3, size=8, **PLAIN)
    assert shades(same) == [(10 * i + 5, 10 * i) for i in range(6)]


def test_pictures_beside_one_another_are_paired_by_their_ends(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / f"{i}_1.png", 10 * i)
        save(tmp_path / f"{i}_2.png", 10 * i + 5)
    save(tmp_path / "alone_1.png", 200)
    save(tmp_path / "late_2.png", 201)
    save(tmp_path / "third.png", 202)
    data: Any = open_data(f"vision/pairs:{tmp_path}", test=0.3, **PLAIN)
    assert shades(data) == [(10 * i, 10 * i + 5) for i in range(6)]
    skipped = dict(data.skipped)
    assert set(skipped) == {"alone_1.png", "late_2.png", "third.png"}
    assert "neither _1 nor _2" in skipped["third.png"]


def test_a_third_folder_has_a_value_of_each_pixel_of_the_first_pictures(tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / "left" / "a" / f"{i}.png", 10 * i)
        save(tmp_path / "right" / "a" / f"{i}.png", 10 * i + 5)
        disparity = np.full((8, 8), 256 * i, dtype=np.uint16)
        disparity[0] = 0
        (tmp_path / "disparity" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(disparity).save(tmp_path / "disparity" / "a" / f"{i}.png")
    (tmp_path / "disparity" / "a" / "6.png").unlink()
    save(tmp_path / "disparity" / "a" / "7.png", 0, (4, 4))
    data: Any = open_data(f"vision/pairs:{tmp_path}", values="disparity", ignore=0, test=0.3, **PLAIN)
    assert data.map_classes is None
    seen = set()
    for name in ("train", "test"):
        for sample in data.split(name):
            number = round(float(sample["image"][0, 0, 0]) * 255) // 10
            assert round(float(sample["other"][0, 0, 0]) * 255) == 10 * number + 5
            assert sample["value_map"][0].isnan().all()
            assert number == 0 or (sample["value_map"][1:] == 256 * number).all()
            seen.add(number)
    assert seen == set(range(6))
    skipped = dict(data.skipped)
    assert skipped["a/6.png"] == "there is no map disparity/a/6.png, or of another suffix"
    assert "its map 4 x 4" in skipped["a/7.png"] and len(skipped) == 2
    with pytest.raises(UserError, match=r"no folder .*depth of maps: say where it is, --data.values NAME"):
        open_data(f"vision/pairs:{tmp_path}", values="depth")
    with pytest.raises(UserError, match=r"no folder .*lef of first pictures; there are disparity, left"):
        open_data(f"vision/pairs:{tmp_path}", first="lef")
    with pytest.raises(UserError, match="pairs:nowhere: there is no folder"):
        open_data("vision/pairs:nowhere")
    save(tmp_path / "beside" / "a_1.png", 1)
    save(tmp_path / "beside" / "a_2.png", 1)
    with pytest.raises(UserError, match=r"maps lie beside folders.* there is no folder .*left"):
        open_data(f"vision/pairs:{tmp_path / 'beside'}", values="depth")


def test_a_map_of_something_else_is_left_out_and_most_of_them_are_refused(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "left" / f"{i}.png", 10 * i)
        save(tmp_path / "right" / f"{i}.png", 10 * i)
        (tmp_path / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / "depth" / f"{i}.npy", np.full((8, 8, 1), i, dtype=np.float32))
    (tmp_path / "depth" / "3.npy").unlink()
    Image.new("P", (8, 8)).save(tmp_path / "depth" / "3.png")
    data: Any = open_data(f"vision/pairs:{tmp_path}", values="depth", test=0, **PLAIN)
    with pytest.warns(UserWarning, match="3.png: its mask is of mode P, whose numbers are no values"):
        found = [float(sample["value_map"][0, 0]) for sample in data.split("train")]
    assert sorted(set(found)) == [0, 1, 2, 4, 5, 6, 7, 8, 9] and dict(data.skipped).keys() == {"3.png"}
    for i in range(4, 10):
        (tmp_path / "depth" / f"{i}.npy").unlink()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "depth" / f"{i}.png")
    with pytest.raises(UserError, match="its mask is of mode P|its mask is in colours"):
        open_data(f"vision/pairs:{tmp_path}", values="depth", test=0, **PLAIN)


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "one" / "left" / "a.png", 1)
    with pytest.raises(UserError, match="there is left, and no folder .*right.* --data.second"):
        open_data(f"vision/pairs:{tmp_path / 'one'}")
    (tmp_path / "one" / "right").symlink_to(tmp_path / "one" / "left")
    with pytest.raises(UserError, match="left and right are one folder"):
        open_data(f"vision/pairs:{tmp_path / 'one'}")
    save(tmp_path / "two" / "a.png", 1)
    with pytest.raises(UserError, match="no pairs NAME_1 and NAME_2 .*a.png: its name ends in neither"):
        open_data(f"vision/pairs:{tmp_path / 'two'}")


# ---------------------------------------------------------------------------------- motorcycle


def test_disparities_say_where_a_pixel_of_one_tile_lies_in_the_other() -> None:
    pytest.importorskip("skimage")
    data: Any = open_data("vision/motorcycle", stride=64, **PLAIN)
    right, wrong = [], []
    for sample in data.split("test"):
        grey, other = sample["image"].mean(0), sample["other"].mean(0)
        for sign, kept in ((1, right), (-1, wrong)):
            rows, columns = sample["value_map"].isfinite().nonzero(as_tuple=True)
            # the tile of the right photograph begins 32 columns further left
            there = (columns - sign * (sample["value_map"][rows, columns] - 32)).round().long()
            inside = (there >= 0) & (there < grey.shape[1])
            rows, columns, there = rows[inside], columns[inside], there[inside]
            kept.append((grey[rows, columns] - other[rows, there]).abs().mean())
    assert torch.stack(right).mean() < 0.6 * torch.stack(wrong).mean()


def test_no_point_is_seen_in_training_and_in_test_tiles() -> None:
    pytest.importorskip("skimage")
    data: Any = open_data("vision/motorcycle")
    source = data.splits["train"].source
    columns = {
        name: [source.corners[i][1] for i in data.splits[name].index.tolist()] for name in ("train", "test")
    }
    last, first = max(columns["train"]) + source.side, min(columns["test"])
    # a point lies up to 60 columns further right in the left photograph than in the right one
    assert last <= first - source.shift and last - source.shift + 60 <= first
    assert last <= first - source.shift + 7 and min(columns["train"]) >= source.shift
    with pytest.raises(UserError, match=r"no tile of 300 pixels.*smaller --data.tile"):
        open_data("vision/motorcycle", tile=300)


# --------------------------------------------------------------------------------- augmentation


def ramp(size: int) -> Tensor:
    """Rows in the red channel, columns in the green one."""
    line = torch.arange(size, dtype=torch.uint8)
    return torch.stack(
        [line[:, None].expand(size, size), line.expand(size, size), torch.zeros(size, size).byte()]
    )


def test_crop_jitter_takes_whole_pixels_anywhere_and_flips_nothing() -> None:
    prepare = Preparation(size=28, augment="crop-jitter", crop_scale=(0.765625,) * 2, **PLAIN)
    prepare._light = lambda image: image
    torch.manual_seed(0)
    corners = set()
    for _ in range(60):
        crop, maps = prepare.with_maps(ramp(32), {"rows": ramp(32)[0].float()}, augment=True)
        rows, columns = (crop[:2] * 255).round().int()
        assert (rows.diff(dim=0) == 1).all() and (columns.diff(dim=1) == 1).all()
        assert torch.equal(maps["rows"].int(), rows)
        corners.add((int(rows[0, 0]), int(columns[0, 0])))
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(5))


def test_crop_jitter_changes_the_light_of_either_picture_for_itself(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "left" / f"{i}.png", 100)
        save(tmp_path / "right" / f"{i}.png", 100)
    data: Any = open_data(f"vision/pairs:{tmp_path}", test=0.3, augment="crop-jitter", size=8, **PLAIN)
    torch.manual_seed(0)
    sample = data.split("train", augment=True)[0]
    one, two = (float(sample[key].mean()) for key in ("image", "other"))
    assert len({round(x, 3) for x in (one, two, 100 / 255)}) == 3
    assert min(one, two) >= 0.6 * 100 / 255 - 0.01 and max(one, two) <= 1.4 * 100 / 255 + 0.01
    plain = data.split("train")[0]
    assert torch.equal(plain["image"], plain["other"])


def test_pairs_of_five_channels_have_no_colours_to_change() -> None:
    with pytest.raises(UserError, match="needs 1 or 3 channels"):
        Preparation(size=8, mean=(0.5,) * 5, std=(0.5,) * 5, augment="crop-jitter")


# ----------------------------------------------------------------------------------- of video


def frame(x: Tensor) -> int:
    """Which frame of a ramp it is."""
    return round(float(x.mean()) * 25.5)


def test_frames_of_video_are_pairs_some_time_apart_and_clips_are_not_divided(tmp_path: Path) -> None:
    videos = pytest.importorskip("polymask_vision.datasets.videos", reason="needs polymask-vision[video]")
    brightness = (10 * np.arange(24, dtype=np.uint8))[:, None, None, None]
    for i in range(6):
        path = tmp_path / "ab"[i % 2] / f"{i}.mkv"
        path.parent.mkdir(exist_ok=True)
        videos.write(path, np.broadcast_to(brightness, (24, 32, 32, 3)).copy(), rate=12)
    videos.write(tmp_path / "a" / "short.mkv", np.zeros((4, 32, 32, 3), np.uint8), rate=12)
    data: Any = open_data(f"vision/video-pairs:{tmp_path}", apart=0.5, every=0.25, test=0.3, **PLAIN)
    # starts at 0, 0.25, ..., 1.5 seconds
    assert len(data.split("train")) == 4 * 7 and len(data.split("test")) == 2 * 7
    assert data.classes == ["a", "b"] and data.labels("train").bincount().tolist() == [14, 14]
    clips = {name: {one.split(" at ")[0] for one in data.splits[name].names()} for name in ("train", "test")}
    assert not clips["train"] & clips["test"] and len(set(data.splits["train"].names())) == 28
    assert data.splits["train"].names()[:2] == [f"{min(clips['train'])} at {t:g} s" for t in (0, 0.25)]
    for place in (0, 3, 6, 8):
        sample = data.split("train")[place]
        assert frame(sample["image"]) == pytest.approx(3 * (place % 7), abs=1)
        assert frame(sample["other"]) - frame(sample["image"]) == pytest.approx(6, abs=1)
    assert dict(data.skipped) == {"a/short.mkv": "it is 0.33 seconds long, and frames are 0.5 apart"}
    with pytest.raises(UserError, match=r"all 7 clips are shorter than 9 seconds: .*--data.apart"):
        open_data(f"vision/video-pairs:{tmp_path}", apart=9)
