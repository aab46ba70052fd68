"""The same bits before and after: losses and features of every system after three steps, written down.

    uv run tools/fingerprint.py before.json        at one commit
    uv run tools/fingerprint.py after.json         at another
    diff before.json after.json

A refactoring must not change a bit. Every system is trained from the command line, at preset ``tiny``, for
three steps on built-in data, then exported. What is written: the rows of metrics.csv but for the seconds,
and a digest of the exported weights and of the encoder's features on eight test samples.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from polymask import default_registry
from polymask.cli import main

DATA = {
    "image": ["vision/digits"],
    "audio": ["audio/words", "--data.seconds", "0.4"],
    "text": ["language/glosses", "--data.vocab_size", "512", "--data.limit", "300"],
    "points": ["pointcloud/shapes", "--data.points", "128", "--data.limit", "60"],
    "plan": ["language/made-up-plans", "--data.limit", "60"],
    "pose": ["vision/camera-poses", "--data.limit", "60"],
    "motion": ["pointcloud/skeletons", "--data.limit", "60"],
}
TIMES = {"seconds", "samples_per_second", "data_wait"}
OPTIONS = {
    "language/sparsepo": ["--data", "language/sentiment", "--data.vocab_size", "512"],
    "vision/dmjd": ["--data", "vision/fashion", "--data.size", "32", "--data.limit", "100"],
}


def fingerprint(system: str, modality: str, folder: Path) -> dict[str, Any]:
    """Losses, weights and features of one system."""
    data = OPTIONS.get(system) or ["--data", *DATA[modality]]
    training = ["--steps", "3", "--batch_size", "8", "--seed", "0", "--workers", "0", "--log_every", "1"]
    fixed = ["--accelerator", "cpu", "--precision", "32", "--no-report"]
    run(["pretrain", system, "--preset", "tiny", *data, *training, *fixed, "--out", str(folder)])
    with contextlib.suppress(RuntimeError):  # some have no encoder to export
        run(["export", str(folder), "--out", str(folder / "exported")])
    with (folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    return {"metrics": rows, "weights": digest(folder / "exported"), "features": features(folder)}


def run(argv: list[str]) -> None:
    """One verb, quietly, which must succeed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(argv)
    if code:
        raise RuntimeError(said.getvalue())


def digest(folder: Path) -> str:
    """Of all exported tensors, whatever their names: these may change, numbers may not."""
    tensors = [t for path in sorted(folder.glob("*.safetensors")) for t in load_file(path).values()]
    return hashlib.sha256(b"".join(sorted(map(raw, tensors)))).hexdigest()


def raw(tensor: torch.Tensor) -> bytes:
    """The bits of a tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def features(folder: Path) -> str:
    """Of eight test samples, as a digest."""
    from polymask.data import collate
    from polymask.run import Run

    opened = Run.open(folder)
    samples = opened.data.split("test")
    batch = collate([samples[i] for i in range(8)])
    batch["id"] = torch.arange(8)
    with torch.no_grad():
        return hashlib.sha256(raw(opened.system.encode(batch).values)).hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        for part in default_registry().parts("systems"):
            if len(sys.argv) > 2 and part.full_name not in sys.argv[2:]:
                continue
            try:
                found[part.full_name] = fingerprint(
                    part.full_name, part.modality, Path(home, part.name + part.plugin)
                )
            except Exception:
                found[part.full_name] = {"error": traceback.format_exc()[-600:]}
            print(part.full_name, found[part.full_name].get("error", "ok"), flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
