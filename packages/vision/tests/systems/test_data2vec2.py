"""data2vec 2.0 predicts one teacher's features of whole images from several masked views of each."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from polymask import Batch, Mask, Request, Step, Tokens, UserError, build
from polymask.maskings import Block, Random
from polymask.objectives import MSE

TINY = {
    "tokenizer.patch_size": 2,
    "encoder.dim": 32,
    "encoder.depth": 3,
    "encoder.heads": 2,
    "views": 3,
    "layers": 2,
    "decoder_dim": 24,
    "decoder_depth": 3,
    "decoder_groups": 4,
}
STEP = Step(6, 10, seed=1)


def make(size: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    facts = {"size": (size, size), "channels": channels}
    return build("vision/data2vec2", facts=facts, **(TINY | options))


def images(n: int = 4, size: int = 16, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


def shaken(system: Any) -> Any:
    """All parameters moved: nothing is equal by initialisation, and the teacher is not the student."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def standard(x: Tensor, dim: int) -> Tensor:
    return (x - x.mean(dim, keepdim=True)) / (x.var(dim, unbiased=False, keepdim=True) + 1e-5).sqrt()


def feed_forwards(encoder: Any, tokens: Tokens) -> list[Tensor]:
    """What each feed-forward layer returns at the patches of a whole image, step by step."""
    vit, found = encoder.vit, []
    x = vit.patch_embed(tokens.values) + vit.pos_embed
    x = vit.norm_pre(torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1))
    for block in vit.blocks:
        x = block.norm1(x + block.attn(x))
        returned = block.mlp(x)
        x = block.norm2(x + returned)
        found.append(returned[:, 1:])
    return found


# --------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(("side", "kept"), [(14, 39), (8, 13)])
def test_blocks_of_three_are_kept_and_exactly_a_fifth(side: int, kept: int) -> None:
    def neighbours(masking: Any) -> float:
        request = Request(torch.arange(200), side**2, Step(0, 1), grid=(side, side))
        seen = ~masking(request).hidden.view(-1, side, side)
        assert (seen.flatten(1).sum(1) == kept).all()
        sides = [(2, 0, 1, 1), (0, 2, 1, 1), (1, 1, 2, 0), (1, 1, 0, 2)]
        near = torch.stack([F.pad(seen, pad)[:, 1:-1, 1:-1] for pad in sides])
        return float(near.any(0)[seen].float().mean())

    part = build("vision/data2vec2", preset="tiny", facts={"size": (16, 16), "channels": 3}).masking
    assert (part.ratio, part.side, part.inverse) == (0.8, 3, True)
    assert neighbours(Block(ratio=0.8, side=3, inverse=True)) > 0.9
    assert neighbours(Random(ratio=0.8)) < 0.65


def test_each_view_has_a_mask_of_its_own_the_same_at_the_same_step() -> None:
    system, batch = make(), images()
    views, again = (list(system.masks(batch, STEP).values()) for _ in range(2))
    assert list(system.masks(batch, STEP)) == ["view 1", "view 2", "view 3"]
    hidden = torch.stack([view.mask.hidden for view in views])
    assert torch.equal(hidden, torch.stack([view.mask.hidden for view in again]))
    rows = hidden.flatten(0, 1)
    assert len(rows.unique(dim=0)) == len(rows)


def test_views_of_multi_block_are_contexts_of_several_draws() -> None:
    system, batch = make(masking="core/multi-block"), images()
    hidden = torch.stack([view.mask.hidden for view in system.masks(batch, STEP).values()])
    # one target block alone hides a fifth at the most
    assert float(hidden.float().mean(-1).min()) > 0.25
    assert len(hidden.flatten(0, 1).unique(dim=0)) > len(batch["id"])


# ------------------------------------------------------------------------------------- targets


