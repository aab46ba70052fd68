"""Checkpoints: written whole or not at all, gone on with only by the very same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.io import TorchCheckpointIO

from polymask.checkpoints import Checkpoint, some, write_tensors
from polymask.config.layers import flatten
from polymask.errors import UserError
from polymask.training.digest import changes
from polymask.training.finite_check import Diverged, FiniteCheck
from polymask.training.metrics import MetricsFile
from polymask.training.module import Training
from polymask.training.signals import Signals


class AtomicIO(TorchCheckpointIO):
    """Writes beside the target, has it on the disk, then renames: the target is always whole."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: Any, storage_options: Any = None) -> None:
        """Raises :class:`UserError` where it cannot be written; what was there stays."""
        write_tensors(Path(path), checkpoint)


class Checkpoints(pl.Callback):
    """Saves ``last.ckpt`` at the start, every so often, at the end, and when asked to stop.

    Args:
        path: of the checkpoint.
        about: what is saved with it under ``"polymask"``, plain values.
        guard: asked before each; what is not finite is never saved.
        signals: tells of a wish to stop.
        again: how to go on, for the note about an exception.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any], guard: FiniteCheck, signals: Signals, again: str
    ) -> None:
        self.path, self.about, self.guard, self.signals = path, dict(about), guard, signals
        self.again = again
        self.saved = -1

    def on_train_start(self, trainer: pl.Trainer, module: Training) -> None:  # type: ignore[override]
        if trainer.global_step:
            self.saved = trainer.global_step
        # asking a sharded optimiser for its state before its first step would make it take one
        elif module.device_mesh is None:
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

    def on_train_end(self, trainer: pl.Trainer, module: Training) -> None:  # type: ignore[override]
        """Save where a callback of the user's has stopped the run between two checkpoints."""
        if self.saved < trainer.global_step:
            self.guard.check(trainer, module, weights=True)
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: Checkpoint
    ) -> None:
        checkpoint["polymask"] = self.about

    def on_exception(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Training, exception: BaseException
    ) -> None:
        """Save the steps that are done, if all is as a whole step left it, and note what became of them."""
        done, why = trainer.global_step, ""
        if self.saved < 0 or not trainer.is_global_zero or isinstance(exception, Diverged):
            return
        # with several processes, all would have to save, and one has failed; a second Ctrl-C is in a hurry
        whole = module.stepped and trainer.world_size == 1 and not isinstance(exception, KeyboardInterrupt)
        if self.saved < done and whole:
            try:
                self.guard.check(trainer, module, weights=True)
                self._save(trainer, sync=False)
            except Exception as error:  # whatever it is, the first failure is the one to tell
                why = "" if str(error) == str(exception) else f" ({error})"
        lost = f"; the steps from there to {done} are lost{why}" if self.saved < done else ""
        exception.add_note(
            f"step {self.saved} of {module.plan.total} is saved, in {self.path}: {self.again}{lost}"
        )

    def _save(self, trainer: pl.Trainer, sync: bool = True) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.check()
                logger.sync() if sync else None
        trainer.save_checkpoint(self.path)
        self.saved = trainer.global_step


def check_same_run(checkpoint: Checkpoint, about: Mapping[str, Any], data_changed: bool = False) -> None:
    """Refuse to go on with something else than what was begun.

    Args:
        checkpoint: to go on from.
        about: of the run that is to go on, as :class:`Checkpoints` saves it.
        data_changed: go on where the data is not what it was.

    Raises:
        UserError: lists what differs, before anything is trained.
    """
    then, now = flatten(checkpoint["polymask"]["run"]), flatten(about["run"])
    found = [
        f"{key}: {then.get(key, 'not set')} then, {now.get(key, 'not set')} now"
        for key in dict.fromkeys([*then, *now])
        if then.get(key) != now.get(key)
    ]
    if found:
        raise UserError(
            "to resume is to go on with the same run, and this one differs from it:"
            f"{some(found)}\nTake the changes back, or start a new run with another --out"
        )
    other = changes(checkpoint["polymask"]["data"], about["data"])
    if other and not data_changed:
        raise UserError(
            f"the training data is not what this run was begun with:{some(other)}\n"
            "Put back what was there, or go on with what is there now: --data_changed"
        )
