r"""What a training step of each system costs, as a ratio to that of another, as a rule mae.

    uv run benchmarks/race_systems.py
    uv run benchmarks/race_systems.py --systems audio/mae,audio/simmim --data audio/words
    uv run benchmarks/race_systems.py --systems language/mlm,language/climb --data language/glosses
    uv run benchmarks/race_systems.py --systems DPO,language/sparsepo --data language/sentiment
    uv run benchmarks/race_systems.py --systems maskalign,maskalign-cached
    uv run benchmarks/race_systems.py --data pointcloud/shapes --samples 16 \
        --systems pointcloud/mae:small-voxels,pointcloud/geomae,pointcloud/msm

A step is forward, backward, the optimiser and what the system does after it (teachers follow), on one
batch of real samples, at the preset ``small`` or another (``vision/mto:small-mae``). All systems take
turns in one process, in another order each round; time is that of the process, so that others on the
machine hardly count. A ratio is the median over rounds of (system / reference in that round), with the
smallest and the largest.

A ratio is per sample of the data, whatever a system makes of it: vision/dmjd encodes every image twice.
"""

from __future__ import annotations

import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from command import command
from installed import versions
from turns import Contestant, ratio, seconds_per_step

from polymask import Run, RunConfig, default_registry
from polymask.files import write_json
from polymask.run import holds_run
from polymask.training import fit

ONES = "language/constant-weight"
TEACHER = "runs/race-teacher"
"""A network of the student's size, made where a race asks for it."""
TAUGHT = {
    "system": "vision/maskalign",
    "target.model": "vit_small_patch16_224",
    "target.pretrained": False,
    "fusion": "sum",
}
NAMED: dict[str, dict[str, Any]] = {
    "DPO": {"system": "language/sparsepo", "masking": ONES, "kl_masking": {"name": ONES, "weight": 0.0}},
    "maskalign": TAUGHT,
    "maskalign-cached": {**TAUGHT, "target.cache": "runs/race-features"},
    "vision/maskalign": {"system": "vision/maskalign", "target.run": TEACHER},
    "vision/hybrid-distillation": {
        "system": "vision/hybrid-distillation",
        "target.run": TEACHER,
        "relation_target.run": TEACHER,
    },
    "vision/comet": {"system": "vision/comet", "detector": "untrained"},
    "vision/r-amt": {"system": "vision/r-amt", "base": "random"},
    "vision/maskunet": {"system": "vision/maskunet", "base": "random"},
    "vision/maskgit": {"system": "vision/maskgit", "tokenizer.file": "random:512"},
    "vision/recap": {"system": "vision/recap", "host.tokenizer.file": "random:512"},
}
"""Systems that are another with some of its options changed, and those that need some."""


def config_of(spec: str, data: str) -> dict[str, Any]:
    """The run of a system, whose preset stands behind a colon; ``small`` where there is none."""
    name, _, preset = spec.partition(":")
    title, _, source = data.partition(":")
    chosen = {"name": title, **({"source": source} if source else {})}
    return {**NAMED.get(name, {"system": name}), "preset": preset or "small", "data": chosen}


def teacher(config: dict[str, Any]) -> None:
    """A run of vision/supervised, unless there is one."""
    if not holds_run(Path(TEACHER)):
        fit(Run.create(RunConfig.resolve(config, {"system": "vision/supervised"}), TEACHER), progress=False)


def row(contestant: Contestant, took: list[float], reference: list[float]) -> dict[str, Any]:
    """What is written down."""
    trained = sum(p.numel() for p in contestant.system.parameters() if p.requires_grad)
    return {
        "ms_per_step": 1e3 * statistics.median(took),
        **ratio(took, reference),
        "trained_parameters": trained,
    }


def race(
    systems: str | None = None,
    data: str = "vision/fashion",
    reference: str | None = None,
    samples: int = 64,
    rounds: int = 21,
    threads: int = 1,
    out: Path | None = None,
) -> None:
    """Time one training step of each system.

    Args:
        systems: names, with commas between; a preset behind a colon. All of vision by default.
        data: that all of them train on, as in ``--data``.
        reference: which of them the ratios are to; the first by default.
        samples: per step.
        rounds: counted ones, after three of warm-up.
        threads: of the CPU.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    known = [part.full_name for part in default_registry().parts("systems") if part.plugin == "vision"]
    names = known if systems is None else systems.split(",")
    reference = reference or names[0]
    if reference not in names:
        raise SystemExit(f"{reference} is none of {', '.join(names)}")
    if any(TEACHER in config_of(name, data).values() for name in names):
        teacher({"data": data, "preset": "small", "steps": 1})
    contestants = {name: Contestant(config_of(name, data), samples) for name in names}
    took = seconds_per_step(contestants, rounds)
    rows = {name: row(contestants[name], took[name], took[reference]) for name in names}
    print(f"{'':28}{'ms/step':>10}{'ratio':>8}{'min':>8}{'max':>8}")
    for name, found in rows.items():
        print(
            f"{name:28}{found['ms_per_step']:10.1f}{found['ratio']:8.2f}{found['min']:8.2f}{found['max']:8.2f}"
        )
    if out is not None:
        setup = {
            "data": data,
            "samples": samples,
            "rounds": rounds,
            "threads": threads,
            "device": platform.processor() or "cpu",
            "reference": reference,
            "versions": versions("polymask", "torch", "timm"),
        }
        write_json(out, {"setup": setup, "results": rows})


if __name__ == "__main__":
    command(race)
