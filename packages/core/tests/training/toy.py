"""A data set and a system of core parts only, and a script that trains them in a process of its own.

The system has all that makes an exact resume hard: dropout, a moving-average teacher and masks;
the data set draws its augmentation from three global generators.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from polymask import Mask, System, Tokens, UserError, distributed
from polymask.data import valid_of
from polymask.nn.teachers import EMATeacher
from polymask.run import Run
from polymask.training import TrainOptions, fit


class Split:
    def __init__(self, x, augment):
        self.x, self.augment = x, augment

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x = self.x[index]
        if self.augment:
            x = x + 0.1 * torch.randn_like(x) + 0.1 * np.random.rand() + 0.1 * random.random()
        return {"x": x}


class Data:
    """Sequences of 6 tokens of 4 numbers."""

    key, classes = "x", None
    provides: dict = {}
    skipped: list = []

    def __init__(self, n=50, augment=True):
        self.x = torch.randn(n, 6, 4, generator=torch.Generator().manual_seed(0))
        self.augment = augment

    def split(self, name, *, augment=False):
        return Split(self.x, augment and self.augment)

    def labels(self, name):
        return None

    def to_image(self, x):
        return x


class Ragged(Data):
    """Sequences of 1 to 12 tokens."""

    def __init__(self, n=50):
        super().__init__(n, augment=False)
        self.x = torch.randn(n, 12, 4, generator=torch.Generator().manual_seed(0))

    def lengths(self, name):
        return torch.arange(len(self.x)) * 7 % 12 + 1

    def split(self, name, *, augment=False):
        return Split([x[:n] for x, n in zip(self.x, self.lengths(name).tolist(), strict=True)], False)


class Toy(System):
    """Predicts hidden tokens through one Transformer block, or several."""

    def __init__(self, drop=0.1, seed=0, width=8, depth=1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Linear(4, width)
            blocks = [
                nn.TransformerEncoderLayer(width, 2, 16, dropout=drop, batch_first=True) for _ in range(depth)
            ]
            self.block = nn.Sequential(*blocks) if depth > 1 else blocks[0]
            self.head = nn.Linear(width, 4)
            self.mask_token = nn.Parameter(torch.zeros(width))
            self.teacher = EMATeacher(self.embed, momentum=0.9)
        self.seen = []

    def hidden(self, batch, step):
        return step.noise(batch["id"], batch["x"].shape[1]).argsort(dim=1) < 3

    def forward(self, batch, step):
        x, hidden = batch["x"], self.hidden(batch, step)
        z = torch.where(hidden[..., None], self.mask_token, self.embed(x))
        error = (self.head(self.block(z)) - x).square().mean(-1)
        with torch.no_grad():
            target = self.teacher(x)
        return {
            "reconstruction": error[hidden].mean(),
            "latent": 0.1 * (self.embed(x) - target).square().mean(),
        }

    def after_step(self, step):
        self.teacher.follow(self.embed, step)

    def encode(self, batch):
        z = self.block(self.embed(batch["x"]))
        return Tokens(z, torch.zeros(*z.shape[:2], 1))


class Counts(Toy):
    """Terms that are means over more or fewer sites: of a hard mask, of its rest, of padding, of samples."""

    def __init__(self):
        super().__init__(drop=0.0)
        self.block = nn.Identity()
        del self.mask_token
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch, step):
        self.calls += 1
        x = batch["x"]
        mask, real, z, error = self.errors(batch, step)
        first = self.head(self.embed(x[:, 0])).square().mean()
        size = real.mean(z.square().mean(-1))
        return {
            "hidden": mask.mean(error),
            "visible": 0.3 * mask.invert().mean(error),
            "size": 0.1 * size,
            "first": first,
        }

    def errors(self, batch, step):
        """Hidden sites, real ones, hidden states and errors."""
        x = batch["x"]
        valid = valid_of(batch, "x")
        valid = torch.ones(x.shape[:2], dtype=torch.bool) if valid is None else valid
        share = batch["id"][:, None] % 5 / 5 + 0.1
        hidden = (step.noise(batch["id"], x.shape[1]) < share) & valid
        z = self.embed(torch.where(hidden[..., None], 0.0, x))
        return Mask(hidden, valid=valid), Mask(valid), z, (self.head(z) - x).square().mean(-1)


class OneMean(Counts):
    """Its loss is a mean over more or fewer sites and nothing else."""

    runs = 0

    def forward(self, batch, step):
        type(self).runs += 1
        mask, _, _, error = self.errors(batch, step)
        return {"hidden": mask.mean(error)}


class Apart(Toy):
    """Has a row of memory per sample, written after each step, and a gate on gradients, both by its batch.

    Args:
        memory: whether each process writes its ``"own"`` rows or those of ``"all"``; none if None.
        gate: whether gradients are scaled by its ``"own"`` batch or the ``"mean"``; not at all if None.
    """

    def __init__(self, memory=None, gate=None):
        super().__init__(drop=0.0)
        self.memory, self.gate = memory, gate
        if memory:
            self.register_buffer("rows", torch.zeros(50))

    def forward(self, batch, step):
        self.ids, self.value = batch["id"], batch["x"].mean((1, 2))
        return super().forward(batch, step)

    def after_backward(self, step):
        if self.gate:
            scale = self.value.mean()
            self.embed.weight.grad *= distributed.mean(scale) if self.gate == "mean" else scale

    def after_step(self, step):
        super().after_step(step)
        if self.memory:
            everybody = self.memory == "all"
            ids, value = (
                distributed.gather_rows(self.ids, self.value) if everybody else (self.ids, self.value)
            )
            self.rows[ids] = value


class Record(pl.Callback):
    """Notes ids and masks of every part, ``(step, part, id, mask)``, by the process that saw them."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        part = batch_idx % module.plan.options.accumulate
        step = trainer.global_step
        from polymask import Step

        hidden = module.system.hidden(batch, Step(step, module.plan.total, module.plan.options.seed))
        for i, row in zip(batch["id"].tolist(), hidden.int().tolist(), strict=True):
            self.seen.append([step, part, i, row])


