"""What the options come to, once the size of the data and the number of processes are known."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from polymask.config import TrainOptions
from polymask.errors import UserError
from polymask.training.buckets import Buckets


@dataclass(frozen=True)
class Plan:
    """How many steps of how many samples at which learning rate.

    Args:
        options: what was asked for.
        samples: size of the training split.
        world: processes that train together.
        batch_size: samples per optimiser step, over all processes and parts; on average, rounded, where
            batches are made by their tokens.
        total: optimiser steps of the whole run.
        warmup: steps of linear warm-up.
        checkpoint_every: steps between checkpoints.
    """

    options: TrainOptions
    samples: int
    world: int
    batch_size: int
    total: int
    warmup: int
    checkpoint_every: int

    @property
    def pieces(self) -> int:
        """Parts of a step that are computed one by one, over all processes."""
        return self.world * self.options.accumulate

    @property
    def peak(self) -> float:
        """Greatest learning rate."""
        return self.options.lr or self.options.base_lr * self.batch_size / 256

    def lr(self, step: int) -> float:
        """Learning rate of a step: a linear rise, then half a cosine or a constant."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.options.schedule == "constant":
            return self.peak
        progress = (step - self.warmup) / max(self.total - self.warmup, 1)
        low = self.options.min_lr
        return low + (self.peak - low) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def make_plan(options: TrainOptions, samples: int, world: int = 1, lengths: Tensor | None = None) -> Plan:
    """Work out a plan.

    A batch larger than the data is made smaller, with a warning, since a sample that occurs twice
    in one batch would be masked alike both times.

    Args:
        options: what was asked for.
        samples: size of the training split.
        world: processes that train together.
        lengths: int64 ``[samples]`` where they differ in length.

    Raises:
        UserError: no data, a batch that does not divide among processes and parts, tokens asked for
            where lengths are not known, or a learning rate that would end above its peak.
    """
    if samples == 0:
        raise UserError("the training split is empty")
    if options.batch_tokens is None:
        batch_size = _batch_size(options, samples, world * options.accumulate)
        steps_per_epoch = samples / batch_size
    elif lengths is None:
        raise UserError(
            f"batch_tokens={options.batch_tokens}: this data set does not tell how long its samples are; "
            "give --batch_size"
        )
    else:
        steps_per_epoch = len(Buckets(lengths, options.batch_tokens, world * options.accumulate))
        batch_size = max(round(samples / steps_per_epoch), 1)
    epochs = 100.0 if options.epochs is None else options.epochs
    total = options.steps or max(round(epochs * steps_per_epoch), 1)
    if options.warmup_steps is not None:
        warmup = options.warmup_steps
    elif options.warmup_epochs is not None:
        warmup = round(options.warmup_epochs * steps_per_epoch)
    else:
        warmup = round(0.05 * total)
    if warmup > total:
        raise UserError(
            f"a warm-up of {warmup} steps is longer than the whole run of {total}: "
            "shorten --warmup_steps or --warmup_epochs"
        )
    every = options.checkpoint_every or min(max(total // 20, 1), 1000)
    plan = Plan(options, samples, world, batch_size, total, warmup, every)
    if options.schedule == "cosine" and options.min_lr > plan.peak:
        raise UserError(
            f"--min_lr {options.min_lr:g} is above the peak learning rate, {plan.peak:g}: the rate "
            "would rise to the end; lower it, or raise --lr"
        )
    return plan


def _batch_size(options: TrainOptions, samples: int, pieces: int) -> int:
    batch_size = options.batch_size
    if batch_size % pieces:
        near = max(round(batch_size / pieces), 1) * pieces
        raise UserError(
            f"a batch of {batch_size} does not divide among {pieces // options.accumulate} processes times "
            f"{options.accumulate} parts: choose --batch_size {near}, or another --accumulate"
        )
    if batch_size > samples:
        batch_size = samples // pieces * pieces
        if not batch_size:
            raise UserError(f"{samples} samples are too few for {pieces} parts of a batch: use fewer")
        warnings.warn(
            f"a batch of {options.batch_size} is more than the {samples} samples there are: "
            f"using batches of {batch_size}",
            stacklevel=3,
        )
    return batch_size
