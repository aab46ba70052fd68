"""A classifier that leaves by export predicts, in the library that loads it, what it predicted here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from polymask import UserError, build
from polymask.export import Classifier, export, load

VIT = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
SWIN = {
    "tokenizer.patch_size": 2,
    "encoder": "vision/swin",
    "encoder.dim": 16,
    "encoder.depths": (2, 1),
    "encoder.heads": (2, 4),
    "encoder.window": 4,
}
RELATIVE = VIT | {"encoder.positions": "relative"}
FACTS = {"size": (16, 16), "channels": 3, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


def make(**options: Any) -> Any:
    """A classifier whose every weight was moved off its initial value, as training would."""
    torch.manual_seed(0)
    system = build("vision/supervised", facts={**FACTS, "classes": 7}, **options).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return system


def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def written(system: Any, format: str, out: Path, **options: Any) -> Path:
    return export(system, format, out, facts=FACTS, **options)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [VIT, {**VIT, "pool": "prefix"}, {**RELATIVE, "pool": "prefix"}, SWIN, {**VIT, "ema": 0.9}],
    ids=["mean", "class token", "relative", "swin", "average"],
)
def test_timm_predicts_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    system = make(**options)
    written(system, "timm", tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    close(model(images()), system.classify({"image": images()}))
    assert model.pretrained_cfg["label_names"] == list("0123456")


@torch.no_grad()
@pytest.mark.parametrize("options", [{**VIT, "pool": "prefix"}, SWIN], ids=["vit", "swin"])
def test_transformers_predicts_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    system = make(**options)
    written(system, "transformers", tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    close(model(pixel_values=images()).logits, system.classify({"image": images()}))
    assert model.config.id2label == {k: str(k) for k in range(7)}


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{**VIT, "pool": "attention"}, {"preset": "tiny", "encoder": "vision/resnet"}],
    ids=["attention", "resnet"],
)
def test_safetensors_builds_the_classifier_again(options: dict[str, Any], tmp_path: Path) -> None:
    system = make(**options)
    written(system, "safetensors", tmp_path)
    classifier = load(tmp_path)
    assert isinstance(classifier, Classifier) and classifier.names == tuple("0123456")
    assert torch.equal(classifier.classify(images()), system.classify({"image": images()}))


@pytest.mark.parametrize(
    ("options", "format", "message"),
    [
        (VIT, "transformers", "classifies prefix, and this classifier has pool mean"),
        (
            {**VIT, "pool": "attention"},
            "timm",
            "classifies mean or prefix, and this classifier has pool attention",
        ),
        (RELATIVE, "timm", "BEiT classifies prefix, and this"),
        (
            {"preset": "tiny", "encoder": "vision/timm"},
            "timm",
            "timm has no classifier on Backbone that computes",
        ),
    ],
)
def test_what_would_predict_otherwise_is_refused(
    options: dict[str, Any], format: str, message: str, tmp_path: Path
) -> None:
    system = make(**options)
    with pytest.raises(UserError, match=message):
        written(system, format, tmp_path)
    written(system, format, tmp_path / "encoder", head=False)
