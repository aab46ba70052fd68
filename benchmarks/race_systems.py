"""What a training step of each system costs, as a ratio to that of another, as a rule mae.

    uv run benchmarks/race_systems.py --out benchmarks/results/systems-vision.json
    uv run benchmarks/race_systems.py --systems audio/mae,audio/simmim --data audio/words

A step is forward, backward, the optimiser and what the system does after it (teachers follow), on one
batch of real samples, at the preset ``small`` or another (``vision/mto:small-mae``). All systems take
turns in one process, in another order each round; time is that of the process, so that others on the
machine hardly count. A ratio is the median over rounds of (system / reference in that round), with the
smallest and the largest.

A ratio is per sample of the data, whatever a system makes of it: vision/dmjd encodes every image twice.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from polymask import Step, System
from polymask.protocols import Batch
from polymask.report import views
from polymask.run import build_from_config
from polymask.training.optimiser import make_optimiser

VISION = (
    "vision/mae,vision/simmim,vision/colormae,vision/hpm,vision/hpm:prediction-only,vision/dmjd,"
    "vision/mixedae,vision/mto,vision/mto:small-mae,vision/mfm"
)
WARM_UP = 3


class Contestant:
    """A system that trains.

    Args:
        spec: its name, and its preset behind a colon; ``small`` where there is none.
        data: as in ``--data``.
        samples: per step.
    """

    def __init__(self, spec: str, data: str, samples: int) -> None:
        name, _, preset = spec.partition(":")
        title, _, source = data.partition(":")
        chosen = {"name": title, **({"source": source} if source else {})}
        config = {"system": name, "preset": preset or "small", "data": chosen, "seed": 0}
        self.system: System
        self.system, dataset, options = build_from_config(config)
        self.optimiser = make_optimiser(self.system, options, 1e-4)[0]
        self.batch: Batch = views.batch_of(dataset.split("train"), range(samples))
        self.system.train()

    def step(self, step: Step) -> float:
        """Milliseconds that one step takes."""
        self.optimiser.zero_grad(set_to_none=True)
        start = time.process_time()
        torch.stack([*self.system(self.batch, step).values()]).sum().backward()
        self.system.after_backward(step)
        self.optimiser.step()
        self.system.after_step(step)
        return (time.process_time() - start) * 1e3

    def row(self, took: list[float], reference: list[float]) -> dict[str, Any]:
        """What is written down."""
        ratios = [own / other for own, other in zip(took, reference, strict=True)]
        trained = sum(p.numel() for p in self.system.parameters() if p.requires_grad)
        return {
            "ms_per_step": statistics.median(took),
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "trained_parameters": trained,
        }


def race(
    systems: str = VISION,
    data: str = "vision/fashion",
    reference: str | None = None,
    samples: int = 64,
    rounds: int = 21,
    threads: int = 1,
    out: Path | None = None,
) -> None:
    """Time one training step of each system.

    Args:
        systems: names, with commas between; a preset behind a colon.
        data: that all of them train on, as in ``--data``.
        reference: which of them the ratios are to; the first by default.
        samples: per step.
        rounds: counted ones, after three of warm-up.
        threads: of the CPU.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    names = systems.split(",")
    reference = reference or names[0]
    if reference not in names:
        raise SystemExit(f"{reference} is none of {systems}")
    contestants = {name: Contestant(name, data, samples) for name in names}
    took: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    for turn in range(rounds + WARM_UP):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            # towards the end of a run, where curricula are at full strength
            step = Step(10 * rounds + turn, 11 * rounds + WARM_UP, 0)
            took[name].append(contestants[name].step(step))
    kept = {name: times[WARM_UP:] for name, times in took.items()}
    rows = {name: contestants[name].row(kept[name], kept[reference]) for name in names}
    print(f"{'':28}{'ms/step':>10}{'ratio':>8}{'min':>8}{'max':>8}")
    for name, row in rows.items():
        print(f"{name:28}{row['ms_per_step']:10.1f}{row['ratio']:8.2f}{row['min']:8.2f}{row['max']:8.2f}")
    if out is not None:
        setup = {
            "data": data,
            "samples": samples,
            "rounds": rounds,
            "threads": threads,
            "device": platform.processor() or "cpu",
            "reference": reference,
            "versions": {name: version(name) for name in ("polymask", "torch", "timm")},
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"setup": setup, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    auto_cli(race)
