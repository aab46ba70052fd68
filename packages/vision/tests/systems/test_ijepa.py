"""I-JEPA predicts a teacher's features of blocks it has not seen, and features stay apart."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from polymask import Batch, Step, Tokens, build
from polymask.export import export, load

TINY = {
    "tokenizer.patch_size": 2,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "predictor_dim": 32,
    "predictor_depth": 2,
    "predictor_heads": 2,
}
STEP = Step(6, 10, seed=1)


def make(size: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    facts = {"size": (size, size), "channels": channels}
    return build("vision/ijepa", facts=facts, **(TINY | options))


def images(n: int = 4, size: int = 16, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


def shaken(system: Any) -> Any:
    """All parameters moved, so that nothing is equal by initialisation."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def test_loss_is_the_smooth_l1_of_normalised_teacher_features_by_hand() -> None:
    system, batch = shaken(make()), images()
    tokens = system.tokenizer(batch)
    teacher = system.teacher.module
    latents = teacher(teacher.embed(tokens.values), tokens.position)
    latents = (latents - latents.mean(-1, keepdim=True)) / latents.var(
        -1, unbiased=False, keepdim=True
    ).sqrt()
    context, targets = system.blocks(tokens, batch, STEP)
    seen = context.keep(tokens)
    encoded = system.encoder(system.encoder.embed(seen.values), seen.position, seen.valid)
    losses = []
    for target in targets:
        guess = system.predictor(encoded, context, tokens.position, at=target)
        wanted = latents[target.hidden].view(guess.shape)
        losses.append(F.smooth_l1_loss(guess, wanted))
    assert len(targets) == 4
    torch.testing.assert_close(system(batch, STEP)["prediction"], torch.stack(losses).mean())


def test_targets_have_mean_0_and_variance_1_and_zero_costs_what_normal_features_cost() -> None:
    """E smooth-l1 of N(0, 1) against 0 is 0.425: 1/2 E[x^2; |x| < 1] + E[|x| - 1/2; |x| > 1]."""
    system, batch = shaken(make()), images(64)
    latents = system.latents(batch, system.tokenizer(batch))
    torch.testing.assert_close(latents.mean(-1), torch.zeros(latents.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        latents.var(-1, unbiased=False), torch.ones(latents.shape[:2]), atol=1e-3, rtol=0
    )
    density, beyond = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erfc(math.sqrt(0.5))
    closed = 0.5 * (1 - beyond - 2 * density) + 2 * density - 0.5 * beyond
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert F.smooth_l1_loss(torch.zeros_like(normal), normal).item() == pytest.approx(closed, abs=0.005)
    assert closed == pytest.approx(0.425, abs=0.001)


def test_nothing_outside_the_context_reaches_a_prediction_and_all_of_the_image_reaches_a_target() -> None:
    system, batch = shaken(make()).eval(), images()
    tokens = system.tokenizer(batch)
    context, targets = system.blocks(tokens, batch, STEP)
    noise = context.invert().fill(torch.randn_like(tokens.values), torch.zeros(1))
    changed = Tokens(tokens.values + noise, tokens.position, tokens.grid)
    other = {**batch, "image": system.tokenizer.inverse(changed.values)}
    before, after = (system.predict(x, context, targets) for x in (tokens, changed))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    moved = (system.latents(batch, tokens) - system.latents(other, changed)).abs().amax(-1)
    assert (moved > 1e-4).all()


def test_gradient_reaches_encoder_and_predictor_alone_and_the_teacher_follows_exactly() -> None:
    system, batch = shaken(make()), images()
    system(batch, STEP)["prediction"].backward()
    for part in (system.encoder, system.predictor):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters() if p.requires_grad)
    assert not any(p.requires_grad or p.grad is not None for p in system.teacher.parameters())
    old = copy.deepcopy(system.teacher.module.state_dict())
    system.after_step(Step(0, 10))
    system.after_step(Step(2, 10))
    momenta = (0.996, 0.996 + 0.004 * 0.2)
    for name, value in system.teacher.module.state_dict().items():
        expected, student = old[name], system.encoder.state_dict()[name]
        for m in momenta:
            expected = m * expected + (1 - m) * student
        torch.testing.assert_close(value, expected)


