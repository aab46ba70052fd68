"""Recipes: systems that are trained in several stages, each a run of its own.

A recipe is a plain function in the file of its system,
``def recipe(stage: Stage, /, *, rounds: int = 2) -> None``, registered under the hook
``polymask_register_recipes``. It calls ``stage`` for every run and computes what lies between them
(clusters of features, a distilled tokenizer). ``polymask recipe NAME --data SPEC`` runs it; the same
command again goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polymask.config import RUN, RunConfig, build, plain
from polymask.data import Dataset
from polymask.errors import UserError
from polymask.evaluation.probe import labelled, probe
from polymask.evaluation.result import ProbeResult, read_probe
from polymask.files import contents, read_json, write_json
from polymask.plugins.registry import Registry, default_registry
from polymask.run import Run, holds_run, locked_together
from polymask.training import fit
from polymask.training.sanity_check import sanity_check

PLAN = "recipe.json"


class Stage:
    """Trains the stages of one recipe, on the same data unless a stage names its own.

    Args:
        folder: of the recipe; each stage has a run folder of its name in it. A recipe keeps there what it
            computes between stages, written whole or not at all.
        data: what stages train on, a name or a mapping with a ``name``; ``given`` is what was given.
        shared: options of every stage, such as ``seed`` and ``devices``.
        registry: where to look names up; the installed plugins by default.
        progress: say on stderr which stage is trained, with a progress line.
    """

    def __init__(
        self,
        folder: str | Path,
        data: str | Mapping[str, Any],
        shared: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        progress: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.shared = dict(shared or {})
        self.done: list[Run] = []
        self.given, self._registry, self._progress = data, registry or default_registry(), progress
        self._opened: dict[str, Dataset] = {}

    @functools.cached_property
    def data(self) -> Dataset:
        """The data of the recipe, opened."""
        data: Dataset = build(self.given, "datasets", registry=self._registry)
        return data

    def __call__(self, name: str, system: str, **options: Any) -> Run:
        """Train a stage, or what is left of it, and probe it where the data has labels.

        Args:
            name: of the stage, and of its folder.
            system: which system.
            options: as of ``polymask pretrain``: ``preset``, ``steps``, slots, dotted keys; ``data`` where a
                stage has its own.

        Returns:
            The run, with the trained system in eval mode.

        Raises:
            UserError: no name of a folder, it cannot be built, or the folder holds a run of other options.
        """
        if name in ("", "..") or Path(name).name != name:
            raise UserError(f"a stage is called {name!r}: give the name of a folder in that of the recipe")
        folder = self.folder / name
        config = RunConfig.resolve(
            {"system": system, "data": self.given, **self.shared, **options}, registry=self._registry
        )
        # one data set for all stages that ask for the same, unless it lies where the run does
        spec = json.dumps(config.data and config.data.plain())
        run = Run.create(config, folder, data=None if RUN in spec else self._opened.get(spec))
        self._opened[spec] = run.data
        if self._progress:
            sys.stderr.write(f"stage {name}: {system}\n")
        if not holds_run(folder):
            sanity_check(system, run.system, run.data, run.training.seed)
        fit(run, resume=None, progress=self._progress)
        run.system.eval()
        if labelled(run.data) and read_probe(folder) is None:
            probe(run)
        self.done.append(run)
        return run

    def probes(self) -> dict[str, ProbeResult]:
        """What was probed of each stage, by name."""
        found = {run.folder.name: read_probe(run.folder) for run in self.done}
        return {name: probe for name, probe in found.items() if probe is not None}


def run_recipe(
    recipe: str,
    data: str | Mapping[str, Any],
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    shared: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    progress: bool = True,
) -> Stage:
    """Run a recipe by name with some options, or what is left of it; the rest is as :class:`Stage` has it.

    Returns:
        The stages that were run.

    Raises:
        UserError: no such recipe, options it does not take, or a folder that holds another recipe.
    """
    registry, folder = registry or default_registry(), Path(folder)
    part = registry.find("recipes", recipe)
    registry = registry.within(part.modality)
    function: Callable[..., None] = part.load()
    plan = plain({"recipe": part.full_name, "data": data, "options": options or {}, "shared": shared or {}})
    _check(plan, folder)
    stage = Stage(folder, data, shared, registry, progress)
    with locked_together(folder):
        write_json(folder / PLAN, plan)
        try:
            function(stage, **dict(part.defaults) | dict(options or {}))
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # of the call itself
                raise UserError(f"{part.full_name}: {error}") from error
            raise
    return stage


def divided(steps: int, share: float) -> tuple[int, int]:
    """Steps of a first stage, about a share of those of two, and of the second; each has one or more."""
    first = min(max(round(share * steps), 1), max(steps - 1, 1))
    return first, max(steps - first, 1)


def _check(plan: Mapping[str, Any], folder: Path) -> None:
    """See that what is done in a folder is the same as before."""
    path = folder / PLAN
    if not path.is_file():
        if contents(folder):
            raise UserError(f"{folder} holds something else than a recipe: give another --out")
        return
    found = read_json(path, dict, "put back a copy, or give another --out")
    for key, value in plan.items():
        if found.get(key) != value:
            raise UserError(
                f"{folder} holds a recipe whose {key} is {json.dumps(found.get(key))}, not "
                f"{json.dumps(value)}: give another --out, or the same again"
            )
