"""What a masking hides, drawn over real samples, before a run is spent on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polymask.data import Dataset, evenly, open_data
from polymask.errors import UserError
from polymask.evaluation.features import evaluating
from polymask.parts import Part
from polymask.protocols import Masking, System, Target, Tokenizer
from polymask.registry import Registry, default_registry
from polymask.report import views
from polymask.report.drawing import Pixels, frames, sheet
from polymask.report.statistics import MaskStatistics
from polymask.report.templates import flat
from polymask.step import Step
from polymask.wiring import build, construct, full_names, layer, nest, options_of

SUFFIXES = ("png", "svg", "pdf")


@dataclass(frozen=True, eq=False)
class Sight:
    """What there is to see of a masking.

    Args:
        title: what was looked at.
        data: over which data.
        originals: the samples.
        rows: the samples again under each mask, by caption; masks drawn together follow each other.
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
    what: str | Masking | System,
    data: str | Dataset,
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    tokenizer: str | Mapping[str, Any] | Tokenizer | None = None,
    score: str | Mapping[str, Any] | Target | None = None,
    preset: str | None = None,
    samples: int = 8,
    draws: int = 4,
    total: int = 1000,
    masks: int = 2048,
    seed: int = 0,
) -> Path:
    """Draw a masking, or the masks of a system, over samples of a data set.

    Args:
        what: a masking or a system, or the name of one.
        data: a data set, or its name as in ``--data``.
        out: picture to write: .png, .svg or .pdf.
        options: constructor options of the masking or system, when given by name.
        tokenizer: what cuts the data into sites, when ``what`` is a masking: a part, a name or
            a mapping with a ``name``; by default what most systems of that modality use.
        score: target that gives the evidence, for maskings that hide by score.
        preset: of the system, when given by name.
        samples: columns of the picture; a clip takes one for each frame that is shown.
        draws: rows of masks, at steps spread over a run.
        total: steps of that run.
        masks: how many masks the statistics are of.
        seed: of the draws.

    Returns:
        ``out``.

    Raises:
        UserError: unknown names, impossible options, a suffix that is not a picture's.
    """
    path = Path(out)
    if path.suffix[1:] not in SUFFIXES:
        raise UserError(f"cannot write a picture to {path}: end its name in .png, .svg or .pdf")
    sight = examine(
        what,
        data,
        options=options,
        tokenizer=tokenizer,
        score=score,
        preset=preset,
        samples=samples,
        draws=draws,
        total=total,
        masks=masks,
        seed=seed,
    )
    return draw(sight, path)


