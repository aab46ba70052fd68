"""Samples per second from files to batches, by modality: polymask's loader beside the plain libraries.

Everybody reads the same files, prepares them in the same way and batches as many. polymask's order and
augmentation depend on (seed, epoch, sample) alone, and it looks for damage; the others are torch's
DataLoader over what a library's page shows, and restart their epoch after a resume.

- photographs: JPEGs of 500 x 375 pixels, cropped and flipped to 224 pixels; torchvision's ImageFolder.
- sound: a second anywhere in 4 s, mono at 16 kHz, of WAV in that rate and of FLAC in 44.1 kHz and stereo;
  soundfile and torchaudio.
- text: a line of a file to a sample, padded to the longest of the batch; transformers' fast tokenizer at each
  reading, and on ids that ``datasets`` has kept. polymask keeps ids too, and batches like lengths together.
- clouds: 1,024 of 2,048 points, in the unit sphere, turned about z; numpy, and plyfile for PLY.

::

    uv run benchmarks/race_input.py --out benchmarks/results/input.json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from command import command
from installed import versions
from PIL import Image
from plain_input import Clouds, Sounds, ids_kept, image_folder, read_npy, read_ply, tokenised
from plyfile import PlyData, PlyElement
from sklearn.datasets import load_sample_images
from torch import Tensor
from turns import in_turns, ratio, timed

from polymask.config import TrainOptions
from polymask.data import Dataset, open_data
from polymask.files import write_json
from polymask.training.loader import Keyed, Loader
from polymask.training.order import Batches
from polymask.training.plan import make_plan

Reader = Callable[[], Iterable[Any]]
"""Starts one pass over the files, in batches."""


def race(
    count: int = 256,
    batch: int = 64,
    workers: int = 0,
    threads: int = 1,
    rounds: int = 5,
    only: str | None = None,
    out: Path | None = None,
) -> None:
    """Read the files once per round with each loader, in turn.

    Args:
        count: files; of lines of text 16 times as many.
        batch: samples per batch.
        workers: processes that read.
        threads: torch threads of this process.
        rounds: counted rounds, after one of warm-up.
        only: photographs, sound, text or clouds; several with commas between.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    rows: dict[str, dict[str, float]] = {}
    clock = time.perf_counter if workers else time.process_time
    for kind, readers in KINDS.items():
        if only is not None and kind not in only.split(","):
            continue
        with tempfile.TemporaryDirectory() as name:
            for what, contestants in readers(Path(name), count, batch, workers).items():
                tasks = {label: task(make, batch, clock) for label, make in contestants.items()}
                took = in_turns(tasks, rounds, warm_up=1)
                own = took["polymask"]
                for label, seconds in took.items():
                    speed = 1 / statistics.median(seconds)
                    rows[f"{what}: {label}"] = {"samples_per_second": speed, **ratio(own, seconds)}
    for label, row in rows.items():
        print(f"{label:48}", *(f"{value:10.3f}" for value in row.values()))
    if out is not None:
        setup: dict[str, Any] = {"files": count, "batch": batch, "workers": workers, "threads": threads}
        packages = ("polymask", "torch", "torchvision", "torchaudio", "soundfile", "transformers", "datasets")
        setup |= {"rounds": rounds, "seconds": "of the clock" if workers else "of the process"}
        setup["versions"] = versions(*packages, "numpy", "plyfile")
        write_json(out, {"setup": setup, "results": rows})


def task(make: Reader, batch: int, clock: Callable[[], float]) -> Callable[[int], float]:
    """Seconds per sample of one pass, starting the workers included."""

    def run(turn: int) -> float:
        batches: list[int] = []
        return timed(lambda: batches.extend(1 for _ in make()), clock) / (len(batches) * batch)

    return run


