"""How a run is trained: every option with its default and its reason. Imports nothing heavy."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polymask.errors import UserError
from polymask.types import Count, NotNegative, Place, Positive, Range, Whole, range_of

ALTERNATIVES = (
    *(("steps", "epochs"), ("warmup_steps", "warmup_epochs")),
    *(("lr", "base_lr"), ("batch_tokens", "batch_size")),
)
"""Options that say the same thing in two ways: giving one takes back the other."""

SAME_RUN = frozenset(
    {"accumulate", "devices", "nodes", "accelerator", "strategy", "workers", "compile", "recompute"}
    | {"checkpoint_every", "log_every", "probe_every", "data_changed", "logger", "callbacks"}
)
"""Options that may differ on resume: where and how fast the run goes on, not what it computes."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a run is trained.

    Args:
        steps: optimiser steps; or give epochs.
        epochs: passes over the training data, fractions allowed; 100 when neither is given.
        batch_size: samples per optimiser step, over all devices and accumulated parts together.
        batch_tokens: token budget per optimiser step, padding included; replaces batch_size. Batches hold
            samples of similar length, counted as the data set counts it: ids of text, audio samples.
        base_lr: peak learning rate per 256 samples: the peak is base_lr * batch_size / 256.
        lr: peak learning rate as it is; replaces base_lr.
        min_lr: learning rate that the cosine ends at.
        schedule: after the warm-up, cosine to min_lr or constant.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        warmup_epochs: the same in passes over the data; 5 % of the run when neither is given.
        betas: decay rates of AdamW's two moments.
        eps: added to the root of AdamW's second moment.
        weight_decay: decay of AdamW; biases, norms, positions and learned tokens have none.
        clip: greatest norm of the gradient, longer ones are scaled down; none by default.
        accumulate: parts that a batch is computed in one after the other, to save memory.
        precision: auto takes bf16-mixed where the device is faster at it, else 32.
        accelerator: auto, cpu, cuda, mps, or any other that Lightning knows.
        devices: how many devices per machine, or auto for all.
        nodes: how many machines.
        strategy: auto, ddp, fsdp (shards weights and optimiser), or any other of Lightning.
        workers: processes that read data, per device; chosen by how fast samples are read if none.
        init: weights that the encoder begins with, instead of random ones: a run or export of ours, a
            safetensors file, or LIBRARY:NAME; to go on with a run, --resume it.
        seed: of weights, order, augmentation, masks and dropout.
        compile: compile each block of encoders, decoders and teachers with torch.compile.
        recompute: compute each block of encoders and decoders once more for its backward instead of keeping
            what is inside it: the same result in less memory, for one more forward pass of the blocks.
        checkpoint_every: steps between checkpoints; a twentieth of the run, at most 1000, if none.
        log_every: steps per row of metrics.csv.
        probe_every: steps between probes of the encoder on the way, kept in metrics.csv; never if none.
        logger: where metrics go beside metrics.csv: tensorboard, wandb, mlflow, csv or a class of Lightning;
            several as [csv, wandb], with options as {wandb: {project: masks}}.
        callbacks: Lightning callbacks to run along, by class, with their options: {LearningRateMonitor: {}}.
        data_changed: resume although the training data is no longer what the run was begun with.

    Raises:
        UserError: a value that cannot be, or two that contradict each other.
    """

    steps: Count | None = None
    epochs: Positive | None = None
    batch_size: Count = 256
    batch_tokens: Count | None = None
    base_lr: Positive = 1e-3
    lr: Positive | None = None
    min_lr: NotNegative = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Whole | None = None
    warmup_epochs: NotNegative | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.05
    clip: Positive | None = None
    accumulate: Count = 1
    precision: Literal["auto", "32", "bf16-mixed", "bf16-true", "16-mixed"] = "auto"
    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: Count = 1
    strategy: str = "auto"
    workers: Whole | None = None
    init: Place = None
    seed: int = 0
    compile: bool = False
    recompute: bool = False
    checkpoint_every: Count | None = None
    log_every: Count = 10
    probe_every: Count | None = None
    logger: str | Sequence[str] | Mapping[str, Any] | None = None
    callbacks: str | Sequence[str] | Mapping[str, Any] | None = None
    data_changed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for one, other in (("steps", "epochs"), ("warmup_steps", "warmup_epochs")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UserError(f"both {one} and {other} are given: give one of them")
        for name, allowed in _ranges().items():
            value = getattr(self, name)
            try:
                if value is not None:
                    allowed.check(value)
            except ValueError as error:
                raise UserError(f"{name}={value}: give a number {error}") from error
        for name in ("devices", "workers"):
            value = getattr(self, name)
            if str(value).isdigit() and int(value) > 1024:
                raise UserError(f"{name}={value}: one machine has no more than 1024")
        if not 0 <= self.seed < 2**63 - 1:
            raise UserError(f"seed={self.seed}: give a number 0 or more and below 2**63 - 1")
        betas: tuple[float, ...] = self.betas
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas={self.betas}: give two numbers in [0, 1)")
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"schedule={self.schedule!r}: choose cosine or constant")
        if self.batch_tokens is None and self.batch_size % self.accumulate:
            raise UserError(
                f"a batch of {self.batch_size} cannot be computed in {self.accumulate} equal parts: "
                "choose --accumulate that divides --batch_size"
            )


@functools.cache
def _ranges() -> dict[str, Range]:
    """The numbers that options take, by name."""
    hints = typing.get_type_hints(TrainOptions, include_extras=True)
    return {name: found for name, hint in hints.items() if (found := range_of(hint)) is not None}
