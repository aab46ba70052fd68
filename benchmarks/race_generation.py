"""What generating a sample costs: vision/maskgit at several numbers of steps, vision/recap beside it.

    uv run benchmarks/race_generation.py
    uv run benchmarks/race_generation.py --run runs/maskgit-fashion/pretrain --judged 2000

All generate with the same weights, random ones or those of a run, and take turns in one process, in another
order each round; time is that of the process. A ratio is the median over rounds of (contestant / maskgit at
the most steps in that round), with the smallest and the largest. ``tokens`` is how many go through each block
for one sample.

Of a run, ``distance`` is the Fréchet distance of normal distributions fitted to the pixels of ``judged``
samples and of as many held-out images, in the space of their 32 main components, ``itself`` that of two
halves of the held-out ones: it falls with steps as far as the model gains from them.
"""

from __future__ import annotations

import itertools
import platform
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from command import command
from installed import versions
from torch import Tensor
from turns import in_turns, ratio, timed

from polymask import Run, RunConfig, Step, System
from polymask.files import write_json
from polymask_vision.systems.recap import ReCAP

Generator = Callable[[int, int], Tensor]
"""Number of samples and the number of the first one to samples."""


def contestants(system: Any, steps: list[int], shape: torch.Size) -> Iterator[tuple[str, Generator]]:
    """Both systems by name, with all options of generation alike but those of reuse."""
    alike = {"curve": 2.5, "choice_temperature": 5.5, "redraw": True}
    recap = ReCAP(host=system)

    def of(generate: Callable[..., Any], **options: Any) -> Generator:
        def run(n: int, first: int) -> Tensor:
            batch = {system.tokenizer.key: torch.zeros(n, *shape), "id": torch.arange(first, first + n)}
            made: Tensor = generate(batch, Step(), **alike, **options).samples[system.tokenizer.key]
            return made

        return run

    for t in steps:
        yield f"maskgit, {t} steps", of(system.generate, steps=t, temperature=1.0, rounding="down")
        for plain, light in ((0.5, 1), (0.0, 1), (0.0, 3)):
            name = f"recap, {t} steps, {plain:g} plain, {light} light"
            yield name, of(recap.generate, steps=t, temperature=1.0, plain=plain, light=light)


def tokens_through(system: Any, generate: Generator) -> int:
    """How many tokens of one sample go through a block."""
    seen: list[int] = []
    hook = system.encoder.blocks[0].mlp.register_forward_hook(lambda m, a, out: seen.append(out.shape[1]))
    generate(1, 0)
    hook.remove()
    return sum(seen)


def distance(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of two normal distributions, of vectors ``[n, D]``."""
    means, covariances = zip(*((x.mean(0), torch.cov(x.T)) for x in (one, other)), strict=True)
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    trace = covariances[0].trace() + covariances[1].trace() - 2 * both
    return float((means[0] - means[1]).square().sum() + trace)


def race(
    run: Path | None = None,
    steps: str = "8,16,32",
    preset: str = "small",
    patch_size: int = 2,
    samples: int = 16,
    judged: int = 0,
    rounds: int = 7,
    threads: int = 1,
    out: Path | None = None,
) -> None:
    """Time the generation of samples.

    Args:
        run: folder of a run of vision/maskgit, for its weights; random ones by default.
        steps: numbers of steps, with commas between.
        preset: of vision/maskgit, where no run is given.
        patch_size: where no run is given; 2 makes 196 tokens of an image.
        samples: at a time.
        judged: samples to measure the quality of a run by; none by default.
        rounds: counted ones, after one of warm-up.
        threads: of the CPU.
        out: where to write the figures as JSON.
    """
    torch.set_num_threads(threads)
    config = {
        "system": "vision/maskgit",
        "preset": preset,
        "data": "fashion",
        "tokenizer.patch_size": patch_size,
    }
    opened = Run.open(run) if run else Run.create(RunConfig.resolve(config), "runs/turns")
    system: System = opened.system.eval()
    images = opened.data.split("test")
    shape = images[0][opened.data.key].shape
    entries = dict(contestants(system, [int(t) for t in steps.split(",")], shape))

    def seconds(generate: Generator) -> Callable[[int], float]:
        return lambda turn: timed(lambda: generate(samples, 0))

    took = in_turns({name: seconds(entries[name]) for name in entries}, rounds, warm_up=1)
    names = list(entries)
    reference = next(name for name in reversed(names) if name.startswith("maskgit"))
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        rows[name] = {
            "tokens": tokens_through(system, entries[name]),
            "ms_per_sample": 1e3 * statistics.median(took[name]) / samples,
            **ratio(took[name], took[reference]),
        }
    if judged:
        # data may be in the order of its classes
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
        real = torch.stack([images[i][opened.data.key] for i in order[:judged]]).flatten(1).double()
        mean, axes = real.mean(0), torch.linalg.svd(real - real.mean(0), full_matrices=False)[2][:32].T

        def project(x: Tensor) -> Tensor:
            return (x - mean) @ axes

        print(f"itself: {distance(project(real[::2]), project(real[1::2])):.3g}")
        for name in names:
            parts = [entries[name](min(100, judged - at), at) for at in range(0, judged, 100)]
            found = torch.cat(parts).flatten(1).double()
            rows[name]["distance"] = distance(project(real), project(found))
    columns = list(rows[reference])
    print("".join(f"{title:>{width}}" for title, width in zip(["", *columns], widths(columns), strict=True)))
    for name, row in rows.items():
        cells = [name, *(f"{value:.4g}" for value in row.values())]
        print("".join(f"{cell:>{width}}" for cell, width in zip(cells, widths(columns), strict=True)))
    if out is not None:
        setup = {
            "weights": "trained" if run else "random",
            "grid": "x".join(map(str, system.tokenizer.provides["grid"])),
            "samples": samples,
            "rounds": rounds,
            "threads": threads,
            "device": platform.processor() or "cpu",
            "reference": reference,
            "versions": versions("polymask", "torch", "timm"),
        }
        write_json(out, {"setup": setup, "results": rows})


def widths(columns: list[str]) -> Iterator[int]:
    """Of a table's columns."""
    return iter([40, *itertools.repeat(15, len(columns))])


if __name__ == "__main__":
    command(race)
