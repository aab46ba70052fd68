r"""Accuracy of features against seconds of training: polymask's masked autoencoders beside the peers'.

Everybody trains the same encoder (a ViT of width 192 and 6 blocks) on the same images in 16 patches, for the
same seconds of one process on one core, with the same optimiser, rate and schedule (AdamW, a cosine down to
the last second); decoders and losses are everybody's own defaults, and polymask's preset ``fast`` beside its
own. What was learned is asked by polymask's probes, of the mean over patches, and by fine-tuning, of all
alike. Reading takes no part: all images lie in memory, and are cropped and flipped for all alike, outside
the clock.

Peers live in an environment of their own; those that are not installed are left out::

    python -m venv race
    race/bin/pip install polymask-vision transformers "lightly[timm]" stable-pretraining birder
    race/bin/python benchmarks/race_accuracy.py --out benchmarks/results/accuracy.json \
        --picture docs/assets/accuracy-seconds.svg

The same command goes on where it was stopped: what is in the file is not measured again.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from autoencoders import CONTESTANTS, DEPTH, PATCH, SIZE, UNTRAINED, WIDTH, Contestant
from command import command
from installed import installed, versions
from torch import Tensor, nn

from polymask.data import open_data
from polymask.evaluation.classifiers import fit_linear, knn
from polymask.evaluation.intervals import t_interval
from polymask.files import read_json, write_json
from polymask.report import charts


def race(
    data: str = "vision/fashion",
    seconds: tuple[float, ...] = (40.0, 120.0),
    seeds: int = 3,
    batch: int = 32,
    lr: float = 1e-3,
    tuning: int = 100,
    only: str | None = None,
    out: Path = Path("benchmarks", "results", "accuracy.json"),
    picture: Path | None = None,
) -> None:
    """Train every installed contestant for some seconds, and ask what it has learned.

    Args:
        data: labelled images, as in ``--data``.
        seconds: of training, of this process; each is a run of its own, with a whole schedule.
        seeds: runs of each.
        batch: images per step.
        lr: peak learning rate, of all.
        tuning: steps of fine-tuning behind each run.
        only: names of contestants, with semicolons between; all installed ones by default.
        out: file of the figures.
        picture: file to draw the curves in.
    """
    torch.set_num_threads(1)
    images = images_of(data)
    known = read_json(out, dict)["runs"] if out.is_file() else {}
    for seed in range(seeds):
        for budget in (0.0, *sorted(seconds)):
            for name, (build, package) in (CONTESTANTS if budget else UNTRAINED).items():
                label = f"{name}; {budget:g} s; seed {seed}"
                if (
                    label in known
                    or not installed(package)
                    or (only and budget and name not in only.split(";"))
                ):
                    continue
                torch.manual_seed(seed)
                model = build()
                steps = train(model, images["train"][0], budget, batch, lr, seed)
                known[label] = {
                    "steps": steps,
                    **probed(model, images),
                    **tuned(model, images, tuning, seed),
                }
                print(label, known[label], flush=True)
                packages = {"torch", "timm", *(package for _, package in CONTESTANTS.values())}
                setup: dict[str, Any] = {
                    "encoder": f"ViT {WIDTH} x {DEPTH}, {SIZE} pixels in patches of {PATCH}"
                }
                setup |= {
                    "data": data,
                    "batch": batch,
                    "lr": lr,
                    "threads": 1,
                    "tuning": tuning,
                }
                setup["versions"] = versions(*sorted(packages))
                write_json(out, {"setup": setup, "results": rows(known), "runs": known})
    if picture is not None:
        draw(known, picture)


def images_of(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Normalised images of both splits, float32 ``[n, 3, 28, 28]``, and their classes, int64 ``[n]``."""
    data = open_data(name, size=SIZE, channels=3)
    found = {}
    for split in ("train", "test"):
        samples, labels = data.split(split), data.labels(split)
        assert labels is not None
        found[split] = torch.stack([samples[at]["image"] for at in range(len(samples))]), labels
    return found


def train(model: Contestant, images: Tensor, seconds: float, batch: int, lr: float, seed: int) -> int:
    """Train for some seconds of this process, and return how many steps that were."""
    optimiser = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.05)
    chance = torch.Generator().manual_seed(seed)
    model.train()
    spent, steps = 0.0, 0
    while spent < seconds:
        picked = torch.randint(len(images), (batch,), generator=chance)
        x = cropped(images[picked], chance)
        start = time.process_time()
        rate(optimiser, lr, spent / seconds)
        optimiser.zero_grad(set_to_none=True)
        model(x).backward()
        optimiser.step()
        spent, steps = spent + time.process_time() - start, steps + 1
    return steps


