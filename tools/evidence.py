r"""Keep what a comparison found as evidence for, or against, a claim.

    uv run tools/evidence.py runs/compare-mae-fashion-masking vision/masking \
        "what the paper says" "no difference seen"

writes ``benchmarks/evidence/vision/masking.json``: claim and verdict, the command, the commit it ran on,
data, seeds and every number of the comparison. Name it in a page of docs between
``<!-- evidence: PATH -->`` and ``<!-- end -->`` and run ``tools/tables.py``.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli

ROOT = Path(__file__).parent.parent
Verdict = Literal["supports", "no difference seen", "contradicts", "mixed"]


def keep(folder: Path, name: str, claim: str, verdict: Verdict) -> None:
    """Write the file.

    Args:
        folder: of the comparison, with its runs.
        name: ``<package>/<slug>``.
        claim: what the paper says, in one sentence.
        verdict: of the numbers on the claim, at this scale.
    """
    found = json.loads((folder / "comparison.json").read_text())
    first = next(iter(found["results"].values()))["runs"][0]
    environment = json.loads((folder / first / "environment.json").read_text())
    program, *arguments = environment["command"]
    path = ROOT / "benchmarks" / "evidence" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "claim": claim,
        "verdict": verdict,
        "command": shlex.join([Path(program).name, *_without_folder(arguments)]),
        "commit": environment["git"],
        "device": environment["device"],
        "threads": environment["threads"],
    }
    path.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    print(path.relative_to(ROOT))


def _without_folder(arguments: list[str]) -> list[str]:
    """Arguments that say what was compared, not where it was put."""
    kept = list(arguments)
    for flag in ("--out", "-o"):
        if flag in kept:
            at = kept.index(flag)
            del kept[at : at + 2]
    return kept


if __name__ == "__main__":
    auto_cli(keep)
