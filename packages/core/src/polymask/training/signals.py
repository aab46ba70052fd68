"""Ctrl-C, SIGTERM and SIGHUP: finish the step, save, stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch

if TYPE_CHECKING:
    from polymask.training.module import Training


_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows

STOP = [number for number in (signal.SIGINT, signal.SIGTERM, _HANGUP) if number is not None]
"""Signals that end a run after its step."""


class Signals:
    """Remembers a wish to stop until the step is done; a second Ctrl-C stops at once.

    Args:
        every: steps between the moments when several processes agree whether to stop.

    Attributes:
        received: number of the signal, or 0.
    """

    def __init__(self, every: int) -> None:
        self.every, self.received = every, 0

    @contextmanager
    def listening(self, trainer: pl.Trainer) -> Iterator[None]:
        """Listen for the time of a training; afterwards, what was done about signals before is done again."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        children = [signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else []  # see Loader
        before = {number: signal.getsignal(number) for number in STOP + children}
        for number in STOP:
            if number != _HANGUP or before[number] != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
