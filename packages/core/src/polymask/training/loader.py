"""Reading samples in the given order, with augmentation that any worker draws alike."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.util import Finalize

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from polymask.data import LazySamples, Samples, collate
from polymask.errors import UserError
from polymask.protocols import Batch
from polymask.training.order import Batches, Key, mix
from polymask.training.signals import STOP
from polymask.training.stop_iteration import ends_nothing

FAST = 1e-4
"""Seconds per sample below which a worker would cost more than it saves."""


class Keyed(Dataset[dict[str, torch.Tensor]]):
    """Samples by key, each with its number as ``"id"``.

    Before a sample is read, the global generators of torch, numpy and Python are seeded from
    (seed, epoch, sample); samples with ``random = False`` promise to draw nothing and save that.

    Args:
        samples: a split of a data set.
        seed: of the augmentation.
        lengths: int64 ``[samples]`` where they differ in length.
        labels: int64 ``[samples]``, which become ``"label"``, for supervised systems.
    """

    def __init__(
        self,
        samples: Samples,
        seed: int,
        lengths: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> None:
        self.samples, self.seed, self.lengths, self.labels = samples, seed, lengths, labels
        self.random = getattr(samples, "random", True)

    def __getitem__(self, key: Key) -> dict[str, torch.Tensor]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[dict[str, torch.Tensor]]:
        fetch_ahead(self.samples, [sample for _, sample in keys])
        if not self.random:
            return [self._read(sample) for _, sample in keys]
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        found = []
        for epoch, sample in keys:
            seed = mix(self.seed, epoch, sample)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would visit every device
            np.random.seed(seed & 0xFFFFFFFF)
            random.seed(seed)
            found.append(self._read(sample))
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        return found

    @ends_nothing
    def _read(self, sample: int) -> dict[str, torch.Tensor]:
        label = {} if self.labels is None else {"label": self.labels[sample]}
        try:
            found = self.samples[sample]
        except IndexError as error:
            raise UserError(
                f"sample {sample} cannot be had (IndexError: {error}), and the data set says that it has "
                f"{len(self.samples)}: let its __len__ and __getitem__ agree"
            ) from error
        if not isinstance(found, Mapping):
            raise UserError(f"sample {sample} is {type(found).__name__}, not a dict of tensors by name")
        return {**found, **label, "id": torch.scalar_tensor(sample, dtype=torch.int64)}


class Loader:
    """Batches of a sampler; ``waited`` counts the seconds that training had to wait for them.

    Args:
        dataset: where samples are read.
        batches: which samples.
        workers: processes that read; 0 reads in this one.
        pin: keep batches in page-locked memory, from which a GPU copies faster.

    Attributes:
        parts: the batches of the step whose first was given last, all parts of it.
    """

    def __init__(self, dataset: Keyed, batches: Batches, workers: int = 0, pin: bool = False) -> None:
        self.dataset, self.batches = dataset, batches
        self.waited = 0.0
        self.parts: list[Batch] = []
        self._loader: DataLoader[dict[str, torch.Tensor]] = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin,
            # a loader draws its workers' seed from the global generator if it has none of its own
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=_ignore_signals,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self._loader)
        for worker in getattr(iterator, "_workers", ()):
            # a process that exits ends its children by SIGTERM, which these ignore, and would wait for ever
            Finalize(worker, worker.kill, exitpriority=0)
        if self._loader.num_workers and threading.current_thread() is threading.main_thread():
            # torch would raise when a worker ends, in the middle of a step; it looks at them anyway when a
            # batch does not come
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            start = time.perf_counter()
            self.parts = self._next(iterator)
            self.waited += time.perf_counter() - start
            if not self.parts:
                return
            yield from self.parts

    def _next(self, iterator: Iterator[Batch]) -> list[Batch]:
        """The parts of a step.

        Raises:
            UserError: what a worker raised, without the worker's traceback; or a worker is no more.
        """
        try:
            return list(islice(iterator, self.batches.plan.options.accumulate))
        except UserError as error:
            raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
        # torch says so itself, or cannot receive what the worker had sent
        except (RuntimeError, OSError, EOFError) as error:
            workers = getattr(iterator, "_workers", ())
            ended = wait([worker.sentinel for worker in workers], timeout=2)
            for worker in workers:
                if worker.sentinel in ended:
                    worker.join(2)  # its status takes a moment to be known
            codes = [worker.exitcode for worker in workers if worker.exitcode]
            if not codes and "open files" in str(error):  # of EMFILE, as the C library and torch word it
                raise UserError(
                    "more files are open than one process may have here: give fewer --workers, or more by "
                    "ulimit -n"
                ) from error
            if not codes:
                raise
            how = f"with status {codes[0]}" if codes[0] > 0 else f"by {signal.Signals(-codes[0]).name}"
            raise UserError(
                f"{len(codes)} of {self._loader.num_workers} processes that read data ended {how}; if memory "
                "ran out, give fewer --workers or a smaller --batch_size"
            ) from error

    def again(self, step: int, part: int) -> Batch:
        """A batch read once more."""
        return collate(self.dataset.__getitems__(self.batches.keys(step, part)))


def fetch_ahead(samples: Samples, numbers: Sequence[int]) -> None:
    """Have a source that is far fetch samples that are read next side by side."""
    if isinstance(samples, LazySamples) and hasattr(samples.split.source, "fetch"):
        samples.split.source.fetch(samples.split.index[list(numbers)].tolist())


def _ignore_signals(worker: int) -> None:
    """Signals to a whole group of processes are for the main process, which finishes its step."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)


def workers_for(dataset: Keyed, processes: int = 1) -> int:
    """How many workers the speed of reading asks for; the result of training is the same with any.

    Args:
        dataset: read from, a few samples.
        processes: that share this machine.
    """
    count = min(len(dataset.samples), 9)
    dataset[0, 0]
    start = time.perf_counter()
    for sample in range(1, count):
        dataset[0, sample]
    if time.perf_counter() - start < FAST * (count - 1):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes))