def examine(
    what: str | Masking | System,
    data: str | Dataset,
    *,
    options: Mapping[str, Any] | None = None,
    tokenizer: str | Mapping[str, Any] | Tokenizer | None = None,
    score: str | Mapping[str, Any] | Target | None = None,
    preset: str | None = None,
    samples: int = 8,
    draws: int = 4,
    total: int = 1000,
    masks: int = 2048,
    seed: int = 0,
) -> Sight:
    """What :func:`look` draws, as data; arguments as there."""
    registry = default_registry()
    part = _find(what, registry) if isinstance(what, str) else None
    registry = registry.within(part.modality) if part else registry
    source = open_data(data, registry) if isinstance(data, str) else data
    title = part.full_name if part else type(what).__name__
    system: System | None = what if isinstance(what, System) else None
    if part is not None and part.kind == "systems":
        system = build(part.full_name, preset, source.provides, registry, **(options or {}))
    if system is not None:
        viewer = views.of_system(system)
    else:
        viewer, title = _masking_viewer(what, part, title, source, options, tokenizer, score, registry)
    held_out, _ = views.held_out(source)
    (first,) = views.pictures_of(source, views.batch_of(held_out, [0]), 168)
    batch = views.batch_of(held_out, evenly(len(held_out), max(1, samples // frames(first))))
    originals = views.pictures_of(source, batch, 168)
    rows: dict[str, list[Pixels]] = {}
    at = Step(total // 2, total, seed)
    with evaluating(system) if system is not None else nullcontext(), torch.no_grad():
        for k in range(draws):
            step = Step(round(k * (total - 1) / max(draws - 1, 1)), total, seed)
            for name, view in viewer(batch, step).items():
                rows[f"{name}\nstep {step.index:,}"] = view.pixels(source, batch, originals)
        statistics = views.statistics_of(viewer, held_out, at, masks)
    if not rows:
        raise UserError(f"{title} offers no masks to look at: its System.masks returns none")
    name = data if isinstance(data, str) else (options_of(source) or {}).get("name", type(source).__name__)
    return Sight(title, name, originals, rows, statistics, at)


def draw(sight: Sight, path: Path) -> Path:
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


def _find(name: str, registry: Registry) -> Part:
    """A masking of that name, else a system; the error names both kinds."""
    kinds = ("maskings", "systems")
    for kind in kinds:
        known = {key for part in registry.parts(kind) for key in (part.full_name, part.name)}
        if name in known:
            return registry.find(kind, name)
    installed = "; ".join(f"{k}: {', '.join(p.full_name for p in registry.parts(k))}" for k in kinds)
    raise UserError(f"no masking or system is called {name!r}; installed {installed}")


def _masking_viewer(
    what: Any,
    part: Part | None,
    title: str,
    data: Dataset,
    options: Mapping[str, Any] | None,
    tokenizer: str | Mapping[str, Any] | Tokenizer | None,
    score: str | Mapping[str, Any] | Target | None,
    registry: Registry,
) -> tuple[views.Viewer, str]:
    facts = dict(data.provides)
    cut = _part("tokenizers", tokenizer or _usual_tokenizer(data.key, registry), facts, registry)
    facts.update(cut.provides)
    evidence = None if score is None else _part("targets", score, facts, registry)
    if part is not None:
        chosen = _chosen(part, options or {}, registry)
        what = construct(part, chosen, facts, registry)
        told = flat(chosen)
        if isinstance(score, str | Mapping):
            told |= flat(nest({"score": score}))
        title = "  ".join([title, *(f"{key.removesuffix('.name')} {value}" for key, value in told.items())])
    return views.of_masking(what, cut, evidence), title


def _chosen(part: Part, options: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A part's defaults with options laid over them."""
    chosen: dict[str, Any] = layer(
        full_names(nest(part.defaults), registry), full_names(nest(options), registry)
    )
    return chosen


def _part(kind: str, given: Any, facts: dict[str, Any], registry: Registry) -> Any:
    """A part given as such, by name, or by name with options."""
    if not isinstance(given, str | Mapping):
        return given
    options = {"name": given} if isinstance(given, str) else dict(given)
    part = registry.find(kind, options.pop("name"))
    chosen = _chosen(part, options, registry)
    if kind == "tokenizers" and "patch_size" not in chosen and "size" in facts:
        chosen = {**chosen, **_patch_size(registry.load(part), facts["size"])}
    return construct(part, chosen, facts, registry)


def _usual_tokenizer(key: str, registry: Registry) -> str:
    """What most systems of a modality cut their input with."""
    names = Counter(
        nest(part.defaults)["tokenizer"]["name"]
        for part in registry.parts("systems")
        if part.modality != "any" and part.fits(key) and "tokenizer" in nest(part.defaults)
    )
    if not names:
        raise UserError(f"no installed system says how to cut {key!r} into tokens: give --tokenizer NAME")
    return str(names.most_common(1)[0][0])


def _patch_size(tokenizer: type, size: int | tuple[int, ...]) -> dict[str, int]:
    """A patch that tiles the sample in about fourteen, of at least four where the sample is small."""
    import inspect

    if "patch_size" not in inspect.signature(tokenizer).parameters:
        return {}
    sides = (size,) if isinstance(size, int) else tuple(size)
    fits = [p for p in range(1, min(sides) + 1) if all(n % p == 0 for n in sides) and min(sides) // p >= 4]
    wish = max(4.0, max(sides) / 14)
    return {"patch_size": min(fits, key=lambda p: abs(math.log(p / wish)))} if fits else {}