def ours(data: Dataset, batch: int, workers: int, lengths: Tensor | None = None) -> Reader:
    """As training reads."""
    samples = data.split("train", augment=True)
    plan = make_plan(TrainOptions(steps=len(samples) // batch, batch_size=batch), len(samples))
    keyed = Keyed(samples, seed=0, lengths=lengths)
    return lambda: Loader(keyed, Batches(plan, lengths=lengths), workers)


def photographs(folder: Path, count: int, batch: int, workers: int) -> dict[str, dict[str, Reader]]:
    """Crops of photographs, of two classes."""
    write_photographs(folder, count)
    data = open_data(f"vision/folder:{folder}", size=224, augment="crop-flip", test=0)
    own, plain = ours(data, batch, workers), image_folder(folder)
    return {"photographs, jpg": {"polymask": own, "torchvision": loader(plain, batch, workers)}}


def write_photographs(folder: Path, count: int) -> None:
    """JPEGs of 500 x 375 pixels, crops of scikit-learn's two photographs, in a folder for each."""
    images = [Image.fromarray(image) for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        left, top = (int(torch.randint(n, (), generator=generator)) for n in (140, 52))
        path = folder / ("china", "flower")[index % 2] / f"{index:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        images[index % 2].crop((left, top, left + 500, top + 375)).save(path, quality=90)


def sound(folder: Path, count: int, batch: int, workers: int) -> dict[str, dict[str, Reader]]:
    """Tones in noise."""
    random, found = np.random.default_rng(0), {}
    for kind, rate, channels in (("wav", 16_000, 1), ("flac", 44_100, 2)):
        below = folder / kind
        below.mkdir()
        for index in range(count):
            tone = np.sin(random.uniform(0.05, 0.5) * np.arange(4 * rate))[:, None]
            noisy = 0.3 * tone + 0.05 * random.standard_normal((4 * rate, channels))
            soundfile.write(below / f"{index:05}.{kind}", noisy, rate)
        data = open_data(f"audio/folder:{below}", rate=16_000, seconds=1.0, test=0)
        plain = Sounds(sorted(below.iterdir()), 16_000, 1.0)
        readers = {"polymask": ours(data, batch, workers), "torchaudio": loader(plain, batch, workers)}
        found[f"sound, {kind} of {rate / 1000:g} kHz"] = readers
    return found


def text(folder: Path, count: int, batch: int, workers: int) -> dict[str, dict[str, Reader]]:
    """Glosses of WordNet, a line each."""
    glosses: Any = open_data("language/glosses", limit=1)
    path = folder / "lines.txt"
    path.write_text("\n".join(glosses.corpus.texts[: 16 * count]), encoding="utf-8")
    data: Any = open_data(f"language/file:{path}", test=0)
    vocabulary, lines = data.vocabulary.file, path.read_text(encoding="utf-8").splitlines()
    again = loader(lines, batch, workers, tokenised(vocabulary, data.length))
    kept, padded = ids_kept(path, vocabulary, data.length)
    readers = {
        "polymask": ours(data, batch, workers, data.lengths("train")),
        "transformers": again,
        "datasets": loader(kept, batch, workers, padded),
    }
    return {"text, lines": readers}


def clouds(folder: Path, count: int, batch: int, workers: int) -> dict[str, dict[str, Reader]]:
    """Points on ellipsoids."""
    random, found = np.random.default_rng(0), {}
    for kind, read in (("npy", read_npy), ("ply", read_ply)):
        below = folder / kind
        below.mkdir()
        for index in range(count):
            points = random.standard_normal((2048, 3)).astype(np.float32)
            points *= random.uniform(0.5, 2, 3) / np.linalg.norm(points, axis=1, keepdims=True)
            if kind == "npy":
                np.save(below / f"{index:05}.npy", points)
            else:
                vertices = points.view([(axis, "<f4") for axis in "xyz"])[:, 0]
                PlyData([PlyElement.describe(vertices, "vertex")]).write(below / f"{index:05}.ply")
        data = open_data(f"pointcloud/folder:{below}", points=1024, augment="move", test=0)
        plain = Clouds(sorted(below.iterdir()), read, 1024)
        label = {"npy": "numpy", "ply": "plyfile, numpy"}[kind]
        readers = {"polymask": ours(data, batch, workers), label: loader(plain, batch, workers)}
        found[f"clouds, {kind}"] = readers
    return found


def loader(samples: Any, batch: int, workers: int, collate: Any = None) -> Reader:
    """Torch's own, over samples in a new order each time."""
    options = {"shuffle": True, "num_workers": workers, "drop_last": True, "collate_fn": collate}
    return lambda: torch.utils.data.DataLoader(samples, batch, **options)


KINDS: Mapping[str, Callable[[Path, int, int, int], dict[str, dict[str, Reader]]]] = {
    "photographs": photographs,
    "sound": sound,
    "text": text,
    "clouds": clouds,
}


if __name__ == "__main__":
    command(race)
