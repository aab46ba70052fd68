"""How far a run is: a live line in a terminal or notebook, a plain one now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from polymask.training.metrics import MetricLogger
from polymask.training.module import Training

SECONDS = 10.0
"""Between plain lines."""


class ProgressLine(pl.Callback):
    """Shows step, loss, samples per second, time left, and the share of time spent waiting for data.

    Args:
        meter: measures; it must come before this among the callbacks.
    """

    def __init__(self, meter: MetricLogger) -> None:
        self.meter = meter
        self.console = Console(stderr=True)
        self._live: Progress | None = None
        self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: Training) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            return
        self._last = time.monotonic()
        # in a notebook, rich needs ipywidgets to draw over a line
        if self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets")):
            text = TextColumn("{task.fields[text]}")
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), text)
            live = Progress(*columns, console=self.console, refresh_per_second=4)
            live.add_task("", total=module.plan.total, completed=trainer.global_step, text="")
            with suppress(OSError):
                live.start()
                self._live = live

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.stepped and trainer.is_global_zero:
            with suppress(OSError):  # of a terminal or pipe that was closed: training does not need it
                self._show(trainer.global_step, module)

    def _show(self, done: int, module: Training) -> None:
        total = module.plan.total
        if self._live is not None:
            text = describe(self.meter.row, (total - done) * module.plan.batch_size)
            self._live.update(self._live.task_ids[0], completed=done, text=text)
        elif self.meter.row and (time.monotonic() - self._last > SECONDS or done == total):
            self._last = time.monotonic()
            text = describe(self.meter.row, (total - done) * module.plan.batch_size)
            sys.stderr.write(f"step {done}/{total}  {text}\n")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None


def describe(row: dict[str, float], samples_left: int) -> str:
    """One line of a row of ``metrics.csv``."""
    if not row:
        return ""
    speed = row["samples_per_second"]
    minutes, seconds = divmod(round(samples_left / speed), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return (
        f"loss {row['loss']:.4f}  {speed:,.0f} samples/s  {left} left  "
        f"{row['data_wait']:.0%} waiting for data"
    )
