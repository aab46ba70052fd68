r"""What to hide from a masked autoencoder: its maskings compared, with everything else equal.

    uv run benchmarks/where_to_mask.py
    uv run benchmarks/photographs.py runs/photographs
    uv run benchmarks/where_to_mask.py --data folder:runs/photographs --name photographs

trains vision/mae with each masking and five seeds, probes the encoders, asks all of them to reconstruct
the same uniformly random masks of held-out pictures, describes the masks, and times a step of each in
turns, as a ratio to uniformly random masking. Writes ``benchmarks/evidence/vision/where-to-mask-<name>.json``
and ``docs/assets/where-to-mask-<name>.png``. The same command goes on where it was stopped.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from evidence import ROOT, Claim, folder_of, keep
from jsonargparse import auto_cli

from polymask import Step
from polymask.report import charts, views
from polymask.run import build_from_config

HARD = {"name": "core/top-score", "ratio": 0.75}
MASKINGS: Mapping[str, Mapping[str, Any]] = {
    "random": {"masking": {"name": "core/random", "ratio": 0.75}},
    "block": {"masking": {"name": "core/block", "ratio": 0.75}},
    "hard: most variance": {"masking": HARD, "score": "vision/variance"},
    "hard: most entropy": {"masking": HARD, "score": "vision/entropy"},
    **{
        f"{color} noise": {"masking": {"name": "core/color", "ratio": 0.75, "color": color}}
        for color in ("blue", "green", "purple", "red")
    },
    "two disjoint views": {
        "system": "vision/dmjd",
        "visible_weight": 0.0,
        "target": {"name": "vision/pixels", "patch_norm": True},
        "masking": {"name": "core/disjoint", "masking": {"name": "core/random", "ratio": 0.75}},
    },
}


def run(data: str = "fashion-mnist", name: str = "fashion", steps: int = 600, seeds: int = 5) -> None:
    """Compare all maskings on one data set.

    Args:
        data: as in ``--data``.
        name: of the files written.
        steps: of each run, of 64 pictures.
        seeds: how many.
    """
    title, _, source = data.partition(":")
    config = {
        "system": "vision/mae",
        "preset": "small",
        "steps": steps,
        "data": {"name": title, **({"source": source, "channels": 1} if source else {})},
    }
    claim = Claim(
        text="Where a masked autoencoder's masks lie changes what it learns: blobs (ColorMAE, arXiv "
        "2407.13036), hard patches (HPM, arXiv 2304.05919) or disjoint views (DMJD, arXiv 2301.00230) "
        "instead of uniformly random patches",
        config=config,
        variants=MASKINGS,
        about=tuple(label for label in MASKINGS if label != "random"),
        seeds=seeds,
        evaluation="core/held-out-loss",
        probe={"limit": 4000},
    )
    slug = f"vision/where-to-mask-{name}"
    command = f"uv run benchmarks/where_to_mask.py --data {data} --name {name}"
    found = keep(slug, claim, folder_of(slug), command, {"masks": described(config)})
    charts.save(found.draw(charts.PAPER), ROOT / "docs" / "assets" / f"where-to-mask-{name}.png")


def described(config: Mapping[str, Any], batch_size: int = 64, rounds: int = 15) -> dict[str, Any]:
    """Statistics of the masks, and the cost of a step as a ratio to random masking, by variant."""
    systems, found = {}, {}
    for label, change in MASKINGS.items():
        systems[label], data, _ = build_from_config({**config, **change, "seed": 0})
        samples = data.split("train")
        viewer = views.of_system(systems[label])
        masks = views.statistics_of(viewer, samples, Step(0, 1, 0), masks=2048)
        one = next(iter(masks.values()))
        found[label] = {
            "hidden": float(one.ratio.mean()),
            "coverage": one.spread,
            "neighbour correlation": one.neighbour_correlation,
        }
    batch = views.batch_of(samples, range(batch_size))
    seconds: dict[str, list[float]] = {label: [] for label in systems}
    for turn in range(rounds):
        for label, system in systems.items():
            start = time.perf_counter()
            sum(system(batch, Step(turn, rounds, 0)).values(), torch.zeros(())).backward()
            seconds[label].append(time.perf_counter() - start)
    for label, values in seconds.items():
        ratios = [one / random for one, random in zip(values, seconds["random"], strict=True)]
        found[label]["cost"] = statistics.median(ratios[3:])
    return found


if __name__ == "__main__":
    auto_cli(run)
