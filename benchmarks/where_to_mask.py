r"""What to hide from a masked autoencoder: its maskings compared, with everything else equal.

    uv run benchmarks/where_to_mask.py
    uv run benchmarks/photographs.py runs/photographs
    uv run benchmarks/where_to_mask.py --data folder:runs/photographs --name photographs

trains vision/mae with each masking and five seeds, probes the encoders, asks all of them to reconstruct
the same uniformly random masks of held-out pictures, describes the masks, and times a step of each in
turns, as a ratio to uniformly random masking. Writes ``benchmarks/evidence/vision/where-to-mask-<name>.json``
and ``docs/assets/where-to-mask-<name>.png``. The same command goes on where it was stopped.

All hide 75 % of the patches and encode 64 rows a step: two views of a picture are two rows, of half as
many pictures. Hard patches are those of most variance, which take a share of the mask that rises from
none to a half over the run, as HPM's do; its learned score is vision/hpm's, a system of its own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from claims import Claim
from command import command
from evidence import ROOT, SAYS, folder_of, record
from turns import Contestant, seconds_per_step

from polymask import Run, RunConfig, Step, System
from polymask.config import CONFIG
from polymask.data import Dataset, evenly
from polymask.evaluation.features import encoder_features, evaluating, extract, raw_of
from polymask.evaluation.probe import draw, evaluate, labels_of
from polymask.evaluation.result import METHODS, RAW, TRAINED, UNTRAINED
from polymask.maskings import Random
from polymask.report import charts, views
from polymask.report.comparison import COST, LOSS, Comparison
from polymask.training import fit
from polymask.training.metrics import read_metrics

RATIO = 0.75
TRAIN, TEST = 3000, 2000
"""Pictures that probes train on and are tested on, drawn once."""

ERROR = "held-out loss"

MASKINGS: Mapping[str, Mapping[str, Any]] = {
    "random": {"masking": {"name": "core/random", "ratio": RATIO}},
    "block": {"masking": {"name": "core/block", "ratio": RATIO}},
    "hard patches": {
        "masking": {"name": "core/top-score", "ratio": RATIO, "hard": (0.0, 0.5)},
        "score": "vision/variance",
    },
    **{
        f"{color} noise": {"masking": {"name": "core/color", "ratio": RATIO, "color": color}}
        for color in ("green", "blue", "red", "purple")
    },
    "two disjoint views": {
        "system": "vision/dmjd",
        "visible_weight": 0.0,
        "target": {"name": "vision/pixels", "patch_norm": True},
        "masking": {"name": "core/disjoint", "masking": {"name": "core/random", "ratio": RATIO}},
        "batch_size": 32,
    },
}

CLAIMS = {
    "hard patches": "Hiding hard patches, more and more of them, teaches more than hiding random ones (HPM, "
    "arXiv 2304.05919; here by variance)",
    "green noise": "Hiding blobs of one size teaches more (ColorMAE, arXiv 2407.13036)",
    "two disjoint views": "Two views, each hiding what the other shows, teach more in as many rows encoded "
    "(DMJD, arXiv 2301.00230; here of pixels, without its second head)",
}
"""What papers say of a masking, beside random patches."""


def run(
    data: str = "fashion-mnist",
    name: str = "fashion",
    steps: int = 300,
    seeds: int = 5,
    out: Path | None = None,
) -> None:
    """Compare all maskings on one data set.

    Args:
        data: as in ``--data``.
        name: of the files written.
        steps: of each run, of 64 rows.
        seeds: how many.
        out: folder of the runs; ``runs/evidence-vision-where-to-mask-<name>`` by default.
    """
    torch.set_num_threads(1)
    title, _, source = data.partition(":")
    slug = f"vision/where-to-mask-{name}"
    folder = out or folder_of(slug)
    shared = {
        "system": "vision/mae",
        "preset": "small",
        "encoder.dim": 64,
        "lr": 1.5e-3,
        "steps": steps,
        "data": {"name": title, **({"source": source} if source else {})},
    }
    values: dict[str, list[dict[str, float]]] = {label: [] for label in MASKINGS}
    folders: dict[str, list[str]] = {label: [] for label in MASKINGS}
    reference: dict[str, float] = {}
    for seed in range(seeds):
        for label, change in MASKINGS.items():
            place = folder / f"{label.replace(' ', '-')}-seed{seed}"
            found = measured({**shared, **change, "seed": seed}, place, rivals=label == "random")
            reference = reference or {m: found[f"{RAW} {m}"] for m in METHODS}
            values[label].append({key: v for key, v in found.items() if not key.startswith(RAW)})
            folders[label].append(place.name)
            print(name, seed, label, {key: round(value, 3) for key, value in found.items()}, flush=True)
    claim = Claim(
        text="Where the masks of a masked autoencoder lie changes what it learns: hard patches, blobs of one "
        "size or disjoint views teach more than uniformly random patches",
        config={**shared, "data": name},
        variants=MASKINGS,
        about=tuple(CLAIMS),
    )
    compared = Comparison(claim.config, MASKINGS, tuple(range(seeds)), values, reference, folders=folders)
    command = "uv run benchmarks/where_to_mask.py" + (f" --data {title}:PATH --name {name}" if source else "")
    said = {
        text: {measure: SAYS[False][compared.verdict(label, measure)] for measure in METHODS}
        for label, text in CLAIMS.items()
    }
    record(slug, claim, compared, folder, command, {"claims": said, "masks": described(shared)})
    # raw input is too far away for a plot of differences; the table has it
    drawn = dataclasses.replace(compared, reference={}).draw(charts.PAPER)
    charts.save(drawn, ROOT / "docs" / "assets" / f"where-to-mask-{name}.png")


def measured(config: Mapping[str, Any], folder: Path, rivals: bool) -> dict[str, float]:
    """The figures of one run, trained now or before.

    Args:
        config: of the run.
        folder: of the run.
        rivals: measure the same encoder untrained, and raw pixels, as well.
    """
    path = folder / "measured.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    run = Run.create(RunConfig.resolve({**config, "workers": 0, "checkpoint_every": config["steps"]}), folder)
    fit(run, resume=(folder / CONFIG).exists(), progress=False)
    found = {**probed(run.system, run.data), ERROR: reconstruction_error(run.system, run.data)}
    if rivals:
        found |= {f"{UNTRAINED} {key}": value for key, value in probed(run.untrained(), run.data).items()}
        found |= {f"{RAW} {key}": value for key, value in probed(None, run.data).items()}
    rows = read_metrics(folder / "metrics.csv")
    last = rows[-max(1, math.ceil(len(rows) / 10)) :]
    found[LOSS] = statistics.fmean(row["loss"] for row in last)
    found[COST] = 1000 / statistics.median(row["samples_per_second"] for row in rows)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def probed(system: System | None, data: Dataset) -> dict[str, float]:
    """Accuracy of both probes on the features of a system, or on raw pixels."""
    train_labels, test_labels = labels_of(data)
    train = draw(train_labels, None, 1, TRAIN, 0)[0]
    test = torch.tensor(evenly(len(test_labels), TEST))
    splits = ((data.split("train"), train), (data.split("test"), test))
    if system is None:
        raw = raw_of(data)
        assert raw is not None
        features = [extract({TRAINED: raw}, samples, index.tolist()) for samples, index in splits]
    else:
        with evaluating(system):
            encoder = {TRAINED: encoder_features(system, "mean")}
            features = [extract(encoder, samples, index.tolist()) for samples, index in splits]
    pair = (features[0][TRAINED], features[1][TRAINED])
    result = evaluate({TRAINED: pair}, train_labels[train], test_labels[test])
    return {method: result.accuracy(TRAINED, method).mean for method in METHODS}


def reconstruction_error(system: System, data: Dataset, pictures: int = 1000, at_once: int = 100) -> float:
    """Loss on held-out pictures at uniformly random patches, the same whatever a run hid itself."""
    samples = data.split("test")
    index = evenly(len(samples), pictures)
    own, system.masking = system.masking, Random(ratio=RATIO)  # type: ignore[union-attr]
    with evaluating(system):
        losses = [
            float(sum(system(views.batch_of(samples, some), Step(0, 1, 0)).values()))
            for some in (index[i : i + at_once] for i in range(0, len(index), at_once))
        ]
    system.masking = own
    return statistics.fmean(losses)


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """What each masking does at the end of a run, and the time of a step as a ratio to random masking."""
    end = Step(config["steps"] - 1, config["steps"], 0)
    contestants = {label: Contestant({**config, **change}) for label, change in MASKINGS.items()}
    found: dict[str, dict[str, Any]] = {}
    for label, contestant in contestants.items():
        drawn = views.statistics_of(views.of_system(contestant.system), contestant.data.split("train"), end)
        one = next(iter(drawn.values()))
        found[label] = {
            "hidden": float(one.ratio.mean()),
            "coverage": one.spread,
            "uniform": one.uniform,
            "neighbour correlation": one.neighbour_correlation,
        }
    seconds = seconds_per_step(contestants)
    for label, taken in seconds.items():
        ratios = [one / random for one, random in zip(taken, seconds["random"], strict=True)]
        found[label]["cost"] = statistics.median(ratios)
    return found


if __name__ == "__main__":
    command(run)
