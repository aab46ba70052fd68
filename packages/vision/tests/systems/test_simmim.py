"""SimMIM hides coarse cells, substitutes before positions, and is transformers' SimMIM."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Mask, Step, build
from polymask.functional import unfold
from polymask.nn.positions import coordinates
from polymask_vision.positions import RelativeBias

VIT = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
}
SWIN = {
    "tokenizer.patch_size": 2,
    "encoder": "vision/swin",
    "encoder.dim": 16,
    "encoder.depths": (2, 2),
    "encoder.heads": (2, 4),
    "encoder.window": 4,
}
RELATIVE = VIT | {"encoder.positions": "relative"}
ENCODERS = pytest.mark.parametrize("options", [VIT, RELATIVE, SWIN], ids=["vit", "relative", "swin"])
STEP = Step(3, 10, seed=1)


def make(options: dict[str, Any] = VIT, size: int = 32, channels: int = 3, **more: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build(
        "vision/simmim", facts={"size": (size, size), "channels": channels}, **(options | more)
    )
    return system


def images(n: int = 4, size: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, 3, size, size, generator=generator), "id": torch.arange(n)}


def draw(system: Any, batch: dict[str, Tensor], step: Step = STEP) -> Mask:
    return system.draw(system.tokenizer(batch), batch, step)


def hidden_pixels(system: Any, mask: Mask) -> Tensor:
    """Which pixels lie in hidden patches: bool ``[B, C, H, W]``."""
    width = system.tokenizer.provides["in_dim"]
    inverse: Tensor = system.tokenizer.inverse(mask.hidden[..., None].expand(-1, -1, width))
    return inverse


def nothing(n: int, sites: int) -> Mask:
    return Mask(torch.zeros(n, sites, dtype=torch.bool), sites)


# ------------------------------------------------------------------------------------- the mask


@pytest.mark.parametrize(
    ("size", "patch", "cell", "cells", "hidden"),
    [(192, 4, 8, 36, 22), (224, 16, 2, 49, 30), (48, 4, 2, 36, 22)],
)
def test_hides_exactly_k_whole_cells_rounded_up(
    size: int, patch: int, cell: int, cells: int, hidden: int
) -> None:
    system = make(VIT, size, **{"tokenizer.patch_size": patch, "masking.cell": cell})
    side = size // patch
    mask = draw(system, images(8, size)).hidden.view(8, side // cell, cell, side // cell, cell)
    by_cell = mask.float().mean((2, 4)).flatten(1)
    assert ((by_cell == 0) | (by_cell == 1)).all()
    assert by_cell.shape[1] == cells
    assert (by_cell.sum(1) == hidden).all() and hidden == math.ceil(0.6 * cells)
    assert not (by_cell == by_cell[:1]).all()


def test_every_cell_is_hidden_equally_often() -> None:
    system = make(VIT, 48)
    batch = {"image": torch.zeros(4096, 3, 48, 48), "id": torch.arange(4096)}
    cells = draw(system, batch).hidden.view(-1, 12, 12)[:, ::2, ::2].flatten(1).float().sum(0)
    p = 22 / 36
    assert ((cells - 4096 * p) / math.sqrt(4096 * p * (1 - p))).abs().max() < 4.5


def test_coarse_cells_put_hidden_tokens_further_from_visible_ones() -> None:
    """1.47 against 1.09 tokens on a grid of 14 x 14, from an independent simulation."""
    batch = images(2048, 14)
    for cell, expected in ((2, 1.47), (1, 1.09)):
        system = make(VIT, 14, **{"masking.cell": cell, "tokenizer.patch_size": 1})
        tokens = system.tokenizer(batch)
        hidden = system.draw(tokens, batch, STEP).hidden
        distance = torch.cdist(tokens.position[:1], tokens.position[:1])
        nearest = torch.where(hidden[:, None], torch.inf, distance).amin(-1)
        assert nearest[hidden].mean().item() == pytest.approx(expected, abs=0.02)


# ------------------------------------------------------------------------------------- no leaks


@ENCODERS
def test_hidden_pixels_change_nothing_but_the_loss(options: dict[str, Any]) -> None:
    system, batch = make(options).eval(), images()
    mask = draw(system, batch)
    hidden = hidden_pixels(system, mask)
    prediction, loss = system.predict(system.tokenizer(batch), mask), system(batch, STEP)["reconstruction"]
    other = batch | {"image": torch.where(hidden, torch.randn_like(batch["image"]), batch["image"])}
    assert torch.equal(system.predict(system.tokenizer(other), mask), prediction)
    assert not torch.equal(system(other, STEP)["reconstruction"], loss)
    other = batch | {"image": torch.where(hidden, batch["image"], torch.randn_like(batch["image"]))}
    assert not torch.allclose(system.predict(system.tokenizer(other), mask), prediction, atol=1e-3)


@ENCODERS
def test_prediction_has_no_gradient_at_hidden_pixels(options: dict[str, Any]) -> None:
    system, batch = make(options), images()
    batch["image"].requires_grad_()
    mask = draw(system, batch)
    system.predict(system.tokenizer(batch), mask).square().sum().backward()
    gradient, hidden = batch["image"].grad, hidden_pixels(system, mask)
    assert gradient is not None
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).float().mean() > 0.99


# ------------------------------------------------------------------------------------- the loss


@ENCODERS
def test_loss_closed_forms(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = make(options), images()
    image, hidden = batch["image"], hidden_pixels(system, draw(system, batch))
    values = system.tokenizer(batch).values
    monkeypatch.setattr(system, "predict", lambda tokens, mask: values)
    assert system(batch, STEP)["reconstruction"] == 0

    guess = torch.zeros_like(values, requires_grad=True)
    monkeypatch.setattr(system, "predict", lambda tokens, mask: guess)
    loss = system(batch, STEP)["reconstruction"]
    torch.testing.assert_close(loss, image[hidden].abs().mean())
    loss.backward()
    assert guess.grad is not None
    gradient = system.tokenizer.inverse(guess.grad)
    assert (gradient[~hidden] == 0).all()
    # hidden counts pixels of every channel: 3 times the pixels of the mask
    torch.testing.assert_close(gradient[hidden], -image[hidden].sign() / hidden.sum())

    monkeypatch.setattr(system, "masking", lambda r: Mask(torch.ones(4, r.sites, dtype=torch.bool), 0))
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], image.abs().mean())


def test_the_target_is_the_image_as_it_came() -> None:
    system, batch = make(), images()
    assert torch.equal(
        system.tokenizer.inverse(system.target(batch, system.tokenizer(batch))), batch["image"]
    )


# -------------------------------------------------------------------------------- the mask token


@ENCODERS
def test_nothing_hidden_is_the_plain_encoder(options: dict[str, Any]) -> None:
    system, batch = make(options).eval(), images()
    tokens = system.tokenizer(batch)
    nothing_hidden = nothing(*tokens.shape)
    expected = unfold(system.head(system.encode(batch).values), tokens.grid, system.encoder.downsample)
    assert torch.equal(system.predict(tokens, nothing_hidden), expected)


@ENCODERS
def test_mask_token_learns_only_where_something_is_hidden(options: dict[str, Any]) -> None:
    system, batch = make(options), images()
    tokens = system.tokenizer(batch)
    system.predict(tokens, nothing(*tokens.shape)).sum().backward()
    assert system.mask_token.grad is None or not system.mask_token.grad.any()
    system.zero_grad()
    system(batch, STEP)["reconstruction"].backward()
    assert system.mask_token.grad is not None and system.mask_token.grad.all()


@ENCODERS
def test_every_trainable_parameter_learns(options: dict[str, Any]) -> None:
    system = make(options)
    system(images(), STEP)["reconstruction"].backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name


def test_token_is_substituted_before_positions_are_added() -> None:
    """Hidden tokens enter the blocks as the mask token plus their own position."""
    system, batch, entered = make(), images(), []
    system.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    mask = draw(system, batch)
    system.predict(system.tokenizer(batch), mask)
    table = system.encoder.vit.pos_embed
    expected = (system.mask_token + table).expand_as(entered[0][:, 1:])
    assert torch.equal(entered[0][:, 1:][mask.hidden], expected[mask.hidden])
    system.eval()
    blank = {"image": torch.zeros(1, 3, 32, 32)}
    everything = Mask(torch.ones(1, 64, dtype=torch.bool), 0)
    assert system.predict(system.tokenizer(blank), everything).std(dim=1).mean() > 1e-3


def test_relative_bias_depends_on_the_offset_alone_and_follows_any_subset() -> None:
    bias = RelativeBias((3, 4), heads=2, prefix=1)
    whole = bias(coordinates((3, 4))[None])
    assert whole.shape == (1, 2, 13, 13)
    assert torch.equal(whole[:, :, 1, 7], whole[:, :, 6, 12])  # (0, 0) to (1, 2), (1, 1) to (2, 3)
    assert len(whole[0, 0].unique()) == 5 * 7 + 3
    kept = torch.tensor([[7, 2, 11], [0, 1, 5]])
    part = bias(coordinates((3, 4))[kept])
    for row, sites in enumerate(kept):
        at = torch.cat([torch.zeros(1, dtype=torch.int64), sites + 1])
        assert torch.equal(part[row], whole[0][:, at][:, :, at])


def test_sequence_keeps_its_length() -> None:
    system, lengths = make(), []
    system.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    system(images(), STEP)
    assert lengths == [64 + 1]


# ------------------------------------------------------------------------------------- the head


@ENCODERS
def test_one_output_cell_is_one_square_of_pixels(options: dict[str, Any]) -> None:
    system = make(options)
    tokens = system.tokenizer(images(1))
    down = system.encoder.downsample
    coarse = 8 * 4 // options["tokenizer.patch_size"] // down
    stride = 32 // coarse
    z = torch.randn(1, coarse**2, system.encoder.out_dim)
    row, column = 1, coarse - 2
    other = z.clone()
    other[0, row * coarse + column] += 1
    pictures = [system.tokenizer.inverse(unfold(system.head(x), tokens.grid, down)) for x in (z, other)]
    changed = (pictures[0] != pictures[1]).all(dim=1)[0].nonzero()
    assert changed.min(0).values.tolist() == [row * stride, column * stride]
    assert changed.max(0).values.tolist() == [(row + 1) * stride - 1, (column + 1) * stride - 1]
    assert len(changed) == stride**2


def test_unfold_puts_the_parts_of_a_cell_at_their_places_on_any_grid() -> None:
    for grid, down in (((6,), 3), ((4, 6), 2), ((2, 4, 2), 2)):
        fine = torch.arange(math.prod(grid)).view(grid)
        cells = fine
        for axis, n in enumerate(grid):
            cells = cells.unflatten(2 * axis, (n // down, down))
        axes = range(len(grid))
        order = [2 * a for a in axes] + [2 * a + 1 for a in axes]
        coarse = cells.permute(order).flatten(len(grid)).flatten(0, -2)
        assert torch.equal(unfold(coarse[None], grid, down)[0, :, 0], fine.flatten())


# ------------------------------------------------------------------------------------- reference


def test_vit_equals_transformers(twins: Any) -> None:
    transformers = pytest.importorskip("transformers")
    system, batch = make(), images()
    reference = transformers.ViTForMaskedImageModeling(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            image_size=32,
            patch_size=4,
            encoder_stride=4,
            layer_norm_eps=1e-6,
        )
    )
    pairs = twins(system, reference)
    pairs.pair("mask_token", "vit.embeddings.mask_token")
    # ours gives the class token no position; theirs of zeros is the same
    pairs.pair("encoder.vit.cls_token", "vit.embeddings.cls_token")
    pairs.pair("encoder.vit.pos_embed", "vit.embeddings.position_embeddings", their_view=lambda x: x[:, 1:])
    nn.init.zeros_(reference.vit.embeddings.position_embeddings)
    embedding = "vit.embeddings.patch_embeddings.projection"
    pairs.pair("encoder.vit.patch_embed.proj.weight", f"{embedding}.weight", lambda w: as_kernel(w, 4))
    pairs.pair("encoder.vit.patch_embed.proj.bias", f"{embedding}.bias")
    pairs.both("encoder.vit.norm", "vit.layernorm")
    pairs.both("head", "decoder.0", lambda x: shuffled(x, 1, 4))
    for i in range(2):
        pairs.block(f"encoder.vit.blocks.{i}", f"vit.layers.{i}")
    pairs.copy()
    compare(system, reference, batch, pairs)


@pytest.mark.parametrize(("size", "depths", "window"), [(32, (2, 2), 4), (32, (1, 2, 1), 4), (48, (2, 2), 6)])
def test_swin_equals_transformers(twins: Any, size: int, depths: tuple[int, ...], window: int) -> None:
    transformers = pytest.importorskip("transformers")
    heads = tuple(2**i for i in range(len(depths)))
    options = SWIN | {"encoder.depths": depths, "encoder.heads": heads, "encoder.window": window}
    system, batch = make(options, size), images(size=size)
    down = system.encoder.downsample
    reference = transformers.SwinForMaskedImageModeling(
        transformers.SwinConfig(
            image_size=size,
            patch_size=2,
            embed_dim=16,
            depths=list(depths),
            num_heads=list(heads),
            window_size=window,
            encoder_stride=2 * down,
            drop_path_rate=0.0,
        )
    )
    pairs = twins(system, reference)
    pairs.pair("mask_token", "swin.embeddings.mask_token")
    embedding = "swin.embeddings.patch_embeddings.projection"
    pairs.pair("encoder.swin.patch_embed.proj.weight", f"{embedding}.weight", lambda w: as_kernel(w, 2))
    pairs.pair("encoder.swin.patch_embed.proj.bias", f"{embedding}.bias")
    pairs.both("encoder.swin.patch_embed.norm", "swin.embeddings.norm")
    pairs.both("encoder.swin.norm", "swin.layernorm")
    pairs.both("head", "decoder.0", lambda x: shuffled(x, down, 2))
    for i, depth in enumerate(depths):
        for j in range(depth):
            ours, theirs = f"encoder.swin.layers.{i}.blocks.{j}", f"swin.encoder.layers.{i}.blocks.{j}"
            pairs.block(ours, theirs)
            table = "relative_position_bias_table"
            pairs.pair(f"{ours}.attn.{table}", f"{theirs}.attention.relative_position_bias.{table}")
        if i:
            ours, theirs = f"encoder.swin.layers.{i}.downsample", f"swin.encoder.layers.{i - 1}.downsample"
            pairs.both(f"{ours}.norm", f"{theirs}.norm")
            pairs.pair(f"{ours}.reduction.weight", f"{theirs}.reduction.weight")
    pairs.copy()
    compare(system, reference, batch, pairs)


def compare(system: Any, reference: Any, batch: dict[str, Tensor], pairs: Any) -> None:
    """Equal loss, reconstruction and gradients; their loss divides by the masked pixels + 1e-5."""
    mask = draw(system, batch)
    theirs = reference(pixel_values=batch["image"], bool_masked_pos=mask.hidden)
    ours = system(batch, STEP)["reconstruction"]
    picture = system.tokenizer.inverse(system.predict(system.tokenizer(batch), mask))
    torch.testing.assert_close(picture, theirs.reconstruction, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs.loss, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.loss.backward()
    pairs.check_gradients()


def as_kernel(weight: Tensor, patch: int) -> Tensor:
    return weight.view(-1, patch, patch, 3).permute(0, 3, 1, 2)


def shuffled(x: Tensor, down: int, patch: int) -> Tensor:
    """Rows of our head in the order of PixelShuffle: channel, row, column over the whole cell."""
    cell = x.view(down, down, patch, patch, 3, -1)
    return cell.permute(4, 0, 2, 1, 3, 5).reshape(x.shape)


@pytest.mark.parametrize("preset", ["paper", "paper-swin"])
def test_paper_presets_are_the_published_sizes(preset: str) -> None:
    """Parameters of ViT-B/16 at 224 and of Swin-B at 192 with window 6, mask token and head included."""
    transformers = pytest.importorskip("transformers")
    size = 192 if preset == "paper-swin" else 224
    with torch.device("meta"):
        ours = build("vision/simmim", preset=preset, facts={"size": (size, size), "channels": 3})
        if preset == "paper-swin":
            config = transformers.SwinConfig(
                image_size=192,
                embed_dim=128,
                depths=[2, 2, 18, 2],
                num_heads=[4, 8, 16, 32],
                window_size=6,
            )
            theirs, extra = transformers.SwinForMaskedImageModeling(config), 0
        else:
            theirs = transformers.ViTForMaskedImageModeling(transformers.ViTConfig())
            # LayerScale and one bias per offset and head, where theirs has a table of positions
            extra = 12 * 2 * 768 + (27 * 27 + 3) * 12 - 197 * 768
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert count[0] == count[1] + extra


# ------------------------------------------------------------------------------ encode, pictures


def test_encode_of_a_hierarchical_encoder_is_a_coarser_grid() -> None:
    system, batch = make(SWIN).eval(), images()
    tokens = system.encode(batch)
    assert tokens.grid == (8, 8) and tokens.values.shape == (4, 64, 32) and tokens.prefix is None
    assert tokens.position.shape == (4, 64, 2)
    assert tokens.position[0, 9].tolist() == [2.5, 2.5]


@ENCODERS
def test_pictures_show_original_visible_and_predicted(options: dict[str, Any]) -> None:
    system, batch = make(options).eval(), images()
    columns = system.preview(batch, STEP).media
    original, visible, predicted = columns.values()
    mask = system.masks(batch, STEP)["mask"].mask
    hidden = hidden_pixels(system, mask)
    guess = system.tokenizer.inverse(system.predict(system.tokenizer(batch), mask))
    assert torch.equal(original, batch["image"])
    assert torch.equal(visible, torch.where(hidden, 0.0, original))
    torch.testing.assert_close(predicted, torch.where(hidden, guess, original))
    assert "predicted pixels as they are" in list(columns)[2]


def test_a_target_that_cannot_be_undone_gives_two_pictures() -> None:
    assert list(make(target="vision/variance").preview(images(), STEP).media) == ["original", "visible"]


def test_a_soft_mask_blends_and_weighs() -> None:
    half = Mask(torch.full((4, 64), 0.5))
    system, batch, entered = make(masking=lambda request: half), images(), []
    system.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    tokens = system.tokenizer(batch)
    loss = system(batch, STEP)["reconstruction"]
    blend = (system.encoder.embed(tokens.values) + system.mask_token) / 2 + system.encoder.vit.pos_embed
    torch.testing.assert_close(entered[0][:, 1:], blend)
    torch.testing.assert_close(loss, (system.predict(tokens, half) - tokens.values).abs().mean())


# ----------------------------------------------------------------------------- compile, training


@pytest.mark.compile
@ENCODERS
def test_compiles_without_graph_breaks_and_once_for_all_steps(options: dict[str, Any]) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, system = CompileCounter(), make(options)
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(4):
        batch = images() | {"id": torch.arange(4) + i}
        loss = compiled(batch, Step(i, 10, seed=1))["reconstruction"]
        torch.testing.assert_close(loss, system(batch, Step(i, 10, seed=1))["reconstruction"])
    assert counter.frame_count <= 2


@pytest.mark.slow
def test_training_beats_the_trivial_predictors(on_one_pattern: Any) -> None:
    options = {"tokenizer.patch_size": 2, "masking.cell": 1, "masking.ratio": 0.5}
    learned, guesses = on_one_pattern(make(VIT, 8, 1, **options))
    for name, error in guesses.items():
        assert learned < 0.95 * error, f"{learned:.3f} against {error:.3f} of {name}"
