"""MAE hides by its law, leaks nothing, scores hidden patches alone, and is transformers' ViTMAE."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polymask import Mask, Step, Tokens, UserError, build, functional
from polymask.systems.mae import DECODED
from polymask_vision.encoders import Swin, ViT

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
}
STEP = Step(3, 10, seed=1)


def make(size: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("vision/mae", facts={"size": (size, size), "channels": channels}, **(TINY | options))
    return system


def images(n: int = 4, size: int = 16, channels: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


def hidden_pixels(system: Any, mask: Mask) -> Tensor:
    """Which pixels lie in hidden patches: bool ``[B, C, H, W]``."""
    width = system.tokenizer.provides["in_dim"]
    inverse: Tensor = system.tokenizer.inverse(mask.hidden[..., None].expand(-1, -1, width))
    return inverse


def run(system: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Mask]:
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    return system.predict(tokens, mask), mask


# ------------------------------------------------------------------------------------- the mask


def test_every_row_keeps_a_quarter_and_every_patch_is_kept_equally_often() -> None:
    system = make()
    batch = {"image": torch.zeros(4096, 3, 16, 16), "id": torch.arange(4096)}
    mask = system.draw(system.tokenizer(batch), batch, STEP)
    assert (mask.hidden.sum(1) == 12).all()
    assert mask.visible == 4
    assert not (mask.hidden == mask.hidden[:1]).all()
    kept = (~mask.hidden).float().sum(0)
    spread = math.sqrt(4096 * 0.25 * 0.75)
    assert ((kept - 1024) / spread).abs().max() < 4.5


def test_ratio_is_exact_where_truncation_is_off_by_one() -> None:
    system = make(size=40, **{"masking.ratio": 0.8})
    batch = images(2, size=40)
    mask = system.draw(system.tokenizer(batch), batch, STEP)
    assert int(100 * (1 - 0.8)) == 19
    assert mask.visible == 20


def test_restore_undoes_keep_and_inverse_undoes_patches() -> None:
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    back = mask.restore(mask.keep(tokens.values), torch.full((1,), 7.0))
    assert torch.equal(back, torch.where(mask.hidden[..., None], 7.0, tokens.values))
    assert torch.equal(system.tokenizer.inverse(tokens.values), batch["image"])


# ------------------------------------------------------------------------------------- no leaks


def test_removed_pixels_change_nothing_but_the_loss() -> None:
    system, batch = make().eval(), images()
    prediction, mask = run(system, batch)
    loss = system(batch, STEP)["reconstruction"]
    removed = hidden_pixels(system, mask)
    other = batch | {"image": torch.where(removed, torch.randn_like(batch["image"]), batch["image"])}
    assert torch.equal(run(system, other)[0], prediction)
    assert not torch.equal(system(other, STEP)["reconstruction"], loss)
    other = batch | {"image": torch.where(removed, batch["image"], torch.randn_like(batch["image"]))}
    assert not torch.allclose(run(system, other)[0], prediction, atol=1e-3)


def test_prediction_has_no_gradient_at_removed_pixels() -> None:
    system, batch = make(), images()
    batch["image"].requires_grad_()
    prediction, mask = run(system, batch)
    prediction.square().sum().backward()
    gradient, removed = batch["image"].grad, hidden_pixels(system, mask)
    assert gradient is not None
    assert (gradient[removed] == 0).all()
    assert (gradient[~removed] != 0).float().mean() > 0.99


def test_encoder_and_embedding_see_only_what_is_visible() -> None:
    system, lengths = make(), []
    system.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    system.encoder.vit.patch_embed.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    system(images(), STEP)
    assert lengths == [4, 4 + 1]


def test_cost_of_the_encoder_follows_the_visible_tokens() -> None:
    def cost(k: int) -> int:
        with FlopCounterMode(display=False) as counter:
            encoder(encoder.embed(torch.zeros(1, k, 48)), torch.zeros(1, k, 2))
        return counter.get_total_flops()

    encoder = ViT(in_dim=48, grid=(8, 8), dim=32, depth=2, heads=2)
    assert cost(16) <= cost(64) * 17 / 65


# ------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("patch_norm", [True, False])
def test_loss_is_the_mean_over_removed_patches_alone(patch_norm: bool) -> None:
    system, batch = make(**{"target.patch_norm": patch_norm}), images()
    prediction, mask = run(system, batch)
    patches = system.tokenizer(batch).values
    if patch_norm:
        mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, unbiased=True)
        patches = (patches - mean) / (var + 1e-6).sqrt()
    full = mask.invert().restore(prediction, torch.full((1,), 1e9))
    by_patch = (full - patches).square().mean(-1)
    removed = mask.hidden.float()
    expected = (by_patch * removed).sum() / removed.sum()
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], expected)


def test_loss_is_zero_for_the_target_and_nearly_one_for_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = make(), images()
    target = system.target(batch, system.tokenizer(batch))
    monkeypatch.setattr(system, "predict", lambda tokens, mask, asked: mask.invert().keep(target))
    assert system(batch, STEP)["reconstruction"] == 0
    monkeypatch.setattr(system, "predict", lambda tokens, mask, asked: mask.invert().keep(0 * target))
    assert system(batch, STEP)["reconstruction"].item() == pytest.approx(47 / 48, abs=1e-3)


def test_a_flat_patch_gives_finite_loss_and_gradients() -> None:
    system = make()
    system({"image": torch.ones(2, 3, 16, 16)}, STEP)["reconstruction"].backward()
    for parameter in system.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_every_trainable_parameter_learns() -> None:
    system = make()
    system(images(), STEP)["reconstruction"].backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name


# ----------------------------------------------------------------------- positions, initial values


def test_predictions_differ_by_position_from_the_start() -> None:
    system = make()
    blank = {"image": torch.zeros(1, 3, 16, 16), "id": torch.zeros(1, dtype=torch.int64)}
    prediction, _ = run(system, blank)
    assert prediction.std(dim=1).mean() > 0.01


def test_positions_are_fixed_columns_first() -> None:
    system = make(**{"encoder.dim": 16})
    table = system.encoder.vit.pos_embed
    assert not table.requires_grad
    row, column = 1, 3
    omega = [10000 ** -(i / 4) for i in range(4)]
    expected = [f(x * w) for x in (column, row) for f in (math.sin, math.cos) for w in omega]
    torch.testing.assert_close(table[0, row * 4 + column], torch.tensor(expected))


def test_initial_values_are_the_papers() -> None:
    system = make(**{"encoder.dim": 128, "encoder.depth": 1, "decoder_dim": 64})
    for name, module in system.named_modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert module.weight.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
            assert not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            assert (module.weight == 1).all() and not module.bias.any()
    for token in (system.encoder.vit.cls_token, system.decoder.mask_token):
        assert token.std().item() == pytest.approx(0.02, rel=0.4)


def test_paper_preset_is_the_published_model() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        ours = build("vision/mae", preset="paper", facts={"size": (224, 224), "channels": 3})
        theirs = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig())
    count = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert count[0] == count[1]


# ------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize("patch_norm", [True, False])
@pytest.mark.parametrize("grid", [4, 6])
def test_equals_transformers(twins: Any, patch_norm: bool, grid: int) -> None:
    transformers = pytest.importorskip("transformers")
    size = 4 * grid
    system, batch = make(size, **{"target.patch_norm": patch_norm}), images(size=size)
    reference = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            image_size=size,
            patch_size=4,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=64,
            mask_ratio=0.75,
            norm_pix_loss=patch_norm,
            layer_norm_eps=1e-6,
        )
    )
    # from scratch the library leaves both tables of positions at zero; these are the paper's
    reference.decoder.initialize_weights(grid * grid)
    with torch.no_grad():
        reference.vit.embeddings.position_embeddings[:, 1:] = system.encoder.vit.pos_embed

    pairs = twins(system, reference)
    pairs.pair("encoder.vit.cls_token", "vit.embeddings.cls_token")
    kernel = "vit.embeddings.patch_embeddings.projection"
    pairs.pair("encoder.vit.patch_embed.proj.weight", f"{kernel}.weight", as_kernel)
    pairs.pair("encoder.vit.patch_embed.proj.bias", f"{kernel}.bias")
    pairs.both("encoder.vit.norm", "vit.layernorm")
    pairs.both("decoder.embed", "decoder.decoder_embed")
    pairs.pair("decoder.mask_token", "decoder.mask_token")
    pairs.both("decoder.norm", "decoder.decoder_norm")
    pairs.both("decoder.head", "decoder.decoder_pred")
    for i in range(2):
        pairs.block(f"encoder.vit.blocks.{i}", f"vit.layers.{i}")
        pairs.block(f"decoder.blocks.{i}", f"decoder.decoder_layers.{i}")
    pairs.copy()

    mask = system.draw(system.tokenizer(batch), batch, STEP)
    # transformers keeps the patches of least noise, in order of noise
    noise = mask.hidden.float() + torch.arange(grid * grid) / 1000
    theirs = reference(pixel_values=batch["image"], noise=noise)
    assert torch.equal(theirs.mask.bool(), mask.hidden)
    ours = system(batch, STEP)["reconstruction"]
    torch.testing.assert_close(ours, theirs.loss, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.loss.backward()
    pairs.check_gradients()


def as_kernel(weight: Tensor) -> Tensor:
    return weight.view(-1, 4, 4, 3).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------- parts that swap


def test_a_score_decides_what_is_hidden() -> None:
    system = make(score="vision/variance", masking={"name": "core/top-score", "ratio": 0.25})
    batch = images()
    batch["image"][:, :, :8, :8] *= 5
    mask = system.masks(batch, STEP)["mask"].mask
    assert (mask.hidden.nonzero()[:, 1] == torch.tensor([0, 1, 4, 5]).repeat(4)).all()
    assert system(batch, STEP)["reconstruction"].isfinite()


def test_combinations_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="encodes whole grids only"):
        make(encoder=Swin(in_dim=48, grid=(4, 4), dim=16, depths=(1, 1), heads=(1, 1), window=2))
    with pytest.raises(UserError, match="give it one \\(--score NAME"):
        make(masking="core/top-score")(images(), STEP)
    with pytest.raises(UserError, match="one number per token"):
        make(score="vision/pixels")(images(), STEP)
    soft = make(masking=lambda request: Mask(torch.full((4, 16), 0.5)))
    with pytest.raises(UserError, match="in part"):
        soft(images(), STEP)
    coarse = make(masking=lambda request: Mask(torch.ones(4, 4, dtype=torch.bool), 0))
    with pytest.raises(UserError, match="over tokens"):
        coarse(images(), STEP)


class Words(nn.Module):
    """Sequences of unequal length, padded, without a grid: ``batch["word"]``, ``batch["length"]``."""

    key = "word"
    provides = {"in_dim": 5}

    def forward(self, batch: dict[str, Tensor]) -> Tokens:
        words = batch["word"]
        place = torch.arange(words.shape[1])
        valid = place < batch["length"][:, None]
        return Tokens(words, place.float()[None, :, None].expand(len(words), -1, -1), None, valid=valid)


class Self(nn.Module):
    dim = 5

    def forward(self, batch: dict[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values


class Plain(nn.Module):
    """A Transformer over free positions."""

    dim = out_dim = 8
    prefix, downsample, needs_grid = 0, 1, False

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        padding = None if valid is None else ~valid
        mixed: Tensor = self.layer(x + position.sin(), src_key_padding_mask=padding)
        return mixed


def test_rows_of_unequal_length_cost_what_they_cost_alone() -> None:
    torch.manual_seed(0)
    system = build(
        "vision/mae", tokenizer=Words(), encoder=Plain(), target=Self(), decoder_dim=8, decoder_heads=2
    )
    lengths = [9, 4, 6]
    words = torch.randn(3, 9, 5)
    batch = {"word": words, "length": torch.tensor(lengths), "id": torch.arange(3)}
    loss = system(batch, STEP)["reconstruction"]
    total, hidden = 0.0, 0
    for i, n in enumerate(lengths):
        alone = {"word": words[i : i + 1, :n], "length": torch.tensor([n]), "id": torch.tensor([i])}
        count = int(system.masks(alone, STEP)["mask"].mask.hidden.sum())
        total += system(alone, STEP)["reconstruction"].item() * count
        hidden += count
    assert loss.item() == pytest.approx(total / hidden, rel=1e-5)
    # what stands in the padding does not matter
    padding = torch.arange(9) >= batch["length"][:, None]
    batch["word"] = torch.where(padding[..., None], torch.full_like(words, 1e4), words)
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], loss)
    assert system.preview(batch, STEP).media == {}


# ------------------------------------------------------------------------------ encode, pictures


def test_encode_hides_nothing_and_ignores_time() -> None:
    system, batch = make().eval(), images()
    tokens = system.encode(batch)
    assert tokens.values.shape == (4, 16, 32) and tokens.prefix is not None
    assert tokens.grid == (4, 4)
    whole = system.encoder(system.encoder.embed(system.tokenizer(batch).values), tokens.position)
    assert torch.equal(torch.cat([tokens.prefix, tokens.values], 1), whole)


@pytest.mark.parametrize("patch_norm", [True, False])
def test_pictures_show_original_visible_and_predicted(patch_norm: bool) -> None:
    system, batch = make(**{"target.patch_norm": patch_norm}), images()
    columns = system.preview(batch, STEP).media
    original, visible, predicted = columns.values()
    removed = hidden_pixels(system, system.masks(batch, STEP)["mask"].mask)
    assert torch.equal(original, batch["image"])
    assert torch.equal(visible, torch.where(removed, 0.0, original))
    assert torch.equal(predicted[~removed], original[~removed])
    assert not torch.isclose(predicted[removed], original[removed]).all()
    assert ("true mean and variance" in list(columns)[2]) == patch_norm


def test_pictures_of_a_perfect_prediction_are_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = make(), images()
    target = system.target(batch, system.tokenizer(batch))
    monkeypatch.setattr(system, "predict", lambda tokens, mask: mask.invert().keep(target))
    predicted = list(system.preview(batch, STEP).media.values())[2]
    torch.testing.assert_close(predicted, batch["image"])


def test_a_target_that_cannot_be_undone_gives_two_pictures() -> None:
    assert list(make(target="vision/variance").preview(images(), STEP).media) == ["original", "visible"]


# ----------------------------------------------------------------------------- compile, training


@pytest.mark.compile
def test_compiles_without_graph_breaks_and_once_for_all_steps() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, system = CompileCounter(), make()
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(4):
        batch = images() | {"id": torch.arange(4) + i}
        loss = compiled(batch, Step(i, 10, seed=1))["reconstruction"]
        torch.testing.assert_close(loss, system(batch, Step(i, 10, seed=1))["reconstruction"])
    assert counter.frame_count <= 2


@pytest.mark.slow
def test_training_beats_the_trivial_predictors(on_one_pattern: Any) -> None:
    options = {"tokenizer.patch_size": 2, "target.patch_norm": False, "masking.ratio": 0.5}
    system = make(8, 1, **options, decoder_dim=32, decoder_depth=1)
    learned, guesses = on_one_pattern(system)
    for name, error in guesses.items():
        assert learned < 0.9 * error, f"{learned:.3f} against {error:.3f} of {name}"


# ------------------------------------------------------------------------------ the decoder of CrossMAE


def asked_of(system: Any, mask: Mask, batch: dict[str, Tensor], step: Step = STEP) -> Mask:
    return functional.some_hidden(mask, system.decode_share, batch, step, DECODED)


def test_a_third_of_the_hidden_patches_is_decoded_each_alike_and_the_loss_is_their_mean() -> None:
    system, batch = make(decoder="cross", decode_share=1 / 3), images(2048)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    asked = asked_of(system, mask, batch)
    assert (asked.hidden.sum(1) == 4).all() and asked.visible == 12
    assert not (asked.hidden & ~mask.hidden).any()
    count = asked.hidden.float().sum(0)  # each patch is hidden in 3/4 of rows, and decoded in 1/4
    assert ((count - 512) / math.sqrt(2048 * 3 / 16)).abs().max() < 4.5
    prediction = system.predict(tokens, mask, asked)
    truth = system.target(batch, tokens)[asked.hidden].view(prediction.shape)
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], (prediction - truth).square().mean())
    few = {key: value[5:8] for key, value in batch.items()}
    again = asked_of(system, Mask(mask.hidden[5:8], mask.visible), few)
    assert torch.equal(again.hidden, asked.hidden[5:8])
    other = asked_of(system, mask, batch, Step(4, 10, seed=1))
    assert not torch.equal(other.hidden, asked.hidden)


def test_the_loss_at_decoded_patches_is_on_average_that_at_all_hidden_ones() -> None:
    system, batch = make(decoder="cross", decode_share=1 / 3).eval(), images(64)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    with torch.no_grad():
        error = (system.predict(tokens, mask) - mask.invert().keep(system.target(batch, tokens))).square()
        draws = []
        for index in range(200):
            asked = asked_of(system, mask, batch, Step(index, 200))
            some = system.predict(tokens, mask, asked) - asked.invert().keep(system.target(batch, tokens))
            draws.append(some.square().mean())
    found = torch.stack(draws)
    assert found.std() > 0
    assert abs(float(found.mean() - error.mean())) < 4 * float(found.std()) / math.sqrt(200)


def test_rows_with_fewer_hidden_patches_decode_the_same_share_and_one_at_least() -> None:
    hidden = torch.arange(16) < torch.tensor([[12], [6], [1], [0]])
    batch = images(4)
    asked = functional.some_hidden(Mask(hidden), 1 / 3, batch, STEP, DECODED)
    assert asked.hidden.sum(1).tolist() == [4, 2, 1, 0] and asked.visible is None
    assert not (asked.hidden & ~hidden).any()
    everything = functional.some_hidden(Mask(hidden), 1.0, batch, STEP, DECODED)
    assert torch.equal(everything.hidden, hidden)


def test_gradient_reaches_every_encoder_block_by_the_weights_of_the_decoder() -> None:
    """Also where the block after it lets nothing pass."""
    system, batch = make(decoder="cross", weigh_layers=True), images()
    assert set(system.unused) == {"encoder.vit.norm.weight", "encoder.vit.norm.bias"}
    assert system.decoder.weights.shape == (2, 3)
    last = system.encoder.blocks[1]
    for layer in (last.attn.qkv, last.mlp.fc1):
        nn.init.zeros_(layer.weight)
    # the sum behind the last block is left out, and with it the path through that block
    with torch.no_grad():
        system.decoder.weights[:, 2] = 0
    system(batch, STEP)["reconstruction"].backward()
    assert all(p.grad.any() for p in system.encoder.blocks[0].mlp.parameters())
    assert not any(p.grad.any() for p in last.parameters())
    assert system.decoder.weights.grad.any(dim=0).all()
    other = make(decoder="cross", weigh_layers=True)
    with torch.no_grad():
        other.decoder.weights[:, :2] = 0
    other(batch, STEP)["reconstruction"].backward()
    assert all(p.grad.any() for p in other.encoder.blocks[0].mlp.parameters())  # through the last block


def test_options_of_the_cross_decoder_need_it() -> None:
    for options in ({"decode_share": 0.5}, {"weigh_layers": True}):
        with pytest.raises(UserError, match="--decoder cross"):
            make(**options)
    with pytest.raises(UserError, match="predicts nothing"):
        make(decoder="cross", decode_share=0.0)
    conv = {"name": "vision/conv-vit", "dim": 32, "heads": 2, "conv_dims": (8, 16), "conv_depths": (1, 1)}
    options = {"decoder": "cross", "weigh_layers": True, "decoder_dim": 16, "decoder_heads": 2}
    with pytest.raises(UserError, match="does not show them"):
        build("vision/mae", facts={"size": (16, 16), "channels": 3}, encoder=conv, **options)


@pytest.mark.slow
def test_the_cross_decoder_learns_too(on_one_pattern: Any) -> None:
    options = {"tokenizer.patch_size": 2, "target.patch_norm": False, "masking.ratio": 0.5}
    system = make(8, 1, decoder="cross", decode_share=0.5, **options)
    learned, guesses = on_one_pattern(system)
    assert learned < 0.9 * min(guesses.values())