def rate(optimiser: torch.optim.Optimizer, peak: float, progress: float) -> None:
    """A linear rise over a twentieth, then half a cosine."""
    rise, fall = progress / 0.05, (progress - 0.05) / 0.95
    for group in optimiser.param_groups:
        group["lr"] = peak * (min(rise, 1.0) if fall < 0 else (1 + math.cos(math.pi * fall)) / 2)


def cropped(x: Tensor, chance: torch.Generator) -> Tensor:
    """A part of each image at a random place, 0.5 to 1 of its width, enlarged, and flipped or not."""
    scale = 0.5 + torch.rand(len(x), 1, generator=chance) / 2
    place = (1 - scale) * (2 * torch.rand(len(x), 2, generator=chance) - 1)
    sign = torch.randint(2, (len(x), 1), generator=chance) * 2 - 1
    zero = torch.zeros(len(x), 1)
    theta = torch.stack(
        [torch.cat([scale * sign, zero, place[:, :1]], 1), torch.cat([zero, scale, place[:, 1:]], 1)], 1
    )
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


Split = tuple[Tensor, Tensor]
MEASURES = ("kNN", "linear", "fine-tuned")


@torch.no_grad()
def probed(model: Contestant, data: Mapping[str, Split]) -> dict[str, float]:
    """Accuracy of both probes."""
    model.eval()
    train, test = (torch.cat([model.features(x) for x in data[split][0].split(256)]) for split in data)
    labels, answers = data["train"][1], data["test"][1]
    said = {"kNN": knn(train, labels, test).predicted, "linear": fit_linear(train, labels).predict(test)}
    return {name: float((predicted == answers).float().mean()) for name, predicted in said.items()}


def tuned(model: Contestant, data: Mapping[str, Split], steps: int, seed: int) -> dict[str, float]:
    """Accuracy after some steps of training encoder and head with labels."""
    (images, labels), (test, answers) = data.values()
    head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, int(labels.max()) + 1))
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], 5e-4, weight_decay=0.05)
    chance = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        picked = torch.randint(len(images), (64,), generator=chance)
        rate(optimiser, 5e-4, step / steps)
        optimiser.zero_grad(set_to_none=True)
        said = head(model.features(cropped(images[picked], chance)))
        nn.functional.cross_entropy(said, labels[picked]).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        said = torch.cat([head(model.features(x)) for x in test.split(256)])
    return {"fine-tuned": float((said.argmax(1) == answers).float().mean())}


def rows(known: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Means over seeds with intervals, by contestant and seconds."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for label, run in known.items():
        groups.setdefault(label.rpartition("; ")[0], []).append(run)
    table = {}
    for label, runs in groups.items():
        row: dict[str, Any] = {"seeds": len(runs), "steps": statistics.median(run["steps"] for run in runs)}
        for measure in MEASURES:
            values = [run[measure] for run in runs]
            if len(values) > 1:
                interval = t_interval(values)
                row[measure] = f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}"
            else:
                row[measure] = f"{values[0]:.3f}"
        table[label] = row
    return table


def draw(known: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Mean accuracy against seconds, in each measure; every line begins with the untrained encoder."""
    seen: dict[str, dict[float, list[Mapping[str, float]]]] = {}
    for label, run in known.items():
        name, seconds, _ = label.split("; ")
        seen.setdefault(name, {}).setdefault(float(seconds.split()[0]), []).append(run)
    begin = seen.pop("untrained")
    made = charts.figure(9.6, 3.0)
    for axes, measure in zip(made.subplots(1, len(MEASURES)), MEASURES, strict=True):
        charts.style(axes, charts.PAPER, "seconds of training on one core", f"accuracy, {measure}")
        curves = {
            name: [statistics.mean(run[measure] for run in runs) for runs in (begin | points).values()]
            for name, points in seen.items()
        }
        charts.curves(axes, charts.PAPER, list(begin | next(iter(seen.values()))), curves)
        axes.get_legend().remove()
    charts.legend(axes, charts.PAPER, loc="center left", bbox_to_anchor=(1.02, 0.5))
    charts.save(made, path)


if __name__ == "__main__":
    command(race)
