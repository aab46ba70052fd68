"""Ctrl-C and SIGTERM: finish the step, save, stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import lightning.pytorch as pl
import torch

from polymask.training.module import Training


class Signals(pl.Callback):
    """Remembers a wish to stop until the step is done; a second Ctrl-C stops at once.

    Args:
        every: steps between the moments when several processes agree whether to stop.

    Attributes:
        received: number of the signal, or 0.
    """

    def __init__(self, every: int) -> None:
        self.every, self.received = every, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        # in place of Lightning's own, which puts back at the end what was there before
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def stop(self, trainer: pl.Trainer, module: Training) -> bool:
        """Whether to stop after this step; all processes get the same answer."""
        if trainer.world_size == 1:
            return self.received > 0
        if trainer.global_step % self.every:
            return False
        wish = torch.tensor(self.received, device=module.device)
        self.received = int(trainer.strategy.reduce(wish, reduce_op="max"))
        return self.received > 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
