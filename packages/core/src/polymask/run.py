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
import dataclasses
import functools
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from polymask.checkpoints import CHECKPOINT, Checkpoint, read_checkpoint, system_weights
from polymask.config import CONFIG, RUN, RunConfig, TrainOptions, plain, resolve_path
from polymask.data import Dataset, as_dataset, facts_of
from polymask.distributed import rank
from polymask.errors import UserError
from polymask.files import locked, read_json, read_yaml, write_json, write_yaml
from polymask.imports import Initial, load_initial
from polymask.plugins.registry import Registry
from polymask.systems.base import System

INITIAL = "initial.json"


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
        self.initial: Initial | None = None
        if config is None:
            self.initial = self._begin(system, {} if self._data is None else facts_of(self._data))
        self._before = None if config else copy.deepcopy(system)

    @classmethod
    def create(cls, config: RunConfig, folder: str | Path, *, data: Dataset | None = None) -> Run:
        """Open the data and build the system, its weights drawn from the seed or those of ``init``.

        Where the folder holds a checkpoint already, which training goes on with, ``init`` is not read.

        Args:
            config: of the run.
            folder: of the run, which options may begin with (:data:`polymask.config.RUN`). Nothing is
                written yet.
            data: an open data set, one's own for example, instead of the one that the configuration names.

        Raises:
            UserError: no data is named, or something cannot be built.
        """
        folder = Path(folder)
        config = config.beside(folder)
        data = open_data_of(config, folder) if data is None else as_dataset(data)
        run = cls(folder, _built(config, facts_of(data), folder), data, config.training, config=config)
        run.initial = run._begin(run.system, run.facts)
        return run

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
        try:
            system = _built(config, facts, folder).eval()
        except UserError as error:  # of another run that it names, for example, and which was moved
            raise UserError(f"the run {folder} cannot be built again: {error}") from error
        run = cls(folder, system, data, config.training, config=config)
        run.facts = facts
        if trained and checkpoint is not None:
            run.load(checkpoint)
        elif not trained:
            run._begin(run.system, facts, again=True)
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
        """The same system as it was before training, in eval mode: what a trained one is compared with.

        Of a run with ``init`` it has the weights that the run began with.

        Raises:
            UserError: they cannot be loaded any more, or have changed since.
        """
        if self.config is None:
            return copy.deepcopy(self._before).eval()  # type: ignore[union-attr]
        system = _built(self.config, self.facts, self.folder).eval()
        self._begin(system, self.facts, again=True)
        return system

    def _begin(self, system: System, facts: Mapping[str, Any], *, again: bool = False) -> Initial | None:
        """Set the weights that ``init`` names, ``again`` when the run began long ago."""
        source = resolve_path(self.training.init, self.folder)
        if not source or (not again and (self.folder / CHECKPOINT).is_file()):
            return None
        restore_config(Path(source))
        found = load_initial(system, source, facts=facts)
        path = self.folder / INITIAL
        if again and path.is_file() and read_json(path, lambda saved: saved["digest"]) != found.digest:
            raise UserError(
                f"{self.folder} began with other weights than {source} holds now, so what it was like before "
                "training is lost: put back those weights"
            )
        return found

    def load(self, checkpoint: Checkpoint | None = None) -> None:
        """Load the weights of the last checkpoint into the system.

        Raises:
            UserError: it is missing, damaged or of another system.
        """
        checkpoint = checkpoint or read_checkpoint(self.folder / CHECKPOINT)
        self.system.load_state_dict(system_weights(checkpoint, self.system))
        self.step = int(checkpoint["global_step"])

    def save_config(self) -> None:
        """Write ``config.yaml``, and ``initial.json`` of what was loaded by ``init``.

        Of a system that was built in Python, its training options alone.
        """
        known = self.config.plain() if self.config else {"system": None, **plain(vars(self.training))}
        write_yaml(self.folder / CONFIG, known)
        if self.initial is not None:
            write_json(self.folder / INITIAL, dataclasses.asdict(self.initial))


def locked_together(folder: Path) -> AbstractContextManager[None]:
    """As :func:`polymask.files.locked`, where all processes that train together come: the first one locks."""
    return locked(folder) if rank() == 0 else contextlib.nullcontext()


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return any((folder / name).exists() for name in (CONFIG, CHECKPOINT))


def restore_config(folder: Path) -> None:
    """Write ``config.yaml`` again, from the checkpoint, where it is missing, empty or damaged.

    A path that holds no run stays as it is.

    Raises:
        UserError: it cannot be written.
    """
    if not holds_run(folder):
        return
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
