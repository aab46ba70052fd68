"""Coloured noise has the spectrum of its colour, exactly alike everywhere, and masks that follow from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Request, Step, UserError
from polymask.maskings import Color, Disjoint
from polymask.maskings.color import WIDTHS, sum_of, taps

STEP = Step(index=3, total=10, seed=1)
COLORS = tuple(WIDTHS)


def ask(*grid: int, n: int = 2000, **options: Any) -> Request:
    return Request(torch.arange(n), math.prod(grid), STEP, **{"grid": grid, **options})


def masks(n: int = 2000, **options: Any) -> Tensor:
    """``[n, 14, 14]``: the grid of a ViT-B/16."""
    return Color(**options)(ask(14, 14, n=n)).hidden.view(n, 14, 14)


def white(*grid: int, n: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1 << 16, (n, *grid), generator=generator).double()


def filtered(color: str, sigma: Any, noise: Tensor) -> Tensor:
    return sum_of(Color(color=color, sigma=sigma).colors[0][1], noise)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- the filter


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 2.0, 7.3])
@pytest.mark.parametrize("bits", [5, 17, 24])
def test_weights_are_a_gaussian_in_whole_numbers(sigma: float, bits: int) -> None:
    weights = torch.tensor(taps(sigma, bits), dtype=torch.float64)
    t = torch.arange(len(weights), dtype=torch.float64) - len(weights) // 2
    ideal = torch.exp(-0.5 * (t / max(sigma, 1e-9)) ** 2)
    assert weights.sum() == 2**bits and weights.min() >= 0
    assert (weights - 2**bits * ideal / ideal.sum()).abs().max() <= 1


@pytest.mark.parametrize("grid", [(14, 14), (7, 9), (24,), (4, 6, 5), (2, 1), (150,), (65, 3)])
def test_the_filter_is_the_circular_convolution(grid: tuple[int, ...]) -> None:
    noise, axes = white(*grid, n=3), len(grid)
    bits = min(35 // axes, 24)
    gain = torch.ones(())
    for axis, n in enumerate(grid):
        kernel = torch.zeros(n, dtype=torch.float64)
        weights = taps(1.5, bits)
        for k, weight in enumerate(weights):
            kernel[(k - len(weights) // 2) % n] += weight
        shape = [n if a == axis else 1 for a in range(axes)]
        gain = gain * torch.fft.fft(kernel).view(shape)
    dims = tuple(range(1, axes + 1))
    expected = torch.fft.ifftn(torch.fft.fftn(noise, dim=dims) * gain, dim=dims).real
    scale = 2.0 ** (16 + bits * axes)
    torch.testing.assert_close(filtered("red", 1.5, noise) / scale, expected / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(14, 14), (40,), (4, 6, 5), (3, 4, 2, 5)])
def test_every_sum_is_exact(grid: tuple[int, ...]) -> None:
    """The largest numbers there can be still lie below 2 ** 53, so no order of adding rounds."""
    full = torch.full((1, *grid), 2.0**16 - 1, dtype=torch.float64)
    scale = 1 << (min(35 // len(grid), 24) * len(grid))
    assert (filtered("red", 2.0, full) == ((1 << 16) - 1) * scale).all()
    assert 3 * (1 << 16) * scale < 1 << 53
    assert not filtered("blue", 2.0, full).any()
    noise = white(*grid)
    turned = filtered("purple", (1.0, 2.0), noise.flip(1).roll(1, 1))
    exact = filtered("purple", (1.0, 2.0), noise)
    assert (exact == exact.round()).all() and exact.abs().max() < 2**53
    # turning round swaps the order of all sums; whole kernels may be lopsided by their last digit
    torch.testing.assert_close(turned, exact.flip(1).roll(1, 1), rtol=0, atol=1e-3 * scale * 2**16)


def test_green_and_purple_make_white() -> None:
    noise = white(14, 14)
    both = filtered("green", (1.0, 2.0), noise) + filtered("purple", (1.0, 2.0), noise)
    assert torch.equal(both, filtered("white", None, noise))
    both = filtered("red", 1.0, noise) + filtered("blue", 1.0, noise)
    assert torch.equal(both, filtered("white", None, noise))


def power(color: str, sigma: Any, n: int = 64) -> tuple[Tensor, Tensor]:
    """Frequency and power over that of white noise, by frequency along the first axis of 64 x 64."""
    x = filtered(color, sigma, white(n, n, n=48)) / 2.0**34
    gain = torch.fft.fft2(x - x.mean()).abs().square().mean(0) / (n * n * (2.0**32 - 1) / 12)
    return torch.fft.fftfreq(n, dtype=torch.float64)[1 : n // 2], gain[1 : n // 2, 0]


@pytest.mark.parametrize(
    ("color", "sigma", "law"),
    [
        ("white", None, lambda g, s: 1 + 0 * g(1)),
        ("red", 2.0, lambda g, s: g(s) ** 2),
        ("blue", 1.0, lambda g, s: (1 - g(s)) ** 2),
        ("green", (1.0, 2.0), lambda g, s: (g(s[0]) - g(s[1])) ** 2),
        ("purple", (1.0, 2.0), lambda g, s: (1 - g(s[0]) + g(s[1])) ** 2),
    ],
)
def test_spectra_in_closed_form(color: str, sigma: Any, law: Any) -> None:
    frequency, found = power(color, sigma)
    expected = law(lambda s: torch.exp(-2 * (math.pi * s * frequency) ** 2), sigma)
    # means of 48 exponentials: 15 % each
    assert ((found - expected) / (expected + 1e-3)).abs().mean() < 0.2
    third = len(frequency) // 3
    low, middle, high = found[:third].mean(), found[third:-third].mean(), found[-third:].mean()
    if color == "red":
        assert low > 20 * middle
    if color == "blue":
        assert high > middle > 2 * low
    if color == "green":
        peak = frequency[found.argmax()]
        assert 0.05 < peak < 0.25 and found.max() > 5 * found[-5:].mean()
    if color == "purple":
        dip = frequency[found.argmin()]
        assert 0.05 < dip < 0.25


# --------------------------------------------------------------------------------------- the masks


def agreement(hidden: Tensor) -> float:
    """How often two neighbours are both hidden or both visible."""
    across = (hidden[:, :, 1:] == hidden[:, :, :-1]).float().mean()
    down = (hidden[:, 1:] == hidden[:, :-1]).float().mean()
    return float((across + down) / 2)


def pieces(hidden: Tensor) -> float:
    """Connected pieces of visible sites per mask."""
    visible, total = (~hidden).tolist(), 0
    for mask in visible:
        left = {(i, j) for i, row in enumerate(mask) for j, seen in enumerate(row) if seen}
        while left:
            total += 1
            front = [left.pop()]
            while front:
                i, j = front.pop()
                for near in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                    if near in left:
                        left.remove(near)
                        front.append(near)
    return total / len(visible)


@pytest.mark.parametrize(
    ("color", "sigma", "expected", "within"),
    [
        ("white", None, 0.625, 0.006),
        ("red", 1.0, 0.820, 0.01),
        ("red", 2.0, 0.895, 0.01),
        ("red", 4.0, 0.930, 0.025),
        ("blue", 0.5, 0.561, 0.006),
        ("blue", 1.0, 0.592, 0.006),
        ("blue", 2.0, 0.613, 0.006),
        ("green", (0.5, 1.0), 0.619, 0.006),
        ("green", (0.75, 1.5), 0.717, 0.006),
        ("green", (1.0, 2.0), 0.779, 0.006),
        ("green", (1.0, 4.0), 0.809, 0.006),
        ("purple", (0.5, 2.0), 0.583, 0.006),
        ("purple", (1.0, 2.0), 0.601, 0.006),
    ],
)
def test_neighbours_agree_as_in_windows_of_a_large_canvas(
    color: Any, sigma: float | Sequence[float] | None, expected: float, within: float
) -> None:
    """The numbers are of 14 x 14 windows cut from filtered uniform noise of 64 x 64, 2,000 masks each;
    a hole that is wide against the grid meets itself round the edges, hence the room for red."""
    assert agreement(masks(color=color, sigma=sigma)) == pytest.approx(expected, abs=within)


def test_colours_are_ordered_by_how_much_they_clump() -> None:
    order = ("red", "green", "white", "purple", "blue")
    agree = [agreement(masks(color=color)) for color in order]
    assert agree == sorted(agree, reverse=True)
    count = [pieces(masks(200, color=color)) for color in order]
    assert count == sorted(count)
    assert count == pytest.approx([2.6, 8.6, 27.1, 30.9, 32.3], rel=0.12)


def test_what_is_hidden_in_one_piece_is_harder_to_predict() -> None:
    """The best there is, on fields that are alike to neighbours: red > green > random > blue."""
    at = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0)).double()
    likeness = torch.exp(-torch.cdist(at, at) / 3)
    error = {}
    for color in ("red", "green", "white", "blue"):
        left = []
        for hidden in masks(40, color=color).flatten(1):
            seen = likeness[~hidden][:, ~hidden]
            across = likeness[hidden][:, ~hidden]
            left.append(1 - (across @ torch.linalg.inv(seen) * across).sum(1).mean())
        error[color] = float(torch.stack(left).mean())
    assert error["red"] > 1.3 * error["green"] and error["green"] > 1.1 * error["white"], error
    assert 0.9 * error["white"] < error["blue"] < 0.99 * error["white"], error


def test_how_far_hidden_sites_lie_from_anything_visible() -> None:
    """What makes the task hard: mean distance to the nearest visible site, in the same windows."""
    place = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0))
    apart = torch.cdist(place, place)
    found = {}
    for color in COLORS:
        hidden = masks(1000, color=color).flatten(1)
        nearest = torch.stack([apart[:, ~row].amin(1) for row in hidden])
        found[color] = float(nearest[hidden].mean())
    assert found == pytest.approx(
        {"white": 1.24, "red": 2.95, "blue": 1.21, "green": 1.58, "purple": 1.20}, rel=0.08
    )


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("grid", [(14, 14), (30,), (4, 5, 6)])
def test_exactly_the_ratio_and_every_site_alike(color: Any, grid: tuple[int, ...]) -> None:
    mask = Color(color=color)(ask(*grid, n=4096))
    sites = math.prod(grid)
    assert (mask.hidden.sum(1) == math.floor(0.75 * sites + 0.5)).all()
    rate = mask.hidden.double().mean(0)
    z = (rate - rate.mean()) / (rate.mean() * (1 - rate.mean()) / 4096).sqrt()
    # few waves make up a wide hole, so sites go together and the mean of squares spreads
    assert z.abs().max() < 4.7 and z.square().mean() < 3


@pytest.mark.parametrize("grid", [(64,), (8, 40), (40, 8)])
def test_sequences_and_spectrograms_have_colours_too(grid: tuple[int, ...]) -> None:
    """Along every axis: neighbours agree in the order of the colours, and white is random."""
    agree = {}
    for color in COLORS:
        hidden = Color(color=color)(ask(*grid)).hidden.view(-1, *grid)  # type: ignore[arg-type]
        assert (hidden.flatten(1).sum(1) == round(0.75 * math.prod(grid))).all()
        agree[color] = [
            float((hidden == hidden.roll(1, axis)).float().mean()) for axis in range(1, len(grid) + 1)
        ]
    for axis in range(len(grid)):
        red, green, white_, blue = (agree[color][axis] for color in ("red", "green", "white", "blue"))
        assert red > green + 0.02 and green > white_ + 0.02 and white_ > blue + 0.02, agree
        assert white_ == pytest.approx(0.625, abs=0.02)


def test_padding_of_a_sequence_changes_nothing() -> None:
    """The ring closes where the sample ends, so each is masked as if it were alone."""
    lengths = torch.tensor([30, 17, 24, 9])
    for color in COLORS:
        valid = torch.arange(40) < lengths[:, None]
        padded = Color(color=color)(ask(40, n=4, valid=valid)).hidden  # type: ignore[arg-type]
        for i, n in enumerate(lengths.tolist()):
            request = dataclasses.replace(ask(n), ids=torch.tensor([i]))
            alone = Color(color=color)(request)  # type: ignore[arg-type]
            assert torch.equal(padded[i, :n], alone.hidden[0])


@pytest.mark.parametrize("color", COLORS)
def test_a_mask_depends_on_its_sample_alone(color: Any) -> None:
    request = ask(14, 14, n=64)
    whole = Color(color=color)(request).hidden
    for rows in ([5], [60, 2, 17], list(range(33))):
        part = Color(color=color)(dataclasses.replace(request, ids=request.ids[rows]))
        assert torch.equal(part.hidden, whole[rows])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Color(color=color)(request).hidden, whole)


def test_colours_change_over_the_run() -> None:
    masking = Color(color="green", sigma=(0.75, 1.5), then=[(0.5, "blue"), (0.8, "red")])
    plain = [Color(sigma=(0.75, 1.5)), Color(color="blue"), Color(color="red")]
    for index, expected in ((0, 0), (4, 0), (5, 1), (7, 1), (8, 2), (9, 2)):
        request = dataclasses.replace(ask(8, 8, n=16), step=Step(index, 10, 3))
        drawn = [torch.equal(masking(request).hidden, other(request).hidden) for other in plain]
        assert drawn == [k == expected for k in range(3)]


def test_views_that_belong_together_can_be_cut_from_it() -> None:
    masking = Disjoint(masking=Color(ratio=0.5))
    first, second = (masking(ask(8, 8, n=8, stream=view)).hidden for view in (0, 1))
    assert torch.equal(second, ~first)
    assert torch.equal(first, Color(ratio=0.5)(ask(8, 8, n=8)).hidden)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": "pink"}, "choose one of white, red, blue, green, purple"),
        ({"color": "green", "sigma": 1.0}, "green noise takes 2 values of sigma"),
        ({"color": "white", "sigma": 1.0}, "white noise takes 0 values"),
        ({"color": "red", "sigma": 0.0}, "sigma must be positive"),
        ({"sigma": (2.0, 1.0)}, "two of them must rise"),
        ({"then": [(0.5, "red"), (0.5, "blue")]}, "rising shares of the run"),
        ({"then": [(1.0, "red")]}, "rising shares of the run"),
        ({"then": [(0.5, "mauve")]}, "choose one of"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Color(**options)


def test_sites_without_a_grid_are_refused() -> None:
    with pytest.raises(UserError, match="use core/random"):
        Color()(ask(40, grid=None))
