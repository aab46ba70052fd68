"""A run: its folder, its configuration, its data and its system, made once and handed on.

    config = RunConfig.resolve({"system": "vision/mae", "preset": "small", "data": "fashion"})
    run = Run.create(config, "runs/mae")
    fit(run)
    probe(run)
    write_report(run)

``config.yaml`` and ``checkpoints/last.ckpt`` in the folder are the whole run; :meth:`Run.open` builds it
again in another process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymask.config import CONFIG, RUN, RunConfig, TrainOptions, plain
from polymask.data import Dataset, as_dataset, facts_of
from polymask.errors import UserError
from polymask.files import atomic, read_yaml, write_yaml
from polymask.registry import Registry
from polymask.systems.base import System

CHECKPOINT = "checkpoints/last.ckpt"
Checkpoint = dict[str, Any]
PREFIX = "system."


class Run:
    """A system, its data, and the folder that what comes of them is kept in.

    Args:
        folder: of the run; :func:`polymask.training.fit` makes it.
        system: to be trained, or trained.
        data: a data set, see :class:`polymask.data.Dataset`; one of torch's is taken as
            :func:`polymask.data.as_dataset` does. None where it is not at hand.
        training: how to train.
        config: what all this was built from, if it was.
        step: optimiser steps behind the weights.
    """

    def __init__(
        self,
        folder: str | Path,
        system: System,
        data: Dataset | None,
        training: TrainOptions | None = None,
        *,
        config: RunConfig | None = None,
        step: int = 0,
    ) -> None:
        self.folder, self.system, self.step = Path(folder), system, step
        self.training = training or (config.training if config else TrainOptions())
        self.config, self._data = config, None if data is None else as_dataset(data)
        self._initial = None if config else copy.deepcopy(system)

    @classmethod
    def create(cls, config: RunConfig, folder: str | Path, *, data: Dataset | None = None) -> Run:
        """Open the data and build the system, its weights drawn from the seed.

        Args:
            config: of the run.
            folder: of the run, which options may begin with (:data:`polymask.config.RUN`). Nothing is
                written yet.
            data: an open data set, one's own for example, instead of the one that the configuration names.

        Raises:
            UserError: no data is named, or something cannot be built.
        """
        folder = Path(folder)
        data = open_data_of(config, folder) if data is None else as_dataset(data)
        return cls(folder, _built(config, facts_of(data), folder), data, config.training, config=config)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        trained: bool = True,
        data: Dataset | None = None,
        registry: Registry | None = None,
    ) -> Run:
        """Build the run in a folder again, in eval mode; a trained one needs no data for that.

        Args:
            folder: of the run.
            trained: load the weights of the last checkpoint; without, they are those before training.
            data: the data set of a run on one's own; others are opened by name.
            registry: where names are looked up; the installed plugins by default.

        Raises:
            UserError: no run there, one of a system built in Python, or a checkpoint that is missing,
                damaged or of another system.
        """
        folder = Path(folder)
        restore_config(folder)
        config = RunConfig.load(folder, registry)
        data = None if data is None else as_dataset(data)
        checkpoint = None
        if trained or (data is None and config.data is None):
            checkpoint = read_checkpoint(folder / CHECKPOINT)
        if data is None and checkpoint is None:
            data = open_data_of(config, folder)
        facts = facts_of(data) if data is not None else checkpoint["polymask"]["facts"]  # type: ignore[index]
        run = cls(folder, _built(config, facts, folder).eval(), data, config.training, config=config)
        run.facts = facts
        if trained and checkpoint is not None:
            run.load(checkpoint)
        return run

    @property
    def data(self) -> Dataset:
        """The data set; that of a run that was opened again is opened when it is first asked for.

        Raises:
            UserError: the run was trained on a data set given in Python, and that is not at hand; or nothing
                usable is there any more.
        """
        if self._data is None:
            if self.config is None or self.config.data is None:
                raise UserError(
                    f"{self.folder} was trained on a data set given in Python, which no name opens again: "
                    "give it to Run.open(folder, data=...)"
                )
            self._data = open_data_of(self.config, self.folder)
        return self._data

    @property
    def name(self) -> str:
        """Full name of the system, or of its class where it was not built by name."""
        return self.config.system.name if self.config else type(self.system).__name__

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """What is known about the data that the system was built for."""
        if self._data is not None:
            return facts_of(self._data)
        facts: Mapping[str, Any] = read_checkpoint(self.folder / CHECKPOINT)["polymask"]["facts"]
        return facts

    def untrained(self) -> System:
        """The same system as it was before training, in eval mode: what a trained one is compared with."""
        if self.config is None:
            return copy.deepcopy(self._initial).eval()  # type: ignore[union-attr]
        return _built(self.config, self.facts, self.folder).eval()

    def load(self, checkpoint: Checkpoint | None = None) -> None:
        """Load the weights of the last checkpoint into the system.

        Raises:
            UserError: it is missing, damaged or of another system.
        """
        checkpoint = checkpoint or read_checkpoint(self.folder / CHECKPOINT)
        self.system.load_state_dict(system_weights(checkpoint, self.system))
        self.step = int(checkpoint["global_step"])

    def save_config(self) -> None:
        """Write ``config.yaml``; of a system that was built in Python, its training options alone."""
        known = self.config.plain() if self.config else {"system": None, **plain(vars(self.training))}
        write_yaml(self.folder / CONFIG, known)


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return any((folder / name).exists() for name in (CONFIG, CHECKPOINT))


def restore_config(folder: Path) -> None:
    """Write ``config.yaml`` again, from the checkpoint, where it is missing, empty or damaged.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / CONFIG
    with contextlib.suppress(UserError):
        if read_yaml(path):
            return
    known = None
    with contextlib.suppress(UserError):
        known = read_checkpoint(folder / CHECKPOINT)["polymask"].get("config")
    if known:
        write_yaml(path, known)
        warnings.warn(f"{path} was missing or damaged: it is that of the checkpoint again", stacklevel=2)


