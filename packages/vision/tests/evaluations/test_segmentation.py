"""Segmentation by a run's own decoder: equal to torchmetrics, by labels that no sample has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from polymask import UserError
from polymask.data import open_data
from polymask_vision.evaluations.segmentation import Segmentation


class Network(nn.Module):
    """Says of each pixel which channel is largest, or the fourth class."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def segment(self, image_BCHW: Tensor) -> Tensor:
        return torch.cat([self.shift.expand_as(image_BCHW[:, :1]), image_BCHW], dim=1)


def run(**options: Any) -> Any:
    given = {
        f"{name}_data.{key}": x
        for name in ("source", "target")
        for key, x in {"count": 24, "pixels": 16}.items()
    }
    data: Any = open_data("drawn-domains", **{**given, **options})
    return SimpleNamespace(system=Network(0.5), untrained=lambda: Network(-9.0), data=data, name="made up")


def test_it_is_the_jaccard_index_of_torchmetrics_in_each_domain() -> None:
    one = run()
    one.data.target.splits["test"].source.map_labels[:, :3] = 0
    found = {(x.row, x.metric): x.value for x in Segmentation(batch_size=4)(one)}
    for name in ("target", "source"):
        samples = getattr(one.data, name).split("test")
        metric = MulticlassJaccardIndex(4, average="macro")
        each = MulticlassJaccardIndex(4, average="none")
        for i in range(len(samples)):
            said = one.system.segment(samples[i]["image"][None]).argmax(1)[0]
            metric.update(said[None], samples[i]["label_map"][None])
            each.update(said[None], samples[i]["label_map"][None])
        assert found["pre-trained", f"{name} mIoU"] == pytest.approx(metric.compute().item(), abs=1e-6)
        assert found["pre-trained", f"{name} IoU of disc"] == pytest.approx(
            each.compute()[1].item(), abs=1e-6
        )
        assert found["untrained", f"{name} mIoU"] != found["pre-trained", f"{name} mIoU"]
        ground = torch.cat([samples[i]["label_map"].flatten() for i in range(len(samples))]) == 0
        assert found["most frequent class", f"{name} accuracy"] == pytest.approx(ground.float().mean().item())


def test_pixels_that_nobody_knows_and_images_of_them_alone_do_not_count() -> None:
    """Of a data set that is no two domains, evenly spaced images; intervals are over those that count."""
    one = run()
    one.data = one.data.source
    split = one.data.splits["test"]
    labels = split.source.map_labels = split.source.map_labels.short()
    labels[:, 8:] = -1
    labels[split.index[2]] = -1
    found = {(x.row, x.metric): x for x in Segmentation(images=3, by_class=False, batch_size=2)(one)}
    metric = MulticlassJaccardIndex(4, average="macro", ignore_index=-1)
    samples = [one.data.split("test")[i] for i in (0, 2, 4)]
    for sample in samples:
        metric.update(one.system.segment(sample["image"][None]).argmax(1), sample["label_map"][None])
    assert {metric for _, metric in found} == {"accuracy", "mIoU"}
    assert found["pre-trained", "mIoU"].value == pytest.approx(metric.compute().item(), abs=1e-6)
    split.index = split.index[[0, 4]]
    two = {(x.row, x.metric): x for x in Segmentation(by_class=False)(one)}
    assert two == found
    labels[:] = -1
    with pytest.raises(UserError, match="no pixel of 2 test images has a class that is known"):
        list(Segmentation()(one))


def test_a_domain_without_labels_is_left_out_and_what_segments_nothing_refused() -> None:
    one = run()
    one.data.target = SimpleNamespace(split=lambda name: [{"image": torch.zeros(3, 16, 16)}], key="image")
    assert {x.metric.split()[0] for x in Segmentation(by_class=False)(one)} == {"source"}
    one.data.source = one.data.target
    with pytest.raises(UserError, match="no test image of made up has a class at each pixel"):
        list(Segmentation()(one))
    one.system = nn.Linear(1, 1)
    with pytest.raises(UserError, match="Linear segments no images by itself"):
        list(Segmentation()(one))


def test_pixels_of_a_class_that_the_network_does_not_know_are_refused() -> None:
    one = run()
    one.system.classes = 4
    assert list(Segmentation()(one))
    one.data.target.splits["test"].source.map_labels[:, :1] = 5
    with pytest.raises(UserError, match="has pixels of class 5, and the network knows 4 classes, 0 to 3"):
        list(Segmentation()(one))