class Kill(pl.Callback):
    """Ends the process without notice after so many parts, or in the midst of writing a checkpoint."""

    def __init__(self, parts, writing=False):
        self.parts, self.writing = parts, writing

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.parts -= 1
        if self.parts == 0 and self.writing:
            replace = os.replace
            os.replace = lambda a, b: _die() if str(b).endswith(".ckpt") else replace(a, b)
        elif self.parts == 0:
            _die()


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def options(**changed):
    """Short training options of a CPU run."""
    usual = {"steps": 12, "batch_size": 16, "precision": "32", "accelerator": "cpu", "devices": 1}
    return TrainOptions(**{**usual, "workers": 0, "lr": 0.01, "log_every": 4, **changed})


def train(folder, *, system=None, data=None, resume=False, callbacks=(), **changed):
    """Train, and return the trained system."""
    system = Toy() if system is None else system
    data = Data() if data is None else data
    run = Run(folder, system, data, options(**changed))
    fit(run, resume=resume, callbacks=callbacks, progress=False)
    return system


def main(folder, env, kill, record, toy, counts=None, apart=None, **changed):
    # a child of a fork server would have servers of its own for its workers, which outlive a kill
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(env)
    torch.set_num_threads(1)
    recorder = Record()
    callbacks = [recorder] if record else []
    callbacks += [Kill(**kill)] if kill else []
    system, data = (globals()[counts](), Ragged()) if counts else (Toy(**toy), None)
    system = system if apart is None else Apart(**apart)
    try:
        train(folder, system=system, data=data, callbacks=callbacks, **changed)
    except UserError as error:
        Path(folder, f"said-{env.get('RANK', 0)}").write_text(str(error))
        sys.exit(2)
    if record:
        with open(f"{folder}/seen-{env.get('RANK', 0)}.json", "w") as file:
            json.dump(recorder.seen, file)


if __name__ == "__main__":
    main(**ARGUMENTS)  # noqa: F821  given by the test that runs this file
