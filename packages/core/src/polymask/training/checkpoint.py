"""Checkpoints: written whole or not at all, read only when whole and of this very run."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from polymask.errors import UserError
from polymask.systems.base import System
from polymask.training.guard import Guard
from polymask.training.metrics import MetricsFile
from polymask.training.module import Training
from polymask.training.signals import Signals

Checkpoint = dict[str, Any]
PREFIX = "system."


class AtomicIO(TorchCheckpointIO):
    """Writes beside the target, has it on the disk, then renames: the target is always whole."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: Any, storage_options: Any = None) -> None:
        """Raises :class:`UserError` where it cannot be written; what was there stays."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        # torch reports a failed write as RuntimeError, whatever the file raised
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            before = error.__context__ if isinstance(error.__context__, OSError) else error
            kept = "the previous checkpoint is whole" if path.exists() else "there is no earlier one"
            raise UserError(
                f"the checkpoint {path} cannot be written: {before}; {kept}. Make room, then --resume"
            ) from error


class Checkpoints(pl.Callback):
    """Saves ``last.ckpt`` at the start, every so often, at the end, and when asked to stop.

    Args:
        path: of the checkpoint.
        about: what is saved with it under ``"polymask"``, plain values.
        guard: asked before each; what is not finite is never saved.
        signals: tells of a wish to stop.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], guard: Guard, signals: Signals) -> None:
        self.path, self.about, self.guard, self.signals = path, dict(about), guard, signals

    def on_train_start(self, trainer: pl.Trainer, module: Training) -> None:  # type: ignore[override]
        # asking a sharded optimiser for its state before its first step would make it take one
        if trainer.global_step == 0 and module.device_mesh is None:
            self._save(trainer)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not module.stepped:
            return
        done, plan = trainer.global_step, module.plan
        stop = self.signals.stop(trainer, module)
        if stop or done % plan.checkpoint_every == 0 or done == plan.total:
            self.guard.check(trainer, module, weights=True)
            self._save(trainer)
        if stop:
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: Checkpoint
    ) -> None:
        checkpoint["polymask"] = self.about

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.sync()
        trainer.save_checkpoint(self.path)


def read(path: Path) -> Checkpoint:
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
            f"other options; {len(found)} of its weights differ:{_some(found)}"
        )
    return saved


def check_same_run(checkpoint: Checkpoint, about: Mapping[str, Any]) -> None:
    """Refuse to go on with something else than what was begun.

    Args:
        checkpoint: to go on from.
        about: of the run that is to go on, as :class:`Checkpoints` saves it.

    Raises:
        UserError: lists what differs, before anything is trained.
    """
    then, now = _flat(checkpoint["polymask"]["run"]), _flat(about["run"])
    found = [
        f"{key}: {then.get(key, 'not set')} then, {now.get(key, 'not set')} now"
        for key in dict.fromkeys([*then, *now])
        if then.get(key) != now.get(key)
    ]
    if found:
        raise UserError(
            "to resume is to go on with the same run, and this one differs from it:"
            f"{_some(found)}\nTake the changes back, or start a new run with another --out"
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _some(lines: list[str], most: int = 8) -> str:
    shown = "".join(f"\n  {line}" for line in sorted(lines)[:most])
    return shown + (f"\n  and {len(lines) - most} more" if len(lines) > most else "")


def _sync_folder(folder: Path) -> None:
    """Have a rename on the disk; not every file system lets a folder be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
