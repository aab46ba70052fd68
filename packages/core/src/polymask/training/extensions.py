"""Loggers and callbacks of Lightning that options name."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from polymask.config import TrainOptions
from polymask.errors import UserError

Named = str | Sequence[str] | Mapping[str, Any] | None
"""A name, several, or names with the options of each."""

LOGGERS = {
    "csv": "CSVLogger",
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
}
"""Classes of ``lightning.pytorch.loggers`` by the name of the option, which is that of an extra, but csv."""


def loggers_of(options: TrainOptions, folder: Path) -> list[Logger]:
    """The loggers that options name; they write into the folder of the run unless told otherwise.

    Raises:
        UserError: a name that means nothing, a library that is not installed, or options it refuses.
    """
    same = hashlib.blake2b(str(folder.absolute()).encode(), digest_size=8).hexdigest()
    own: dict[str, dict[str, Any]] = {
        "csv": {"save_dir": folder, "name": "", "version": "csv"},
        "tensorboard": {"save_dir": folder, "name": "", "version": "tensorboard"},
        "wandb": {
            "save_dir": folder,
            "project": "polymask",
            "name": folder.name,
            "id": same,
            "resume": "allow",
        },
        "mlflow": {
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "experiment_name": "polymask",
            "run_name": folder.name,
        },
    }
    found = []
    for name, given in _pairs(options.logger):
        path = LOGGERS.get(name, name)
        cls = _find(path, "lightning.pytorch.loggers", f"--logger {name}", LOGGERS)
        found.append(_made(cls, {**own.get(name, {}), **given}, f"--logger {name}", Logger))
    return found


def log_options(loggers: Sequence[Logger], options: Mapping[str, Any]) -> None:
    """Have loggers keep the options of a run, for which most begin to write.

    Raises:
        UserError: one cannot.
    """
    for logger in loggers:
        try:
            logger.log_hyperparams(dict(options))
        # whatever it raises is about its options, or the place it writes to
        except Exception as error:
            cause = error.__cause__ or error
            text = f"{type(cause).__name__}: {cause}"
            raise UserError(f"the logger {type(logger).__name__} does not begin: {text}") from error


def callbacks_of(options: TrainOptions) -> list[pl.Callback]:
    """The callbacks that options name.

    Raises:
        UserError: a name that means nothing, or options it refuses.
    """
    return [
        _made(_find(name, "lightning.pytorch.callbacks", f"--callbacks {name}"), given, name, pl.Callback)
        for name, given in _pairs(options.callbacks)
    ]


@contextlib.contextmanager
def missing_libraries_named() -> Iterator[None]:
    """One line where a callback or a part finds out in training that it lacks a library."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"a library is missing: {error}") from error


def _pairs(named: Named) -> list[tuple[str, Mapping[str, Any]]]:
    if named is None:
        return []
    names = [named] if isinstance(named, str) else named
    pairs = names if isinstance(names, Mapping) else {name: {} for name in names}
    for name, given in pairs.items():
        if given is not None and not isinstance(given, Mapping):
            raise UserError(
                f"{name}: give its options as a mapping, {{{name}: {{option: value}}}}, not {given!r}"
            )
    return [(name, given or {}) for name, given in pairs.items()]


def _find(path: str, home: str, asked: str, names: Mapping[str, str] | None = None) -> Any:
    """A class by ``package.module:Class``, or by its name alone in a module of Lightning."""
    module, colon, name = path.rpartition(":")
    try:
        found = getattr(importlib.import_module(module if colon else home), name)
        if not callable(found):
            raise AttributeError(f"{name} there is no class")
        return found
    except (ImportError, AttributeError, ValueError) as error:
        choices = f"{', '.join(names)}, " if names else ""
        raise UserError(
            f"{asked} is not found ({error}): choose {choices}a class of {home}, or package.module:Class"
        ) from error


def _made(cls: Any, options: Mapping[str, Any], asked: str, kind: type) -> Any:
    try:
        made = cls(**options)
    except ModuleNotFoundError as error:
        raise UserError(f"{asked}: {error}; pip install 'polymask[{asked.split()[-1]}]'") from error
    # whatever it raises is about these options
    except Exception as error:
        raise UserError(f"{asked}: {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(f"{asked} is no {kind.__name__} of Lightning")
    return made
