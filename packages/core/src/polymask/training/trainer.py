"""Train a system into a run folder, from the start or from where it was stopped."""

from __future__ import annotations

import json
import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from polymask import __version__
from polymask.data import Dataset
from polymask.errors import UserError
from polymask.run import CHECKPOINT, CONFIG, config_of, plain, save_config
from polymask.supervision import labels_for
from polymask.systems.base import System
from polymask.training import environment
from polymask.training.checkpoint import AtomicIO, Checkpoints, check_same_run, read, system_weights
from polymask.training.collapse import CollapseMonitor
from polymask.training.guard import Guard
from polymask.training.loader import Keyed
from polymask.training.metrics import Meter, MetricsFile, Watching, read_metrics
from polymask.training.module import Training
from polymask.training.options import ALTERNATIVES, SAME_RUN, TrainOptions, names
from polymask.training.plan import Plan, make_plan
from polymask.training.probes import Probes
from polymask.training.progress import ProgressLine
from polymask.training.signals import Signals


@dataclass(frozen=True)
class FitResult:
    """What training came to.

    Args:
        folder: the run folder.
        step: optimiser steps done, all of them.
        metrics: the last row of ``metrics.csv``.
    """

    folder: Path
    step: int
    metrics: dict[str, float] = field(default_factory=dict)


def fit(
    system: System,
    data: Dataset,
    options: TrainOptions | None = None,
    folder: str | Path = "run",
    *,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
) -> FitResult:
    """Train a system, in place.

    Args:
        system: to be trained.
        data: its training split, augmented, is trained on.
        options: how to train.
        folder: run folder to write: ``config.yaml``, ``environment.json``, ``metrics.csv`` and
            ``checkpoints/last.ckpt``.
        resume: go on with the run in the folder, from its last checkpoint; the result is that of
            the run that was never stopped.
        config: what ``config.yaml`` is to say; by default what the system and the data were
            built from.
        loggers: Lightning loggers to write metrics to as well.
        callbacks: Lightning callbacks to run along.
        progress: show a progress line.

    Raises:
        UserError: the folder holds a run already, there is none to resume, it was another run,
            the options cannot be, or a checkpoint cannot be written.
        Diverged: a loss or gradient was not finite.
        KeyboardInterrupt, SystemExit: stopped by a signal, after saving.
    """
    options, folder = options or TrainOptions(), Path(folder)
    with _quiet():
        samples, labels = data.split("train", augment=True), labels_for(system, data, "train")
        watches: list[Watching] = [CollapseMonitor(data, every=10 * options.log_every)]
        if options.probe_every is not None:
            watches.append(Probes(data, every=options.probe_every))
        guard, signals = Guard(folder / "failed", options.log_every), Signals(options.log_every)
        precision = environment.precision_for(options, system)
        trainer = _make_trainer(options, precision, folder)
        lengths = data.lengths("train") if hasattr(data, "lengths") else None
        plan = make_plan(options, len(samples), trainer.world_size, lengths)
        config = config_of(system, data, options) if config is None else plain(config)
        about = _about(system, plan, precision, config)
        begun = resume and (folder / CHECKPOINT).is_file()
        start = _check(folder, system, about) if begun else 0
        if trainer.is_global_zero and not begun:
            _make_folder(folder, config, resume)
        if start == plan.total:
            system.load_state_dict(system_weights(read(folder / CHECKPOINT), system))
            return FitResult(folder, start, _last_row(folder))
        if trainer.is_global_zero:
            found = environment.describe(options, precision, trainer.world_size)
            (folder / "environment.json").write_text(json.dumps(found, indent=2) + "\n")
        meter = Meter(options.log_every, watches)
        trainer.loggers = [MetricsFile(folder / "metrics.csv", keep=start), *loggers]
        trainer.callbacks += [  # type: ignore[attr-defined]
            signals,
            guard,
            meter,
            Checkpoints(folder / CHECKPOINT, about, guard, signals),
            *([ProgressLine(meter)] if progress else []),
            *callbacks,
        ]
        module = Training(system.train(), Keyed(samples, options.seed, lengths, labels), plan)
        if options.compile:
            system.compile()
        try:
            trainer.fit(module, ckpt_path=folder / CHECKPOINT if begun else None, weights_only=True)
        finally:
            system._compiled_call_impl = None
        step = trainer.global_step
    if signals.received:
        _stop(signals.received, step, plan.total)
    return FitResult(folder, step, _last_row(folder))


def _make_trainer(options: TrainOptions, precision: str, folder: Path) -> pl.Trainer:
    strategy: Any = options.strategy
    if strategy == "fsdp":
        from polymask.training.sharding import Sharded

        strategy = Sharded()
    try:
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            accumulate_grad_batches=options.accumulate,
            max_epochs=1,  # the loader's one pass is the whole run, or what is left of it
            default_root_dir=folder,
            plugins=[AtomicIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_autolog_hparams=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
    except (ValueError, RuntimeError, TypeError, ImportError, MisconfigurationException) as error:
        raise UserError(
            f"Lightning cannot train with --accelerator {options.accelerator} --devices {options.devices} "
            f"--strategy {options.strategy} --precision {precision}: {error}"
        ) from error
    # Lightning would have all processes agree at every batch whether one was told to stop, and the
    # host wait for the answer; Signals asks less often
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _about(system: System, plan: Plan, precision: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its run: ``run`` is all that must be the same to go on with it."""
    options = {key: value for key, value in vars(plan.options).items() if key not in SAME_RUN}
    for one, other in ALTERNATIVES:
        options.pop(one), options.pop(other)
    run = {
        **{key: value for key, value in config.items() if key not in names()},
        **options,
        "precision": precision,
        "batch_size": plan.batch_size,
        "batch_tokens": plan.options.batch_tokens,
        "samples": plan.samples,
        "steps": plan.total,
        "warmup_steps": plan.warmup,
        "lr": plan.peak,
    }
    name = config.get("system") or type(system).__name__
    return {"polymask": __version__, "system": name, "run": plain(run)}


def _check(folder: Path, system: System, about: Mapping[str, Any]) -> int:
    """Step of a run's last checkpoint, which must be of this very run."""
    checkpoint = read(folder / CHECKPOINT)
    check_same_run(checkpoint, about)
    system_weights(checkpoint, system)
    return int(checkpoint["global_step"])


def _make_folder(folder: Path, config: Mapping[str, Any], resume: bool) -> None:
    """Begin a run folder; a run that was stopped before its first checkpoint is begun anew."""
    there = any((folder / name).exists() for name in (CONFIG, CHECKPOINT))
    if resume and not there:
        raise UserError(f"{folder} holds no run to resume: leave --resume out, or name a run folder")
    if there and not resume:
        raise UserError(
            f"{folder} holds a run already, {_state(folder)}: go on with --resume, or give another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder)
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {error}") from error


def _state(folder: Path) -> str:
    try:
        checkpoint = read(folder / CHECKPOINT)
    except UserError:
        return "without a whole checkpoint"
    return f"at step {checkpoint['global_step']} of {checkpoint['polymask']['run']['steps']}"


def _last_row(folder: Path) -> dict[str, float]:
    rows = read_metrics(folder / "metrics.csv")
    return rows[-1] if rows else {}


def _stop(number: int, step: int, total: int) -> None:
    """End as the signal asks, now that everything is saved."""
    sys.stderr.write(f"stopped at step {step} of {total}, saved; go on with --resume\n")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's hints and warnings, which concern what is settled here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
