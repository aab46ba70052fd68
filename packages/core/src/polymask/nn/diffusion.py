"""Diffusion: noise added to data over T steps, and taken away again.

Pure functions of tensors of any shape; the first axis is the sample. Noise is an argument: take it from
:meth:`polymask.Step.normal`. Time 0 is data without noise and times 1 to T have noise, so that a network that
is told the time can be shown clean data too. The signal level at a time is the share of the variance that is
still data's: 1 at time 0, almost 0 at T (alpha-bar of Ho et al. 2020, arXiv 2006.11239).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from polymask.errors import UserError

Noising = Literal["cosine", "linear"]


def signal_levels(times: int, noising: Noising = "cosine") -> Tensor:
    """Share of the data's variance that is left at each time.

    Args:
        times: T, the number of steps from data to noise.
        noising: ``"cosine"`` (Nichol and Dhariwal 2021, arXiv 2102.09672: offset 0.008, beta at most 0.999)
            or ``"linear"`` (Ho et al. 2020: beta from 1e-4 to 0.02 at T = 1,000, scaled by 1,000 / T).

    Returns:
        float32 ``[T + 1]``, decreasing from 1.

    Raises:
        UserError: no such schedule, or too few steps.
    """
    if noising == "cosine":
        u = torch.arange(times + 1, dtype=torch.float64) / times
        wave = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        beta = (1 - wave[1:] / wave[:-1]).clamp(max=0.999)
    elif noising == "linear":
        beta = torch.linspace(1e-4, 0.02, times, dtype=torch.float64) * 1000 / times
        if times < 21:
            raise UserError(f"linear noise needs 21 times or more, got {times}: use cosine noise")
    else:
        raise UserError(f"noising={noising!r}: choose 'cosine' or 'linear'")
    left = (1 - beta).cumprod(0)
    return torch.cat([left.new_ones(1), left]).float()


def add_noise(clean: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """Data at a time: ``sqrt(signal) clean + sqrt(1 - signal) noise``.

    Args:
        clean: ``[B, ...]``.
        noise: standard normal, ``[B, ...]``.
        signal: the level of each sample, ``[B]``, or one for all, ``[]``.
    """
    s = _wide(signal, clean)
    return s.sqrt() * clean + (1 - s).sqrt() * noise


def clean_of(noisy: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """The data that :func:`add_noise` made this of; clip it at the last times, which divide by almost 0."""
    s = _wide(signal, noisy)
    return (noisy - (1 - s).sqrt() * noise) / s.sqrt()


def noise_of(noisy: Tensor, clean: Tensor, signal: Tensor) -> Tensor:
    """The noise that :func:`add_noise` made this of; ``signal`` is below 1."""
    s = _wide(signal, noisy)
    return (noisy - s.sqrt() * clean) / (1 - s).sqrt()


def ddim_step(
    noisy: Tensor, clean: Tensor, signal: Tensor, then: Tensor, fresh: Tensor, eta: float = 0.0
) -> Tensor:
    """From one time to an earlier one (Song et al. 2020, arXiv 2010.02502).

    Args:
        noisy: data at the time, ``[B, ...]``.
        clean: the data without noise, as predicted.
        signal: level at the time, ``[B]`` or ``[]``, below 1.
        then: level at the earlier time.
        fresh: standard normal, ``[B, ...]``; counts where ``eta`` is above 0.
        eta: 0 for a path without chance (DDIM), 1 for a draw from the posterior (DDPM, Ho et al. 2020).
    """
    a, b = _wide(signal, noisy), _wide(then, noisy)
    spread = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    towards = (1 - b - spread**2).clamp(min=0).sqrt()
    return b.sqrt() * clean + towards * noise_of(noisy, clean, signal) + spread * fresh


def ddim_states(
    start: Tensor,
    noise_at: Callable[[Tensor, int], Tensor],
    levels: Tensor,
    steps: int,
    fresh: Callable[[int], Tensor],
    *,
    eta: float = 0.0,
    settle: Callable[[Tensor], Tensor] = lambda clean: clean,
    amend: Callable[[Tensor, Tensor, int], Tensor] = lambda state, level, k: state,
) -> Iterator[Tensor]:
    """All states from noise to data: the start, then one for each step of DDIM.

    Args:
        start: standard normal, ``[B, ...]``.
        noise_at: predicts the noise in a state at a time.
        levels: as :func:`signal_levels` gives them.
        steps: how many.
        fresh: standard normal, ``[B, ...]``, for step 0, 1 and so on; asked for where ``eta`` is above 0.
        eta: see :func:`ddim_step`.
        settle: corrects each prediction of the clean data: clips it, or puts in what is known.
        amend: corrects the state after each step, given its level and the number of the step.
    """
    state = start
    yield state
    for k, (time, then) in enumerate(pairwise(times_of(len(levels) - 1, steps))):
        clean = settle(clean_of(state, noise_at(state, time), levels[time]))
        chance = fresh(k) if eta else torch.zeros_like(state)
        state = ddim_step(state, clean, levels[time], levels[then], chance, eta)
        state = amend(state, levels[then], k)
        yield state


def times_of(times: int, steps: int) -> list[int]:
    """The times of a sampler, from T down to 0, evenly spaced: ``steps + 1`` of them.

    Raises:
        UserError: more steps than times.
    """
    if not 1 <= steps <= times:
        raise UserError(f"sampling takes 1 to {times} steps, as many as there are times, got {steps}")
    return [round(times * (steps - k) / steps) for k in range(steps + 1)]


def _wide(level: Tensor, like: Tensor) -> Tensor:
    """A number per sample, or one for all, that broadcasts to data."""
    return level.reshape(level.shape + (1,) * (like.dim() - 1)) if level.dim() else level
