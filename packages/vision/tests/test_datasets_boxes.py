"""Boxes move with their image, and three readers say where objects are and how far away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from polymask import UserError
from polymask.data import collate, open_data
from polymask_vision.boxes import boxes_of, distances_of, moved, some_of
from polymask_vision.datasets.coco import thinned
from polymask_vision.datasets.digits import digits
from polymask_vision.datasets.place import Prepared
from polymask_vision.datasets.prepare import Preparation

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
AUGMENTS = ("none", "flip", "crop", "crop-flip", "shift-flip", "three-augment", "crop-jitter")


# ------------------------------------------------------------------------------------- geometry


def edges_of(image: Tensor) -> Tensor:
    """The box around what is bright, ``[4]``."""
    rows, columns = (image[0] > 0.5).nonzero().unbind(1)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize("augment", AUGMENTS)
def test_boxes_and_outlines_stay_on_their_object(augment: str) -> None:
    size = (40, 48)
    prepare = Preparation(size=size, augment=augment, crop_scale=(0.5, 0.9), **PLAIN)  # type: ignore[arg-type]
    image = torch.zeros(3, 61, 83)
    box = torch.tensor([[30.0, 18.0, 54.0, 39.0]])
    image[:, 18:39, 30:54] = 1
    corners = torch.tensor([[[30.0, 18.0], [54.0, 18.0], [54.0, 39.0], [30.0, 39.0]]])
    flipped = set()
    for seed in range(12):
        torch.manual_seed(seed)
        prepared = prepare.prepare(image, {}, augment=True)
        found = moved({"boxes": box, "polygons": corners, "distance": torch.ones(1)}, prepared, size)
        flipped.add(prepared.place.mirror)
        shown = prepared.image if prepared.clean is None else prepared.clean
        coloured = augment in ("three-augment", "crop-jitter")
        assert ("clean" in found) == coloured and (prepared.clean is not None) == coloured
        if coloured:
            assert torch.equal(found["clean"], shown)
        torch.testing.assert_close(found["boxes"][0], edges_of(shown), rtol=0, atol=1.01)
        outline = found["polygons"][0]
        low, high = outline.amin(0).clamp_min(0), outline.amax(0).minimum(torch.tensor([48.0, 40.0]))
        torch.testing.assert_close(torch.cat([low, high]), found["boxes"][0])
    assert len(flipped) == (1 if augment in ("none", "crop", "crop-jitter") else 2)


def test_coordinates_are_exact_where_nothing_is_scaled() -> None:
    prepare = Preparation(size=(20, 31), **PLAIN)  # type: ignore[arg-type]
    image = torch.zeros(3, 20, 40)
    image[:, 3:11, 12:19] = 1
    found = moved({"boxes": torch.tensor([[12.0, 3.0, 19.0, 11.0]])}, prepare.prepare(image, {}), (20, 31))
    assert torch.equal(found["boxes"][0], edges_of(prepare(image)))


def test_objects_that_a_crop_left_out_are_left_out_of_all_entries() -> None:
    prepare = Preparation(size=(20, 20), **PLAIN)  # type: ignore[arg-type]
    prepared: Prepared = prepare.prepare(torch.zeros(3, 20, 40), {})
    boxes = torch.tensor([[0.0, 0, 9, 9], [12, 5, 20, 9], [7, 5, 11, 9], [2, 5, 12, 9]])
    given = {"boxes": boxes, "distance": torch.arange(4.0), "polygons": torch.zeros(4, 5, 2)}
    found = moved(given, prepared, (20, 20))  # columns 10 to 30 are left
    assert found["boxes"].tolist() == [[2, 5, 10, 9], [0, 5, 1, 9]]
    assert found["distance"].tolist() == [1, 2] and found["polygons"].shape == (2, 5, 2)


def test_a_batch_says_which_boxes_are_padding() -> None:
    full = {"image": torch.zeros(1), "boxes": torch.rand(2, 4), "distance": torch.tensor([1.0, 2.0])}
    none = {"image": torch.zeros(1), "boxes": torch.rand(0, 4), "distance": torch.rand(0)}
    batch = collate([full, none])
    boxes, valid = boxes_of(batch, "")
    assert torch.equal(boxes[0], full["boxes"]) and valid.tolist() == [[True, True], [False, False]]
    assert distances_of(batch, 2).isnan().tolist() == [[False, False], [True, True]]
    boxes, valid = boxes_of(collate([none, none]), "")
    assert boxes.shape == (2, 1, 4) and not valid.any()
    assert distances_of(collate([none, none]), 1).isnan().all()
    with pytest.raises(UserError, match="give boxes"):
        boxes_of({"image": torch.zeros(1)}, "give boxes")


def test_a_smaller_share_lies_within_a_larger() -> None:
    names = [f"{i}.png" for i in range(200)]
    shares = [some_of(names, share) for share in (0.05, 0.2, 1.0)]
    assert [int(one.sum()) for one in shares] == [10, 40, 200]
    assert [int(some_of(names[:20], share).sum()) for share in (0.0, 0.01)] == [0, 1]
    assert not (shares[0] & ~shares[1]).any()
    with pytest.raises(UserError, match="labelled=2"):
        some_of(names, 2)


def test_an_augmentation_that_bends_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="away from their boxes"):
        open_data("vision/placed-objects", augment="rand-augment")


# ------------------------------------------------------------------------------------ COCO's files


def write(folder: Path, annotations: list[dict[str, Any]], images: int = 4, nested: str = "") -> str:
    listed = []
    for i in range(images):
        path = folder / "images" / nested / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (10 * i, 80, 120)).save(path)
        listed.append({"id": 100 + i, "file_name": f"{nested}/{i}.png" if nested else f"{i}.png"})
    (folder / "annotations.json").write_text(json.dumps({"images": listed, "annotations": annotations}))
    return f"vision/boxes:{folder}"


def read(data: Any) -> dict[str, dict[str, Tensor]]:
    found = {}
    for split in ("train", "test"):
        samples = data.split(split)
        found |= dict(zip(samples.names(), [samples[i] for i in range(len(samples))], strict=True))
    return found


def test_masks_in_run_lengths_are_outlined(tmp_path: Path) -> None:
    """A rectangle of 6 columns and 10 rows from (3, 2), as pycocotools writes it, and the same plainly."""
    counts = [3 * 24 + 2, *[10, 14] * 5, 10, 24 * 32 - 3 * 24 - 2 - 5 * 24 - 10]
    masks: list[Any] = [
        {"size": [24, 32], "counts": "Z2:>000000000Va0"},
        {"size": [24, 32], "counts": counts},
        {"size": [24, 32], "counts": [24 * 32]},
        {"size": [24, 30], "counts": counts},
    ]
    every = [
        {"image_id": 100 + i, "bbox": [3, 2, 6, 10], "segmentation": mask} for i, mask in enumerate(masks)
    ]
    data: Any = open_data(write(tmp_path, every), vertices=64, test=0.3, **PLAIN)
    found = read(data)
    assert dict(data.skipped) == {"3.png": "the mask of an annotation does not fill its 24 x 32 pixels"}
    for name in ("0.png", "1.png", "2.png"):
        outline = found[name]["polygons"][0]
        assert [*outline.amin(0).tolist(), *outline.amax(0).tolist()] == [3, 2, 9, 12]


def test_cocos_boxes_are_read_with_distances_and_outlines(tmp_path: Path) -> None:
    triangle, small = [2.0, 3, 10, 3, 2, 9], [20.0, 20, 21, 20, 20, 21]
    every = [
        {"image_id": 100, "bbox": [2, 3, 8, 6], "distance": 7.5, "segmentation": [small, triangle]},
        {"image_id": 100, "bbox": [20.5, 10, 4, 5]},
        {"image_id": 100, "bbox": [0, 0, 30, 20], "iscrowd": 1, "segmentation": {"counts": [1]}},
        *({"image_id": 100 + i, "bbox": [1, 1, 3, 3], "distance": i} for i in (1, 2)),
    ]
    source = write(tmp_path, every)
    Image.new("RGB", (32, 24)).save(tmp_path / "images" / "unlisted.png")
    data: Any = open_data(source, vertices=5, **PLAIN)
    found = read(data)
    assert set(found) == {"0.png", "1.png", "2.png"}
    first = found["0.png"]
    assert first["boxes"].tolist() == [[2, 3, 10, 9], [20.5, 10, 24.5, 15]]
    assert first["distance"][0] == 7.5 and first["distance"][1].isnan()
    assert first["polygons"][0].tolist() == [[2, 3], [10, 3], [2, 9], [2, 9], [2, 9]]
    assert first["polygons"][1].tolist() == [[20.5, 10], [24.5, 10], [24.5, 15], [20.5, 15], [20.5, 15]]
    assert dict(data.skipped) == {
        "3.png": "it has no box",
        "unlisted.png": "it is not listed in the annotations, which name 0.png",
    }
    few = read(open_data(source, labelled=0.0, test=0.3, **PLAIN))
    assert sum(not x["distance"].isnan().all() for x in few.values()) == 1  # the one held out
    few = read(open_data(source, vertices=3, **PLAIN))["0.png"]["polygons"]
    assert few[1].tolist() == [[24.5, 10], [24.5, 15], [20.5, 15]]


def test_folders_of_splits_and_several_files(tmp_path: Path) -> None:
    write(tmp_path, [{"image_id": 100 + i, "bbox": [1, 1, 3, 3]} for i in range(4)], nested="train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "a.json")
    source = write(tmp_path, [{"image_id": 100, "bbox": [2, 2, 5, 5]}], images=1, nested="val")
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "b.json")
    data: Any = open_data(source, annotations="annotations", **PLAIN)
    assert len(data.split("train")) == 4 and data.split("test")[0]["boxes"].tolist() == [[2, 2, 7, 7]]
    assert "polygons" not in data.split("test")[0]


def test_coco_as_it_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split, n in (("train2017", 4), ("val2017", 1)):
        write(
            tmp_path, [{"image_id": 100 + i, "bbox": [1, 1, 3, 3]} for i in range(n)], images=n, nested=split
        )
        (tmp_path / "images" / split).rename(tmp_path / split)
        listed = json.loads((tmp_path / "annotations.json").read_text())
        (tmp_path / "annotations.json").rename(tmp_path / "annotations" / f"instances_{split}.json")
        captions = {**listed, "annotations": [{"image_id": 100, "caption": "a square"}]}
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(captions))
    data: Any = open_data(f"vision/boxes:{tmp_path}", images=".", annotations="annotations", **PLAIN)
    assert [len(data.split(name)) for name in ("train", "test")] == [4, 1] and not data.skipped
    assert [len(sample["boxes"]) for sample in data.split("train")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bbox": [1, 1, 0, 3], "id": 7}, "bbox of annotation 7 is [1, 1, 0, 3]"),
        ({"bbox": [1, 1, 2]}, "bbox of an annotation"),
        ({"bbox": "far"}, "bbox of an annotation is far"),
        ({}, "bbox of an annotation is None"),
        ({"bbox": [1, 1, 2, 3], "segmentation": [[1, 2, 3, 4]]}, "three vertices"),
        ({"bbox": [1, 1, 2, 3], "segmentation": [1, 2]}, "three vertices"),
        ({"bbox": [1, 1, 2, 3], "segmentation": "abc"}, "neither polygons nor a mask"),
        ({"bbox": [1, 1, 2, 3], "segmentation": 5}, "neither polygons nor a mask"),
        (
            {"bbox": [32, 1, 5, 5], "id": 7},
            "bbox of annotation 7 is [32, 1, 5, 5], outside of its 32 x 24 pixels",
        ),
        ({"bbox": [1, -5, 5, 5]}, "outside of its 32 x 24 pixels"),
        ({"bbox": [1, 1, 2, 3], "distance": 0}, "distance of an annotation is 0, not above 0"),
        ({"bbox": [1, 1, 2, 3], "distance": -4.5}, "distance of an annotation is -4.5"),
        ({"bbox": [1, 1, 2, 3], "distance": "far"}, "distance of an annotation is far"),
    ],
)
def test_an_annotation_that_makes_no_sense_costs_its_image_and_no_other(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    right = [{"image_id": 100 + i, "bbox": [1, 1, 3, 3]} for i in range(3)]
    data: Any = open_data(write(tmp_path, [*right, {"image_id": 101, **wrong}]), **PLAIN)
    skipped = dict(data.skipped)
    assert set(read(data)) == {"0.png", "2.png"} and message in skipped["1.png"]


def test_boxes_are_cut_at_the_edges_of_their_image(tmp_path: Path) -> None:
    wide = [{"image_id": 100, "bbox": [-50, -5, 1000, 100]}, {"image_id": 101, "bbox": [30.5, 20, 9, 9]}]
    found = read(open_data(write(tmp_path, wide, images=2), **PLAIN))
    assert found["0.png"]["boxes"].tolist() == [[0, 0, 32, 24]]
    assert found["1.png"]["boxes"].tolist() == [[30.5, 20, 32, 24]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "no file of annotations as COCO's"),
        ([1], "no file of annotations as COCO's"),
        (
            {"images": [{"id": 4, "file_name": "0.png"}], "annotations": [{"id": 1, "image_id": "4"}]},
            "all 1 annotations are of images that it does not list, as '4'; it lists 4",
        ),
        (
            {"images": [{"id": 4, "file_name": "0.png"}, {"id": 4, "file_name": "1.png"}], "annotations": []},
            "the id 4 is that of 0.png and of 1.png",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    source = write(tmp_path, [])
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_data(source)


def test_annotations_of_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    every = [{"image_id": i, "bbox": [1, 1, 2, 3]} for i in (100, 101, 102, 103, 7, 9)]
    data: Any = open_data(write(tmp_path, every), **PLAIN)
    assert len(read(data)) == 4
    assert dict(data.skipped) == {
        "annotations.json": "2 annotations are of images that it does not list, as 7"
    }
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no .json file in"):
        open_data(f"vision/boxes:{tmp_path}", annotations="none")


def listed(folder: Path, file: str, names: dict[str, list[list[float]]], **more: Any) -> None:
    """Images of 32 x 24 pixels and a file that lists them by other names, with their boxes."""
    images = [{"id": i, "file_name": name, **more} for i, name in enumerate(names)]
    every = [
        {"image_id": i, "bbox": box, "id": 10 * i + k}
        for i, boxes in enumerate(names.values())
        for k, box in enumerate(boxes)
    ]
    (folder / "annotations").mkdir(exist_ok=True)
    content = json.dumps({"images": images, "annotations": every})
    (folder / "annotations" / file).write_text("\ufeff" + content, encoding="utf-8")


def test_images_of_one_name_in_two_folders_keep_boxes_of_their_own(tmp_path: Path) -> None:
    one, other = [[1.0, 1, 3, 3]], [[5.0, 5, 9, 9]]
    for split in ("train", "val"):
        write(tmp_path, [], nested=split)
    source = f"vision/boxes:{tmp_path}"
    listed(tmp_path, "instances_train.json", {f"{i}.png": one for i in range(4)})
    listed(tmp_path, "instances_val.json", {f"{i}.png": other for i in range(4)})
    data: Any = open_data(source, annotations="annotations", **PLAIN)
    for split, box in (("train", [1, 1, 4, 4]), ("test", [5, 5, 14, 14])):
        assert [sample["boxes"].tolist() for sample in data.split(split)] == [[box]] * 4
    (tmp_path / "annotations" / "instances_val.json").rename(tmp_path / "annotations" / "instances_b.json")
    data = open_data(source, annotations="annotations", **PLAIN)
    assert len(data.split("train")) == 4
    reasons = dict(data.skipped)
    assert reasons["val/0.png"].startswith("0.png is listed, and 2 images are called so: give each file_name")
    assert reasons["instances_b.json"] == "none of the 4 images that it lists is there"


def test_objects_that_several_files_list_count_once_and_all_of_them(tmp_path: Path) -> None:
    write(tmp_path, [])
    names = {f"{i}.png": [[1.0, 1, 3, 3], [5.0, 5, 9, 9]] for i in range(4)}
    listed(tmp_path, "instances_persons.json", names)
    listed(tmp_path, "instances_again.json", names)
    listed(tmp_path, "instances_cars.json", {"0.png": [[7.0, 7, 2, 2]], "9.png": [], "8.png": []})
    listed(tmp_path, "instances_other.json", {"far/1.jpg": []})
    data: Any = open_data(f"vision/boxes:{tmp_path}", annotations="annotations", **PLAIN)
    found = read(data)
    assert {name: len(x["boxes"]) for name, x in found.items()} == {
        "0.png": 3,
        "1.png": 2,
        "2.png": 2,
        "3.png": 2,
    }
    assert dict(data.skipped) == {
        "8.png": "it is listed in instances_cars.json, and is not there",
        "9.png": "it is listed in instances_cars.json, and is not there",
        "instances_other.json": "none of the 1 images that it lists is there",
    }


@pytest.mark.parametrize("name", ["images/{}.png", "./{}.png", "images\\{}.png"])
def test_names_are_those_of_files_however_they_are_written(tmp_path: Path, name: str) -> None:
    write(tmp_path, [])
    listed(tmp_path, "a.json", {name.format(i): [[1.0, 1, 3, 3]] for i in range(4)})
    data: Any = open_data(f"vision/boxes:{tmp_path}", annotations="annotations", **PLAIN)
    assert len(read(data)) == 4 and not data.skipped


def test_an_image_of_another_size_than_listed_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, [])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (32, 24))
    turned.save(tmp_path / "images" / "1.png", exif=exif)
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "2.png")
    boxes = {f"{i}.png": [[1.0, 1, 3, 3]] for i in range(4)}
    listed(tmp_path, "a.json", boxes, width=32, height=24)
    data: Any = open_data(f"vision/boxes:{tmp_path}", annotations="annotations", **PLAIN)
    assert set(read(data)) == {"0.png", "3.png"}
    skipped = dict(data.skipped)
    assert skipped["2.png"] == "it is 64 x 48 pixels, and 32 x 24 in a.json"
    assert "it is 24 x 32 pixels, and 32 x 24 in a.json: its tag of orientation turns it" in skipped["1.png"]


def test_an_outline_of_many_vertices_keeps_its_shape() -> None:
    shapely = pytest.importorskip("shapely")
    top = np.stack([np.linspace(0, 30, 32), np.zeros(32)], axis=1)
    rectangle = np.concatenate([top, [[30.0, 20], [0, 20]]])
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radius = np.where(np.arange(200) % 50 < 25, 10, 4)[:, None]
    cross = radius / 10 * circle
    for outline, least in (
        (rectangle, 1.0),
        (np.roll(rectangle, 7, axis=0), 1.0),
        (circle, 0.95),
        (cross, 0.9),
    ):
        few = thinned(outline, 16)
        one, other = shapely.Polygon(outline), shapely.Polygon(few)
        overlap = one.intersection(other).area / one.union(other).area
        assert len(few) == 16 and overlap >= least - 1e-9
    assert sorted(map(tuple, thinned(rectangle, 4))) == [(0, 0), (0, 20), (30, 0), (30, 20)]


def test_an_outline_needs_no_box_and_three_vertices(tmp_path: Path) -> None:
    every = [
        {"image_id": 100, "segmentation": [[2.0, 3, 10, 3, 2, 9]]},
        {"image_id": 101, "bbox": [1, 1, 2, 2]},
    ]
    source = write(tmp_path, every, images=2)
    assert read(open_data(source, **PLAIN))["0.png"]["boxes"].tolist() == [[2, 3, 10, 9]]
    with pytest.raises(UserError, match="vertices=2: an outline has 3 or more"):
        open_data(source, vertices=2)


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*annotations.json.*--data.annotations"):
        open_data(f"vision/boxes:{tmp_path}")


# ----------------------------------------------------------------------------------- made-up data


def test_placed_digits_are_small_where_they_are_far_away_and_the_nearest_is_on_top() -> None:
    data: Any = open_data("vision/placed-objects", count=60, objects=(3, 4), **PLAIN)
    samples = data.split("train")
    for i in range(20):
        one = samples[i]
        side = one["boxes"][:, 2:] - one["boxes"][:, :2]
        assert torch.equal(side[:, 0], side[:, 1]) and 1 <= len(side) <= 4
        # a 0 is 32 pixels wide at distance 1, a 9 half of that
        size = side[:, 0] * one["distance"] / 32
        assert (size <= 1 + 0.5 / side[:, 0]).all() and (size >= 0.5 - 0.5 / side[:, 0]).all()
        assert (one["distance"] >= 1).all() and (one["distance"] <= 3).all()
        assert one["distance"].diff().le(0).all()  # from far to near, as they were painted
        left, top, right, bottom = one["boxes"][-1].int().tolist()
        assert one["image"][:, top:bottom, left:right].amax() > 0.3  # the nearest is not covered
    draws = [samples[i]["distance"] for i in range(60)]
    assert torch.cat(draws).log().std() == pytest.approx(1.0986 / 12**0.5, rel=0.2)
    assert torch.equal(samples[3]["image"], samples[3]["image"]) and data.provides["size"] == (64, 64)
    few: Any = open_data("vision/placed-objects", count=60, labelled=0.05, **PLAIN).split("train")
    assert sum(bool(few[i]["distance"].isfinite().any()) for i in range(60)) == 3
    assert all(few[i]["boxes"].isfinite().all() for i in range(60))


def test_a_digit_is_known_by_its_looks_to_be_large_or_small() -> None:
    source: Any = open_data("vision/placed-objects", count=200, objects=(1, 1)).splits["train"].source  # type: ignore[attr-defined]
    for sizes, split in zip(source.sizes, (digits().train, digits().test), strict=True):
        labels = torch.as_tensor(split.labels)
        assert sizes[labels == 0].unique() == 1 and sizes[labels == 9].unique() == 0.5
        assert torch.stack([sizes, labels]).corrcoef()[0, 1] < -0.99
    drawn = [source.objects(i) for i in range(200)]
    told = torch.cat([one["distance"] for one in drawn])
    side = torch.cat([one["boxes"][:, 2] - one["boxes"][:, 0] for one in drawn])
    logs = torch.stack([told.log(), side.log()])
    assert -0.9 < float(logs.corrcoef()[0, 1]) < -0.6  # the box tells part of the distance
    source.sizes = [torch.full_like(sizes, size) for sizes, size in zip(source.sizes, (1, 0.5), strict=True)]
    for numbers, width in ((range(200), 32), (range(200, 240), 16)):
        for one in map(source.objects, numbers):
            side = one["boxes"][:, 2] - one["boxes"][:, 0]
            torch.testing.assert_close(side, width / one["distance"], rtol=0, atol=0.51)


def test_held_out_digits_lie_on_other_parts_of_the_photographs() -> None:
    source: Any = open_data("vision/placed-objects", count=10).splits["train"].source  # type: ignore[attr-defined]
    source.grounds = torch.arange(640.0).expand(2, 3, 427, 640)
    shares = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    train = max(float(source._ground(0, share).max()) for share in shares)
    test = min(float(source._ground(10, share).min()) for share in shares)
    assert train < 448 <= test
    assert not torch.equal(source.digits[0][:10], source.digits[1][:10])


@pytest.mark.parametrize(
    ("options", "message"), [({"pixels": 8}, "16 to 192"), ({"objects": (3, 2)}, "smaller number first")]
)
def test_placed_objects_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_data("vision/placed-objects", **options)


def test_boxes_of_the_motorcycle_have_the_distance_of_what_they_show() -> None:
    skimage = pytest.importorskip("skimage.data")
    disparity = torch.from_numpy(skimage.stereo_motorcycle()[2].copy())
    data: Any = open_data("vision/motorcycle-boxes", stride=96, **PLAIN)
    columns: dict[str, set[int]] = {"train": set(), "test": set()}
    for split, seen in columns.items():
        samples = data.split(split)
        for i, name in enumerate(samples.names()):
            top, left = (int(part.split()[1]) for part in name.split(", "))
            seen |= {left, left + 95}
            for box, away in zip(samples[i]["boxes"].int().tolist(), samples[i]["distance"], strict=True):
                part = disparity[top + box[1] : top + box[3], left + box[0] : left + box[2]]
                known = part[part.isfinite()]
                assert len(known) >= 0.8 * part.numel()
                assert away == pytest.approx(60 / float(known.median()), rel=1e-5)
                assert ((known * away / 60).log().abs() < 0.2232).float().mean() >= 0.9
                assert min(box[2] - box[0], box[3] - box[1]) >= 8
    assert max(columns["train"]) < 519 <= min(columns["test"])
    with pytest.raises(UserError, match="no tile of 400 pixels"):
        open_data("vision/motorcycle-boxes", tile=400)
