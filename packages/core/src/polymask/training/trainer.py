"""Train a system into a run folder, from the start or from where it was stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger

from polymask import __version__
from polymask.checkpoints import CHECKPOINT, read_checkpoint, system_weights
from polymask.config import TrainOptions, plain
from polymask.config.layers import TRAINING
from polymask.config.training import ALTERNATIVES, SAME_RUN
from polymask.data import storable
from polymask.errors import Ended, UserError
from polymask.files import contents, locked, write_json
from polymask.run import Run, holds_run, restore_config
from polymask.supervision import labels_for
from polymask.training import environment
from polymask.training.checkpoint import AtomicIO, Checkpoints, check_same_run
from polymask.training.collapse import CollapseMonitor
from polymask.training.digest import digest
from polymask.training.extensions import callbacks_of, log_options, loggers_of, missing_libraries_named
from polymask.training.finite_check import FiniteCheck
from polymask.training.loader import Keyed
from polymask.training.metrics import Measuring, MetricLogger, MetricsFile, read_metrics
from polymask.training.module import Training
from polymask.training.online_probe import OnlineProbe
from polymask.training.plan import Plan, make_plan
from polymask.training.progress import ProgressLine
from polymask.training.signals import Signals
from polymask.training.units import compiling, recomputing


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
    run: Run,
    *,
    resume: bool | None = False,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[pl.Callback] = (),
    progress: bool = True,
) -> FitResult:
    """Train the system of a run, in place, on the training split of its data, augmented.

    Writes ``config.yaml``, ``environment.json``, ``metrics.csv`` and ``checkpoints/last.ckpt``.

    Args:
        run: to be trained.
        resume: go on with the run in the folder, from its last checkpoint; the result is that of
            the run that was never stopped. None: if there is one, for commands that do both.
        loggers: Lightning loggers to write metrics to as well.
        callbacks: Lightning callbacks to run along.
        progress: show a progress line.

    Raises:
        UserError: the folder holds something already, there is no run to resume, another process trains it,
            it was another run or has other data, the options cannot be, a file cannot be written, or a
            process that reads data ended. What became of the steps done is in the notes of an exception.
        Diverged: a loss or gradient was not finite.
        KeyboardInterrupt, SystemExit: stopped by a signal, after saving.
    """
    system, data, options, folder = run.system, run.data, run.training, run.folder
    with _quiet(), contextlib.ExitStack() as held:
        callbacks = [*callbacks_of(options), *callbacks]
        samples, labels = data.split("train", augment=True), labels_for(system, data, "train")
        watches: list[Measuring] = [CollapseMonitor(data, every=10 * options.log_every)]
        if options.probe_every is not None:
            watches.append(OnlineProbe(data, every=options.probe_every))
        guard, signals = FiniteCheck(folder / "failed", options.log_every), Signals(options.log_every)
        precision = environment.precision_for(options, system)
        trainer = _make_trainer(options, precision, folder)
        lengths = data.lengths("train") if hasattr(data, "lengths") else None
        plan = make_plan(options, len(samples), trainer.world_size, lengths)
        resume, again = holds_run(folder) if resume is None else resume, _again(resume)
        if trainer.is_global_zero:
            _check_folder(folder, resume)
            held.enter_context(locked(folder))
            loggers = [*loggers_of(options, folder), *loggers]  # some write as soon as they are made
        about = _about(run, plan, precision)
        begun = resume and (folder / CHECKPOINT).is_file()
        start = _check(run, about) if begun else 0
        if trainer.is_global_zero:
            if begun:
                restore_config(folder)
            else:
                run.save_config()
        if start == plan.total:
            run.load()
            return FitResult(folder, start, _last_row(folder))
        if trainer.is_global_zero:
            write_json(
                folder / "environment.json", environment.describe(options, precision, trainer.world_size)
            )
        log_options(loggers, about["config"] or about["run"])
        meter = MetricLogger(options.log_every, watches)
        trainer.loggers = [MetricsFile(folder / "metrics.csv", keep=start), *loggers]
        trainer.callbacks += [  # type: ignore[attr-defined]
            guard,
            meter,
            Checkpoints(folder / CHECKPOINT, about, guard, signals, again),
            *([ProgressLine(meter)] if progress else []),
            *callbacks,
        ]
        if options.strategy == "fsdp":
            from polymask.training.sharding import copied

            system = held.enter_context(copied(run))
        module = Training(system.train(), Keyed(samples, options.seed, lengths, labels), plan)
        if options.compile:
            held.enter_context(compiling(system))
        if options.recompute:
            held.enter_context(recomputing(system))
        with signals.listening(trainer), missing_libraries_named():
            trainer.fit(module, ckpt_path=folder / CHECKPOINT if begun else None, weights_only=True)
        run.step = trainer.global_step
    if run.step < plan.total and not signals.received and not trainer.should_stop:
        raise UserError(
            f"training ended at step {run.step} of {plan.total}, saved, although no signal and no callback "
            "asked for it by trainer.should_stop = True: something that training calls raised StopIteration, "
            f"or returned -1; mend that; {again}"
        )
    if signals.received or run.step < plan.total:
        _stop(signals.received, run.step, plan.total, again if trainer.is_global_zero else "")
    return FitResult(folder, run.step, _last_row(folder))


def plan_of(run: Run) -> Plan:
    """How many steps of how many samples a run takes on one device."""
    lengths = run.data.lengths("train") if hasattr(run.data, "lengths") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says it
        return make_plan(run.training, len(run.data.split("train")), lengths=lengths)


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
    # whatever Lightning raises here is about these options
    except Exception as error:
        raise UserError(
            f"Lightning cannot train with --accelerator {options.accelerator} --devices {options.devices} "
            f"--strategy {options.strategy} --precision {precision}: {error}"
        ) from error
    launcher = getattr(trainer.strategy, "cluster_environment", None)
    launched = not isinstance(launcher, LightningEnvironment | None)
    if options.nodes > 1 and not launched and not {"NODE_RANK", "GROUP_RANK"} & os.environ.keys():
        raise UserError(
            f"--nodes {options.nodes}: no launcher started this process, and it would wait for the other "
            "machines for ever; use torchrun --nnodes or srun, or set MASTER_ADDR and NODE_RANK on each"
        )
    # Lightning would have all processes agree at every batch whether one was told to stop, and the
    # host wait for the answer; Signals asks less often
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _about(run: Run, plan: Plan, precision: str) -> dict[str, Any]:
    """What a checkpoint says of its run: ``run`` and ``data`` are what must be the same to go on with it."""
    options = {key: value for key, value in vars(plan.options).items() if key not in SAME_RUN}
    for one, other in ALTERNATIVES:
        options.pop(one), options.pop(other)
    parts = run.config.plain() if run.config else {}
    same = {
        **{key: value for key, value in parts.items() if key not in TRAINING},
        **options,
        "precision": precision,
        "batch_size": plan.batch_size,
        "batch_tokens": plan.options.batch_tokens,
        "steps": plan.total,
        "warmup_steps": plan.warmup,
        "lr": plan.peak,
    }
    return {
        "polymask": __version__,
        "system": run.name,
        "facts": storable(run.facts),
        "config": parts,
        "data": digest(run.data),
        "run": plain(same),
    }


def _check(run: Run, about: Mapping[str, Any]) -> int:
    """Step of a run's last checkpoint, which must be of this very run."""
    checkpoint = read_checkpoint(run.folder / CHECKPOINT)
    check_same_run(checkpoint, about, run.training.data_changed)
    system_weights(checkpoint, run.system)
    return int(checkpoint["global_step"])


