"""The supervised baseline is cross-entropy on pooled features, of what has a label."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import Batch, Run, RunConfig, Step, UserError, build
from polymask.training import fit

TINY = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
STEP = Step(6, 10, seed=1)


def make(classes: int = 7, **options: Any) -> Any:
    torch.manual_seed(0)
    facts = {"size": (16, 16), "channels": 3, "classes": classes}
    return build("vision/supervised", facts=facts, **(TINY | options))


def batch(n: int = 8) -> Batch:
    images = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"image": images, "id": torch.arange(n), "label": torch.arange(n) % 7}


@pytest.mark.parametrize("pool", ["mean", "prefix"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_cross_entropy_of_pooled_features(pool: str, smoothing: float) -> None:
    system, given = make(pool=pool, label_smoothing=smoothing), batch()
    tokens = system.tokenizer(given)
    x = system.encoder(system.encoder.embed(tokens.values), tokens.position)
    pooled = x[:, 1:].mean(1) if pool == "mean" else x[:, 0]
    log_p = (pooled @ system.head.weight.T + system.head.bias).log_softmax(-1)
    spread = torch.full((8, 7), smoothing / 7)
    spread[torch.arange(8), given["label"]] += 1 - smoothing
    torch.testing.assert_close(system(given, STEP)["classification"], -(spread * log_p).sum(1).mean())


def test_samples_without_a_label_do_not_count() -> None:
    system, given = make(), batch()
    some = {**given, "label": given["label"].where(given["label"] % 2 == 0, -1)}
    known = given["label"] % 2 == 0
    loss = system(some, STEP)["classification"]
    torch.testing.assert_close(loss, system({k: v[known] for k, v in given.items()}, STEP)["classification"])
    image = given["image"].clone().requires_grad_()
    system({**some, "image": image}, STEP)["classification"].backward()
    assert image.grad is not None
    assert (image.grad.flatten(1).abs().sum(1) > 0).tolist() == known.tolist()
    none = {**given, "label": torch.full((8,), -1)}
    assert system(none, STEP)["classification"] == 0


@pytest.mark.parametrize("encoder", ["vision/vit", "vision/resnet", "vision/swin"])
def test_guessing_costs_ln_k_with_any_encoder(encoder: str) -> None:
    facts = {"size": (16, 16), "channels": 3, "classes": 7}
    system: Any = build("vision/supervised", preset="tiny", facts=facts, encoder=encoder)
    system.head.weight.data.zero_()
    assert system(batch(), STEP)["classification"].item() == pytest.approx(math.log(7), abs=1e-5)


def test_the_data_tell_the_number_of_classes_and_it_learns_them(tmp_path: Path) -> None:
    config = RunConfig.resolve(
        {
            "system": "vision/supervised",
            "preset": "tiny",
            "data": "vision/digits",
            "tokenizer.patch_size": 2,
            "steps": 100,
            "batch_size": 64,
            "lr": 3e-3,
            "workers": 0,
            "accelerator": "cpu",
        }
    )
    run = Run.create(config, tmp_path)
    system: Any = run.system
    assert system.head.out_features == 10
    fit(run, progress=False)
    test = run.data.split("test")
    images = torch.stack([test[i]["image"] for i in range(len(test))])
    labels = run.data.labels("test")
    assert labels is not None
    with torch.no_grad():
        predicted = Run.open(tmp_path).system.classify({"image": images}).argmax(1)  # type: ignore[operator]
    assert (predicted == labels).float().mean() > 0.3  # guessing: 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, r"\[0, 1\)"),
        ({"pool": "prefix", "encoder.class_token": False}, "no class token"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)
