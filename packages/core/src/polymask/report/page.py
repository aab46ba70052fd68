"""One self-contained HTML page about a run: what it learned, how it went, what it hid."""

from __future__ import annotations

import base64
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymask.config import CONFIG, RunConfig, resolve_path
from polymask.data import MediaProvider, Samples, describe, evenly, sample_of
from polymask.errors import UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.finetuning import Finetuned
from polymask.evaluation.measurements import Measurements, read_scores
from polymask.evaluation.result import CAVEAT, METHODS, ProbeResult, read_probe
from polymask.files import read_json, read_yaml, write_text
from polymask.plugins.registry import default_registry
from polymask.protocols import Batch
from polymask.report import charts, progress, views
from polymask.report.charts import PAGE
from polymask.report.drawing import Pixels, in_rows, png, scale, sheet, to_pixels
from polymask.report.finetuned import read_all
from polymask.report.generation import Film, film
from polymask.report.neighbours import neighbours
from polymask.report.panels import coverage, panels_of
from polymask.report.progress import Chart, Metrics
from polymask.report.templates import flat, render
from polymask.run import Run, restore_config
from polymask.step import Step
from polymask.systems.base import Generates
from polymask.systems.host import implementing
from polymask.training.metrics import read_metrics
from polymask.training.trainer import plan_of

SAMPLES, SIDE = 8, 168


