"""Diffusion by its closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from polymask import Step, UserError
from polymask.nn.diffusion import (
    add_noise,
    clean_of,
    ddim_states,
    ddim_step,
    noise_of,
    signal_levels,
    times_of,
)

B, D = 64, 2000


def normal(stream: int) -> Tensor:
    return Step(3, 10, 1).normal(torch.arange(B), D, stream).double()


@pytest.mark.parametrize("noising", ["cosine", "linear"])
def test_signal_falls_from_all_to_almost_nothing(noising) -> None:
    left = signal_levels(1000, noising)
    assert len(left) == 1001 and left[0] == 1 and (left.diff() < 0).all() and 0 < left[-1] < 1e-4


def test_cosine_and_linear_are_those_of_the_papers() -> None:
    left = signal_levels(1000).double()
    for t in (1, 250, 500, 900):
        u = [math.cos((x / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (t, 0)]
        assert left[t] == pytest.approx(u[0] / u[1], rel=1e-5)
    assert left[1000] == pytest.approx(left[999].item() * 0.001, rel=1e-4)  # beta is clipped at 0.999
    line = signal_levels(1000, "linear").double()
    assert line[1] == pytest.approx(1 - 1e-4) and line[1000] / line[999] == pytest.approx(1 - 0.02)
    assert line[2] == pytest.approx((1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999), rel=1e-6)
    with pytest.raises(UserError, match="choose 'cosine' or 'linear'"):
        signal_levels(10, "square")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="21 times or more"):
        signal_levels(20, "linear")
    assert (signal_levels(21, "linear") > 0).all()
    assert signal_levels(100, "linear")[-1] < 1e-3  # fewer steps add as much noise


@pytest.mark.parametrize("t", [1, 300, 700, 1000])
def test_noise_keeps_the_variance_and_correlation_falls_by_the_root_of_the_signal(t) -> None:
    signal = signal_levels(1000)[t].double()
    clean = normal(0)
    noisy = add_noise(clean, normal(1), signal)
    assert noisy.var().item() == pytest.approx(1, abs=0.02)
    corr = torch.corrcoef(torch.stack([clean.flatten(), noisy.flatten()]))[0, 1].item()
    assert corr == pytest.approx(signal.sqrt().item(), abs=0.012)


def test_time_0_is_the_data_bit_for_bit_and_levels_are_per_sample() -> None:
    clean, noise = normal(0).float(), normal(1).float()
    assert torch.equal(add_noise(clean, noise, signal_levels(10)[torch.zeros(B, dtype=torch.long)]), clean)
    level = signal_levels(1000)[torch.arange(B) * 15 + 1]
    each = torch.stack([add_noise(x, n, s) for x, n, s in zip(clean, noise, level, strict=True)])
    torch.testing.assert_close(add_noise(clean, noise, level), each)
    cube = add_noise(clean.view(B, 10, 20, 10), noise.view(B, 10, 20, 10), level)
    torch.testing.assert_close(cube.flatten(1), each)


def test_clean_and_noise_are_told_apart() -> None:
    clean, noise = normal(0), normal(1)
    signal = signal_levels(1000).double()[torch.arange(B) * 15 + 1]
    noisy = add_noise(clean, noise, signal)
    torch.testing.assert_close(clean_of(noisy, noise, signal), clean)
    torch.testing.assert_close(noise_of(noisy, clean, signal), noise)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_with_an_oracle_of_the_noise_returns_the_data(steps) -> None:
    clean, noise = normal(0), normal(1)
    signal = signal_levels(1000).double()
    times = times_of(1000, steps)
    noisy = add_noise(clean, noise, signal[1000])
    for t, then in pairwise(times):
        guess = clean_of(noisy, noise, signal[t])
        noisy = ddim_step(noisy, guess, signal[t], signal[then], normal(2))
        torch.testing.assert_close(noisy, add_noise(clean, noise, signal[then]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(noisy, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_distribution_at_each_time(eta) -> None:
    clean, signal = normal(0), signal_levels(1000).double()
    noisy = add_noise(clean, normal(1), signal[600])
    then = ddim_step(noisy, clean, signal[600], signal[200], normal(2), eta)
    rest = then - signal[200].sqrt() * clean
    assert rest.var().item() == pytest.approx(1 - signal[200].item(), rel=0.02)
    assert (rest * clean).mean().abs() < 0.01


def test_ddim_of_eta_1_draws_from_the_posterior_of_two_gaussians() -> None:
    """Bayes by hand: N(x'; sqrt(b) x0, 1 - b) times N(x; sqrt(a / b) x', 1 - a / b), over x'."""
    signal = signal_levels(1000).double()
    a, b = signal[500].item(), signal[499].item()
    x0, x = 0.7, -1.3
    precision = 1 / (1 - b) + (a / b) / (1 - a / b)
    mean = (b**0.5 * x0 / (1 - b) + (a / b) ** 0.5 * x / (1 - a / b)) / precision
    later, data, fresh = (torch.tensor([value]).double() for value in (x, x0, 1.0))
    least, most = (
        ddim_step(later, data, signal[500], signal[499], chance, eta=1.0) for chance in (0 * fresh, fresh)
    )
    assert least.item() == pytest.approx(mean, rel=1e-5)
    assert (most - least).item() ** 2 == pytest.approx(1 / precision, rel=1e-5)


