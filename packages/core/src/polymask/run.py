"""A run on disk: its configuration, and what was trained by it.

``config.yaml`` names the system, its preset and parts, the data and how to train; with it and
``checkpoints/last.ckpt`` the whole run is built again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]

from polymask import wiring
from polymask.data import Dataset, open_data
from polymask.errors import UserError
from polymask.protocols import System
from polymask.registry import Registry, default_registry
from polymask.training import options as training

CONFIG, CHECKPOINT = "config.yaml", "checkpoints/last.ckpt"


@dataclass(frozen=True)
class Run:
    """A run opened again.

    Args:
        folder: where it is.
        config: what ``config.yaml`` says.
        system: built, with the weights of the checkpoint or fresh ones; in eval mode.
        data: opened.
        step: optimiser steps behind the weights; 0 for fresh ones.
    """

    folder: Path
    config: dict[str, Any]
    system: System
    data: Dataset
    step: int


def open_run(folder: str | Path, trained: bool = True, registry: Registry | None = None) -> Run:
    """Build a run's system and data again.

    Args:
        folder: the run folder.
        trained: load the weights of the last checkpoint; else the system is initialised anew
            from the run's seed, as it was before training.
        registry: where to look names up; the installed plugins by default.

    Raises:
        UserError: no run there, or a checkpoint that is missing, damaged or of another system.
    """
    folder = Path(folder)
    config = load_config(folder)
    system, data, _ = build_from_config(config, registry, folder)
    step = load_weights(system, folder) if trained else 0
    return Run(folder, config, system.eval(), data, step)


def build_from_config(
    config: Mapping[str, Any], registry: Registry | None = None, folder: str | Path | None = None
) -> tuple[System, Dataset, training.TrainOptions]:
    """Build what a configuration names; the system's weights are drawn from its ``seed``.

    Args:
        config: ``system``, ``preset``, ``data`` (a name, or a mapping with a ``name``), training
            options by name, and all else for the system; dotted keys or nested.
        registry: where to look names up; the installed plugins by default.
        folder: of the run, which options may begin with (:data:`polymask.wiring.RUN`).

    Raises:
        UserError: something is missing, unknown or cannot be built.
    """
    registry = registry or default_registry()
    own = wiring.nest(config)
    if not own.get("system"):
        raise UserError("the configuration names no system: give one, e.g. system: vision/mae")
    name, preset = own.pop("system"), own.pop("preset", None)
    chosen = own.pop("data", None)
    chosen = {"name": chosen} if isinstance(chosen, str) else dict(chosen or {})
    part = registry.find("systems", name)
    registry = registry.within(part.modality)
    below = wiring.preset_options(part, preset, registry)
    known = training.names()
    given = {key: own.pop(key) for key in known & own.keys()}
    options = train_options(below, given)
    data = _open_data({**below.get("data", {}), **chosen}, set(chosen), registry, folder)
    # an initialisation of its own seed, that leaves the caller's random state alone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        facts = data.provides if folder is None else {**data.provides, wiring.RUN: folder}
        system = wiring.build(name, preset=preset, facts=facts, registry=registry, **own)
    return system, data, options


def train_options(below: Mapping[str, Any], given: Mapping[str, Any]) -> training.TrainOptions:
    """Training options of a preset with given ones laid over them; other keys are passed over.

    Raises:
        UserError: a value that cannot be.
    """
    known = training.names()
    merged = training.overlay(below, given)
    return training.TrainOptions(**{key: value for key, value in merged.items() if key in known})


def config_of(system: System, data: Dataset, options: training.TrainOptions) -> dict[str, Any]:
    """The configuration of what was built in Python.

    Returns:
        One that builds the same again, if the system and the data were built by name
        (:func:`polymask.build`, :func:`polymask.data.open_data`); else the training options alone.
    """
    config: dict[str, Any] = {}
    for key, built in (("system", system), ("data", data)):
        made = wiring.options_of(built)
        if made is not None and key == "system":
            made = dict(made)
            config["system"] = made.pop("name")
            config.update(made)
        elif made is not None:
            config["data"] = made
    return {**plain(config), **plain(vars(options))}


def load_config(folder: Path) -> dict[str, Any]:
    """What a run's ``config.yaml`` says.

    Raises:
        UserError: there is none, or it is not a mapping.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is no run folder: it holds no {CONFIG}")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} must map option names to values")
    return config


def save_config(config: Mapping[str, Any], folder: Path) -> Path:
    """Write ``config.yaml``."""
    path = folder / CONFIG
    path.write_text(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
    return path


def load_weights(system: System, folder: str | Path) -> int:
    """Load the weights of a run's last checkpoint into a system; returns its step.

    Raises:
        UserError: the checkpoint is missing, damaged or of another system.
    """
    from polymask.training.checkpoint import read, system_weights

    checkpoint = read(Path(folder) / CHECKPOINT)
    system.load_state_dict(system_weights(checkpoint, system))
    return int(checkpoint["global_step"])


def plain(value: Any) -> Any:
    """Numbers, strings, lists and mappings only, as YAML has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def open_data_of(
    data: str | Mapping[str, Any], registry: Registry | None = None, run: str | Path | None = None
) -> Dataset:
    """Open a data set given by name, or as a mapping with a ``name`` and options.

    Args:
        data: the name, or the mapping.
        registry: where to look names up; the installed plugins by default.
        run: folder of the run whose data it is, which options may begin with (:data:`polymask.wiring.RUN`).
    """
    chosen = {"name": data} if isinstance(data, str) else dict(data)
    return _open_data(chosen, set(chosen), registry or default_registry(), run)


def _open_data(
    options: dict[str, Any], asked: set[str], registry: Registry, folder: str | Path | None = None
) -> Dataset:
    """Open the data; what only the preset asks of it and it does not have is left out."""
    spec = options.pop("name", None)
    if not spec:
        raise UserError("no data: give --data NAME, e.g. --data vision/digits or --data folder:photos")
    part = registry.find("datasets", str(spec).partition(":")[0])
    parameters = wiring.parameters_of(part, registry)
    ignored = [key for key in options if key not in parameters and key not in asked]
    if ignored:
        warnings.warn(
            f"{part.full_name} has no {', '.join(ignored)}, which the preset asks for: left out", stacklevel=3
        )
    kept = {key: value for key, value in options.items() if key not in ignored}
    return open_data(spec, registry, folder, **kept)
