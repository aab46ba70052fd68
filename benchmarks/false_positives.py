"""How often a comparison calls variants higher or lower that are equal.

    uv run benchmarks/false_positives.py

simulates comparisons by the accuracy of a probe and writes ``benchmarks/results/false-positives.json``: the
share of comparisons in which at least one variant gets a verdict, over all numbers of seeds and variants, at
worst over how answers come about. The variants are equal over all the samples that there could be: each finds
other test samples easy, and each seed makes an encoder better or worse.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from command import command
from torch import Tensor

from polymask.evaluation.intervals import paired
from polymask.files import write_json

OUT = Path(__file__).parent / "results" / "false-positives.json"

SEEDS, OTHERS, SAMPLES = (2, 3, 5), (1, 2, 3, 4), (20, 100, 500, 2000)

KINDS = {
    "seeds answer alike": (1.0, 0.0, True),
    "seeds answer alike, little taste": (0.3, 0.0, True),
    "answers by chance": (0.0, 0.0, False),
    "taste": (1.0, 0.0, False),
    "good and bad seeds": (0.0, 0.3, False),
    "taste, good and bad seeds": (1.0, 0.3, False),
}
"""How variants differ in the samples that they find easy, how seeds differ in quality, and whether the seeds
of a variant answer alike otherwise; both as standard deviations of logits."""


def answers(
    trials: int,
    variants: int,
    seeds: int,
    samples: int,
    kind: tuple[float, float, bool],
    generator: torch.Generator,
) -> Tensor:
    """Which answers of equal variants are right, float64 ``[trials, variants, seeds, samples]``."""
    taste, quality, alike = kind

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    easy = 0.8 + 1.5 * normal(trials, 1, 1, samples) + taste * normal(trials, variants, 1, samples)
    chance = torch.rand(trials, variants, 1 if alike else seeds, samples, generator=generator)
    return (chance < torch.sigmoid(easy + quality * normal(trials, variants, seeds, 1))).double()


def rate(trials: int, others: int, seeds: int, samples: int, kind: tuple[float, float, bool]) -> float:
    """Share of comparisons of equal variants with a verdict."""
    generator = torch.Generator().manual_seed(0)
    most = max(1, 2_000_000 // ((others + 1) * seeds * samples))
    wrong = 0
    for start in range(0, trials, most):
        right = answers(min(most, trials - start), others + 1, seeds, samples, kind, generator)
        mean, _, half = paired(right[:, 1:] - right[:, :1], others)
        wrong += int((mean.abs() > half).any(1).sum())
    return wrong / trials


def run(trials: int = 2000) -> None:
    """Simulate all.

    Args:
        trials: comparisons of each kind.
    """
    results = {}
    for seeds, samples in itertools.product(SEEDS, SAMPLES):
        row = {
            f"{others} other{'s' * (others > 1)}": max(
                rate(trials, others, seeds, samples, kind) for kind in KINDS.values()
            )
            for others in OTHERS
        }
        results[f"{seeds} seeds, {samples:,} test samples"] = row
        print(seeds, samples, row)
    write_json(OUT, {"setup": {"comparisons of each kind": trials, "kinds": len(KINDS)}, "results": results})


if __name__ == "__main__":
    command(run)
