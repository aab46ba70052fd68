r"""What to hide from a masked autoencoder: its maskings compared, with everything else equal.

    uv run benchmarks/where_to_mask.py
    uv run benchmarks/photographs.py runs/photographs
    uv run benchmarks/where_to_mask.py --data folder:runs/photographs --name photographs

A comparison as ``benchmarks/evidence.py`` runs it, whose evidence also says what each paper claims of its
masking, describes the masks, and gives the time of a step as a ratio to uniformly random masking. Draws
``docs/assets/where-to-mask-<name>.png``. The same command continues where it was stopped.

All variants hide 75 % of the patches and encode 64 rows a step: two views of an image are two rows, of half
as many images. Hard patches are those of most variance; their share of the mask rises from none to a half
over the run, as HPM's does. HPM's learned score is vision/hpm's, a system of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from claims import Claim
from command import command
from evidence import ROOT, compared, folder_of, record
from turns import Contestant, ratio, seconds_per_step

from polymask import Step
from polymask.evaluation.result import METHODS
from polymask.report import charts, views

RANDOM = {"name": "core/random", "ratio": 0.75}
MASKINGS: Mapping[str, Mapping[str, Any]] = {
    "random": {"masking": RANDOM},
    "block": {"masking": {**RANDOM, "name": "core/block"}},
    "hard patches": {
        "masking": {**RANDOM, "name": "core/top-score", "hard": (0.0, 0.5)},
        "score": "vision/variance",
    },
    **{
        f"{color} noise": {"masking": {**RANDOM, "name": "core/color", "color": color}}
        for color in ("green", "blue", "red", "purple")
    },
    "two disjoint views": {
        "system": "vision/dmjd",
        "visible_weight": 0.0,
        "target": {"name": "vision/pixels", "patch_norm": True},
        "masking": {"name": "core/disjoint", "masking": RANDOM},
        "batch_size": 32,
    },
}
PAPERS = {
    "hard patches": "Hiding hard patches, more and more of them, teaches more than hiding random ones (HPM, "
    "arXiv 2304.05919; here by variance)",
    "green noise": "Hiding blobs of one size teaches more (ColorMAE, arXiv 2407.13036)",
    "two disjoint views": "Two views, each hiding what the other shows, teach more in as many rows encoded "
    "(DMJD, arXiv 2301.00230; here of pixels, without its second head)",
}
"""What papers claim of a masking over random patches."""


def run(data: str = "fashion-mnist", name: str = "fashion") -> None:
    """Compare all maskings on one data set.

    Args:
        data: as in ``--data``.
        name: of the files written.
    """
    torch.set_num_threads(1)
    title, _, source = data.partition(":")
    claim = Claim(
        text="Where the masks of a masked autoencoder lie changes what it learns: hard patches, blobs of one "
        "size or disjoint views teach more than uniformly random patches",
        config={
            "system": "vision/mae",
            "preset": "small",
            "encoder.dim": 64,
            "lr": 1.5e-3,
            "steps": 300,
            "data": {"name": title, **({"source": source} if source else {})},
        },
        variants=MASKINGS,
        about=tuple(PAPERS),
        seeds=5,
        evaluation={"name": "core/heldout-loss", "masking": RANDOM, "limit": 1000},
        probe={"limit": 3000},
        may_differ=("batch_size",),  # all encode as many rows
    )
    slug = f"vision/where-to-mask-{name}"
    folder = folder_of(slug)
    found = compared(claim, folder)
    said = {
        text: {measure: found.claimed((label,), measure) for measure in METHODS}
        for label, text in PAPERS.items()
    }
    again = "uv run benchmarks/where_to_mask.py" + (f" --data {title}:PATH --name {name}" if source else "")
    record(slug, claim, found, folder, again, {"claims": said, "masks": described(claim.config)})
    # the raw input is too far away for a plot of differences; the table has it
    drawn = dataclasses.replace(found, reference={}).draw(charts.PAPER)
    charts.save(drawn, ROOT / "docs" / "assets" / f"where-to-mask-{name}.png")


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """What each masking hides at the end of a run, and the time of a step as a ratio to random masking."""
    end = Step(config["steps"] - 1, config["steps"], 0)
    contestants = {label: Contestant({**config, **change}) for label, change in MASKINGS.items()}
    seconds = seconds_per_step(contestants)
    found: dict[str, Any] = {}
    for label, contestant in contestants.items():
        drawn = views.statistics_of(views.of_system(contestant.system), contestant.data.split("train"), end)
        one = next(iter(drawn.values()))
        found[label] = {
            "hidden": float(one.ratio.mean()),
            "coverage": one.spread,
            "uniform": one.uniform,
            "neighbour correlation": one.neighbour_correlation,
            "cost": ratio(seconds[label], seconds["random"])["ratio"],
        }
    return found


if __name__ == "__main__":
    command(run)
