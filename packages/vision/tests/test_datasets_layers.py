"""Data in layers: folders of them, the Earth, and what is missing in either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from polymask import Batch, Step, UserError, build
from polymask.data import collate
from polymask.testing import check_part
from polymask_vision.datasets import earth, layers
from polymask_vision.datasets.prepare import Preparation


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return earth.example_source(tmp_path_factory.mktemp("planet"))


def open_earth(planet: str, **options: Any) -> Any:
    return build("vision/earth-layers", "datasets", source=planet, **options)


def open_folder(folder: Path, **options: Any) -> Any:
    given = {"classes": {"object": 2}, "tasks": ("object",), **options}
    return build("vision/layers", "datasets", source=layers.example_source(folder), **given)


@pytest.mark.parametrize("name", ["layers", "earth-layers"])
def test_readers_keep_the_promises_of_data_sets(name: str) -> None:
    assert not [r for r in check_part(f"vision/{name}", kind="datasets") if r.outcome != "passed"]


def test_layers_of_the_earth_are_aligned_and_standardised(planet: str) -> None:
    data = open_earth(planet, label="climate")
    source, samples = data.splits["train"].source, data.split("train")
    values: dict[str, list[Tensor]] = {}
    for i in range(0, len(samples), 3):
        sample = samples[i]
        bright = sample["image"][0] > 0
        assert ((sample["land"] == 1) == bright).float().mean() > 0.9
        assert ((sample["climate"] >= 0) == (sample["land"] == 1)).float().mean() > 0.9
        assert torch.allclose(sample["relief"], sample["image"], atol=0.6)  # of one picture in the example
        for name in ("image", "relief", "elevation"):
            values.setdefault(name, []).append(sample[name].flatten(1))
    for name, parts in values.items():
        x = torch.cat(parts, dim=1)
        assert x.mean(1).abs().max() < 0.3 and (x.std(1) - 1).abs().max() < 0.15, name
    assert data.provides["layers"] == {"image": 3, "relief": 3, "elevation": 3, "land": 2, "climate": 31}
    assert data.provides["tasks"] == ("climate",) and data.map_classes == list(earth.CLIMATES)
    seen = [earth.usual(source.cut("climate", int(i))) for i in data.splits["test"].index]
    assert data.labels("test").tolist() == seen


def test_statistics_are_those_of_the_pixels_of_training_tiles(planet: str) -> None:
    source = open_earth(planet, stride=64).splits["train"].source
    data = open_earth(planet, stride=64)
    tiles = torch.cat([source.cut("relief", int(i)).flatten(1) for i in data.splits["train"].index], dim=1)
    mean, std = source.statistics["relief"]
    torch.testing.assert_close(mean.flatten(), tiles.double().mean(1))
    torch.testing.assert_close(std.flatten(), tiles.double().std(1, correction=0))


def test_few_tiles_have_labels_at_least_one_of_each_class_and_all_test_tiles(planet: str) -> None:
    data = open_earth(planet, labelled=0.1, tasks=("climate", "elevation"))
    usual = data.labels("train")
    known = torch.tensor([bool((sample["climate"] >= 0).any()) for sample in data.split("train")])
    assert abs(known.float().mean() - 0.1) < 0.03
    assert set(usual[known].tolist()) == set(usual.tolist())
    for sample, there in zip(data.split("train"), known, strict=True):
        assert (
            bool(sample["elevation"].isfinite().all())
            == bool(there)
            == bool(sample["elevation"].isfinite().any())
        )
    assert all((sample["climate"] >= 0).any() for sample in data.split("test"))
    assert all(sample["relief"].isfinite().all() for sample in data.split("train"))


def test_what_the_earth_lacks_is_said(planet: str) -> None:
    with pytest.raises(UserError, match="no layer is called depth; choose of relief"):
        open_earth(planet, tasks=("depth",))
    with pytest.raises(UserError, match="labelled=0 leaves no label"):
        open_earth(planet, labelled=0.0)


def test_folders_are_layers_and_missing_files_are_unknown(tmp_path: Path) -> None:
    data = open_folder(tmp_path)
    assert data.provides["layers"] == {"image": 3, "distance": 1, "object": 2}
    assert data.provides["class_layers"] == ("object",) == data.provides["tasks"]
    found = 0
    for split in ("train", "test"):
        for i, number in enumerate(data.splits[split].index.tolist()):
            sample, name = data.split(split)[i], data.splits[split].source.name(number)
            inside = sample["image"][0] > 0
            assert torch.equal(sample["distance"][0].isfinite(), inside)
            assert (sample["distance"][0][inside] == 0).all()  # all are 2.5 away
            labelled = int(Path(name).stem) % 2
            assert torch.equal(sample["object"], inside.long() if labelled else torch.full((16, 16), -1))
            found += labelled
    assert found == 4


def test_values_of_several_channels_keep_their_place_and_scale(tmp_path: Path) -> None:
    folder = tmp_path / "normals"
    folder.mkdir()
    layers.example_source(tmp_path)
    for i in range(8):
        rows = np.arange(16.0)[:, None].repeat(16, 1)
        np.save(folder / f"{i}.npy", np.stack([rows, rows * 0 + i, -rows], axis=-1))
    data: Any = build(
        "vision/layers", "datasets", source=str(tmp_path), classes={"object": 2}, tasks=("object",)
    )
    assert data.provides["layers"]["normals"] == 3
    numbers = data.splits["train"].index.tolist()
    mean = sum(numbers) / len(numbers)
    for i, number in enumerate(numbers):
        x = data.split("train")[i]["normals"]
        line = (torch.arange(16.0) - 7.5) / torch.arange(16.0).repeat(16 * len(numbers)).std()
        torch.testing.assert_close(x[0], line[:, None].expand(16, 16))
        torch.testing.assert_close(x[2], -line[:, None].expand(16, 16))
        assert (x[1].sign() == np.sign(number - mean)).all()


def test_broken_files_are_left_out_and_named(tmp_path: Path) -> None:
    layers.example_source(tmp_path)
    (tmp_path / "distance" / "3.npy").write_bytes(b"nothing")
    Image.fromarray(np.full((16, 16), 7, dtype=np.uint8)).save(tmp_path / "object" / "5.png")
    np.save(tmp_path / "distance" / "6.npy", np.zeros((9, 5), dtype=np.float32))
    data: Any = build("vision/layers", "datasets", source=str(tmp_path), classes={"object": 2}, test=0.0)
    reasons = dict(data.skipped)
    assert set(reasons) == {"3.png", "6.png"} and "distance" in reasons["3.png"]
    assert reasons["6.png"] == "it is 16 x 16 pixels, and its distance 9 x 5"
    with pytest.warns(UserWarning, match=r"its object holds 7, of no class"):
        _ = [data.split("train")[i] for i in range(6)]
    assert {name for name, _ in data.skipped} == {"3.png", "5.png", "6.png"}


@pytest.mark.parametrize(
    ("object", "message"),
    [
        (lambda square: 255 * square, "files of the layer object hold 0 and 255 alone"),
        (lambda square: 0 * square + 255, "no pixel in .* files of the layer object has a class"),
        (lambda square: 7 * square, r"object/.*its object holds 7, of no class; a layer of 2 classes holds"),
        (
            lambda square: np.stack([square, 0 * square, square], -1),
            r"its mask is in colours, .*; a layer of",
        ),
        (None, "the layer object has no file for any of"),
    ],
)
def test_a_layer_of_classes_that_holds_none_is_refused(tmp_path: Path, object: Any, message: str) -> None:
    layers.example_source(tmp_path)
    for path in list((tmp_path / "object").iterdir()):
        square = np.array(Image.open(path))
        path.unlink()
        if object is not None:
            Image.fromarray(object(square).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=message):
        build("vision/layers", "datasets", source=str(tmp_path), classes={"object": 2}, tasks=("object",))


def test_a_layer_without_a_known_value_is_refused_and_a_folder_of_something_else_is_none(
    tmp_path: Path,
) -> None:
    layers.example_source(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read me.txt").write_text("nothing")
    with pytest.warns(UserWarning, match="notes has no file of any image and is no layer"):
        data: Any = build("vision/layers", "datasets", source=str(tmp_path), classes={"object": 2})
    assert data.provides["layers"] == {"image": 3, "distance": 1, "object": 2}
    for path in (tmp_path / "distance").iterdir():
        np.save(path, np.full((16, 16), np.nan, dtype=np.float32))
    with (
        pytest.warns(UserWarning, match="notes"),
        pytest.raises(UserError, match="of the layer distance is known: all are NaN"),
    ):
        build("vision/layers", "datasets", source=str(tmp_path), classes={"object": 2})


def test_those_of_more_values_than_most_are_left_out(tmp_path: Path) -> None:
    layers.example_source(tmp_path)
    for name in "14":
        np.save(tmp_path / "distance" / f"{name}.npy", np.zeros((16, 16, 3), dtype=np.float32))
    data: Any = build("vision/layers", "datasets", source=str(tmp_path), classes={"object": 2}, test=0.0)
    assert data.provides["layers"]["distance"] == 1
    with pytest.warns(UserWarning, match="its distance has 3 values at a pixel, others have 1"):
        _ = [data.split("train")[i] for i in range(8)]
    assert {name for name, _ in data.skipped} == {"1.png", "4.png"}


def test_coarser_layers_are_enlarged_and_rare_ones_standardised(tmp_path: Path) -> None:
    layers.example_source(tmp_path)
    coarse = np.arange(16.0).reshape(4, 4)
    coarse[0, 0] = np.nan
    np.save(tmp_path / "distance" / "2.npy", coarse)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "object" / "3.png")
    (tmp_path / "rare").mkdir()
    np.save(tmp_path / "rare" / "5.npy", np.arange(256.0).reshape(16, 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "LOOK", 2)
        data: Any = build("vision/layers", "datasets", source=str(tmp_path), classes={"object": 2}, test=0.0)
    samples = dict(zip(data.split("train").names(), list(data.split("train")), strict=True))
    assert not data.skipped
    found = samples["2.png"]["distance"][0]
    assert torch.equal(found[::4, ::4].isnan(), torch.from_numpy(coarse).isnan())
    for offset in range(4):
        assert torch.equal(found[offset::4, offset::4].nan_to_num(), found[::4, ::4].nan_to_num())
    assert torch.equal(samples["3.png"]["object"], torch.eye(8).long().kron(torch.ones(2, 2).long()))
    assert abs(samples["5.png"]["rare"].mean()) < 1e-6 and samples["4.png"]["rare"].isnan().all()


def test_what_folders_lack_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are distance, image, object: say where images are"):
        open_folder(tmp_path, image="rgb")
    for what in ("classes", "tasks"):
        given: dict[str, Any] = (
            {"classes": {"depth": 2}, "tasks": ()} if what == "classes" else {"tasks": ("depth",)}
        )
        with pytest.raises(UserError, match=f"{what}: .*no folder depth beside image, but distance, object"):
            build("vision/layers", "datasets", source=str(tmp_path), **given)


@pytest.mark.parametrize("augment", ["flip", "crop-flip", "shift-flip", "crop-jitter"])
def test_layers_are_cut_as_the_image_is(augment: Any) -> None:
    """Columns are told by value in all of them."""
    image = torch.arange(32.0).expand(3, 32, 32) / 32
    maps = {
        "values": image * 32 * torch.tensor([1.0, -1.0, 2.0])[:, None, None],
        "classes": image[0].mul(32).long(),
    }
    prepare = Preparation(size=16, mean=(0.0,) * 3, std=(1.0,) * 3, augment=augment, crop_scale=(0.25, 0.9))
    for seed in range(8):
        torch.manual_seed(seed)
        picture, found = prepare.with_maps(image, maps, augment=True)
        assert found["values"].shape == (3, 16, 16) and found["classes"].dtype == torch.int64
        assert torch.equal(found["values"][0], found["classes"].float())
        assert torch.equal(found["values"][1], -found["values"][0])
        if augment != "crop-jitter":
            assert (picture[0, 3, 2:-2] * 32 - found["values"][0, 3, 2:-2]).abs().max() < 2.5


def test_samples_of_both_train(planet: str, tmp_path: Path) -> None:
    """From the facts of the data alone; what is predicted is not seen."""
    for data in (open_earth(planet, labelled=0.2), open_folder(tmp_path)):
        torch.manual_seed(0)
        options: dict[str, Any] = {"tokenizer.patch_size": 4}
        system: Any = build("vision/phg-mae", preset="tiny", facts=data.provides, **options)
        samples = data.split("train")
        batch: Batch = {**collate([samples[i] for i in range(6)]), "id": torch.arange(6)}
        losses = system(batch, Step())
        assert all(loss.isfinite() for loss in losses.values())
        assert list(losses) == [*data.provides["tasks"], "reconstruction"]
        system.eval()
        task = data.provides["tasks"][0]
        other = {**batch, task: torch.zeros_like(batch[task])}
        assert torch.equal(system.encode(batch).values, system.encode(other).values)
        assert set(system.preview(batch, Step()).media) >= {"image", "image, visible", f"{task}, predicted"}
