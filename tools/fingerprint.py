"""The same bits before and after: what three steps make of every system, written down.

    uv run tools/fingerprint.py before.json        at one commit
    uv run tools/fingerprint.py after.json         at another
    diff before.json after.json

A refactoring must not change a bit. Every system is built tiny and trained on its own example batch, as the
checks of ``polymask check`` do. What is written: the losses of each step, and digests of the weights after
them, whatever their names, and of the features.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from polymask import Step, default_registry
from polymask.testing.loop import STEPS, built, optimiser, train
from polymask.testing.subject import Subject, seeded


def fingerprint(subject: Subject) -> dict[str, Any]:
    """Losses, weights and features of one system."""
    system, batch = built(subject)
    optimizer, losses = optimiser(system), []
    for index in range(3):
        with seeded(index), torch.no_grad():
            terms = system(batch, Step(index, STEPS, 0))
        losses.append({name: float(term) for name, term in terms.items()})
        train(system, batch, optimizer, index, index + 1)
    system.eval()
    with seeded(0), torch.no_grad():
        features = system.encode(batch).values
    return {"losses": losses, "weights": digest(system.state_dict().values()), "features": digest([features])}


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Of the bits of tensors, in any order."""
    bits = (x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for x in tensors)
    return hashlib.sha256(b"".join(sorted(bits))).hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    registry = default_registry()
    found = {}
    for part in registry.parts("systems"):
        if len(sys.argv) == 2 or part.full_name in sys.argv[2:]:
            found[part.full_name] = fingerprint(Subject(part, registry))
            print(part.full_name, flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
