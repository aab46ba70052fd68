r"""The comparison that the paper of a system is about, run again and kept as evidence for or against it.

    uv run benchmarks/evidence.py vision/hpm

trains what ``benchmarks/claims/`` lists under that name, with the same data, seeds and budget for all
variants, in a folder under ``runs/`` (the same command goes on where it was stopped), and writes
``benchmarks/evidence/<name>.json`` with a verdict that follows from the intervals: whether the score in
question is higher, lower, or neither, in the variants that the claim is about than in the one it is
compared to. Name the file in a page of docs between ``<!-- evidence: PATH -->`` and ``<!-- end -->`` and
run ``tools/tables.py``.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claims import CLAIMS, Claim
from command import command
from turns import Contestant, seconds_per_step

from polymask.evaluation.measurements import Measurements, chosen, stored_at
from polymask.files import read_json, write_json
from polymask.report import charts
from polymask.report.compare import compare
from polymask.report.comparison import Comparison

ROOT = Path(__file__).parent.parent


def run(name: str, folder: Path | None = None) -> None:
    """Run one comparison, or what is left of it, and keep it.

    Args:
        name: ``<package>/<slug>``, one of those in ``benchmarks/claims/``.
        folder: of the comparison; ``runs/evidence-<package>-<slug>`` by default.
    """
    if name not in CLAIMS:
        sys.exit(f"no claim is called {name}; there are {', '.join(CLAIMS)}")
    claim = CLAIMS[name]
    keep(name, claim, folder or folder_of(claim.runs or name), f"uv run benchmarks/evidence.py {name}")


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
    found = compared(claim, folder)
    if found.curves is not None:
        cost = seconds_per_step(
            {label: Contestant({**found.config, **change}) for label, change in claim.variants.items()}
        )
        curves = found.curves.at_cost({label: statistics.median(taken) for label, taken in cost.items()})
        found = dataclasses.replace(found, curves=dataclasses.replace(curves, rows=claim.rows))
        path = ROOT / "docs" / "assets" / f"{name.replace('/', '-')}-curves.png"
        charts.save(found.curves.draw(charts.PAPER), path)
    record(name, claim, found, folder, command)


def compared(claim: Claim, folder: Path) -> Comparison:
    """The comparison of a claim, trained now or before."""
    config = {**claim.config, **(claim.prepare(folder) if claim.prepare else {})}
    found = compare(
        config,
        claim.variants,
        folder,
        seeds=claim.seeds,
        probe=claim.probe,
        evaluation=claim.evaluation,
        may_differ=claim.may_differ,
    )
    return _by_row(found, claim, folder) if claim.within else found


def _by_row(found: Comparison, claim: Claim, folder: Path) -> Comparison:
    """Rows of what was measured of each run, as variants."""
    (names,), asked = found.folders.values(), chosen(claim.evaluation)
    seen = [read_json(stored_at(folder / name, asked), Measurements.from_json) for name in names]
    values = {row: [one.row(row) for one in seen] for row in claim.within}
    return Comparison(
        found.config,
        {row: {} for row in claim.within},
        found.seeds,
        values,
        rivals={name: scores for name, scores in found.rivals.items() if name not in claim.within},
        folders=dict.fromkeys(claim.within, names),
    )


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
    about = {
        "claim": claim.text,
        "verdict": found.claimed(claim.about, claim.measure, claim.lower),
        "decided by": {
            "measure": claim.measure,
            "better": "lower" if claim.lower else "higher",
            "variants": list(claim.about),
        },
        "command": command,
        "commit": environment["git"],
        "device": environment["device"],
        "threads": environment["threads"],
    }
    write_json(path, {**about, **results, **(more or {})})
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    command(run)