def test_targets_are_the_mean_of_normalised_feed_forward_outputs_by_hand() -> None:
    system, batch = shaken(make()), images()
    tokens = system.tokenizer(batch)
    outputs = feed_forwards(system.teacher.module, tokens)[-2:]
    norms = [standard(x, 1) for x in outputs]
    for x in norms:
        torch.testing.assert_close(x.mean(1), torch.zeros(4, 32), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(1, unbiased=False), torch.ones(4, 32), atol=1e-2, rtol=0)
    expected = standard((norms[0] + norms[1]) / 2, 2)
    found = system.latents(tokens, system.encoder.embed(tokens.values))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.var(2, unbiased=False), torch.ones(4, 64), atol=1e-3, rtol=0)
    system.layer_norm, system.target_norm = "layer", "instance"  # as published for large models of text
    expected = standard((standard(outputs[0], 2) + standard(outputs[1], 2)) / 2, 1)
    found = system.latents(tokens, system.encoder.embed(tokens.values))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_teacher_of_shared_embedding_encodes_what_the_student_embedded() -> None:
    system, batch = shaken(make(shared_embedding=True)), images()
    tokens = system.tokenizer(batch)
    mixed = copy.deepcopy(system.teacher.module)
    mixed.vit.patch_embed = system.encoder.vit.patch_embed
    norms = [standard(x, 1) for x in feed_forwards(mixed, tokens)[-2:]]
    found = system.latents(tokens, system.encoder.embed(tokens.values))
    torch.testing.assert_close(found, standard((norms[0] + norms[1]) / 2, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("views", [1, 5])
def test_the_teacher_runs_once_for_all_views_without_gradient_or_dropout(views: int) -> None:
    system, batch = make(views=views, **{"encoder.drop_path": 0.5}).train(), images()
    calls: list[int] = []
    system.teacher.module.register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    losses = system(batch, STEP)
    assert calls == [4]
    sum(losses.values()).backward()
    for part in (system.encoder, system.decoder):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters() if p.requires_grad)
    assert not any(p.requires_grad or p.grad is not None for p in system.teacher.parameters())
    tokens = system.tokenizer(batch)
    first, second = (system.latents(tokens, tokens.values) for _ in range(2))
    assert torch.equal(first, second)


# ---------------------------------------------------------------------------------------- loss


def test_the_loss_is_that_of_each_view_by_hand() -> None:
    system, batch = shaken(make()), images()
    tokens = system.tokenizer(batch)
    embedded = system.encoder.embed(tokens.values)
    target = system.latents(tokens, embedded)
    regression, classes = [], []
    for view in range(3):
        mask = system.draw(tokens, batch, STEP, view)
        seen = mask.keep(tokens)
        encoded = system.encoder(system.encoder.embed(seen.values), seen.position)
        noise = STEP.normal(batch["id"], 64 * 32, (1 << 32) + view).view(4, 64, 32)
        guess = system.decoder(encoded, mask, tokens.position, 0.01 * noise)
        wanted = target[mask.hidden].view(guess.shape)
        regression.append((guess - wanted).square().sum(-1).mean() / math.sqrt(32))
        classes.append((encoded[:, 0] - target.mean(1)).square().sum(-1).mean() / math.sqrt(32))
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["regression"], torch.stack(regression).mean())
    torch.testing.assert_close(losses["class"], 2.56 * torch.stack(classes).mean())
    summed = shaken(make(loss_scale=1.0, class_weight=0.0))
    assert list(summed(batch, STEP)) == ["regression"]
    torch.testing.assert_close(summed(batch, STEP)["regression"], losses["regression"] * math.sqrt(32))


def test_predicting_zero_costs_the_root_of_the_width() -> None:
    system, batch = make(), images(32)
    torch.nn.init.zeros_(system.decoder.head[-1].weight)
    torch.nn.init.zeros_(system.decoder.head[-1].bias)
    assert system(batch, STEP)["regression"].item() == pytest.approx(math.sqrt(32), rel=0.01)


class OneMask:
    """All views under the mask of the first."""

    def __call__(self, request: Request) -> Mask:
        return Random(ratio=0.75)(dataclasses.replace(request, stream=0))


