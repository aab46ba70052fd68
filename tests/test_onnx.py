"""Encoders as ONNX graphs, run by ONNX Runtime beside PyTorch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from polymask import UserError, default_registry, export
from polymask import onnx as graphs
from polymask.export import Features
from polymask.testing.subject import Subject

REGISTRY = default_registry()


def make(system: str, encoder: str, **options: Any) -> Any:
    part = REGISTRY.find("systems", system)
    return Subject(part, REGISTRY, {"encoder": encoder, **options}).make()


def shorter(batch: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    """Rows shorter than any that a graph was traced or checked with."""
    batch = {name: x[:, : x.shape[1] * 3 // 4] if x.dim() > 1 else x for name, x in batch.items()}
    return {**batch, f"{key}_length": batch[f"{key}_length"].clamp(max=batch[key].shape[1])}


# a class token and a grid; rows of any length
@pytest.mark.parametrize(
    ("system", "encoder", "inputs"),
    [
        ("vision/mae", "vision/vit", {"image": ["batch", 3, 16, 16]}),
        ("audio/mae", "audio/vit", {"audio": ["batch", "length"], "audio_length": ["batch"]}),
    ],
)
def test_a_graph_gives_the_features_for_batches_of_any_size(
    tmp_path: Path, system: str, encoder: str, inputs: dict[str, Any]
) -> None:
    made = make(system, encoder).train()
    export.export(made, "onnx", tmp_path, facts={"mean": [0.5]})
    assert all(part.training for part in made.modules())
    description = json.loads((tmp_path / "polymask.json").read_text())
    assert {name: found["shape"] for name, found in description["inputs"].items()} == inputs
    assert description["facts"] == {"mean": [0.5]}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert {x.name: x.shape for x in session.get_inputs()} == inputs
    features = Features(tokenizer=made.tokenizer, encoder=made.backbone).eval()
    batch = made.tokenizer.example(7, seed=3)
    if "length" in str(inputs):
        batch = shorter(batch, features.tokenizer.key)
    with torch.no_grad():
        expected = features(batch)
    tokens, pooled = session.run(None, {name: batch[name].numpy() for name in inputs})
    torch.testing.assert_close(torch.from_numpy(tokens), expected.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(pooled), expected.pool(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("system", "encoder", "options"),
    [
        ("vision/supervised", "vision/vit", {"pool": "mean", "ema": 0.9}),
        ("vision/supervised", "vision/resnet", {}),
        ("audio/supervised", "audio/vit", {"pool": "attention"}),
        ("language/supervised", "language/transformer", {"pool": "attention"}),
    ],
)
@torch.no_grad()
def test_a_graph_of_a_classifier_gives_its_logits(
    tmp_path: Path, system: str, encoder: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    made = make(system, encoder, **options).train()
    for parameter in made.parameters():  # off the initial values, of which many are alike
        parameter.add_(0.05 * torch.randn_like(parameter))
    export.export(made, "onnx", tmp_path)
    description = json.loads((tmp_path / "polymask.json").read_text())
    assert description["outputs"] == ["logits"]
    classes = made.head.out_features
    assert description["classifier"] == {"pool": made.pool, "names": [*map(str, range(classes))]}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    batch = made.tokenizer.example(6, seed=3)
    if "length" in str(description["inputs"]):
        batch = shorter(batch, made.tokenizer.key)
    (logits,) = session.run(None, {name: batch[name].numpy() for name in description["inputs"]})
    assert logits.shape == (6, classes)
    torch.testing.assert_close(torch.from_numpy(logits), made.eval().classify(batch), rtol=1e-4, atol=1e-5)


def test_what_has_no_graph_is_refused_with_the_operation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Transformer cannot be expressed in ONNX: .*nearest"):
        export.export(make("pointcloud/mae", "pointcloud/transformer"), "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("vision/mae", "vision/vit")
    forward = graphs._Features.forward

    def other(self: Any, *entries: torch.Tensor) -> Any:
        tokens, pooled = forward(self, *entries)
        return tokens + (0.0 if torch.compiler.is_exporting() else 0.01), pooled

    monkeypatch.setattr(graphs._Features, "forward", other)
    with pytest.raises(UserError, match=re.escape("ONNX Runtime's tokens differ from PyTorch's by")):
        export.export(made, "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []
