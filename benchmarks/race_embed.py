"""Features of a folder of JPEGs into a file: ``polymask embed`` beside a loop written by hand with timm.

Both have one ViT of the same weights, one image size, batch size and number of workers, and write one
``.npz``; the loop reads by torchvision's ImageFolder in torch's DataLoader. Their features are compared
before they are timed.

    uv run benchmarks/race_embed.py --out benchmarks/results/embed.json
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from command import command
from installed import versions
from race_input import write_photographs
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2
from turns import in_turns, ratio, timed

from polymask import build
from polymask.data import open_data
from polymask.evaluation import embed
from polymask.export import Features, export
from polymask.files import write_json

SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def race(
    count: int = 64,
    batch: int = 32,
    workers: int = 0,
    threads: int = 1,
    rounds: int = 7,
    out: Path | None = None,
) -> None:
    """Embed the folder once per round with each, in turn.

    Args:
        count: JPEG files.
        batch: images per batch.
        workers: processes that read; with any, seconds are those of the clock, else of this process.
        threads: torch threads of this process.
        rounds: counted rounds, after three of warm-up.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    clock = time.perf_counter if workers else time.process_time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photographs").mkdir()
        write_photographs(folder / "photographs", count)
        data = open_data(f"vision/folder:{folder / 'photographs'}", size=SIZE, test=0.0)
        system = build("vision/simmim", facts=data.provides, **SIZES)
        ours = Features(tokenizer=system.tokenizer, encoder=system.backbone, facts=data.provides).eval()
        with contextlib.redirect_stdout(io.StringIO()):
            export(system, "timm", folder / "timm", facts=data.provides)
        theirs = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()

        def by_polymask() -> None:
            embed(ours, folder / "ours.npz", data=data, split="train", batch_size=batch, workers=workers)

        def by_hand() -> None:
            loop(theirs, folder / "photographs", folder / "theirs.npz", batch, workers)

        by_polymask()
        by_hand()
        one, other = (np.load(folder / f"{whose}.npz")["embedding"] for whose in ("ours", "theirs"))
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-2 * np.abs(other).max())
        tasks: dict[str, Callable[[int], float]] = {
            "polymask embed": lambda turn: timed(by_polymask, clock),
            "loop with timm": lambda turn: timed(by_hand, clock),
        }
        taken = in_turns(tasks, rounds)
    rows = {
        label: {
            "images_per_second": count / statistics.median(seconds),
            **ratio(seconds, taken["loop with timm"]),
        }
        for label, seconds in taken.items()
    }
    for label, row in rows.items():
        print(f"{label:20}{row['images_per_second']:8.1f} images/s{row['ratio']:8.3f}")
    if out is not None:
        setup = {
            "images": count,
            "size": SIZE,
            "batch": batch,
            "workers": workers,
            "rounds": rounds,
            "threads": threads,
            "device": "cpu",
            "seconds": "of the clock" if workers else "of the process",
            "versions": versions("polymask", "torch", "timm", "torchvision"),
        }
        write_json(out, {"setup": setup, "results": rows})


SIZES = {
    "tokenizer.patch_size": 16,
    "encoder.dim": 192,
    "encoder.depth": 12,
    "encoder.heads": 3,
}
"""ViT-Ti/16."""


def loop(model: torch.nn.Module, folder: Path, out: Path, batch: int, workers: int) -> None:
    """What one writes by hand."""
    transform = v2.Compose(
        [
            v2.Resize((SIZE, 299), interpolation=InterpolationMode.BICUBIC, antialias=True),  # of 375 x 500
            v2.CenterCrop(SIZE),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    files = ImageFolder(str(folder), transform)
    features, labels = [], []
    with torch.inference_mode():
        for images, classes in DataLoader(files, batch, num_workers=workers):
            tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
            features.append(tokens.mean(dim=1).numpy())
            labels.append(classes.numpy())
    np.savez(
        out,
        embedding=np.concatenate(features),
        label=np.concatenate(labels),
        name=np.array([Path(path).relative_to(folder).as_posix() for path, _ in files.samples]),
    )


if __name__ == "__main__":
    command(race)
