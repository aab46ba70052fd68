"""Spectra, maskings of frequencies, and distances between spectra."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask.maskings import Random
from polymask.maskings.frequency import PAPER, Frequency
from polymask.nn import spectra
from polymask.objectives import MSE
from polymask.objectives.spectral import Spectral

STEP = Step(index=3, total=10, seed=1)
GRIDS = [(8, 8), (7, 12), (9, 5), (16,), (15,), (4, 6, 5)]


def ask(*grid: int, n: int = 64, **options: Any) -> Request:
    return Request(torch.arange(n), math.prod(grid), STEP, **{"grid": grid, **options})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pairs(x: Tensor, axes: int) -> Tensor:
    """``[B, C, *grid]`` to ``[B, bins, 2 C]``."""
    bins = spectra.spectrum(x, axes).flatten(-axes)
    return torch.view_as_real(bins).permute(0, 2, 1, 3).flatten(2)


# ---------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize("grid", GRIDS)
def test_a_spectrum_is_centred_keeps_energy_and_is_undone(grid: tuple[int, ...]) -> None:
    x, axes = noise(2, 3, *grid), len(grid)
    bins = spectra.spectrum(x, axes)
    assert bins.dtype == torch.complex64 and bins.shape == x.shape
    torch.testing.assert_close(bins.abs().square().sum(), x.square().sum())
    torch.testing.assert_close(spectra.signal(bins, axes), x)
    centre = (..., *(n // 2 for n in grid))
    mean = x.flatten(2).mean(-1) * math.prod(grid) ** 0.5
    torch.testing.assert_close(bins[centre].real, mean)
    assert spectra.spectrum(x.bfloat16(), axes).dtype == torch.complex64


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("soft", [False, True])
def test_mirrored_masks_leave_a_real_signal(grid: tuple[int, ...], soft: bool) -> None:
    sites, axes = math.prod(grid), len(grid)
    hidden = Random(ratio=0.4)(ask(*grid)).hidden
    mask = spectra.mirrored(Mask(hidden * 0.7 if soft else hidden), grid)
    x = noise(64, *grid)
    left = spectra.spectrum(spectra.band_pass(x, mask, axes), axes)
    whole = spectra.spectrum(x, axes)
    expected = whole * (1 - mask.hidden.view(64, *grid).float())
    torch.testing.assert_close(left, expected, atol=1e-5, rtol=1e-5)
    assert mask.hidden.float().mean().item() == pytest.approx((0.7 if soft else 1) * 0.4, abs=0.05)
    again = spectra.mirrored(mask, grid)
    assert torch.equal(again.hidden, mask.hidden)
    # without it, real parts are halved instead
    half = spectra.spectrum(spectra.band_pass(x, Mask(hidden), axes), axes)
    assert sites < 2 or (half - whole * (1 - hidden.view(64, *grid).float())).abs().max() > 0.1


# ---------------------------------------------------------------------------------------- masking


@pytest.mark.parametrize(
    ("size", "bins", "radius"), [(224, 16, 793), (32, 3, 25), (32, 2, 9), (64, 5, 69), (112, 8, 193)]
)
def test_disks_have_the_published_number_of_bins(size: int, bins: int, radius: int) -> None:
    hidden = Frequency(radius=bins / size)(ask(size, size, n=16)).hidden
    assert set(hidden.sum(1).tolist()) == {radius, size * size - radius}


def test_the_radius_means_the_same_at_every_resolution_and_aspect() -> None:
    assert PAPER * 224 == 16
    small = Frequency(radius=0.2, low_pass=0)(ask(20, 20, n=1)).hidden.view(20, 20)
    for height, width in ((40, 20), (20, 60), (60, 40)):
        hidden = Frequency(radius=0.2, low_pass=0)(ask(height, width, n=1)).hidden.view(height, width)
        rows, columns = (torch.nonzero(hidden.any(dim=d))[:, 0] for d in (1, 0))
        assert (
            (rows - height // 2).abs().max() / height
            < 0.2
            <= (rows - height // 2).abs().max() / height + 0.06
        )
        assert (columns - width // 2).abs().max() / width < 0.2
        assert hidden.float().mean() == pytest.approx(small.float().mean().item(), abs=0.02)


def test_low_or_high_is_drawn_for_each_sample() -> None:
    for chance in (0.5, 0.3):
        hidden = Frequency(radius=0.1, low_pass=chance)(ask(16, 16, n=4000)).hidden.view(-1, 16, 16)
        low = ~hidden[:, 8, 8]
        spread = math.sqrt(chance * (1 - chance) / 4000)
        assert low.float().mean().item() == pytest.approx(chance, abs=3 * spread)
        assert (hidden[:, 0, 0] == low).all()
        assert 0 < low[:16].sum() < 16
    for chance in (0, 1):
        hidden = Frequency(radius=0.1, low_pass=chance)(ask(16, 16)).hidden
        assert (hidden.sum(1) < 128).all() if chance == 0 else (hidden.sum(1) > 128).all()


def test_a_ring_is_lost_or_all_that_is_left() -> None:
    hidden = Frequency(radius=0.15, outer=0.3)(ask(20, 20)).hidden.view(-1, 20, 20)
    axis = (torch.arange(20) - 10).double() / 20
    distance = (axis[:, None].square() + axis.square()).sqrt()
    ring = (distance >= 0.15 - 1e-9) & (distance < 0.3 - 1e-9)
    lost, left = hidden.flatten(1)[hidden[:, 10, 10] == 0], hidden.flatten(1)[hidden[:, 10, 10]]
    assert len(lost) and len(left)
    assert (lost == ring.flatten()).all() and (left == ~ring.flatten()).all()


def test_signals_and_volumes_have_frequencies_too() -> None:
    hidden = Frequency(radius=0.25, low_pass=0)(ask(16, n=2)).hidden
    assert hidden[0].nonzero()[:, 0].tolist() == [5, 6, 7, 8, 9, 10, 11]
    hidden = Frequency(radius=0.3, low_pass=0)(ask(5, 6, 4, n=1)).hidden
    assert torch.equal(spectra.mirrored(Mask(hidden), (5, 6, 4)).hidden, hidden)


@pytest.mark.parametrize("grid", [(4000,), (80, 25), (25, 80)])
def test_sound_and_spectrograms_lose_what_the_mask_says(grid: tuple[int, ...]) -> None:
    """A slow wave along each axis is left by a low-pass, a fast one by a high-pass, and nothing else."""
    axes = len(grid)
    axis = [torch.arange(n).double() / n for n in grid]

    def wave(share: float) -> Tensor:
        total = torch.zeros(grid, dtype=torch.float64)
        for k, (n, place) in enumerate(zip(grid, axis, strict=True)):
            cycles = max(round(share * n), 1)
            total = total + torch.cos(2 * math.pi * cycles * place).view(
                [-1 if a == k else 1 for a in range(axes)]
            )
        return total

    slow, fast = wave(0.04), wave(0.4)
    mask = Frequency(radius=0.2)(ask(*grid, n=32))
    assert torch.equal(spectra.mirrored(mask, grid).hidden, mask.hidden)
    low = ~mask.hidden.view(-1, *grid)[(slice(None), *(n // 2 for n in grid))]
    assert 0 < low.sum() < 32
    left = spectra.band_pass((slow + fast).expand(32, *grid), mask, axes)
    expected = torch.where(low.view(-1, *(1,) * axes), slow, fast)
    torch.testing.assert_close(left, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "radius must be positive"),
        ({"radius": 0.2, "outer": 0.1}, "outer must be larger"),
        ({"low_pass": 1.2}, "chance in"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Frequency(**options)


def test_sites_that_are_no_spectrum_are_refused() -> None:
    for options in ({"grid": None}, {"valid": torch.ones(64, 64, dtype=torch.bool)}):
        with pytest.raises(UserError, match="bins of a spectrum"):
            Frequency()(ask(8, 8, **options))
    with pytest.raises(UserError, match="nothing would be hidden or left"):
        Frequency(radius=0.8)(ask(8, 8))
    with pytest.raises(UserError, match="and below 0.11"):
        Frequency(radius=0.101, outer=0.11)(ask(10, 10))


# -------------------------------------------------------------------------------------- objective


def test_the_right_answer_costs_nearly_nothing() -> None:
    x = pairs(noise(2, 3, 8, 8), 2)
    assert float(Spectral()(x, x)) == pytest.approx(1e-6, rel=1e-3)


def test_a_wave_costs_where_its_bins_are_hidden() -> None:
    """a cos of k cycles has a sqrt(HW) / 2 at each of the two bins k and -k."""
    size, a, k = 16, 0.7, 3
    clean = noise(1, 1, size, size)
    wave = a * torch.cos(2 * math.pi * k * torch.arange(size) / size).expand(1, 1, size, size)
    prediction, target = pairs(clean + wave, 2), pairs(clean, 2)
    hidden = torch.zeros(1, size, size, dtype=torch.bool)
    hidden[:, size // 2, size // 2 + k] = hidden[:, size // 2, size // 2 - k] = True
    hidden[:, 0, 0] = hidden[:, 1, 1] = True
    at, beside = Mask(hidden.flatten(1)), Mask(~hidden.flatten(1))
    assert float(Spectral()(prediction, target, at)) == pytest.approx(2 * a * size / 2 / 4, rel=1e-4)
    assert float(Spectral()(prediction, target, beside)) == pytest.approx(1e-6, abs=2e-6)
    assert float(Spectral(gamma=2)(prediction, target, at)) == pytest.approx(
        2 * (a * size / 2) ** 2 / 4, rel=1e-4
    )


def test_squared_over_all_bins_is_the_error_of_the_signal() -> None:
    x, y = noise(2, 3, 6, 10), noise(2, 3, 6, 10, seed=1)
    expected = MSE()(x.flatten(2).transpose(1, 2), y.flatten(2).transpose(1, 2))
    torch.testing.assert_close(Spectral(gamma=2)(pairs(x, 2), pairs(y, 2)), expected)


def test_bins_of_the_batch_count_alike_or_samples_do() -> None:
    prediction, target = noise(2, 10, 4), noise(2, 10, 4, seed=1)
    mask = Mask(torch.arange(10) < torch.tensor([[9], [1]]))
    distance = torch.view_as_complex((prediction - target).view(2, 10, 2, 2)).abs().mean(-1)
    first, second = distance[0, :9], distance[1, :1]
    torch.testing.assert_close(Spectral()(prediction, target, mask), torch.cat([first, second]).mean())
    expected = (first.mean() + second.mean()) / 2
    torch.testing.assert_close(Spectral(average="samples")(prediction, target, mask), expected)


def test_the_gradient_has_no_energy_at_visible_bins() -> None:
    x, y = noise(4, 2, 12, 12).requires_grad_(), noise(4, 2, 12, 12, seed=1)
    mask = Frequency(radius=0.2)(ask(12, 12, n=4))
    for objective in (Spectral(), Spectral(average="samples"), Spectral(gamma=2)):
        (gradient,) = torch.autograd.grad(objective(pairs(x, 2), pairs(y, 2), mask), x)
        energy = spectra.spectrum(gradient, 2).abs().flatten(2)
        hidden = mask.hidden[:, None].expand_as(energy)
        assert energy[~hidden].max() < 1e-6 * energy[hidden].max()
        assert (energy[hidden] > 0).all()
    # at the answer the distance itself has no slope
    (gradient,) = torch.autograd.grad(Spectral()(pairs(x, 2), pairs(x.detach(), 2), mask), x)
    assert gradient.isfinite().all()


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UserError, match="gamma must be positive"):
        Spectral(gamma=0)
    with pytest.raises(UserError, match="choose 'bins' or 'samples'"):
        Spectral(average="images")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pairs"):
        Spectral()(noise(1, 2, 3), noise(1, 2, 3))