def test_views_of_one_mask_cost_and_teach_what_a_single_one_does() -> None:
    found = []
    for views in (1, 4):
        system = shaken(make(views=views, noise=0.0))
        system.masking = OneMask()
        sum(system(images(), STEP).values()).backward()
        gradients = [p.grad for p in system.parameters() if p.requires_grad]
        found.append([sum(system(images(), STEP).values()), *gradients])
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=1e-5)


def test_noise_at_hidden_patches_is_small_and_drawn_anew_for_each_view_and_step() -> None:
    system, batch, heard = make(), images(64), []
    system.decoder.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[3]))
    system(batch, STEP), system(batch, STEP), system(batch, Step(7, 10, seed=1))
    first, again, other = heard
    assert torch.equal(first, again) and not (first == other).any()
    assert first.std().item() == pytest.approx(0.01, rel=0.01) and abs(first.mean().item()) < 1e-4
    views = first.view(3, -1)
    assert torch.corrcoef(views).triu(1).abs().max() < 0.01


# --------------------------------------------------------------------------------------- leaks


def test_no_hidden_patch_reaches_a_prediction_and_every_patch_reaches_the_targets() -> None:
    system, batch = shaken(make()).eval(), images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    other = dataclasses.replace(tokens, values=mask.fill(tokens.values, torch.randn_like(tokens.values)))
    encode = system.encoder.embed
    found = []
    for each in (tokens, other):
        embedded = dataclasses.replace(each, values=encode(each.values))
        encoded = system.encode_visible(embedded, mask)
        found.append((encoded, system.predict(encoded, mask, each, batch, STEP)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    before, after = (system.latents(each, encode(each.values)) for each in (tokens, other))
    assert ((before - after).abs().amax(-1) > 1e-4).all()


# ------------------------------------------------------------------------------------- teacher


def test_the_teacher_follows_exactly_by_a_momentum_that_rises_and_then_stays() -> None:
    system = shaken(make(momentum=0.9, final_momentum=0.99, momentum_rise=0.5))
    momentum = system.teacher.momentum
    found = [momentum(Step(i, 100)) for i in (0, 10, 25, 50, 99)]
    assert found == pytest.approx([0.9, 0.918, 0.945, 0.99, 0.99])
    expected = copy.deepcopy(system.teacher.module.state_dict())
    for index in (0, 20, 80):
        step = Step(index, 100)
        shaken(system.encoder)
        system.after_step(step)
        m = momentum(step)
        student = system.encoder.state_dict()
        expected = {name: m * value + (1 - m) * student[name] for name, value in expected.items()}
    for name, value in system.teacher.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_the_student_is_probed_and_exported() -> None:
    system, batch = shaken(make()).eval(), images()
    assert system.backbone is system.encoder
    tokens = system.tokenizer(batch)
    features = system.encoder(system.encoder.embed(tokens.values), tokens.position)
    assert torch.equal(system.encode(batch).values, features[:, 1:])


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 4}, "averages the last 4 blocks, and ViT has 3"),
        ({"encoder.class_token": False}, "needs a class token"),
        ({"decoder_kernel": 4}, "odd number of tokens"),
        ({"decoder_groups": 5}, "5 groups do not divide"),
    ],
)
def test_what_cannot_work_is_refused_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "encoder", [{"name": "vision/vit", "norm_first": True}, {"name": "vision/conv-vit", "conv_dims": (8, 16)}]
)
def test_other_encoders_teach_by_their_feed_forward_layers(encoder: dict[str, Any]) -> None:
    sizes = {"dim": 32, "depth": 3, "heads": 2}
    patches = {"tokenizer.patch_size": 4, "class_weight": 0.0}
    options = {key: value for key, value in TINY.items() if not key.startswith("encoder")}
    torch.manual_seed(0)
    facts = {"size": (16, 16), "channels": 3}
    system: Any = build("vision/data2vec2", facts=facts, **{**options, **patches, "encoder": encoder | sizes})
    heard: list[Tensor] = []
    for block in system.teacher.module.blocks[-2:]:
        block.mlp.register_forward_hook(lambda module, inputs, output: heard.append(output))
    tokens = system.tokenizer(images())
    found = system.latents(tokens, system.encoder.embed(tokens.values))
    norms = [standard(x[:, system.encoder.prefix :], 1) for x in heard]
    torch.testing.assert_close(found, standard(sum(norms) / 2, 2), rtol=1e-4, atol=1e-4)
    system(images(), STEP)["regression"].backward()


