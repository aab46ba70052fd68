"""``metrics.csv``: one row every few steps, none lost and none twice, whatever stops the run."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from polymask.data import padding
from polymask.errors import UserError
from polymask.files import write_text, writing
from polymask.training.module import Training


class MetricsFile(Logger):
    """A Lightning logger that appends rows to a CSV file.

    Args:
        path: of the file.
        keep: last step whose row is kept of what is there; later rows are taken back, since the
            run that goes on from this step writes them again. Of a file with lines that cannot be read,
            a copy is kept as ``metrics.damaged.csv``.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            known, damaged = _parse(path)
            if damaged:
                path.replace(path.with_suffix(".damaged.csv"))
            rows = [row for row in known if row["step"] <= keep]
            self.columns = list(dict.fromkeys(key for row in rows for key in row))
            self._rewrite(rows)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run folder's ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        new = [key for key in row if key not in self.columns]
        self.check()
        with writing(self.path):
            self.path.stat()  # a file that is gone must not begin anew, without what it held
            if new:
                rows = read_metrics(self.path)
                self.columns += new
                self._rewrite(rows)
            with self.path.open("a", newline="") as file:
                file.write(_line([row.get(column, "") for column in self.columns]))
            self._size = self.path.stat().st_size

    @rank_zero_only
    def sync(self) -> None:
        """Have the rows on the disk itself."""
        with writing(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())

    @rank_zero_only
    def check(self) -> None:
        """See that the file, where it is there, is as it was written last.

        Raises:
            UserError: it is another, and so is the folder around it.
        """
        if self.path.exists() and self.path.stat().st_size != self._size:
            raise UserError(
                f"{self.path} is not what this run has written: was another run moved to its place? "
                "Nothing there was changed"
            )

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        lines: list[list[Any]] = [[row.get(column, "") for column in self.columns] for row in rows]
        if self.columns:
            lines.insert(0, self.columns)
        write_text(self.path, "".join(_line(line) for line in lines))
        self._size = self.path.stat().st_size


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Rows of a ``metrics.csv``, whole ones only, without their empty cells.

    Lines that cannot be read are left out, with a warning.
    """
    rows, damaged = _parse(Path(path))
    if damaged:
        warnings.warn(f"{path}: {damaged} lines cannot be read and are left out", stacklevel=2)
    return rows


def _parse(path: Path) -> tuple[list[dict[str, float]], int]:
    """Rows of a file, and how many lines of it cannot be read."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    head, *lines = text[: text.rfind("\n")].split("\n")  # the last line may be cut
    rows: list[dict[str, float]] = []
    for line in lines:
        with contextlib.suppress(ValueError, csv.Error):
            columns, cells = csv.reader([head, line])
            row = {key: float(cell) for key, cell in zip(columns, cells, strict=True) if cell}
            if "step" in row:
                rows.append({**row, "step": int(row["step"])})
    return rows, len(lines) - len(rows)


def _line(cells: list[Any]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    return file.getvalue()


class Measuring(Protocol):
    """Measures something else every so many steps, and at the end: entries of a row by name."""

    every: int

    def __call__(self, trainer: pl.Trainer, module: Training, step: int) -> dict[str, float]: ...


class MetricLogger(pl.Callback):
    """Averages losses between rows, and measures speed.

    Args:
        every: steps per row; the last step of a run has a row too.
        watches: what else to measure, now and then; each time makes a row.

    Attributes:
        row: the last row.
    """

    def __init__(self, every: int, watches: Sequence[Measuring] = ()) -> None:
        self.every, self.watches = every, watches
        self.row: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._told = False
        self._start()

    def on_train_start(self, trainer: pl.Trainer, module: Training) -> None:  # type: ignore[override]
        self._sums = {name: value.to(module.device) for name, value in self._sums.items()}
        self._start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._add({**module.terms, "loss": module.loss})
        if module.dataset.lengths is not None:
            self._add({"padding": padding(batch)})
        if not module.stepped:
            return
        self._add({"grad_norm": module.grad_norm, "idle": module.grad_norm == 0})
        self._steps += 1
        done = trainer.global_step
        end = done == module.plan.total
        watches = [watch for watch in self.watches if end or done % watch.every == 0]
        if done % self.every and not end and not watches:
            return
        means = self._means(trainer)
        seconds = time.perf_counter() - self._since  # the means have waited for the device
        padded = {"padding": means.pop("padding")} if "padding" in means else {}
        idle = means.pop("idle")
        if trainer.is_global_zero:
            # a teacher begins as a copy of its student: the first step may well have a loss of 0
            constant = [name for name in module.terms if means[name] == 0 and self._steps > 1]
            self._tell_idle(idle, constant)
        assert module.loader is not None
        self.row = {
            "loss": means.pop("loss"),
            **{name: value for name, value in means.items() if name != "grad_norm"},
            "lr": module.plan.lr(done - 1),
            "grad_norm": means["grad_norm"],
            "seconds": seconds,
            "samples_per_second": self._steps * module.plan.batch_size / seconds,
            "data_wait": min((module.loader.waited - self._waited) / seconds, 1.0),
            **padded,
        }
        for watch in watches:
            self.row |= watch(trainer, module, done)
        for logger in trainer.loggers:
            logger.log_metrics(self.row, done)
        self._sums, self._counts = {}, {}
        self._start(module.loader.waited)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._sums:  # only the first process saves: have it save what all have seen
            stacked = torch.stack(list(self._sums.values()))
            reduced: Tensor = trainer.strategy.reduce(stacked, reduce_op="mean")
            self._sums = dict(zip(self._sums, reduced.unbind(), strict=True))
        sums = {name: float(value) for name, value in self._sums.items()}
        checkpoint["meter"] = {"sums": sums, "counts": dict(self._counts)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        saved = checkpoint["meter"]
        self._sums = {name: torch.tensor(value) for name, value in saved["sums"].items()}
        self._counts = dict(saved["counts"])

    def _tell_idle(self, share: float, constant: Sequence[str]) -> None:
        """Say once that steps taught nothing, or a loss did not; a loss of 0 looks like success."""
        if self._told or not (share or constant):
            return
        self._told = True
        idle = max(round(share * self._steps), 1)
        what = (
            f"{idle} of the last {self._steps} steps had a gradient of exactly 0"
            if share
            else f"{' and '.join(constant)} was exactly 0 in the last {self._steps} steps"
        )
        warnings.warn(
            f"{what}, and taught nothing. Either no token was scored: mask more, or give longer samples or "
            "larger batches (polymask look shows what is masked). Or samples lack what this loss needs, such "
            "as labels or distances. Or it begins later, as a loss does that waits for a teacher to be sure",
            stacklevel=2,
        )

    def _start(self, waited: float = 0.0) -> None:
        self._steps, self._waited, self._since = 0, waited, time.perf_counter()

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _means(self, trainer: pl.Trainer) -> dict[str, float]:
        """Means over parts, steps and processes; here the host waits for the device."""
        names = list(self._sums)
        stacked = torch.stack([self._sums[name] / self._counts[name] for name in names])
        reduced: Tensor = trainer.strategy.reduce(stacked, reduce_op="mean")
        return dict(zip(names, reduced.tolist(), strict=True))
