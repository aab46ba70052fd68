r"""The comparison that the paper of a system is about, run again and kept as evidence for or against it.

    uv run benchmarks/evidence.py vision/hpm

trains what is listed here, with the same data, seeds and budget for all variants, in a folder under
``runs/`` (the same command goes on where it was stopped), and writes ``benchmarks/evidence/<name>.json``
with a verdict that follows from the intervals: whether the score in question is higher, lower, or
neither, in the variants that the claim is about than in the one it is compared to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from polymask.report.compare import compare
from polymask.report.comparison import Comparison

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Claim:
    """What a paper says, as runs.

    Args:
        text: the claim in one sentence.
        config: what all runs share.
        variants: the first is what the others are compared to.
        about: variants that the claim says are better.
        measure: the score that decides; the higher, the better.
        seeds: of the runs.
        evaluation: beside the probes.
    """

    text: str
    config: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    about: tuple[str, ...]
    measure: str = "kNN"
    seeds: int = 3
    evaluation: str | Mapping[str, Any] | None = None
    probe: Mapping[str, Any] = field(default_factory=dict)


SMALL = {"data": "vision/fashion", "preset": "small", "steps": 600}

CLAIMS: dict[str, Claim] = {
    "vision/hpm": Claim(
        text="Hiding the patches that a learned predictor ranks as hard teaches more than hiding patches at "
        "random, and more than predicting the ranks alone (HPM, arXiv 2304.05919)",
        config=SMALL,
        variants={
            "mae": {"system": "vision/mae"},
            "hpm, prediction only": {"system": "vision/hpm", "preset": "prediction-only"},
            "hpm": {"system": "vision/hpm"},
            "hpm, complementary scoring": {"system": "vision/hpm", "scoring": "complementary"},
        },
        about=("hpm", "hpm, complementary scoring"),
    ),
    "vision/mixedae": Claim(
        text="Mixing images helps once the encoder is asked which patches belong together; mixing alone does "
        "not (MixedAE, arXiv 2303.17152)",
        config=SMALL,
        variants={
            "mae": {"system": "vision/mae"},
            "naive mixing": {"system": "vision/mixedae", "preset": "small-naive"},
            "mixedae": {"system": "vision/mixedae"},
        },
        about=("mixedae",),
    ),
    "vision/mto": Claim(
        text="Optimising the mask token reaches the same accuracy in fewer steps (MTO, arXiv 2404.08330)",
        config=SMALL,
        variants={
            "simmim": {"system": "vision/simmim"},
            "simmim with mto": {"system": "vision/mto"},
            "mto, without sparsity": {"system": "vision/mto", "sparsity": 0.0},
            "mto, without depth": {"system": "vision/mto", "depth": 0.0},
        },
        about=("simmim with mto",),
    ),
    "vision/dmjd": Claim(
        text="Disjoint views with a loss at visible tokens too teach more in as many steps "
        "(DMJD, arXiv 2301.00230)",
        config=SMALL,
        variants={
            "mae": {"system": "vision/mae"},
            "mae of HOG": {"system": "vision/mae", "target": "vision/hog"},
            "dmjd": {"system": "vision/dmjd"},
            "dmjd, hidden branch alone": {"system": "vision/dmjd", "visible_weight": 0.0},
        },
        about=("dmjd",),
    ),
    "vision/mfm": Claim(
        text="Predicting masked frequencies, low and high by turns, teaches more than the classical "
        "restoration tasks (Masked Frequency Modeling, arXiv 2206.07706)",
        config={**SMALL, "system": "vision/mfm"},
        variants={
            "denoising": {"corruption": "denoising"},
            "super-resolution": {"corruption": "super-resolution"},
            "deblurring": {"corruption": "deblurring"},
            "frequency": {},
        },
        about=("frequency",),
    ),
}


SAYS = {"higher": "supports", "lower": "contradicts", "no difference seen": "no difference seen"}
"""What a difference to the first variant says about a claim that it is positive."""


def verdict(found: Comparison, claim: Claim) -> str:
    """Supports, no difference seen, contradicts, or mixed, by the variants that the claim is about."""
    seen = {found.verdict(label, claim.measure) for label in claim.about}
    return SAYS[seen.pop()] if len(seen) == 1 else "mixed"


def run(name: str, folder: Path | None = None) -> None:
    """Run one comparison, or what is left of it, and keep it.

    Args:
        name: ``<package>/<slug>``, one of those listed here.
        folder: of the comparison; ``runs/evidence-<package>-<slug>`` by default.
    """
    if name not in CLAIMS:
        sys.exit(f"no claim is called {name}; there are {', '.join(CLAIMS)}")
    keep(name, CLAIMS[name], folder or folder_of(name), f"uv run benchmarks/evidence.py {name}")


def folder_of(name: str) -> Path:
    """Where the runs of a comparison go."""
    return Path("runs", f"evidence-{name.replace('/', '-')}")


def keep(name: str, claim: Claim, folder: Path, command: str) -> None:
    """Train what a claim compares, or what is left of it, and write what was found.

    Args:
        name: ``<package>/<slug>``, of the file.
        claim: what is compared.
        folder: of the comparison.
        command: that does this again.
    """
    found = compare(
        claim.config,
        claim.variants,
        folder,
        seeds=claim.seeds,
        probe=claim.probe,
        evaluation=claim.evaluation,
    )
    record(name, claim, found, folder, command)


def record(
    name: str,
    claim: Claim,
    found: Comparison,
    folder: Path,
    command: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write what was found about a claim.

    Args:
        name: ``<package>/<slug>``, of the file.
        claim: what is compared.
        found: the comparison.
        folder: of its runs.
        command: that does this again.
        more: what else is to be kept with it.
    """
    results = found.to_json()
    first = next(iter(results["results"].values()))["runs"][0]
    environment = json.loads((folder / first / "environment.json").read_text())
    path = ROOT / "benchmarks" / "evidence" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "claim": claim.text,
        "verdict": verdict(found, claim),
        "decided by": {"measure": claim.measure, "variants": list(claim.about)},
        "command": command,
        "commit": environment["git"],
        "device": environment["device"],
        "threads": environment["threads"],
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**about, **results, **(more or {})}, indent=1) + "\n")
    os.replace(partial, path)
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    auto_cli(run)