def test_an_encoder_without_feed_forward_layers_is_refused() -> None:
    system = make()
    parts = {name: getattr(system, name) for name in ("tokenizer", "masking", "objective")}

    class Plain(torch.nn.Linear):
        dim, out_dim, prefix, downsample, needs_grid = 32, 32, 0, 1, False

    with pytest.raises(UserError, match="Plain names none"):
        type(system)(encoder=Plain(12, 32), **parts)


# ----------------------------------------------------------------------------------- training


def digits() -> Tensor:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    return (pixels - pixels.mean()) / pixels.std()


def trained(steps: int, **options: Any) -> Any:
    pixels, system = digits(), make(8, 1, **options)
    optimizer = torch.optim.AdamW(system.parameters(), lr=2e-3)
    for index in range(steps):
        step = Step(index, steps)
        ids = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(index))
        loss = sum(system({"image": pixels[ids], "id": ids}, step).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        system.after_step(step)
    return system


def spread(system: Any) -> float:
    """Standard deviation of targets over patches of held-out digits, as the release logs it."""
    tokens = system.tokenizer({"image": digits()[1200:]})
    target_BND = system.latents(tokens, system.encoder.embed(tokens.values))
    return float(target_BND.flatten(0, 1).std(0).mean())


@pytest.mark.slow
def test_predictions_of_held_out_digits_beat_zero_and_targets_stay_apart() -> None:
    system = trained(60, momentum=0.98, final_momentum=0.99)
    batch = {"image": digits()[1200:], "id": torch.arange(597)}
    with torch.no_grad():
        held_out = float(system.eval()(batch, Step(0, 1))["regression"])
    assert held_out < 0.8 * math.sqrt(32)
    assert spread(system) > 0.5
    monitored = system.monitor(batch, STEP)
    assert set(monitored) == {"prediction", "target"} and monitored["target"].shape == (597, 32)


@pytest.mark.slow
def test_targets_shrink_without_norms_and_average() -> None:
    free = {"layer_norm": "none", "target_norm": "none", "momentum": 0.0, "final_momentum": 0.0}
    before, after = (spread(trained(steps, **free)) for steps in (0, 60))
    assert after < 0.5 * before


def test_pictures_show_the_first_view() -> None:
    system, batch = make(), images()
    media = system.preview(batch, STEP).media
    mask = system.draw(system.tokenizer(batch), batch, STEP)
    original, visible, error = media.values()
    assert torch.equal(original, batch["image"])
    shown = system.tokenizer({"image": visible}).values
    assert torch.equal((shown != 0).any(-1), ~mask.hidden)
    assert torch.equal((system.tokenizer({"image": error}).values != 0).any(-1), mask.hidden)


@pytest.mark.compile
def test_forward_is_one_graph() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    system, counter = make().eval(), CompileCounter()
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(3):
        batch = images()
        for one, other in zip(
            compiled(batch, Step(i, 10)).values(), system(batch, Step(i, 10)).values(), strict=True
        ):
            torch.testing.assert_close(one, other)
    assert counter.frame_count <= 2


def test_the_objective_may_be_another() -> None:
    one, other = make(), make(objective="core/smooth-l1")
    assert isinstance(one.objective, MSE)
    assert float(other(images(), STEP)["regression"].detach()) != float(
        one(images(), STEP)["regression"].detach()
    )
