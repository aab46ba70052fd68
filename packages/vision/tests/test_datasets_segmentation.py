"""Images with masks as people have them: grey, palettes, colours, values; and what is wrong with some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polymask import UserError
from polymask.data import open_data

SKY, ROAD = (0, 0, 128), (128, 64, 128)


def save(root: Path, name: str, mask: Any, mode: str | None = None, suffix: str = ".png") -> None:
    """An image whose red is its number of the class times 10, and its mask."""
    mask = np.asarray(mask, dtype=np.uint8)
    image = root / "images" / f"{name}.png"
    path = (root / "masks" / name).with_suffix(suffix)
    for one in (image, path):
        one.parent.mkdir(parents=True, exist_ok=True)
    number = mask if mask.ndim == 2 else mask[..., 0]
    Image.fromarray(np.stack([number // 2, number * 0, number * 0], axis=-1).astype(np.uint8)).save(image)
    written = Image.fromarray(mask)
    if mode == "P":
        written.putpalette([x for i in range(256) for x in (i, 255 - i, 7)])
    written.save(path)


def halves(left: int, right: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:  # type: ignore[type-arg]
    mask = np.full(size, left, dtype=np.uint8)
    mask[:, size[1] // 2 :] = right
    return mask


def opened(root: Path, **options: Any) -> Any:
    return open_data(
        f"vision/segmentation:{root}", **{"test": 0.5, "mean": (0.0,) * 3, "std": (1.0,) * 3, **options}
    )


@pytest.mark.parametrize("mode", [None, "P"])
def test_numbers_and_palettes_are_classes_and_255_is_unknown(tmp_path: Path, mode: str | None) -> None:
    for i in range(4):
        save(tmp_path, f"deep/{i}", halves(i, 255), mode)
    data = opened(tmp_path)
    assert data.map_classes is None
    for split in ("train", "test"):
        for i in range(2):
            sample = data.split(split)[i]
            assert sample["label_map"].dtype == torch.int64 and sample["label_map"].shape == (8, 12)
            left = int((sample["image"][0, 0, 0] * 255).round()) * 2
            assert sample["label_map"][0, 0] in (left, left + 1) and (sample["label_map"][:, 6:] == -1).all()


def test_colours_are_classes_by_name_and_others_unknown_where_so_said(tmp_path: Path) -> None:
    for i in range(4):
        mask = np.zeros((8, 12, 3), dtype=np.uint8)
        mask[:4], mask[4:] = SKY, ROAD
        mask[7] = (224, 224, 192)
        save(tmp_path, str(i), mask)
    labels = {"road": list(ROAD), "sky": list(SKY)}
    with pytest.raises(UserError, match=r"0.png holds \[224, 224, 192\], of no class: name them all"):
        opened(tmp_path, labels=labels)
    data = opened(tmp_path, labels=labels, ignore=[224, 224, 192])
    assert data.map_classes == ["road", "sky"]
    found = data.split("train")[0]["label_map"]
    assert found[0].unique().tolist() == [1] and found[5].unique().tolist() == [0] and (found[7] == -1).all()
    with pytest.raises(UserError, match=r"in colours, \[0, 0, 128\], \[128, 64, 128\], .*--data.labels"):
        opened(tmp_path)


def test_grey_masks_with_opacity_are_read(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path, str(i), halves(0, 1))
        Image.fromarray(halves(0, 1)).convert("LA").save(tmp_path / "masks" / f"{i}.png")
    assert opened(tmp_path).split("train")[0]["label_map"][0].tolist() == [0] * 6 + [1] * 6


def test_masks_in_jpeg_are_warned_of(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path, str(i), halves(0, 0))
        (tmp_path / "masks" / f"{i}.png").unlink()
        Image.fromarray(halves(0, 0)).save(tmp_path / "masks" / f"{i}.jpg")
    with pytest.warns(UserWarning, match=r"4 masks are JPEG, as 0.jpg"):
        opened(tmp_path)


def test_masks_of_0_and_255_are_asked_about(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path, str(i), halves(0, 255))
    with pytest.raises(UserError, match=r"0 and 255 alone.*--data.labels '\{background: 0, object: 255\}'"):
        opened(tmp_path)
    found = opened(tmp_path, labels={"background": 0, "object": 255}).split("train")[0]["label_map"]
    assert found[0].tolist() == [0] * 6 + [1] * 6


def test_what_has_no_mask_or_another_size_is_left_out_and_named(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path, str(i), halves(0, 1))
    (tmp_path / "masks" / "2.png").unlink()
    Image.fromarray(halves(0, 1, (4, 6))).save(tmp_path / "masks" / "3.png")
    (tmp_path / "masks" / "4.png").write_bytes(b"no image")
    data = opened(tmp_path)
    assert len(data.split("train")) + len(data.split("test")) == 3
    reasons = dict(data.skipped)
    assert reasons["2.png"] == "there is no mask masks/2.png, or of another suffix"
    assert reasons["3.png"] == "it is 8 x 12 pixels, and its mask 4 x 6"
    assert reasons["4.png"].startswith("its mask: not an image")
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no images with a mask .*first 0.png: there is no mask masks/0.png"):
        opened(tmp_path)


def test_a_mask_that_holds_another_class_than_those_looked_at_is_replaced(tmp_path: Path) -> None:
    for i in range(140):
        save(tmp_path, f"{i:03}", halves(0, 1, (2, 2)))
    names = {"one": 0, "other": 1}
    data = opened(tmp_path, labels=names, test=0)
    Image.fromarray(halves(0, 9, (2, 2))).save(tmp_path / "masks" / "001.png")
    with pytest.warns(UserWarning, match=r"001.png: its mask holds 9, of no class; 002.png stands in"):
        assert data.split("train")[1]["label_map"].max() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5])
def test_numbers_that_are_no_class_are_named(tmp_path: Path, value: float) -> None:
    mask = np.zeros((8, 12), dtype=np.float32)
    mask[0, 0] = value
    for i in range(3):
        save(tmp_path, str(i), halves(0, 1))
        (tmp_path / "masks" / f"{i}.png").unlink()
        np.save(tmp_path / "masks" / f"{i}.npy", mask)
    with pytest.raises(UserError, match=rf"holds {value:g}, of no class.*--data.values true"):
        opened(tmp_path)
    values = opened(tmp_path, values=True).split("train")[0]["value_map"]
    assert values.isnan().sum() == (value != 0.5) and not values.isinf().any()


def test_values_are_floats_with_unknown_ones(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path, str(i), halves(0, 1))
        depth = np.linspace(0, 3, 96, dtype=np.float32).reshape(8, 12)
        suffix = (".png", ".npy", ".tiff", ".pfm")[i]
        mask = (tmp_path / "masks" / str(i)).with_suffix(suffix)
        (tmp_path / "masks" / f"{i}.png").unlink()
        if i > 1:
            depth[0, 0] = np.nan
        if suffix == ".npy":
            np.save(mask, depth)
        elif suffix == ".pfm":
            mask.write_bytes(b"Pf\n12 8\n-1.0\n" + depth[::-1].astype("<f4").tobytes())
        else:
            Image.fromarray(depth if i else (depth * 1000).astype(np.uint16)).save(mask)
    data = opened(tmp_path, values=True, ignore=0)
    assert not data.skipped
    kinds = []
    for split in ("train", "test"):
        for i in range(2):
            found = data.split(split)[i]["value_map"]
            assert found.dtype == torch.float32 and found[0, 0].isnan() and found.isfinite().sum() == 95
            kinds.append(round(float(found[-1, -1])))
    assert sorted(kinds) == [3, 3, 3, 3000]


def test_splits_are_folders_and_maps_follow_the_crop(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/c"):
        save(tmp_path, name, halves(0, 200, (8, 20)))
    data = opened(tmp_path, size=4, labels={"l": 0, "r": 200})
    assert len(data.split("train")) == 2 and len(data.split("test")) == 1
    sample = data.split("test")[0]
    assert sample["label_map"].tolist() == [[0, 0, 1, 1]] * 4
    assert (sample["image"][0].round(decimals=1) > 0.2).long().tolist() == sample["label_map"].tolist()


def test_wrong_folders_and_options_are_named(tmp_path: Path) -> None:
    save(tmp_path, "0", halves(0, 1))
    with pytest.raises(UserError, match=r"no folder .*annotations; there are images, masks: .*--data.masks"):
        opened(tmp_path, masks="annotations")
    with pytest.raises(UserError, match="two classes are of one number"):
        opened(tmp_path, labels={"a": 1, "b": 1})
    with pytest.raises(UserError, match="a number to each class, or a colour"):
        opened(tmp_path, labels={"a": 1, "b": [1, 2, 3]})
    with pytest.raises(UserError, match="masks of values hold none"):
        opened(tmp_path, labels={"a": 1}, values=True)