def test_a_step_of_chance_to_time_0_ends_at_the_data() -> None:
    clean, fresh, signal = normal(0), normal(2), signal_levels(1000).double()
    noisy = add_noise(clean, normal(1), signal[500])
    torch.testing.assert_close(ddim_step(noisy, clean, signal[500], signal[0], fresh, eta=1.0), clean)


def test_times_go_from_noise_to_data() -> None:
    assert times_of(1000, 4) == [1000, 750, 500, 250, 0]
    assert times_of(7, 7) == [7, 6, 5, 4, 3, 2, 1, 0] and len(set(times_of(1000, 333))) == 334
    for steps in (0, 8):
        with pytest.raises(UserError, match="1 to 7 steps"):
            times_of(7, steps)


def test_states_of_an_oracle_end_at_what_is_settled() -> None:
    clean, levels, asked = normal(0), signal_levels(100).double(), list[int]()
    seen: list[int] = []

    def noise_at(x: Tensor, t: int) -> Tensor:
        seen.append(t)
        return noise_of(x, clean, levels[t])

    def fresh(k: int) -> Tensor:
        asked.append(k)
        return normal(5 + k)

    plain = list(ddim_states(normal(1), noise_at, levels, 4, fresh))
    assert seen == [100, 75, 50, 25] and len(plain) == 5 and not asked
    assert torch.equal(plain[0], normal(1))
    torch.testing.assert_close(plain[-1], clean, rtol=1e-4, atol=1e-4)
    drawn = list(ddim_states(normal(1), noise_at, levels, 4, fresh, eta=1.0, settle=lambda x: 0 * x + 3))
    assert asked == [0, 1, 2, 3] and not torch.equal(drawn[2], plain[2])
    torch.testing.assert_close(drawn[-1], torch.full_like(clean, 3), rtol=1e-4, atol=1e-4)


def test_a_state_may_be_amended_after_each_step() -> None:
    """What is set is set in every state but the start, at its level, and the sampler goes on from it."""
    levels, start = signal_levels(100), torch.randn(3, 4)
    seen: list[float] = []

    def amend(state: torch.Tensor, level: torch.Tensor, k: int) -> torch.Tensor:
        assert k == len(seen)
        seen.append(float(level))
        return torch.cat([torch.full_like(state[:, :1], k), state[:, 1:]], dim=1)

    def noise_at(state: torch.Tensor, time: int) -> torch.Tensor:
        return state[:, :1].expand_as(state)

    plain = list(ddim_states(start, noise_at, levels, 5, lambda k: start))
    states = list(ddim_states(start, noise_at, levels, 5, lambda k: start, amend=amend))
    assert [x[:, 0].tolist() for x in states[1:]] == [[k] * 3 for k in range(5)]
    assert seen == [float(levels[t]) for t in (80, 60, 40, 20, 0)]
    assert torch.equal(states[1][:, 1:], plain[1][:, 1:])
    assert not torch.allclose(states[2][:, 1:], plain[2][:, 1:])
