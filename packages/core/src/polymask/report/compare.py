"""Several variants of one run, with the same data, seeds and budget."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.checkpoints import CHECKPOINT
from polymask.config import PartConfig, RunConfig, plain
from polymask.data import Dataset
from polymask.errors import UserError
from polymask.evaluation.measurements import Measurements, chosen, evaluate_run, stored_at
from polymask.evaluation.probe import labelled
from polymask.evaluation.probe import probe as probe_run
from polymask.evaluation.result import METHODS, RAW, TRAINED, UNTRAINED, ProbeResult, is_current, read_probe
from polymask.files import contents, read_json, write_json, write_text
from polymask.report.comparison import COST, LOSS, NOTES, Comparison
from polymask.report.curves import Curves, line_of
from polymask.report.variants import configurations
from polymask.run import Run, locked_together
from polymask.training import fit
from polymask.training.metrics import read_metrics
from polymask.training.sanity_check import sanity_check

PLAN = "comparison.json"

Config = dict[str, Any]

Evaluation = str | Mapping[str, Any] | PartConfig
"""One evaluation: its name, a mapping with a ``name``, or its configuration."""


def compare(
    config: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    out: str | Path,
    *,
    seeds: int | Sequence[int] = 3,
    probe: Mapping[str, Any] | None = None,
    evaluation: Evaluation | Sequence[Evaluation] | None = None,
    may_differ: Sequence[str] = (),
    progress: bool = True,
) -> Comparison:
    """Train and probe every variant with every seed, and compare them.

    A run that the folder holds already is used as it is, one that was stopped goes on from its
    last checkpoint. Seeds, and variants behind the others, may be added later.

    Args:
        config: what all runs share, as in a run's ``config.yaml``: ``system``, ``preset``,
            ``data``, slots, options.
        variants: what each variant changes, by label (one alone tells how much its seeds differ); the first
            is what others are compared to:
            ``{"core/random": {"masking": "core/random"}, "block": {"masking": {"name":
            "core/block", "ratio": 0.5}}}``, or ``{"mae": {"system": "vision/mae"}, ...}``.
        out: folder of the comparison: a run folder per variant and seed, ``comparison.json``,
            ``.md``, ``.html`` and ``.png``.
        seeds: how many (0, 1, ...), or which.
        probe: options of :func:`polymask.evaluation.probe`.
        evaluation: what to run beside the probes, by name or as a mapping with a ``name``; or several.
        may_differ: parts of the budget that variants set on purpose, where something else is held equal:
            ``batch_size`` where one encodes several rows per sample.
        progress: say on stderr which run is trained, with a progress line.

    Raises:
        UserError: variants cannot be built, differ in data or budget, or the folder holds
            something else. Nothing is trained then.
    """
    out, probe = Path(out), dict(probe or {})
    evaluations = (
        [evaluation] if isinstance(evaluation, str | Mapping | PartConfig) else list(evaluation or ())
    )
    asked = [one if isinstance(one, PartConfig) else chosen(one) for one in evaluations]
    for name in (name for name, count in Counter(one.name for one in asked).items() if count > 1):
        raise UserError(
            f"{name} is asked for twice, and its scores would have one name: compare by one at a time; "
            "runs are kept"
        )
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    configs = configurations(config, variants, seeds, may_differ)
    plan = {"config": plain(config), "variants": plain(variants), "probe": plain(probe)}
    stored = _stored(out, plan)
    names = {label: re.sub(r"[^\w.=-]+", "-", label).strip("-") for label in variants}
    if len(set(names.values())) < len(names):
        raise UserError(f"variants need names that differ in letters or digits, got {', '.join(names)}")
    data: Dataset | None = None
    for label in variants:
        first = out / f"{names[label]}-seed{seeds[0]}"
        if not (first / CHECKPOINT).exists():
            run = Run.create(configs[label], first, data=data)
            sanity_check(label, run.system, run.data, seeds[0])
            data = run.data
    with locked_together(out):
        if stored is None or stored.get("probe") != plain(probe):
            for outdated in out.glob("*/probe.json"):
                outdated.unlink()
        if stored is None or {key: stored.get(key) for key in plan} != plan:
            write_json(out / PLAN, plan)
        values: dict[str, list[dict[str, float]]] = {label: [] for label in variants}
        rivals: dict[str, dict[str, float]] = {}
        folders: dict[str, list[str]] = {label: [] for label in variants}
        reference: dict[str, float] = {}
        answers: dict[str, dict[str, list[list[str]]]] = {}
        turns = list(itertools.product(seeds, variants))
        for turn, (seed, label) in enumerate(turns):
            folder = out / f"{names[label]}-seed{seed}"
            if progress:
                sys.stderr.write(f"run {turn + 1} of {len(turns)}: {label}, seed {seed}\n")
            training = dataclasses.replace(configs[label].training, seed=seed)
            lazy = _Lazy(dataclasses.replace(configs[label], training=training), folder, data)
            found = _trained(lazy, probe, turn == 0, progress)
            scores = [_evaluated(lazy, one) for one in asked]
            data = lazy.data
            values[label].append(_measure(folder, found, scores))
            for row in () if found is None else found.rows:
                if row.features == TRAINED:
                    answers.setdefault(label, {}).setdefault(row.method, []).append(list(row.right))
            for one in scores:
                others = [name for name in one.rows if name not in (TRAINED, UNTRAINED)]
                rivals |= {name: rivals.get(name, {}) | one.row(name) for name in others}
            folders[label].append(folder.name)
            if turn == 0 and found is not None:
                reference = {row.method: row.accuracy.mean for row in found.rows if row.features == RAW}
        known = all(right for found in answers.values() for seed in found.values() for right in seed)
        result = Comparison(
            dict(config),
            dict(variants),
            seeds,
            values,
            reference,
            rivals,
            folders,
            _curves(out, folders),
            answers if known else {},
        )
        _write(result, out, probe)
    return result


def _curves(out: Path, folders: Mapping[str, list[str]]) -> Curves | None:
    """Accuracies on the way, None where a run was not probed there."""
    lines = {
        label: [line_of(read_metrics(out / name / "metrics.csv")) for name in names]
        for label, names in folders.items()
    }
    return Curves(lines) if all(line for found in lines.values() for line in found) else None


def _stored(out: Path, plan: Mapping[str, Any]) -> Config | None:
    """What the folder holds of this comparison, None when it is empty or not there yet."""
    path = out / PLAN
    if not path.is_file():
        if contents(out):
            raise UserError(f"{out} holds something else than a comparison: give another --out")
        return None
    found = read_json(path, _as_plan, "put back a copy, or give another --out")
    begun = list(plan["variants"].items())[: len(found["variants"])]
    same = {"config": found["config"] == plan["config"], "variants": list(found["variants"].items()) == begun}
    for key in (key for key, is_same in same.items() if not is_same):
        raise UserError(
            f"{out} holds another comparison, whose {key} is {json.dumps(found[key])}, "
            f"not {json.dumps(plan[key])}: give another --out, or compare the same again; more variants "
            "go behind those it has"
        )
    return found


def _as_plan(found: Mapping[str, Any]) -> Config:
    """What is stored of a comparison, in its shape."""
    return {**found, "config": dict(found["config"]), "variants": dict(found["variants"])}


class _Lazy:
    """A run of a comparison, built when something is left to be done.

    Args:
        config: of the run.
        folder: of the run.
        data: the data of the comparison, where it is open.
    """

    def __init__(self, config: RunConfig, folder: Path, data: Dataset | None) -> None:
        self.config, self.folder, self.data = config, folder, data

    @functools.cached_property
    def run(self) -> Run:
        run = Run.create(self.config, self.folder, data=self.data)
        self.data = run.data
        return run

    @functools.cached_property
    def trained(self) -> Run:
        """With the weights of the last checkpoint."""
        if self.run.step == 0:
            self.run.load()
        self.run.system.eval()
        return self.run


def _trained(lazy: _Lazy, probe: Config, raw: bool, progress: bool) -> ProbeResult | None:
    """Train (what is left of) a run and probe it; None where there are no labels."""
    found = read_probe(lazy.folder)
    if found is not None and found.settings.get("step") == found.settings.get("steps"):
        return found
    fit(lazy.run, resume=None, progress=progress)
    return probe_run(lazy.trained, **{"raw": raw, **probe}) if labelled(lazy.run.data) else None


def _evaluated(lazy: _Lazy, evaluation: PartConfig) -> Measurements:
    """What an evaluation finds about a run, or has found with the same options."""
    path = stored_at(lazy.folder, evaluation)
    found = read_json(path, Measurements.from_json) if path.is_file() else None
    return found if found and is_current(path, found.step) else evaluate_run(lazy.trained, evaluation)


def _measure(folder: Path, found: ProbeResult | None, scores: Sequence[Measurements]) -> dict[str, float]:
    """The numbers of one run, from its files alone."""
    rows = read_metrics(folder / "metrics.csv")
    if not rows:
        raise UserError(
            f"{folder / 'metrics.csv'} has no row: put back a copy, or delete {folder} to train it"
        )
    last = rows[-max(1, math.ceil(len(rows) / 10)) :]
    measured: dict[str, float] = {}
    if found is not None:
        for method in METHODS:
            measured[method] = found.accuracy(TRAINED, method).mean
            measured[f"{UNTRAINED} {method}"] = found.accuracy(UNTRAINED, method).mean
    for one in scores:
        measured |= one.row(TRAINED)
        measured |= {f"{UNTRAINED} {metric}": value for metric, value in one.row(UNTRAINED).items()}
    measured[LOSS] = statistics.fmean(row["loss"] for row in last)
    measured[COST] = 1000 / statistics.median(row["samples_per_second"] for row in rows)
    return measured


def _write(result: Comparison, out: Path, probe: Config) -> None:
    from polymask.report import charts
    from polymask.report.templates import flat, render

    picture = result.draw(charts.PAPER)
    picture.suptitle(result.title, x=0.01, ha="left", fontsize=11, color=charts.PAPER.text)
    charts.save(picture, out / "comparison.png")
    on_the_way = ""
    if result.curves is not None:
        charts.save(result.curves.draw(charts.PAPER), out / "curves.png")
        on_the_way = charts.svg(result.curves.draw(charts.PAGE), "Accuracy of each variant on the way")
    what = "Scores" if result.scores else "Loss"
    context = {
        "found": result,
        "notes": NOTES,
        "chart_title": what,
        "curves": on_the_way,
        "chart": charts.svg(result.draw(charts.PAGE), f"{what} of each variant with its interval"),
        "config": flat(result.config),
        "changes": {label: flat(change) for label, change in result.variants.items()},
    }
    write_text(out / "comparison.md", result.markdown())
    write_text(out / "comparison.html", render("comparison.html.j2", **context))
    write_json(out / PLAN, {**plain(result.to_json()), "probe": plain(probe)})
