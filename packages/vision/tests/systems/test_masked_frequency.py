"""MFM removes frequencies from the input, scores those alone, and learns to fill them in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fft import fft2, fftshift, ifft2, ifftshift

from polymask import Mask, Request, Step, Tokens, UserError, build, default_registry
from polymask.maskings import Random
from polymask.maskings.frequency import Frequency
from polymask.nn import spectra
from polymask.objectives.spectral import Spectral
from polymask.testing.outputs import check_system_masks
from polymask.testing.subject import Subject
from polymask_vision.corruptions import CORRUPTIONS
from polymask_vision.tokenizers import Patches

STEP = Step(3, 10, seed=1)
FACTS = {"size": (16, 16), "channels": 3, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
TINY = {"tokenizer.patch_size": 4, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}


def make(facts: Any = FACTS, **options: Any) -> Any:
    torch.manual_seed(0)
    chosen = {**TINY, "masking.radius": 0.2, **options}
    for slot in {"encoder", "masking"} & options.keys():
        chosen = {key: value for key, value in chosen.items() if not key.startswith(f"{slot}.")}
    return build("vision/mfm", facts=facts, **chosen)


def images(n: int = 8, seed: int = 0, size: int = 16) -> dict[str, Tensor]:
    """Smooth pictures in [0, 1], normalised."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, size, size, generator=generator)
    x = (x + x.roll(1, 2) + x.roll(1, 3) + x.roll((1, 1), (2, 3))) / 4
    mean, std = (torch.tensor(FACTS[k])[:, None, None] for k in ("mean", "std"))
    return {"image": (x - mean) / std, "id": torch.arange(n)}


# ------------------------------------------------------------------------------------- the input


def test_the_input_is_the_papers_recipe_written_out() -> None:
    system, batch = make(), images()
    mask = system.draw_bins(batch, STEP)
    mean, std = (torch.tensor(FACTS[k])[:, None, None] for k in ("mean", "std"))
    kept = ~mask.hidden.view(-1, 1, 16, 16)
    spectrum = fftshift(fft2(batch["image"] * std + mean), dim=(-2, -1))
    filtered = ifft2(ifftshift(spectrum * kept, dim=(-2, -1)))
    assert filtered.imag.abs().max() < 1e-5
    expected = (filtered.real.clamp(0, 1) - mean) / std
    torch.testing.assert_close(system.corrupt(batch, mask, STEP), expected, atol=1e-5, rtol=1e-5)


def test_both_filters_together_give_the_picture_back() -> None:
    x = images()["image"]
    mask = make().draw_bins(images(), STEP)
    low, high = (spectra.band_pass(x, m, 2) for m in (mask, mask.invert()))
    torch.testing.assert_close(low + high, x, atol=1e-5, rtol=0)
    for part, m in ((low, mask), (high, mask.invert())):
        assert spectra.spectrum(part, 2).abs().flatten(2)[m.hidden[:, None].expand(-1, 3, -1)].max() < 1e-5