@dataclass
class Page:
    """What the template shows; every part may be missing, and ``missing`` then says why.

    Args:
        title: the system.
        summary: what it does, in one line.
        facts: of the run, by name.
        samples: what the samples in the pictures are.
        curves: charts of the training.
        probe: what was probed.
        probe_chart: the same as SVG.
        scores: of evaluations.
        finetuned: what fine-tuning came to.
        pictures: strips of held-out samples by caption, as data URIs.
        displays: other things to see or hear by caption, as HTML.
        generated: samples that the system generated, as a film.
        neighbours: rows of a sample and those nearest to it, as a data URI, and what they are.
        depth: charts of what changes from block to block.
        masks: the same samples under each view's mask.
        mask_charts: by view.
        environment: by name.
        config: by dotted name.
        skipped: files left out, with the reason.
        missing: by part.
    """

    title: str
    summary: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    samples: str = "held-out samples"
    curves: list[Chart] = field(default_factory=list)
    probe: ProbeResult | None = None
    probe_chart: str = ""
    scores: list[Measurements] = field(default_factory=list)
    finetuned: list[Finetuned] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    displays: dict[str, list[str]] = field(default_factory=dict)
    generated: Film | None = None
    neighbours: tuple[str, str] | None = None
    depth: list[Chart] = field(default_factory=list)
    masks: dict[str, str] = field(default_factory=dict)
    mask_charts: dict[str, list[Chart]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    missing: defaultdict[str, str] = field(default_factory=lambda: defaultdict(str))


def write_report(run: Run | str | Path) -> Path:
    """Write ``report.html`` about a run, finished or not.

    Args:
        run: a run or its folder.

    Returns:
        Path of the page.

    Raises:
        UserError: there is no run.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    path = folder / "report.html"
    write_text(path, render("page.html.j2", page=gather(run), methods=METHODS, caveat=CAVEAT))
    return path


def gather(source: Run | str | Path) -> Page:
    """Collect all there is to say about a run."""
    folder = source.folder if isinstance(source, Run) else Path(source)
    restore_config(folder)
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else RunConfig.load(folder).plain()
    page = Page(title=str(config.get("system", folder.name)), config=_set(resolve_path(config, folder)))
    try:
        page.summary = default_registry().find("systems", page.title).summary
    except UserError:
        page.summary = ""
    metrics = progress.columns(read_metrics(folder / "metrics.csv"))
    if metrics:
        page.curves += progress.training(metrics)
    else:
        page.missing["training"] = "No step has been logged yet."
    _environment(page, folder)
    _probe(page, folder)
    page.scores, page.finetuned = read_scores(folder), read_all(folder)
    run = source if isinstance(source, Run) else _open(page, folder)
    if run is not None:
        total = plan_of(run).total
        with evaluating(run.system, torch.device("cpu")):
            _pictures(page, run, Step(run.step, total, run.training.seed))
        if implementing(run.system, Generates) is not None:
            with _catching(page, "generated", f"Samples of {page.title}"):
                try:
                    page.generated = film(run)
                except UserError as error:  # of options that it cannot generate with
                    page.missing["generated"] = str(error)
        with evaluating(run.system), _catching(page, "neighbours", "Nearest neighbours"):
            found = neighbours(run, SIDE // 2)
            page.neighbours = (_uri(sheet(found.rows)), found.note) if found else None
        page.curves += progress.schedule(run.system, total)
        page.facts = _facts(run, config, metrics, total)
        page.skipped = [(str(path), reason) for path, reason in run.data.skipped]
    return page


# ------------------------------------------------------------------------------ parts of the page


def _open(page: Page, folder: Path) -> Run | None:
    try:
        run = Run.open(folder)
        run.data  # noqa: B018, is opened here if it can be
        return run
    except (UserError, OSError) as error:
        page.missing["pictures"] = f"The trained system could not be opened: {error}"
    try:
        run = Run.open(folder, trained=False)
    except (UserError, OSError) as error:
        page.missing["pictures"] = f"The run could not be opened again: {error}"
        return None
    page.missing["pictures"] += " What follows shows it untrained."
    return run


def _facts(run: Run, config: Mapping[str, Any], metrics: Metrics, total: int) -> dict[str, str]:
    trainable = sum(p.numel() for p in run.system.parameters() if p.requires_grad)
    done = max(run.step, int(metrics["step"][-1]) if metrics else 0)
    data = config.get("data", "")
    state = "finished" if run.step >= total else "not finished"
    facts = {
        "data": str(data.get("name", "")) if isinstance(data, Mapping) else str(data),
        "training samples": f"{len(run.data.split('train')):,}",
        "steps": f"{done:,} of {total:,}, {state}",
        "parameters": f"{trainable:,}",
        "seed": str(config.get("seed", 0)),
        **describe(run.data),
    }
    if metrics:
        facts["last loss"] = f"{metrics['loss'][-1]:.4g}"
    return facts


def _probe(page: Page, folder: Path) -> None:
    try:
        page.probe = found = read_probe(folder)
    except UserError as error:
        page.missing["probe"] = str(error)
        return
    if found is None:
        page.missing["probe"] = (
            "Not probed yet, as it is now: run polymask probe with this folder. It needs labelled data."
        )
        return
    names = list(dict.fromkeys(row.features for row in found.rows))
    series = {method: [found.accuracy(name, method) for name in names] for method in METHODS}
    made = charts.figure(4.4, 0.75 + 0.4 * len(names))
    axes = made.subplots()
    charts.dots(axes, PAGE, names, series, "accuracy")
    axes.axvline(found.chance, color=PAGE.muted, linewidth=0.8, linestyle=(0, (4, 3)))
    page.probe_chart = charts.svg(made, "Accuracy of probes with intervals")


def _pictures(page: Page, run: Run, step: Step) -> None:
    data, system = run.data, run.system
    samples, labels, page.samples = views.held_out(data, system)
    batch = views.batch_of(samples, evenly(len(samples), SAMPLES), labels)
    if isinstance(data, MediaProvider):
        with _catching(page, "pictures", "What the data set presents"):
            for i in range(len(batch["id"])):
                for caption, shown in data.media(sample_of(batch, i)).items():
                    page.displays.setdefault(caption, []).append(shown._repr_html_())
    with _catching(page, "reconstructions", f"Pictures of {page.title}"):
        preview = system.preview(batch, step)
        for caption, values in preview.media.items():
            with _catching(page, "reconstructions", f"{caption!r} of {page.title}"):
                if isinstance(values, Tensor):
                    page.pictures[caption] = _strip(
                        [scale(to_pixels(data.to_image(x)), SIDE) for x in values]
                    )
                else:
                    page.displays[caption] = [x._repr_html_() for x in values]
        if not preview.media:
            page.missing["reconstructions"] = "This system shows nothing of its own."
        for title, found in preview.lines.items():
            made, axes = charts.panel(2.9, 2.2)
            lines = {title: found} if isinstance(found, Tensor) else found
            numbers = {name: line.tolist() for name, line in lines.items()}
            blocks = range(max(map(len, numbers.values())))
            charts.curves(charts.style(axes, PAGE, "block"), PAGE, blocks, numbers)
            chart = Chart(title, "from the embedding, 0, on", charts.svg(made, f"{title} by block"))
            page.depth.append(chart)
    with _catching(page, "reconstructions", f"Explanations of {page.title}"):
        explained = views.explanation(system, batch, step)
        if explained is not None:
            left = explained.pixels(data, batch, views.pictures_of(data, batch, SIDE))
            page.pictures["what the answer depends on; the rest is covered"] = _strip(left)
    with _catching(page, "masks", f"Masks of {page.title}"):
        _masks(page, run, samples, labels, batch, step)


def _masks(page: Page, run: Run, samples: Samples, labels: Tensor | None, batch: Batch, step: Step) -> None:
    viewer = views.of_system(run.system)
    originals = views.pictures_of(run.data, batch, SIDE)
    masks = viewer(batch, step)
    if not masks:
        page.missing["masks"] = "This system offers no masks to draw."
        return
    for name, view in masks.items():
        with _catching(page, "masks", f"Mask {name!r} of {page.title}"):
            page.masks[name] = _strip(view.pixels(run.data, batch, originals))
    for name, statistics in views.statistics_of(viewer, samples, step, labels=labels).items():
        page.mask_charts[name] = []
        for title, note, draw in panels_of(statistics):
            is_map = draw is coverage and statistics.coverage.ndim > 1  # which has no labels at its axes
            made, axes = charts.panel(2.9, 2.2, *((0.05, 0.1) if is_map else ()))
            draw(axes, PAGE, statistics)
            page.mask_charts[name].append(Chart(title, note, charts.svg(made, f"{title}, {name}, {note}")))


@contextmanager
def _catching(page: Page, place: str, what: str) -> Iterator[None]:
    """Whatever goes wrong in drawing is said on the page and on the terminal; the rest is drawn."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a part that calls sys.exit ends no report
        text = f"{what} could not be drawn: {type(error).__name__}: {error}"
        page.missing[place] = f"{page.missing[place]} {text}".strip()
        warnings.warn(f"{text} (the rest of the report is complete)", stacklevel=1)


def _environment(page: Page, folder: Path) -> None:
    path = folder / "environment.json"
    if path.is_file():
        try:
            page.environment = read_json(path, _set)
        except UserError as error:
            page.missing["environment"] = str(error)
    else:
        page.missing["environment"] = "No environment was recorded."


def _strip(pictures: list[Pixels]) -> str:
    """Pictures in rows, as a data URI."""
    return _uri(sheet(in_rows(pictures), gap=16))


def _uri(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def _set(value: Mapping[str, Any]) -> dict[str, str]:
    """What has a value, flat."""
    return {name: text for name, text in flat(value).items() if text not in ("", "None")}
