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
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from command import command
from evidence import ROOT

from polymask import Run, RunConfig, default_registry
from polymask.config import CONFIG
from polymask.evaluation import evaluate_run, probe
from polymask.evaluation.constant_baseline import CONSTANT, DIFFERENCE
from polymask.evaluation.measurements import Measurements
from polymask.evaluation.result import METHODS, TRAINED, UNTRAINED, ProbeResult
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

OTHERS: Mapping[str, Mapping[str, Any] | None] = {
    "vision/mto:small-mae": {},
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
        listed = ", ".join(known or RUNS)
        raise SystemExit(f"{', '.join(missing)}: choose from {listed}")
    path = ROOT / "benchmarks" / "results" / f"learns-{package}.json"
    rows = json.loads(path.read_text())["systems"] if path.exists() else {}
    for spec in asked:
        rows[spec] = learned(spec, known[spec], folder / f"learns-{spec.replace('/', '-').replace(':', '-')}")
        kept = {name: rows[name] for name in known if name in rows}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"commit": commit(), "systems": kept}, indent=1) + "\n")
        os.replace(partial, path)
        print(spec, json.dumps(rows[spec]), flush=True)


def systems_of(package: str) -> dict[str, Mapping[str, Any]]:
    """Options of the run of each system of a package, in the order of the registry."""
    names = [part.full_name for part in default_registry().parts("systems") if part.plugin == package]
    found: dict[str, Mapping[str, Any]] = {}
    for spec in (*names, *(spec for spec in OTHERS if spec.partition(":")[0] in names)):
        changes = OTHERS.get(spec, {})
        if changes is not None:
            found[spec] = {**RUNS[package], **changes}
    return found


def learned(spec: str, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What one system has learned after a run, trained now or before."""
    name, _, preset = spec.partition(":")
    preset = preset or "small"
    run = Run.create(RunConfig.resolve({"system": name, "preset": preset, **options}), folder)
    fit(run, resume=(folder / CONFIG).exists(), progress=False)
    return {
        "options": {"preset": preset, **options},
        "threads": torch.get_num_threads(),
        "objectives": costs(evaluate_run(run, {"name": "core/constant-baseline", "batch_size": 16})),
        "probes": accuracies(probe(run, limit=PROBED, raw=False)),
    }


def costs(found: Measurements) -> dict[str, Any]:
    """By objective: what predictions cost, what the best constant does, and the difference."""
    return {
        metric: {
            TRAINED: score(found, TRAINED, metric)[0],
            CONSTANT: score(found, CONSTANT, metric)[0],
            "difference": score(found, DIFFERENCE, metric),
        }
        for metric in found.metrics
    }


def score(found: Measurements, row: str, metric: str) -> tuple[float, float | None, float | None]:
    """A number, and the ends of its interval."""
    one = found.score(row, metric)
    assert one is not None
    return one.value, one.low, one.high


def accuracies(found: ProbeResult) -> dict[str, Any]:
    """By probe: accuracy of the encoder, of the same untrained, and the difference."""
    told = {}
    for method in METHODS:
        gain = found.differences[UNTRAINED, method]
        told[method] = {
            **{row: found.accuracy(row, method).mean for row in (TRAINED, UNTRAINED)},
            "difference": (gain.mean, gain.low, gain.high),
        }
    return told


def commit() -> str:
    """The commit that ran."""
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()


if __name__ == "__main__":
    command(run)
