"""Whether each system learns: predictions beside the best constant, the encoder beside an untrained one.

    uv run benchmarks/learns.py vision
    uv run benchmarks/learns.py audio --only audio/mae,audio/hubert

pre-trains every system of a package for a short while at its preset ``small``, asks
``core/constant-baseline`` about its predictions and probes its encoder beside the same one untrained. Writes
``benchmarks/results/learns-<package>.json`` with the systems asked for; what it holds of others stays. The
same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from command import command
from evidence import ROOT

from polymask import Run, RunConfig, default_registry
from polymask.evaluation import evaluate_run, probe
from polymask.evaluation.constant_baseline import CONSTANT, DIFFERENCE
from polymask.evaluation.result import METHODS, TRAINED, UNTRAINED
from polymask.files import write_json
from polymask.run import holds_run
from polymask.training import fit

RUNS: Mapping[str, Mapping[str, Any]] = {
    "vision": {"data": "vision/fashion", "steps": 600},
    "audio": {"data": {"name": "audio/words", "label": "word"}, "steps": 1500, "batch_size": 16},
    "pointcloud": {
        "data": {"name": "pointcloud/cad", "per_class": 150},
        "steps": 400,
        "batch_size": 16,
    },
    "language": {
        "data": {"name": "language/glosses", "vocab_size": 2048, "length": 32},
        "steps": 2000,
        "batch_size": 32,
        "lr": 1e-3,
    },
}
"""Data and budget of all systems of a package."""

# after 400 steps of 16 shapes an autoencoder of voxels has hardly left the start
VOXELS: Mapping[str, Any] = {"steps": 1500, "batch_size": 32}

# encoding every patch, these know no more after 600 steps than an untrained encoder
SLOW: Mapping[str, Any] = {"steps": 2000}

# and these follow their own teacher, which stays near the start for as long
LATENTS: Mapping[str, Any] = {"steps": 1500}

OTHERS: Mapping[str, Mapping[str, Any] | None] = {
    "vision/simmim": SLOW,
    "vision/mto": SLOW,
    "vision/mto:small-mae": {},
    "vision/ijepa": LATENTS,
    "vision/dmt-jepa": LATENTS,
    "pointcloud/mae:small-voxels": VOXELS,
    "pointcloud/geomae": VOXELS,
    # packed, as its preset has it, samples have no class
    "language/meap": {"data.pack": False},
    # its data has pairs of responses, and no classes
    "language/sparsepo": None,
}
"""What differs for some systems, with the preset behind a colon where it is not ``small``; None: no run."""

PROBED = 4000
"""Samples that probes train on at most."""


def run(package: str, only: str | None = None, folder: Path = Path("runs")) -> None:
    """Train systems of a package and keep what they have learned.

    Args:
        package: whose systems.
        only: some of them, with commas between; all by default.
        folder: the runs go into one below.
    """
    known = systems_of(package)
    asked = list(known) if only is None else only.split(",")
    if missing := [name for name in asked or [package] if name not in known]:
        raise SystemExit(f"{', '.join(missing)}: choose from {', '.join(known or RUNS)}")
    path = ROOT / "benchmarks" / "results" / f"learns-{package}.json"
    rows = json.loads(path.read_text())["systems"] if path.exists() else {}
    for spec in asked:
        one = trained(spec, known[spec], folder / f"learns-{spec.replace('/', '-').replace(':', '-')}")
        rows[spec] = {"options": known[spec], "threads": torch.get_num_threads(), **learned(one)}
        commit = json.loads((one.folder / "environment.json").read_text())["git"]
        write_json(path, {"commit": commit, "systems": {name: rows[name] for name in known if name in rows}})
        print(spec, json.dumps(rows[spec]), flush=True)


def systems_of(package: str) -> dict[str, Mapping[str, Any]]:
    """Options of the run of each system of a package, in the order of the registry."""
    names = [part.full_name for part in default_registry().parts("systems") if part.plugin == package]
    specs = [*names, *(spec for spec in OTHERS if ":" in spec and spec.partition(":")[0] in names)]
    return {
        spec: {"preset": spec.partition(":")[2] or "small", **RUNS[package], **changes}
        for spec in specs
        if (changes := OTHERS.get(spec, {})) is not None
    }


def trained(spec: str, options: Mapping[str, Any], folder: Path) -> Run:
    """The run of one system, trained now or before."""
    run = Run.create(RunConfig.resolve({"system": spec.partition(":")[0], **options}), folder)
    fit(run, resume=holds_run(folder), progress=False)
    return run


def learned(run: Run) -> dict[str, Any]:
    """Predictions beside the best constant, and probes beside the untrained encoder, with intervals."""
    costs = evaluate_run(run, {"name": "core/constant-baseline", "batch_size": 16})
    probes = probe(run, limit=PROBED, raw=False)

    def score(row: str, metric: str) -> tuple[float, float | None, float | None]:
        one = costs.score(row, metric)
        assert one is not None
        return one.value, one.low, one.high

    def accuracy(method: str) -> dict[str, Any]:
        gain = probes.differences[UNTRAINED, method]
        means = {row: probes.accuracy(row, method).mean for row in (TRAINED, UNTRAINED)}
        return {**means, "difference": (gain.mean, gain.low, gain.high)}

    return {
        "objectives": {
            metric: {
                **{row: score(row, metric)[0] for row in (TRAINED, CONSTANT)},
                "difference": score(DIFFERENCE, metric),
            }
            for metric in costs.metrics
        },
        "probes": {method: accuracy(method) for method in METHODS},
    }


if __name__ == "__main__":
    command(run)
