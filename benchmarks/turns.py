"""Training steps of several runs, timed in turns, so that they share whatever else the machine does."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

import torch

from polymask import Run, RunConfig, Step
from polymask.protocols import Batch
from polymask.report import views
from polymask.supervision import labels_for
from polymask.training.optimiser import make_optimiser

WARM_UP = 3


class Contestant:
    """A system that trains, on one batch.

    Args:
        config: of a run.
        samples: of the batch; the run's batch size by default.
    """

    def __init__(self, config: Mapping[str, Any], samples: int | None = None) -> None:
        # nothing is written into a folder of a run that is not trained
        run = Run.create(RunConfig.resolve({**config, "seed": 0}), "runs/turns")
        self.system, self.data = run.system, run.data
        self.optimiser = make_optimiser(self.system, run.training, 1e-4)[0]
        count = samples or run.training.batch_size
        labels = labels_for(run.system, run.data, "train")
        self.batch: Batch = views.batch_of(run.data.split("train"), range(count), labels)
        self.system.train()

    def step(self, step: Step) -> float:
        """Seconds of this process that one step takes: forward, backward, optimiser, teachers."""
        self.optimiser.zero_grad(set_to_none=True)
        start = time.process_time()
        torch.stack([*self.system(self.batch, step).values()]).sum().backward()
        self.system.after_backward(step)
        self.optimiser.step()
        self.system.after_step(step)
        return time.process_time() - start


def seconds_per_step(contestants: Mapping[str, Contestant], rounds: int = 20) -> dict[str, list[float]]:
    """What a step of each costs, ``rounds`` times, after a few of warm-up; by the label of each.

    In another order each round, towards the end of a run, where curricula are at full strength.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for turn in range(WARM_UP + rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                step = Step(10 * rounds + turn, 11 * rounds + WARM_UP, 0)
                seconds[name].append(contestants[name].step(step))
    finally:
        gc.enable()
    return {name: taken[WARM_UP:] for name, taken in seconds.items()}
