"""Chance is a pure function of (seed, step, stream, sample, site), and looks like chance."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from polymask import Step, UserError
from polymask.step import gaussian

M64 = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """The finaliser of SplitMix64 in plain integers."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


def reference(step: Step, sample: int, site: int, stream: int) -> int:
    key = 0
    for word in (step.seed, step.index, stream):
        key = mix(key + (word ^ 1) * GAMMA & M64)
    key = mix(key ^ mix((sample ^ 1) * GAMMA & M64))
    word = mix(key + (site ^ 1) * GAMMA & M64)
    return word - (1 << 64) if word >> 63 else word


SEEDS = [0, 1, -1, 2**32, 2**63 - 2, -(2**63)]
IDS = [0, 1, 2**31, 2**53 + 1, 2**63 - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_equal_splitmix_in_plain_integers(seed: int) -> None:
    for index, stream in ((0, 0), (1, 0), (10**9, 3)):
        step = Step(index, 2 * 10**9, seed)
        bits = step.bits(torch.tensor(IDS), 3, stream).tolist()
        assert bits == [[reference(step, i, site, stream) for site in range(3)] for i in IDS]


def test_bits_are_those_of_every_release_before() -> None:
    """These numbers must never change: a resumed run would draw other masks."""
    bits = Step(index=7, total=100, seed=42).bits(torch.tensor([0, 123456789]), 2, stream=1)
    assert bits.tolist() == GOLDEN


GOLDEN = [
    [786433282799803333, -7984256626767005425],
    [-6221187363151929145, 9063595813018159737],
]


def test_seeds_beyond_64_bits_are_refused() -> None:
    for seed in (2**63 - 1, -(2**63) - 1):
        with pytest.raises(UserError, match="does not fit into 64 bits"):
            Step(seed=seed)


def test_a_sample_draws_the_same_in_any_batch() -> None:
    step, ids = Step(3, 10, 5), torch.arange(64) * 977
    whole = step.bits(ids, 40)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(step.bits(ids[shuffled], 40), whole[shuffled])
    assert torch.equal(step.bits(ids[5:6], 40), whole[5:6])
    assert torch.equal(step.bits(ids, 17), whole[:, :17])
    assert torch.equal(step.noise(ids[9:11], 40), step.noise(ids, 40)[9:11])


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Step(1, 2, 3).noise(torch.arange(8), 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_normal_numbers_are_finite_at_both_ends_and_symmetric() -> None:
    ends = gaussian(torch.tensor([0.0, 1 - 2.0**-24, 0.5]))
    assert ends.isfinite().all() and float(ends[0]) == -float(ends[1])
    assert float(ends[1]) == pytest.approx(5.42, abs=0.01) and abs(float(ends[2])) < 1e-6


def test_normal_numbers_have_the_moments_and_quantiles_of_a_normal_distribution() -> None:
    x = Step(5, 10, 11).normal(torch.arange(1 << 10), 1 << 10).double()
    n = x.numel() ** 0.5
    assert abs(float(x.mean())) < 5 / n and abs(float(x.var()) - 1) < 5 * math.sqrt(2) / n
    assert abs(float((x.abs() < 1).double().mean()) - math.erf(1 / math.sqrt(2))) < 5 * 0.47 / n


def test_noise_is_in_the_unit_interval_and_uniform() -> None:
    noise = Step(5, 10, 11).noise(torch.arange(1 << 10), 1 << 10)
    assert noise.dtype == torch.float32
    assert 0 <= float(noise.min()) < 1e-5 and 1 - 1e-5 < float(noise.max()) < 1
    # five standard errors of mean and variance of a million uniform numbers
    assert abs(float(noise.double().mean()) - 1 / 2) < 5 * math.sqrt(1 / 12) / 1024
    assert abs(float(noise.double().var()) - 1 / 12) < 5 * math.sqrt(1 / 180) / 1024


@pytest.mark.parametrize("vary", ["id", "step", "stream", "seed", "site"])
def test_every_byte_is_uniform_along_every_input(vary: str) -> None:
    """Chi-square over the 256 values of each of the eight bytes, draws along one input alone."""
    bits = along(vary)
    for shift in range(0, 64, 8):
        counts = torch.bincount(bits >> shift & 255, minlength=256).double()
        expected = len(bits) / 256
        chi_square = float((counts - expected).square().sum() / expected)
        assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255), (shift, chi_square)


PAIRS = list(itertools.combinations(["id", "step", "stream", "seed", "site"], 2))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_neighbours_along_two_inputs_are_uncorrelated(a: str, b: str) -> None:
    x, y = (along(v).double() for v in (a, b))
    for first, second in ((x, y), (x[1:], x[:-1]), (x[2:], x[:-2])):
        r = torch.corrcoef(torch.stack([first, second]))[0, 1]
        # draws along two inputs share the first one, the rest is independent
        assert abs(float(r)) * math.sqrt(len(first)) < 5, (a, b, float(r))


@pytest.mark.parametrize("vary", ["id", "step", "stream", "seed", "site"])
def test_one_bit_of_input_flips_half_the_output(vary: str) -> None:
    base = at()
    flips = torch.cat([base ^ at(**{vary: 1 << bit}) for bit in range(31)])
    changed = sum((flips >> bit & 1).sum() for bit in range(64)) / len(flips)
    assert 29 < float(changed) < 35


def test_progress_runs_from_0_to_1() -> None:
    assert Step(0, 10).progress == 0
    assert Step(5, 10).progress == 0.5
    assert Step(12, 10).progress == 1
    assert Step(3, 0).progress == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Step().index = 1  # type: ignore[misc]


@pytest.mark.compile
def test_bits_compile_once_for_all_steps() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(lambda ids, step: step.noise(ids, 9), fullgraph=True, backend=backend)
    ids = torch.arange(4)
    for index in range(6):
        assert torch.equal(compiled(ids, Step(index, 10, 1)), Step(index, 10, 1).noise(ids, 9))
    assert len(graphs) <= 2


@pytest.mark.compile
def test_machine_code_of_compiled_bits_draws_the_same() -> None:
    def draw(step: Step) -> tuple[Tensor, Tensor]:
        ids = torch.arange(8)  # made within the graph: their arithmetic too is compiled
        return step.bits(ids, 5), step.bits(ids, 196)

    torch.compiler.reset()
    for compiled, eager in zip(torch.compile(draw)(Step(3, 10)), draw(Step(3, 10)), strict=True):
        assert torch.equal(compiled, eager)


@functools.cache
def along(vary: str, n: int = 2048) -> Tensor:
    """``n`` draws along one input, all others 0."""
    if vary == "id":
        return Step().bits(torch.arange(n), 1)[:, 0]
    if vary == "site":
        return Step().bits(torch.zeros(1, dtype=torch.int64), n)[0]
    return torch.cat([at(**{vary: i}) for i in range(n)])


def at(id: int = 0, step: int = 0, stream: int = 0, seed: int = 0, site: int = 0) -> Tensor:
    if site > 4096:
        return torch.tensor([reference(Step(step, 1 << 40, seed), id, site, stream)])
    return Step(step, 1 << 40, seed).bits(torch.tensor([id]), site + 1, stream)[0, site:]
