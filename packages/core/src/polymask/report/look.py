"""What a masking hides, drawn over real samples, before a run is spent on it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymask.config import PartConfig, Source, built_from, options_of, resolve_part
from polymask.config.layers import nest
from polymask.data import Dataset, evenly
from polymask.errors import UserError
from polymask.evaluation.features import evaluating
from polymask.files import require_writable
from polymask.plugins.registry import Registry, default_registry
from polymask.protocols import Masking, Target, Tokenizer
from polymask.report import views
from polymask.report.drawing import Pixels, frames, sheet
from polymask.report.statistics import MaskStatistics
from polymask.report.templates import flat, named
from polymask.step import Step
from polymask.systems.base import System

SUFFIXES = ("png", "svg", "pdf")


@dataclass(frozen=True, eq=False)
class MaskSheet:
    """What there is to see of a masking.

    Args:
        title: what was looked at.
        data: over which data.
        originals: the samples.
        rows: the samples again under each mask, by caption; masks drawn together follow each other. The last
            is what the answer depends on, of a system that says so.
        statistics: of many masks, by view.
        at: when the statistics were taken.
    """

    title: str
    data: str
    originals: list[Pixels]
    rows: dict[str, list[Pixels]]
    statistics: dict[str, MaskStatistics]
    at: Step

    @property
    def subtitle(self) -> str:
        """Over what, how many and when."""
        found = next(iter(self.statistics.values()))
        sites = " x ".join(map(str, found.coverage.shape))
        when = f"at step {self.at.index:,} of {self.at.total:,}"
        return f"{self.data}, {sites} sites a sample; figures below of {found.masks:,} masks {when}"

    def to_json(self) -> dict[str, Any]:
        """The numbers, without the pictures."""
        return {
            "masking": self.title,
            "data": self.data,
            "step": self.at.index,
            "total": self.at.total,
            "views": {name: found.to_json() for name, found in self.statistics.items()},
        }


def look(
    what: Masking | System,
    data: Dataset,
    out: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    score: Target | None = None,
    samples: int = 8,
    draws: int = 4,
    total: int = 1000,
    masks: int = 2048,
    seed: int = 0,
) -> Path:
    """Draw a masking, or the masks of a system, over samples of a data set.

    Args:
        what: a masking or a system, see :func:`polymask.build`.
        data: a data set, see :func:`polymask.data.open_data`.
        out: picture to write: .png, .svg or .pdf.
        tokenizer: what cuts the data into sites, when ``what`` is a masking; by default what most systems of
            that modality use.
        score: target that gives the evidence, for maskings that hide by score.
        samples: columns of the picture; a clip takes one for each frame that is shown.
        draws: rows of masks, at steps spread over a run.
        total: steps of that run.
        masks: how many masks the statistics are of.
        seed: of the draws.

    Returns:
        ``out``.

    Raises:
        UserError: a suffix that is not a picture's, or a system that offers no masks.
    """
    path = Path(out)
    if path.suffix[1:] not in SUFFIXES:
        raise UserError(f"cannot write a picture to {path}: end its name in .png, .svg or .pdf")
    require_writable(path.parent)
    sight = mask_sheet(
        what,
        data,
        tokenizer=tokenizer,
        score=score,
        samples=samples,
        draws=draws,
        total=total,
        masks=masks,
        seed=seed,
    )
    return draw(sight, path)


def mask_sheet(
    what: Masking | System,
    data: Dataset,
    *,
    tokenizer: Tokenizer | None = None,
    score: Target | None = None,
    samples: int = 8,
    draws: int = 4,
    total: int = 1000,
    masks: int = 2048,
    seed: int = 0,
) -> MaskSheet:
    """What :func:`look` draws, as data; arguments as there."""
    if isinstance(what, System):
        viewer = views.of_system(what)
    else:
        cut = tokenizer or usual_tokenizer(data, default_registry()).build(data.provides)
        viewer = views.of_masking(what, cut, score)
    held_out, labels, _ = views.held_out(data, what)
    (first,) = views.pictures_of(data, views.batch_of(held_out, [0]), 168)
    batch = views.batch_of(held_out, evenly(len(held_out), max(1, samples // frames(first))), labels)
    originals = views.pictures_of(data, batch, 168)
    drawn: list[tuple[str, int, list[Pixels]]] = []
    at = Step(total // 2, total, seed)
    title = _title(what, score)
    with evaluating(what) if isinstance(what, System) else nullcontext(), torch.no_grad():
        for k in range(draws):
            step = Step(round(k * (total - 1) / max(draws - 1, 1)), total, seed)
            for name, view in viewer(batch, step).items():
                drawn.append((name, step.index, view.pixels(data, batch, originals)))
        rows = _rows(drawn)
        explained = views.explanation(what, batch, at) if isinstance(what, System) else None
        if explained is not None:
            rows["what the answer\ndepends on"] = explained.pixels(data, batch, originals)
        statistics = views.statistics_of(viewer, held_out, at, masks, labels=labels)
    if not rows:
        raise UserError(
            f"{title} hides no part of a sample that could be looked at (masks over weights are none): "
            "polymask report RUN shows what it does"
        )
    over = named(built_from(data) or type(data).__name__)
    return MaskSheet(title, over, originals, rows, statistics, at)


def _rows(drawn: Sequence[tuple[str, int, list[Pixels]]]) -> dict[str, list[Pixels]]:
    """Pictures of masks by what stands beside them; those that are the same at every step stand once."""
    by_name: dict[str, list[list[Pixels]]] = {}
    for name, _, pictures in drawn:
        by_name.setdefault(name, []).append(pictures)
    still = {
        name
        for name, (first, *others) in by_name.items()
        if others and all(map(np.array_equal, first * len(others), itertools.chain(*others)))
    }
    return {name if name in still else f"{name}\nstep {index:,}": pictures for name, index, pictures in drawn}


def usual_tokenizer(data: Dataset, registry: Registry) -> PartConfig:
    """What most systems cut data of this kind with, in patches that suit its size.

    Raises:
        UserError: no installed system says.
    """
    names = Counter(
        name
        for part in registry.parts("systems")
        if part.modality != "any" and part.fits(data.key) and "tokenizer" in nest(part.defaults)
        if registry.find("tokenizers", name := nest(part.defaults)["tokenizer"]["name"]).fits(data.key)
    )
    if not names:
        raise UserError(
            f"no installed system says how to cut {data.key!r} into tokens: give --tokenizer NAME"
        )
    part = registry.find("tokenizers", str(names.most_common(1)[0][0]))
    size = data.provides.get("size")
    suited = {} if size is None or "patch_size" not in options_of(part) else _patch_size(size)
    return resolve_part(part, Source("the size of the data", suited), registry=registry).require()


def draw(sight: MaskSheet, path: Path) -> Path:
    """Write a picture of what was seen."""
    from polymask.report import charts
    from polymask.report.charts import PAPER
    from polymask.report.panels import panels_of

    shown = {"sample": sight.originals, **sight.rows}
    picture = sheet(list(shown.values()))
    panels = {name: panels_of(found) for name, found in sight.statistics.items()}
    columns = max(3, *map(len, panels.values()))
    wide = 3.05 * columns
    across = max(sum(map(frames, row)) for row in shown.values())
    upper = min(wide - 0.9, 1.6 * across) * picture.shape[0] / picture.shape[1] + 0.3
    lower, head = 2.3 * len(sight.statistics), 0.65
    made = charts.figure(wide, head + upper + lower)
    inch = 1 / made.get_figheight()
    made.set_layout_engine("constrained", rect=(0.005, 0.005, 0.99, 1 - head * inch))
    made.text(0.014, 1 - 0.28 * inch, sight.title, fontsize=13, color=PAPER.text, fontweight="bold")
    made.text(0.014, 1 - 0.52 * inch, sight.subtitle, fontsize=8.5, color=PAPER.muted)
    halves = made.add_gridspec(2, 1, height_ratios=[upper, lower])
    above, below = made.add_subfigure(halves[0]), made.add_subfigure(halves[1])
    axes = above.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.set_anchor("NW")
    axes.spines[:].set_visible(False)
    height = len(picture) / len(shown)
    axes.set_yticks([(k + 0.5) * height for k in range(len(shown))], list(shown))
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8, labelcolor=PAPER.muted)
    grid = below.subplots(len(panels), columns, squeeze=False)
    for row, (name, found) in zip(grid, sight.statistics.items(), strict=True):
        several = f"{name}: " if len(grid) > 1 else ""
        for axes in row:
            axes.set_axis_off()
        for axes, panel in zip(row, panels[name], strict=False):
            axes.set_axis_on()
            panel.draw(axes, PAPER, found)
            charts.heading(axes, PAPER, several + panel.title, panel.note)
    charts.save(made, path)
    return path


def _title(what: Masking | System, score: Target | None) -> str:
    """The name of what is drawn, of a masking with its options."""
    found = built_from(what)
    if found is None:
        return type(what).__name__
    name = str(found.pop("name"))
    if isinstance(what, System):
        return name
    told = flat({**found, **({"score": built_from(score) or type(score).__name__} if score else {})})
    return "  ".join([name, *(f"{key.removesuffix('.name')} {value}" for key, value in told.items())])


def _patch_size(size: int | tuple[int, ...]) -> dict[str, int]:
    """A patch that tiles the sample in about fourteen, of at least four where the sample is small."""
    sides = (size,) if isinstance(size, int) else tuple(size)
    fits = [p for p in range(1, min(sides) + 1) if all(n % p == 0 for n in sides) and min(sides) // p >= 4]
    wish = max(4.0, max(sides) / 14)
    return {"patch_size": min(fits, key=lambda p: abs(math.log(p / wish)))} if fits else {}
