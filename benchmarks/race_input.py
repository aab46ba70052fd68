"""Images per second from a folder of JPEGs to the step, augmented, batched and in order.

Crops of scikit-learn's two photographs, 500 x 375 pixels each, are written to a temporary folder and
read back as batches of 224 pixels with random resized crop and flip: by polymask's loader, whose
order and augmentation depend on (seed, epoch, sample) alone, and by torchvision's ImageFolder with
the same transforms in torch's DataLoader, which restarts its epoch after a resume.

    uv run benchmarks/race_input.py --workers 0 --out benchmarks/results/input.json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from command import command
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from polymask.config import TrainOptions
from polymask.data import open_data
from polymask.files import write_json
from polymask.training.loader import Keyed, Loader
from polymask.training.order import Batches
from polymask.training.plan import make_plan


def write_photographs(folder: Path, count: int) -> None:
    """``count`` JPEGs of 500 x 375 pixels in two class folders."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        photograph = photographs[index % 2]
        left, top = (int(torch.randint(n, (), generator=generator)) for n in (140, 52))
        path = folder / ("china", "flower")[index % 2] / f"{index:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        photograph.crop((left, top, left + 500, top + 375)).save(path, quality=90)


def race(
    count: int = 512,
    batch: int = 64,
    workers: int = 0,
    threads: int = 1,
    rounds: int = 5,
    out: Path | None = None,
) -> None:
    """Read the folder once per round with each loader, in turn.

    Args:
        count: JPEG files.
        batch: images per batch.
        workers: processes that read.
        threads: torch threads of this process.
        rounds: counted rounds, after one of warm-up.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, count)
        samples = open_data(f"folder:{folder}", size=224, augment="crop-flip").split("train", augment=True)
        steps = len(samples) // batch
        plan = make_plan(TrainOptions(steps=steps, batch_size=batch), len(samples))

        def ours() -> Iterable[Any]:
            return Loader(Keyed(samples, seed=0), Batches(plan), workers)

        transform = v2.Compose(
            [
                v2.RandomResizedCrop(
                    224, (0.2, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True
                ),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        files = ImageFolder(folder, transform)

        def torchvisions() -> Iterable[Any]:
            return DataLoader(files, batch, shuffle=True, num_workers=workers, drop_last=True)

        loaders = {"polymask": ours, "torchvision ImageFolder": torchvisions}
        speeds: dict[str, list[float]] = {name: [] for name in loaders}
        for round in range(rounds + 1):
            for name, make in loaders.items():
                speed = images_per_second(make, batch)
                if round:
                    speeds[name].append(speed)
    rows = {
        name: {"images_per_second": statistics.median(s), "min": min(s), "max": max(s)}
        for name, s in speeds.items()
    }
    for name, row in rows.items():
        print(f"{name:26}{row['images_per_second']:9.1f} images/s{row['min']:9.1f}{row['max']:9.1f}")
    if out is not None:
        setup = {"files": count, "batch": batch, "workers": workers, "threads": threads, "rounds": rounds}
        write_json(out, {"setup": setup, "results": rows})


def images_per_second(make: Callable[[], Iterable[Any]], batch: int) -> float:
    """Speed of one pass, starting the workers included."""
    start, batches = time.perf_counter(), 0
    for _ in make():
        batches += 1
    return batches * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    command(race)