def test_clipping_is_there_and_costs_what_it_costs() -> None:
    """A high-passed picture has zero mean: half of it is clipped away, and puts energy back."""
    system, batch = make(**{"masking.low_pass": 0}), images(32)
    mask = system.draw_bins(batch, STEP)
    shown = system.corrupt(batch, mask, STEP) * system.std + system.mean
    assert shown.min() == 0 and (shown == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    back = spectra.spectrum(shown, 2).abs().flatten(2)
    assert back[mask.hidden[:, None].expand(-1, 3, -1)].mean() > 0.01
    # signals of no known range are not clipped
    plain = make({"size": (16, 16), "channels": 3}, **{"masking.low_pass": 0})
    assert plain.corrupt(batch, mask, STEP).min() < -0.5


def test_low_and_high_mix_in_a_batch() -> None:
    hidden = make().draw_bins(images(64), STEP).hidden.sum(1)
    assert set(hidden.tolist()) == {37, 256 - 37}
    chance = make(**{"masking.low_pass": 0.3}).draw_bins(
        {"image": images(1)["image"].expand(2000, -1, -1, -1)}, STEP
    )
    share = (chance.hidden.sum(1) > 128).float().mean().item()
    assert share == pytest.approx(0.3, abs=3 * math.sqrt(0.21 / 2000))


def test_the_encoder_sees_the_filtered_picture_and_all_of_it() -> None:
    system, batch = make(), images()
    seen: list[Tensor] = []
    system.encoder.vit.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    system(batch, STEP)
    shown = system.corrupt(batch, system.draw_bins(batch, STEP), STEP)
    assert torch.equal(seen[0], system.tokenizer({"image": shown}).values) and seen[0].shape[1] == 16
    assert not [name for name, _ in system.named_parameters() if "mask_token" in name]


def test_what_was_hidden_does_not_reach_the_prediction() -> None:
    """Before the clipping, which is not linear: a change of hidden frequencies alone changes nothing."""
    system, batch = make({"size": (16, 16), "channels": 3}).eval(), images()
    mask = system.draw_bins(batch, STEP)
    other = spectra.band_pass(3 * torch.randn_like(batch["image"]), mask.invert(), 2)
    changed = {**batch, "image": batch["image"] + other}
    one, two = (system.predict(b, system.corrupt(b, mask, STEP)) for b in (batch, changed))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    visible = {**batch, "image": batch["image"] + spectra.band_pass(other.roll(1, 2) + 1, mask, 2)}
    assert (system.predict(visible, system.corrupt(visible, mask, STEP)) - one).abs().max() > 1e-2


# -------------------------------------------------------------------------------------- the loss


def test_the_loss_is_the_papers_formula() -> None:
    system, batch = make(), images()
    mask = system.draw_bins(batch, STEP)
    guess = system.predict(batch, system.corrupt(batch, mask, STEP))
    spectrum = [fftshift(fft2(x, norm="ortho"), dim=(-2, -1)) for x in (guess, batch["image"])]
    distance = (spectrum[0] - spectrum[1]).abs()
    hidden = mask.hidden.view(-1, 1, 16, 16).float()
    expected = (hidden * distance).sum() / (3 * hidden.sum())
    torch.testing.assert_close(system(batch, STEP)["spectrum"], expected)


def test_visible_frequencies_of_the_prediction_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    system, batch = make(), images()
    mask = system.draw_bins(batch, STEP)
    noise = torch.randn_like(batch["image"])
    for part, free in ((mask, True), (mask.invert(), False)):
        wrong = batch["image"] + spectra.band_pass(noise, part, 2)
        monkeypatch.setattr(system, "predict", lambda batch, shown, wrong=wrong: wrong)
        loss = float(system(batch, STEP)["spectrum"])
        assert loss < 1e-5 if free else loss > 0.1


def test_every_parameter_learns() -> None:
    system = make()
    system(images(), STEP)["spectrum"].backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_baselines_score_all_bins_and_draw_no_mask(corruption: str) -> None:
    system, batch = make(corruption=corruption), images()
    assert system.masks(batch, STEP) == {} and len(system.preview(batch, STEP).media) == 6
    shown = system.corrupt(batch, None, STEP)
    pictures = shown * system.std + system.mean
    inside = pictures.min() >= -1e-6 and pictures.max() <= 1 + 1e-6
    assert inside == (corruption != "denoising")
    assert (shown - batch["image"]).abs().mean() > 0.005
    guess = system.predict(batch, shown)
    expected = (fft2(guess, norm="ortho") - fft2(batch["image"], norm="ortho")).abs().mean()
    torch.testing.assert_close(system(batch, STEP)["spectrum"], expected)


@pytest.mark.slow
def test_it_learns_what_copying_the_input_cannot_know() -> None:
    """On held-out pictures, for low and high apart, better than 0 in the place of hidden bins."""
    system = make(facts={**FACTS, "channels": 1, "mean": (0.5,), "std": (0.3,)})

    def batch(seed: int, n: int = 64) -> dict[str, Tensor]:
        """Corners at random places: their low frequencies tell the high ones, and the reverse."""
        generator = torch.Generator().manual_seed(seed)
        at = torch.randint(3, 14, (2, n, 1, 1, 1), generator=generator)
        site = torch.arange(16)
        x = ((site < at[0]) & (site[:, None] < at[1])).float() * 0.6 + 0.2
        return {"image": (x - 0.5) / 0.3, "id": torch.arange(n) + seed * n}

    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for index in range(120):
        optimizer.zero_grad()
        system(batch(index), Step(index, 200))["spectrum"].backward()
        optimizer.step()
    held_out = batch(100_000, 256)
    system.eval()
    with torch.no_grad():
        mask = system.draw_bins(held_out, STEP)
        guess = system.bins(system.predict(held_out, system.corrupt(held_out, mask, STEP)))
        truth = system.bins(held_out["image"])
        for low_pass in (True, False):
            rows = (mask.hidden.sum(1) > 128) == low_pass
            found, nothing = (
                float(Spectral()(x[rows], truth[rows], Mask(mask.hidden[rows]))) for x in (guess, 0 * truth)
            )
            assert found < 0.75 * nothing, (low_pass, found, nothing)


# -------------------------------------------------------------------------------- parts that swap


@pytest.mark.parametrize("depths", [(1, 1, 1), (1, 1, 1, 1)])
def test_a_small_resnet_learns_by_the_same_code(depths: tuple[int, ...]) -> None:
    net = {"name": "vision/resnet", "depths": depths, "width": 8, "bottleneck": False, "small_stem": True}
    system, batch = make(encoder=net), images(16)
    assert system.encoder.downsample == 2 ** (len(depths) - 3)
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = system(batch, STEP)["spectrum"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert system.encode(batch).pool().shape == (16, system.encoder.out_dim)


def test_a_windowed_encoder_predicts_pixels_at_their_places() -> None:
    swin = {"name": "vision/swin", "dim": 16, "depths": (1, 1), "heads": (1, 1), "window": 2}
    system, batch = make(encoder=swin), images()
    whole = system.predict(batch, batch["image"])
    assert whole.shape == batch["image"].shape
    with torch.no_grad():
        system.head.weight.zero_()
        system.head.bias.copy_(torch.arange(4 * 48) // 48)
    quarters = system.predict(batch, batch["image"])[0, 0]
    assert quarters[:8, :8].unfold(0, 4, 4).unfold(1, 4, 4).mean((2, 3)).tolist() == [[0, 1], [2, 3]]


def test_any_masking_of_bins_is_made_symmetric() -> None:
    system, batch = make(masking={"name": "core/random", "ratio": 0.5}), images()
    mask = system.draw_bins(batch, STEP)
    assert torch.equal(spectra.mirrored(mask, (16, 16)).hidden, mask.hidden)
    assert system(batch, STEP)["spectrum"].isfinite()
    shown = system.masks(batch, STEP)["hidden frequencies"].mask
    assert torch.equal(shown.hidden.flatten(1), mask.hidden)


@pytest.mark.parametrize("masking", ["core/random", "core/block", "core/color", "core/frequency"])
def test_masks_shown_are_those_applied_whatever_draws_them(masking: str) -> None:
    registry = default_registry()
    subject = Subject(registry.find("systems", "vision/mfm"), registry, {"masking": masking})
    check_system_masks(subject)


class Frames(nn.Module):
    """A signal in frames: ``[B, 32]`` to 8 tokens."""

    key = "audio"
    provides = {"in_dim": 4, "grid": (8,)}

    def forward(self, batch: dict[str, Tensor]) -> Tokens:
        values = batch["audio"].view(-1, 8, 4)
        return Tokens(values, torch.arange(8.0)[None, :, None].expand(len(values), -1, -1), (8,))

    def inverse(self, values: Tensor) -> Tensor:
        return values.flatten(1)


class Net(nn.Module):
    dim = out_dim = 8
    prefix, downsample, needs_grid = 0, 1, False

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        mixed: Tensor = self.layer(x + x.mean(1, keepdim=True))
        return mixed


def test_signals_of_one_axis_are_filtered_along_it() -> None:
    system: Any = build(
        "vision/mfm",
        tokenizer=Frames(),
        encoder=Net(),
        masking=Frequency(radius=0.2, low_pass=1),
        objective=Spectral(),
    )
    batch = {"audio": torch.randn(4, 32), "id": torch.arange(4)}
    system(batch, STEP)["spectrum"].backward()
    mask = system.draw_bins(batch, STEP)
    assert mask.hidden.shape == (4, 32) and (~mask.hidden).sum().item() == 4 * 13
    shown = torch.fft.fft(system.corrupt(batch, mask, STEP)).abs()
    assert shown[:, 7:26].max() < 1e-4 < shown[:, :7].min()
    assert system.bins(batch["audio"]).shape == (4, 32, 2)


def test_combinations_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match=r"--corruption takes frequency \| super-resolution"):
        make(corruption="inpainting")
    with pytest.raises(UserError, match="not known to be"):
        make({"size": (16, 16), "channels": 3}, corruption="denoising")
    with pytest.raises(UserError, match="give both"):
        make({"size": (16, 16), "channels": 3}, mean=(0.5, 0.5, 0.5))
    tokenizer = Patches(size=16, channels=3, patch_size=4)
    with pytest.raises(UserError, match="over them"):
        make(tokenizer=tokenizer, masking=lambda request: Mask(torch.ones(8, 16) > 0))(images(), STEP)

    class Bag(Frames):
        provides = {"in_dim": 4}  # type: ignore[dict-item]

    with pytest.raises(UserError, match="cannot be undone or has no grid"):
        build("vision/mfm", tokenizer=Bag(), encoder=Net(), masking=Random(), objective=Spectral())


def test_the_published_models_build() -> None:
    facts = {**FACTS, "size": (224, 224)}
    with torch.device("meta"):
        vit, resnet = (build("vision/mfm", preset=name, facts=facts) for name in ("paper", "paper-resnet"))
    assert vit.head.weight.shape == (16 * 16 * 3, 768) and resnet.head.weight.shape == (32 * 32 * 3, 2048)
    assert vit.masking.low_pass == 0.5 and resnet.masking.low_pass == 0.3  # type: ignore[attr-defined]
    hidden = vit.masking(Request(torch.arange(9), 224 * 224, STEP, grid=(224, 224))).hidden  # type: ignore[operator]
    assert set(hidden.sum(1).tolist()) == {793, 224 * 224 - 793}


@pytest.mark.compile
def test_forward_compiles_in_one_graph() -> None:
    system, batch = make(), images()
    compiled = torch.compile(system, fullgraph=True, backend="eager")
    for index in range(2):
        step = Step(index, 10)
        torch.testing.assert_close(compiled(batch, step)["spectrum"], system(batch, step)["spectrum"])


# ------------------------------------------------------------------------------------ corruptions


def test_corruptions_are_what_they_say() -> None:
    x = torch.full((2000, 1, 24, 24), 0.5)
    ids = torch.arange(2000)
    noise = CORRUPTIONS["denoising"](x[:500], ids[:500], STEP) - 0.5
    assert noise.std().item() == pytest.approx(75 / 255, abs=0.002) and abs(noise.mean()) < 0.002
    assert noise.abs().max() > 1
    point = torch.zeros(2000, 1, 25, 25)
    point[:, :, 12, 12] = 1
    spread = CORRUPTIONS["deblurring"](point, ids, STEP)
    torch.testing.assert_close(spread.sum((1, 2, 3)), torch.ones(2000))
    torch.testing.assert_close(spread, spread.transpose(2, 3))
    sizes = (spread[:, 0, 12] > 0).sum(1)
    assert sorted(set(sizes.tolist())) == list(range(7, 22, 2))
    counts = torch.bincount(sizes)[7::2].float()
    assert (counts - 250).abs().max() < 5 * math.sqrt(250)
    row = spread[sizes == 21][0, 0, 12]
    assert (row[12] / row[7]).item() == pytest.approx(math.exp(0.5), rel=1e-4)
    flat = CORRUPTIONS["super-resolution"](x[:1], ids[:1], STEP)
    torch.testing.assert_close(flat, x[:1])


def test_super_resolution_does_not_smooth_before_it_samples() -> None:
    """A pattern finer than the small image stays as strong in it as it was, at a frequency of its own."""
    wave = 0.5 + 0.4 * torch.cos(2 * math.pi * 7 / 64 * torch.arange(64.0)).expand(1, 1, 64, 64)
    seen = CORRUPTIONS["super-resolution"](wave, torch.arange(1), STEP)
    assert seen.std() > 0.2


@pytest.mark.parametrize("side", [4, 24])
def test_blur_mirrors_at_the_borders(side: int) -> None:
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(1)
    numbers = np.pad(np.arange(side), 10, mode="reflect")
    wide = x[..., numbers, :][..., numbers]
    inner = CORRUPTIONS["deblurring"](wide, ids, STEP)[..., 10:-10, 10:-10]
    torch.testing.assert_close(CORRUPTIONS["deblurring"](x, ids, STEP), inner)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_sample_is_spoilt_the_same_way_in_any_batch(name: str) -> None:
    x, ids = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    whole = CORRUPTIONS[name](x, ids, STEP)
    torch.testing.assert_close(CORRUPTIONS[name](x[[4, 1]], ids[[4, 1]], STEP), whole[[4, 1]])