def test_predictions_go_by_the_places_asked_for() -> None:
    """A block asked for at another block's places gets that block's prediction."""
    system, batch = shaken(make()).eval(), images()
    tokens = system.tokenizer(batch)
    context, targets = system.blocks(tokens, batch, STEP)
    first, second = system.predict(tokens, context, targets[:2])
    again = system.predict(tokens, context, [targets[1], targets[0]])
    assert torch.equal(again[0], second) and torch.equal(again[1], first)
    assert (first - first[:, :1]).abs().max() > 0.01
    system.predictor.positions.table.zero_()
    blind = system.predict(tokens, context, targets[:1])[0]
    torch.testing.assert_close(blind, blind[:, :1].expand_as(blind))


def test_each_target_is_predicted_without_the_others() -> None:
    system, batch = shaken(make()).eval(), images()
    tokens = system.tokenizer(batch)
    context, targets = system.blocks(tokens, batch, STEP)
    alone = system.predict(tokens, context, targets[2:3])[0]
    assert torch.equal(system.predict(tokens, context, targets)[2], alone)


def test_the_teacher_is_probed_and_exported(tmp_path: Path) -> None:
    system, batch = shaken(make()).eval(), images()
    teacher, tokens = system.teacher.module, system.tokenizer(batch)
    features = teacher(teacher.embed(tokens.values), tokens.position)
    assert torch.equal(system.encode(batch).values, features)
    export(system, "safetensors", tmp_path)
    assert torch.equal(load(tmp_path)(batch).values, features)
    own = system.encoder(system.encoder.embed(tokens.values), tokens.position)
    assert not torch.allclose(own, features)


def test_one_mask_per_sample_has_one_target_and_pixels_need_no_teacher() -> None:
    batch = images()
    system = make(masking={"name": "core/random", "ratio": 0.6}, target="vision/pixels")
    assert system.teacher is None and system.backbone is system.encoder
    tokens = system.tokenizer(batch)
    context, targets = system.blocks(tokens, batch, STEP)
    assert targets == [context] and list(system.masks(batch, STEP)) == ["context"]
    guess = system.predict(tokens, context, targets)[0]
    wanted = tokens.values[context.hidden].view(guess.shape)
    torch.testing.assert_close(system(batch, STEP)["prediction"], F.smooth_l1_loss(guess, wanted))


def test_masks_and_pictures_are_those_of_forward() -> None:
    system, batch = make(), images()
    views = system.masks(batch, STEP)
    assert list(views) == ["context", "target 1", "target 2", "target 3", "target 4"]
    preview = system.preview(batch, STEP).media
    tokens = system.tokenizer({**batch, "image": preview["targets"]})
    union = torch.stack([view.mask.hidden for name, view in views.items() if name != "context"]).any(0)
    assert torch.equal(tokens.values.abs().sum(-1) > 0, union)


def test_codes_are_predicted_too_and_pictures_leave_their_error_out() -> None:
    codes = {"name": "vision/codes", "file": "random:8"}
    system = make(target=codes, objective="core/cross-entropy")
    assert system(images(), STEP)["prediction"].isfinite()
    assert list(system.preview(images(), STEP).media) == ["original", "context", "targets"]


# ----------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_predictions_of_held_out_digits_beat_zero() -> None:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    system = make(8, 1, momentum=0.98)
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    for index in range(60):
        step = Step(index, 60)
        ids = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(index))
        loss = system({"image": pixels[ids], "id": ids}, step)["prediction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        system.after_step(step)
    with torch.no_grad():
        held_out = system({"image": pixels[1200:], "id": torch.arange(597)}, Step(0, 1))["prediction"]
    assert held_out < 0.2  # zero costs 0.42
