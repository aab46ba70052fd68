"""The supervised baseline is cross-entropy on pooled features, of what has a label."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import Batch, Run, RunConfig, Step, Tokens, UserError, build, functional
from polymask.systems.supervised import AttentionPool, by_depth
from polymask.training import fit
from polymask.training.optimiser import parameter_groups

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


@pytest.mark.slow
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


def test_it_begins_with_a_guess_and_the_monitor_counts_what_has_a_label() -> None:
    system, given = make(ema=0.9), batch()
    with torch.no_grad():
        logits = system.classify(given)
        assert logits.abs().max() < 0.3 and system.head.bias.abs().sum() == 0
        some = {**given, "label": logits.argmax(1)}
        some["label"] = some["label"].where(torch.arange(8) < 6, -1)  # nobody knows the last two
        some["label"][0] = (some["label"][0] + 1) % 7
        assert system.monitor(some, STEP)["training_accuracy"].item() == pytest.approx(5 / 6)
        system.head.weight.zero_()  # the average predicts
        assert system.monitor(some, STEP)["training_accuracy"].item() == pytest.approx(5 / 6)


def test_learning_rates_fall_from_the_last_block_to_the_first() -> None:
    system = make(layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in system.parameter_groups() for p in group["params"]}
    found = {name: scale.get(id(p), 1.0) for name, p in system.named_parameters()}
    vit = "encoder.vit"
    assert found[f"{vit}.cls_token"] == found[f"{vit}.patch_embed.proj.weight"] == 0.5**3
    assert found[f"{vit}.blocks.0.norm1.bias"] == 0.5**2 and found[f"{vit}.blocks.1.mlp.fc2.weight"] == 0.5
    assert found[f"{vit}.norm.weight"] == found["head.weight"] == 1
    assert make().parameter_groups() == []
    decays = [group["weight_decay"] for group in parameter_groups(system, 0.05)]
    assert len(decays) == 2 * 4 and set(decays) == {0.05, 0.0}


@pytest.mark.parametrize("name", ["vit", "conv-vit", "swin", "resnet"])
def test_every_parameter_has_a_depth(name: str) -> None:
    facts = {"size": (16, 16), "channels": 3, "classes": 7}
    system: Any = build("vision/supervised", preset="tiny", facts=facts, encoder=f"vision/{name}")
    found = by_depth(system.encoder)
    assert sum(map(len, found)) == len(list(system.encoder.parameters()))
    assert len(found) == 2 + len(system.encoder.blocks) and all(found[1:-1])


def test_blocks_that_cannot_be_told_apart_are_refused() -> None:
    facts = {"size": (16, 16), "channels": 3, "classes": 7}
    with pytest.raises(UserError, match="Backbone does not: give --layer_decay 1"):
        build("vision/supervised", preset="tiny", facts=facts, encoder="vision/timm", layer_decay=0.5)


def test_mixed_samples_have_both_labels_by_their_shares() -> None:
    system, given = make(mixup=0.8, label_smoothing=0.1), batch()
    tokens, share = system.mix(system.tokenizer(given), given["id"], STEP)
    other = given["label"].flip(0)
    truth = share[:, None] * F.one_hot(given["label"], 7) + (1 - share[:, None]) * F.one_hot(other, 7)
    logits = system.head(functional.encode_grid(system.encoder, tokens).pool())
    expected = -((0.9 * truth + 0.1 / 7) * logits.log_softmax(-1)).sum(1).mean()
    torch.testing.assert_close(system(given, STEP)["classification"], expected)
    plain = make(label_smoothing=0.1)(given, STEP)["classification"]
    torch.testing.assert_close(system.eval()(given, STEP)["classification"], plain)  # as it is in evaluation


def test_a_sample_mixed_with_one_without_a_label_does_not_count() -> None:
    system, given = make(cutmix=1.0), batch()
    image = given["image"].clone().requires_grad_()
    some = {**given, "image": image, "label": torch.tensor([0, 1, -1, 3, 4, 5, 6, 0])}
    system(some, STEP)["classification"].backward()
    assert image.grad is not None
    assert (image.grad.flatten(1).abs().sum(1) > 0).tolist() == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
        True,
    ]


def test_the_average_predicts_and_the_student_is_trained() -> None:
    system, given = make(ema=0.9), batch()
    assert system.backbone is system.average.module["encoder"]
    with torch.no_grad():
        before = system.classify(given)
        system.head.weight.add_(1.0)
        assert torch.equal(system.classify(given), before)
        own = system.average.module["head"].weight.clone()
        for index in (0, 1, 50):
            system.after_step(Step(index, 100))
            m = min(1 - 1 / (index + 1), 0.9)
            own = m * own + (1 - m) * system.head.weight
            torch.testing.assert_close(system.average.module["head"].weight, own)
    grad = torch.autograd.grad(system(given, STEP)["classification"], system.head.weight)[0]
    assert grad.abs().sum() > 0


def test_attention_reads_every_token_and_no_padding() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(16)
    values = torch.randn(2, 5, 16, requires_grad=True)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    pool(Tokens(values, torch.zeros(2, 5, 1), valid=valid)).sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad.abs().sum(-1) > 0, valid)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = Tokens(values[:, order], torch.zeros(2, 5, 1))
    torch.testing.assert_close(pool(shuffled), pool(Tokens(values, torch.zeros(2, 5, 1))))


def test_a_frozen_encoder_stays_as_it_is_and_the_head_learns() -> None:
    system = make(frozen=True, pool="attention", ema=0.9, **{"encoder.drop_path": 0.5}).train()
    assert system.head.training and not any(part.training for part in system.encoder.modules())
    first = system(batch(), STEP)["classification"]
    assert torch.equal(first, system(batch(), STEP)["classification"])  # no path is dropped
    first.backward()
    assert {name for name, p in system.named_parameters() if p.grad is not None} == {
        name for name, _ in system.named_parameters() if name.startswith(("head.", "pooler."))
    }
    moving = make(pool="attention", **{"encoder.drop_path": 0.5}).train()
    assert moving.encoder.training and any(p.requires_grad for p in moving.encoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"frozen": True, "layer_decay": 0.5},
            "no learning rates; give --layer_decay 1",
        ),
        ({"label_smoothing": 1.0}, r"\[0, 1\)"),
        ({"layer_decay": 0.0}, r"\(0, 1\]"),
        ({"pool": "prefix", "encoder.class_token": False}, "no class token"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)
