"""How the cost of a step grows with visible tokens, tokens and samples, and what more processes save.

A masked autoencoder of width 192 and 6 blocks, its decoder one block of width 64, on images of built-in data
cut into patches of 4 pixels; 196 tokens, three quarters of them hidden, where nothing else is said. Steps
with the optimiser, in time of the process; steps of several processes and reading by the clock, for which
the machine must be idle. One curve alone, the file keeps the others::

    uv run benchmarks/growth.py --only tokens --out benchmarks/results/growth.json --pictures docs/assets
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from command import command
from installed import versions
from processes import together
from turns import WARM_UP, Contestant, in_turns, seconds_per_step, timed

from polymask import Run, RunConfig
from polymask.files import read_json, write_json
from polymask.report import charts
from polymask.training import fit

SIZES: Mapping[str, Any] = {"encoder": {"dim": 192, "depth": 6, "heads": 3}, "preset": "small"}
PATCH, SIDE, RATIO = 4, 14, 0.75
"""Pixels of a patch and patches of an image along each axis, share of hidden tokens."""

LAUNCHES = 2
"""How often each number of processes is started, in turns."""

Row = dict[str, float]


def config(samples: int, side: int = SIDE, ratio: float = RATIO) -> dict[str, Any]:
    """A run."""
    data = {"name": "vision/fashion", "size": PATCH * side}
    model = {"system": "vision/mae", **SIZES, "tokenizer.patch_size": PATCH, "masking.ratio": ratio}
    return {**model, "data": data, "batch_size": samples}


def row(seconds: Iterable[float], samples: int) -> Row:
    """What is written down of steps."""
    ms = [1e3 * value for value in seconds]
    return {"samples": samples, "ms": statistics.median(ms), "min": min(ms), "max": max(ms)}


def steps(configs: Mapping[float, dict[str, Any]], rounds: int) -> dict[float, Row]:
    """Training steps, by what varies."""
    contestants = {str(at): Contestant(one) for at, one in configs.items()}
    took = seconds_per_step(contestants, rounds)
    return {at: row(took[str(at)], one["batch_size"]) for at, one in configs.items()}


def visible(samples: int, rounds: int) -> dict[float, Row]:
    """Shares of tokens that the encoder sees, up to all but one."""
    shares = (0.1, 0.25, 0.5, 0.75, 1 - 1 / SIDE**2)
    return steps({round(share, 3): config(samples, ratio=1 - share) for share in shares}, rounds)


def tokens(samples: int, rounds: int) -> dict[float, Row]:
    """Images of more and more patches."""
    return steps({side**2: config(samples, side) for side in (7, 10, 14, 20, 28)}, rounds)


def batch(samples: int, rounds: int) -> dict[float, Row]:
    """More and more samples in a step."""
    return steps({samples * k // 4: config(samples * k // 4) for k in (1, 2, 4, 8, 16)}, rounds)


def workers(samples: int, rounds: int, counts: Iterable[int] = (0, 1, 2)) -> dict[float, Row]:
    """Batches of photographs from disk, read in this process or by so many others that have started."""
    from race_input import Reader, photographs

    batches = 48

    def seconds(make: Reader) -> Callable[[int], float]:
        def once(turn: int) -> float:
            read = iter(make())
            next(read)
            return timed(lambda: sum(1 for _ in read), time.perf_counter) / (batches - 1)

        return once

    with tempfile.TemporaryDirectory() as folder:
        tasks = {}
        for count in counts:
            below = Path(folder) / str(count)
            below.mkdir()
            readers = photographs(below, batches * samples, samples, count)
            tasks[str(count)] = seconds(readers["photographs, jpg"]["polymask"])
        took = in_turns(tasks, rounds, warm_up=1)
    return {int(count): row(taken, samples) for count, taken in took.items()}


def processes(samples: int, rounds: int, counts: Iterable[int] = (1, 2)) -> dict[float, Row]:
    """A step of the same samples, divided among processes that gloo joins."""
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(LAUNCHES):
        for count, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                said = together([__file__, "train", str(count), str(samples), str(rounds), folder], count)
            found += json.loads(said[0].splitlines()[-1])
    return {count: row(found, samples) for count, found in seconds.items()}


class Watch(pl.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())


def train(count: int, samples: int, rounds: int, folder: str) -> None:
    """Be one of the processes; the first prints what its steps took."""
    torch.set_num_threads(1)
    budget = {"steps": WARM_UP + rounds + 2, "checkpoint_every": 10**6, "workers": 0}
    device = {"devices": count, "accelerator": "cpu", "precision": "32"}
    watch = Watch()
    run = Run.create(RunConfig.resolve({**config(samples), **budget, **device}), folder)
    fit(run, callbacks=[watch], progress=False)
    ends = watch.ends[WARM_UP:-1]  # the last step ends with what is written of the run
    if os.environ["RANK"] == "0":
        print(json.dumps([b - a for a, b in itertools.pairwise(ends)]), flush=True)
    if count > 1:
        torch.distributed.barrier()
    os._exit(0)


CURVES: Mapping[str, tuple[Callable[[int, int], dict[float, Row]], str, str]] = {
    "visible": (visible, "share of tokens visible", "a step"),
    "tokens": (tokens, "tokens of an image", "a step"),
    "batch": (batch, "samples of a step", "a step"),
    "processes": (processes, "processes", "a step, by the clock"),
    "workers": (workers, "processes that read", "a batch, by the clock"),
}
"""What measures each curve, what varies along it, and what is measured."""


def draw(results: Mapping[str, Row], folder: Path) -> None:
    """A small picture of each curve, ``growth-NAME.svg``, for pages to set side by side or in a column."""
    for name, (_, title, what) in CURVES.items():
        found = {at: one for label, one in results.items() for at in at_of(label, title)}
        if not found:
            continue
        made, axes = charts.panel(3.2, 2.3, left=0.62, bottom=0.45)
        charts.style(axes, charts.PAPER, title, f"ms, {what}")
        x, colour = list(found), charts.PAPER.series[0]
        low, middle, high = ([one[key] for one in found.values()] for key in ("min", "ms", "max"))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, middle, color=colour, linewidth=1.5, marker="o", markersize=3.5)
        if name in ("visible", "tokens", "batch"):
            muted = {"color": charts.PAPER.muted}
            axes.plot([0, x[-1]], [0, middle[-1]], **muted, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "in proportion", (0.6 * x[-1], 0.5 * middle[-1]), ha="left", va="top", fontsize=8, **muted
            )
            axes.locator_params("x", integer=x[-1] > 1)
            axes.set_xlim(left=0)
        else:
            axes.set_xticks(x)
        axes.set_ylim(bottom=0)
        charts.save(made, folder / f"growth-{name}.svg")


def at_of(label: str, title: str) -> list[float]:
    """Where along a curve a row lies, if it is of this curve."""
    of, _, at = label.rpartition(" ")
    return [float(at)] if of == title else []


def race(
    samples: int = 16,
    rounds: int = 11,
    only: str | None = None,
    out: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Measure each curve.

    Args:
        samples: of a step, and of a batch that is read.
        rounds: counted steps or passes.
        only: visible, tokens, batch, processes or workers; several with commas between; none draws anew.
        out: where to write the figures as JSON.
        pictures: folder to draw the curves in.
    """
    torch.set_num_threads(1)
    results: dict[str, Row] = {}
    known = read_json(out, dict)["results"] if out is not None and out.is_file() else {}
    for name, (measure, title, _) in CURVES.items():
        if only is None or name in only.split(","):
            for at, one in measure(samples, rounds).items():
                results[f"{title} {at}"] = one
                print(f"{title:28}{at:8}", *(f"{value:10.2f}" for value in one.values()), flush=True)
        else:
            results |= {label: one for label, one in known.items() if at_of(label, title)}
    if out is not None:
        setup: dict[str, Any] = {"samples": samples, "rounds": rounds, "threads": 1}
        setup["versions"] = versions("polymask", "torch", "timm", "lightning")
        write_json(out, {"setup": setup, "results": results})
    if pictures is not None:
        draw(results, pictures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        count, samples, rounds = map(int, sys.argv[2:5])
        train(count, samples, rounds, sys.argv[5])
    else:
        command(race)
