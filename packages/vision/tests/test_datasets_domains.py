"""Two domains in one data set: what a sample holds, and what never, how pairs are drawn; drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import UserError, build
from polymask.data import open_data
from polymask_vision.datasets import earth, segmentation
from polymask_vision.datasets.drawn_scenes import draw, drawn_scenes


def drawn(**options: Any) -> Any:
    given = {
        "source_data.count": 40,
        "source_data.pixels": 16,
        "target_data.count": 60,
        "target_data.pixels": 16,
    }
    return open_data("drawn-domains", **{**given, **options})


def test_a_sample_holds_the_source_with_labels_and_an_image_of_the_target_alone() -> None:
    data = drawn()
    sample = data.split("train")[3]
    assert set(sample) == {"image", "label_map", "other"}
    source, target = data.source.split("train")[3], data.target.split("train")[3]
    assert torch.equal(sample["image"], source["image"]) and torch.equal(sample["other"], target["image"])
    assert torch.equal(sample["label_map"], source["label_map"])
    assert not torch.equal(target["label_map"], source["label_map"])
    assert len(data.split("train")) == 45 and len(data.split("test")) == 15
    again = data.split("train")[33]
    assert torch.equal(again["image"], data.source.split("train")[3]["image"])
    assert data.provides["pixel_classes"] == 4 and data.provides["samples"] == 45
    few = drawn(limit=5).split("train")
    assert len(few) == 5 and torch.equal(few[1]["other"], data.split("train")[9]["other"])


def test_training_draws_the_target_by_the_generator() -> None:
    samples = drawn().split("train", augment=True)
    assert samples.random and not drawn().split("train").random

    def others(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([samples[0]["other"] for _ in range(6)])

    assert torch.equal(others(1), others(1)) and not torch.equal(others(1), others(2))
    assert len({x.sum().item() for x in others(1)}) > 3


def test_labels_of_the_target_change_no_sample() -> None:
    data, blind = drawn(), drawn()
    blind.target.splits["train"].source.map_labels.zero_()
    for i in range(4):
        one, other = data.split("train")[i], blind.split("train")[i]
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_data_sets_by_name(tmp_path: Path) -> None:
    folder = segmentation.example_source(tmp_path)
    labels = {"ground": 0, "square": 1}
    options: dict[str, Any] = {
        "source_data": f"segmentation:{folder}",
        "source_data.labels": labels,
        "target_data": f"folder:{folder}/images",
    }
    data: Any = build("vision/two-domains", "datasets", **options)
    assert data.map_classes == ["ground", "square"] and data.provides["pixel_classes"] == 2
    assert set(data.split("train")[0]) == {"image", "label_map", "other"}
    assert any(name.startswith("target: ") for name in data.describe())
    nameless = {name: value for name, value in options.items() if name != "source_data.labels"}
    with pytest.raises(UserError, match="give their number, --data.pixel_classes"):
        build("vision/two-domains", "datasets", **nameless)
    assert build("vision/two-domains", "datasets", **nameless, pixel_classes=2).map_classes is None
    with pytest.raises(UserError, match=r"size is \(16, 16\) in the source and \(8, 8\) in the target"):
        build("vision/two-domains", "datasets", **options, **{"target_data.size": 8})
    with pytest.raises(UserError, match="its samples have image alone"):
        build("vision/two-domains", "datasets", **{**nameless, "source_data": options["target_data"]})


def test_domains_of_the_earth_are_two_renderings_divided_alike(tmp_path: Path) -> None:
    planet = earth.example_source(tmp_path)
    options = {
        f"{name}.{key}": x
        for name in ("source_data", "target_data")
        for key, x in {"source": planet, "tile": 32, "stride": 64}.items()
    }
    data: Any = build("vision/earth-domains", "datasets", **options)
    source, target = (each.splits for each in (data.source, data.target))
    for name in ("train", "test"):
        assert source[name].names() == target[name].names()
    assert not set(source["train"].names()) & set(source["test"].names())
    assert data.map_classes == list(earth.GROUPS)


def test_drawn_scenes_are_fixed_and_their_looks_differ() -> None:
    plain, labels = draw("plain", 60, 32, 0)
    assert torch.equal(plain, draw("plain", 60, 32, 0)[0]) and not torch.equal(
        plain, draw("plain", 60, 32, 1)[0]
    )
    striped, others = draw("striped", 60, 32, 0)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    for label in (labels, others):
        assert 0.3 < (label == 0).float().mean() < 0.8
    ground = labels[:, None].expand_as(plain) == 0
    assert plain[ground].float().mean() > 150
    assert striped[others[:, None].expand_as(striped) == 0].float().mean() < 130
    # things are of even colour in one look alone
    one = plain[0].flatten(1).T.unique(dim=0)
    assert len(one) <= 5 < len(striped[0].flatten(1).T.unique(dim=0))
    with pytest.raises(UserError, match="choose 'plain' or 'striped'"):
        drawn_scenes(look="dotted")  # type: ignore[arg-type]


def test_a_class_beyond_their_number_is_said(tmp_path: Path) -> None:
    folder = segmentation.example_source(tmp_path)
    options: dict[str, Any] = {
        "source_data": f"segmentation:{folder}",
        "target_data": f"folder:{folder}/images",
    }
    data: Any = build("vision/two-domains", "datasets", **options, pixel_classes=1)
    with pytest.raises(UserError, match=r"holds 1, and there are 1 classes.*--data.pixel_classes"):
        data.split("train")[0]


def test_classes_of_both_domains_are_named_alike(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        segmentation.example_source(tmp_path / name)
    labels = {"ground": 0, "square": 1}
    options = {
        "source_data": {"name": "vision/segmentation", "source": str(tmp_path / "one"), "labels": labels},
        "target_data": {"name": "vision/segmentation", "source": str(tmp_path / "other")},
    }
    assert build("vision/two-domains", "datasets", **options).map_classes == ["ground", "square"]
    options["target_data"]["labels"] = {"square": 1, "ground": 0}
    with pytest.raises(UserError, match="are ground, square in the source and square, ground in the target"):
        build("vision/two-domains", "datasets", **options)