def _check_folder(folder: Path, resume: bool) -> None:
    """See that a run can begin in a folder, or go on; one stopped before its first checkpoint begins anew.

    Raises:
        UserError: it cannot.
    """
    there = holds_run(folder)
    if resume and not there:
        raise UserError(f"{folder} holds no run to resume: leave --resume out, or name a run folder")
    if there and not resume:
        raise UserError(
            f"{folder} holds a run already, {_state(folder)}: go on with --resume, or give another --out"
        )
    others = contents(folder)
    if others and not there:
        raise UserError(f"{folder} holds something else than a run ({others[0]}): give another --out")


def _state(folder: Path) -> str:
    try:
        checkpoint = read_checkpoint(folder / CHECKPOINT)
    except UserError:
        return "without a whole checkpoint"
    return f"at step {checkpoint['global_step']} of {checkpoint['polymask']['run']['steps']}"


def _last_row(folder: Path) -> dict[str, float]:
    rows = read_metrics(folder / "metrics.csv")
    return rows[-1] if rows else {}


def _again(resume: bool | None) -> str:
    """How to go on with a run that was stopped."""
    return "the same command goes on" if resume is None else "go on with --resume"


def _stop(number: int, step: int, total: int, again: str) -> None:
    """End as the signal asks, now that everything is saved; without one, a callback has stopped the run."""
    with contextlib.suppress(OSError):  # of a terminal that was closed
        if again:
            sys.stderr.write(f"stopped at step {step} of {total}, saved; {again}\n")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        raise Ended(128 + number)


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