def open_data_of(config: RunConfig, folder: str | Path | None = None) -> Dataset:
    """Open the data set that a configuration names.

    Args:
        config: of the run.
        folder: of the run, which options may begin with (:data:`polymask.config.RUN`).

    Raises:
        UserError: it names none, or nothing usable is there.
    """
    if config.data is None:
        raise UserError("no data: give --data NAME, e.g. --data vision/digits or --data folder:photos")
    data: Dataset = config.data.build({} if folder is None else {RUN: folder})
    return data


def _built(config: RunConfig, facts: Mapping[str, Any], folder: Path) -> System:
    """The system of a configuration, initialised from its seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        system: System = config.system.build({**facts, RUN: folder})
    return system


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint of ours; its tensors are read when they are used.

    Raises:
        UserError: there is none, it is damaged, or it is not one of ours.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}: the run has not come that far")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the checkpoint {path} ({path.stat().st_size} bytes) is damaged or none at all: {reason}. "
            "Put back a copy, or start anew with another --out"
        ) from error
    if not isinstance(checkpoint, dict) or not {"polymask", "state_dict"} <= checkpoint.keys():
        raise UserError(f"{path} is a checkpoint, but not one of polymask's")
    return checkpoint


def write_tensors(path: Path, value: Any) -> None:
    """Write what ``torch.save`` takes, whole or not at all."""
    with atomic(path, "wb") as file:
        try:
            torch.save(value, file)
        # torch reports a failed write as RuntimeError, whatever the file raised
        except RuntimeError as error:
            before = error.__context__
            raise before if isinstance(before, OSError) else OSError(str(error)) from error


def system_weights(checkpoint: Checkpoint, system: System) -> dict[str, Tensor]:
    """The weights in a checkpoint that belong to this very system.

    Raises:
        UserError: names or shapes differ; says which.
    """
    saved = {
        name.removeprefix(PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }
    wanted = system.state_dict()
    found = [f"{name} only in the checkpoint" for name in saved.keys() - wanted.keys()]
    found += [f"{name} only in the system" for name in wanted.keys() - saved.keys()]
    found += [
        f"{name} {list(saved[name].shape)} in the checkpoint, {list(wanted[name].shape)} in the system"
        for name in saved.keys() & wanted.keys()
        if saved[name].shape != wanted[name].shape
    ]
    if found:
        other = checkpoint["polymask"].get("system")
        raise UserError(
            f"the checkpoint is of another system ({other}) than {type(system).__name__}, or of one with "
            f"other options; {len(found)} of its weights differ:{some(found)}"
        )
    return saved


def some(lines: list[str], most: int = 8) -> str:
    """The first of some lines, each indented, and how many more there are."""
    shown = "".join(f"\n  {line}" for line in sorted(lines)[:most])
    return shown + (f"\n  and {len(lines) - most} more" if len(lines) > most else "")
