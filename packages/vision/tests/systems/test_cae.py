"""CAE: visible patches predict latents, these alone predict codes, and hidden patches make the targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask.codebooks import Codebook, Units
from polymask.data import open_data
from polymask.recipes import run_recipe
from polymask.run import Run
from polymask_vision.codes import fit_codes
from polymask_vision.systems.cae import CAE, RegressorBlock

STEP = Step(6, 10, seed=1)


def make(size: int = 16, channels: int = 3, **options: Any) -> CAE:
    torch.manual_seed(0)
    facts = {"size": (size, size), "channels": channels}
    system: CAE = build("vision/cae", preset="tiny", facts=facts, **options)
    with torch.no_grad():  # so that nothing is equal by initialisation
        for name, parameter in system.named_parameters():
            if name != "encoder.vit.pos_embed":
                parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def images(n: int = 4, size: int = 16, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


def drawn(system: CAE, batch: Batch) -> tuple[Tokens, Mask]:
    tokens = system.tokenizer(batch)
    return tokens, system.draw(tokens, batch, STEP)


def changed(tokens: Tokens, at: Tensor) -> Tokens:
    noise = torch.randn(tokens.values.shape, generator=torch.Generator().manual_seed(9))
    return Tokens(torch.where(at[..., None], noise, tokens.values), tokens.position, tokens.grid)


def test_what_is_hidden_reaches_targets_alone_and_what_is_visible_predictions_alone() -> None:
    system, batch = make().eval(), images()
    tokens, mask = drawn(system, batch)
    inside, outside = changed(tokens, mask.hidden), changed(tokens, ~mask.hidden)
    guess, target = system.regress(tokens, mask), system.latents(tokens, mask)
    assert torch.equal(system.regress(inside, mask).values, guess.values)
    assert torch.equal(system.latents(outside, mask).values, target.values)
    assert ((system.regress(outside, mask).values - guess.values).abs().amax(-1) > 1e-4).all()
    assert ((system.latents(inside, mask).values - target.values).abs().amax(-1) > 1e-4).all()


def test_hidden_tokens_are_told_apart_by_position_alone() -> None:
    """Two hidden places that exchange their positions exchange their predictions."""
    system, batch = make().double().eval(), images(1)
    tokens, mask = drawn(system, {**batch, "image": batch["image"].double()})
    before = system.regress(tokens, mask).values
    first, second = mask.hidden[0].nonzero()[:2, 0].tolist()
    table = system.positions.table
    assert table is not None
    table[[first, second]] = table[[second, first]]
    after = system.regress(tokens, mask).values
    swapped = before[:, [1, 0, *range(2, before.shape[1])]]
    torch.testing.assert_close(after, swapped)
    assert (after[:, 0] - before[:, 0]).abs().max() > 1e-3


def test_a_regressor_block_by_hand() -> None:
    """Values without position, two norms on the way, and the second one on the stream itself."""
    torch.manual_seed(0)
    block = RegressorBlock(8, 2, 0.3, 0.0).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    m, z, p = (torch.randn(2, n, 8).double() for n in (3, 4, 7))
    both = torch.cat([z, m], 1)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        weights = torch.cat([block.attn.q.weight, block.attn.k.weight, block.attn.v.weight])
        attention.in_proj_weight.copy_(weights)
        attention.in_proj_bias.copy_(
            torch.cat([block.attn.q.bias, torch.zeros(8).double(), block.attn.v.bias])
        )
        attention.out_proj.load_state_dict(block.attn.proj.state_dict())
    mixed = attention(block.norm_q(m + p[:, 4:]), block.norm_k(both + p), block.norm_v(both))[0]
    a = block.norm2(m + block.scale1 * mixed)
    expected = a + block.scale2 * block.mlp(a)
    torch.testing.assert_close(block(m, z, p, None), expected)


def test_gradient_of_the_alignment_takes_targets_for_constants() -> None:
    system, batch = make(), images()
    tokens, mask = drawn(system, batch)
    target = system.latents(tokens, mask)
    assert not target.values.requires_grad
    losses = system(batch, STEP)
    encoder = [p for p in system.encoder.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    found = torch.autograd.grad(losses["alignment"], encoder)
    constant = target.values.clone()
    by_hand = 2 * F.mse_loss(system.regress(tokens, mask).values, constant)
    torch.testing.assert_close(losses["alignment"], by_hand)
    for ours, theirs in zip(found, torch.autograd.grad(by_hand, encoder), strict=True):
        torch.testing.assert_close(ours, theirs)
    decoder = [*system.decoder.parameters(), *system.head.parameters()]
    losses = system(batch, STEP)
    assert all(g is None for g in torch.autograd.grad(losses["alignment"], decoder, allow_unused=True))


def test_targets_are_the_encoders_own_after_every_step() -> None:
    """The same weights, not an average: hidden patches alone, through the encoder as it is now."""
    system, batch = make(), images()
    optimizer = torch.optim.SGD(system.parameters(), lr=0.5)
    sum(system(batch, STEP).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    system.after_step(STEP)
    tokens, mask = drawn(system, batch)
    hidden = mask.invert().keep(tokens)
    encoded = system.encoder(system.encoder.embed(hidden.values), hidden.position)
    assert torch.equal(system.latents(tokens, mask).values, encoded[:, 1:])


def test_the_decoder_gets_predicted_latents_and_nothing_else() -> None:
    system, batch = make().eval(), images()
    tokens, mask = drawn(system, batch)
    latents = system.regress(tokens, mask)
    logits = system.decode(latents, mask, tokens.position)
    other = changed(tokens, torch.ones_like(mask.hidden))
    held, system.regress = latents, lambda *_: held  # type: ignore[method-assign]
    seen: list[Tensor] = []
    system.head.register_forward_hook(lambda module, args, out: seen.append(out))
    system({**batch, "image": system.tokenizer.inverse(other.values)}, STEP)  # type: ignore[attr-defined]
    assert torch.equal(seen[0], logits)
    moved = Tokens(latents.values.flip(-1), latents.position)
    assert (system.decode(moved, mask, tokens.position) - logits).abs().max() > 1e-3


def test_the_loss_by_hand_and_what_guessing_costs_at_the_start() -> None:
    """Logits of a map from normed features have variance 2 D / (D + K): the loss is ln K and half of that."""
    torch.manual_seed(0)
    facts = {"size": (16, 16), "channels": 3}
    options: dict[str, Any] = {"target.file": "random:512", "decoder_dim": 96, "decoder_heads": 4}
    system: CAE = build("vision/cae", preset="tiny", facts=facts, **options)
    batch = images(64)
    tokens, mask = drawn(system, batch)
    losses = system(batch, STEP)
    logits = system.decode(system.regress(tokens, mask), mask, tokens.position)
    codes = system.target(batch, tokens)[mask.hidden]
    torch.testing.assert_close(losses["reconstruction"], F.cross_entropy(logits.flatten(0, 1), codes))
    assert losses["reconstruction"].item() == pytest.approx(math.log(512) + 96 / (96 + 512), abs=0.15)
    assert isinstance(system.project, torch.nn.Sequential)  # of another width than the encoder
    mean_square = (system.regress(tokens, mask).values - system.latents(tokens, mask).values).square().mean()
    torch.testing.assert_close(losses["alignment"], 2 * mean_square)
    assert list(make(align_weight=0.0)(batch, STEP)) == ["reconstruction"]


def test_half_of_the_patches_are_hidden_in_blocks_that_prefer_the_middle() -> None:
    """The law of the release, in a reimplementation of it: corners 0.06, centre 0.86, neighbours 0.89."""
    facts = {"size": (56, 56), "channels": 1}
    system = build("vision/cae", preset="tiny", facts=facts)
    batch = {"image": torch.zeros(2000, 1, 56, 56), "id": torch.arange(2000)}
    hidden = system.draw(system.tokenizer(batch), batch, STEP).hidden
    assert (hidden.sum(1) == 98).all()
    grid = hidden.view(-1, 14, 14)
    rate = grid.float().mean(0)
    assert rate[[0, 0, 13, 13], [0, 13, 0, 13]].mean() < 0.12
    assert rate[6:8, 6:8].mean() > 0.75
    pairs = [(grid[:, 1:], grid[:, :-1]), (grid[:, :, 1:], grid[:, :, :-1])]
    both = sum(2 * (a & b).sum() for a, b in pairs)
    assert 0.86 < float(both / sum(a.sum() + b.sum() for a, b in pairs)) < 0.92


def test_rows_that_hide_fewer_patches_ignore_their_padding() -> None:
    """A sample costs what it costs alone, also where others hide more."""
    system, batch = make().eval(), images(2)
    tokens = system.tokenizer(batch)
    hidden = torch.arange(16) < torch.tensor([[10], [6]])
    together = Mask(hidden)
    guess, target = system.regress(tokens, together), system.latents(tokens, together)
    logits = system.decode(guess, together, tokens.position)
    alone, one = Mask(hidden[1:], 10), Tokens(tokens.values[1:], tokens.position[1:], tokens.grid)
    torch.testing.assert_close(guess.values[1:, :6], system.regress(one, alone).values)
    torch.testing.assert_close(target.values[1:, :6], system.latents(one, alone).values)
    own = system.decode(system.regress(one, alone), alone, one.position)
    torch.testing.assert_close(logits[1:, :6], own)


# ----------------------------------------------------------------------------------- codes


def test_codes_are_the_nearest_centres_and_pictures_show_them(tmp_path: Path) -> None:
    book = Codebook(torch.randn(1, 5, 48), torch.randn(48), torch.rand(48) + 0.5)
    file = Units("pixels", (None,), (book,)).save(tmp_path / "codes.safetensors")
    system, batch = make(**{"target.file": str(file)}), images()
    tokens, mask = drawn(system, batch)
    scaled = (tokens.values - book.mean) / book.std
    nearest = torch.cdist(scaled, book.centers[0].expand(4, -1, -1)).argmin(-1)
    assert torch.equal(system.target(batch, tokens), nearest)
    shown = system.preview(batch, STEP).media
    picture = system.tokenizer(
        {**batch, "image": shown["hidden predicted (the likeliest code)"]}  # type: ignore[dict-item]
    ).values
    centres = book.centers[0] * book.std + book.mean
    assert torch.cdist(picture[mask.hidden], centres).amin(1).max() < 0.02  # cdist rounds
    assert torch.equal(picture[~mask.hidden], tokens.values[~mask.hidden])


def test_a_codebook_of_other_patches_is_refused(tmp_path: Path) -> None:
    def saved(features: str, stages: int, width: int) -> str:
        book = Codebook(torch.randn(stages, 5, width), torch.zeros(width), torch.ones(width))
        return str(Units(features, (None,), (book,)).save(tmp_path / "codes.safetensors"))

    for given in (("pixels", 1, 12), ("mfcc", 1, 48), ("pixels", 2, 48)):
        with pytest.raises(UserError, match="fit a codebook to patches of this size"):
            make(**{"target.file": saved(*given)})
    with pytest.raises(UserError, match="recipe vision/cae"):
        make(**{"target.file": None})
    for name in ("random:1", "random:x"):
        with pytest.raises(UserError, match="random:K takes"):
            make(**{"target.file": name})


def test_codes_that_are_fitted_leave_less_of_held_out_patches_than_others(tmp_path: Path) -> None:
    data = open_data("digits")
    tokenizer = build("vision/patches", kind="tokenizers", size=8, channels=1, patch_size=2)
    target = build(
        "vision/codes",
        kind="targets",
        in_dim=4,
        file=str(fit_codes(tmp_path / "codes.safetensors", data, tokenizer, codes=16, patches=2000)),
    )
    samples = data.split("test")
    tokens = tokenizer({"image": torch.stack([samples[i]["image"] for i in range(50)])})
    ids = target({}, tokens)
    values, _ = target.invert(F.one_hot(ids, 16).float(), tokens)
    assert ids.unique().numel() == 16
    left = (values - tokens.values).square().mean() / tokens.values.var()
    assert left < 0.25  # one code leaves 1


def test_the_recipe_fits_codes_once_and_its_folder_can_be_moved(tmp_path: Path) -> None:
    shared = {"accelerator": "cpu", "workers": 0, "tokenizer.patch_size": 2}
    options = {"codes": 6, "patches": 500, "steps": 2, "preset": "tiny"}

    def recipe(folder: Path) -> Any:
        given = {"name": "digits", "limit": 60}
        return run_recipe("vision/cae", given, folder, options=options, shared=shared, progress=False)

    assert recipe(tmp_path / "here").done[0].step == 2
    file = tmp_path / "here" / "codes.safetensors"
    before = file.stat().st_mtime_ns
    file.parent.rename(tmp_path / "there")
    system: Any = Run.open(tmp_path / "there" / "pretrain").system
    assert system.target.book.codes == system.head.out_features == 6
    assert recipe(tmp_path / "there").done[0].step == 2
    assert (tmp_path / "there" / file.name).stat().st_mtime_ns == before


# ----------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_codes_of_held_out_digits_are_predicted_better_than_by_frequency(tmp_path: Path) -> None:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    tokenizer = build("vision/patches", kind="tokenizers", size=8, channels=1, patch_size=2)
    file = fit_codes(tmp_path / "codes.safetensors", open_data("digits"), tokenizer, codes=16, patches=2000)
    options: dict[str, Any] = {"tokenizer.patch_size": 2, "target.file": str(file), "layer_scale": 0.5}
    torch.manual_seed(0)
    system = build("vision/cae", preset="tiny", facts={"size": (8, 8), "channels": 1}, **options)
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for index in range(100):
        ids = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(index))
        loss = sum(system({"image": pixels[ids], "id": ids}, Step(index, 100)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = {"image": pixels[1200:], "id": torch.arange(597)}
    with torch.no_grad():
        held_out = system.eval()(batch, Step(0, 1))["reconstruction"]
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, Step(0, 1))
    share = torch.bincount(system.target(batch, tokens)[mask.hidden], minlength=16).float()
    assert held_out < 0.9 * torch.special.entr(share / share.sum()).sum()
    spread = system.monitor(batch, Step(0, 1))["target"].std(0)
    assert spread.mean() > 0.05
