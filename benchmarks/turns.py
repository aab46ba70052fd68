"""Training steps of several runs, timed in turns, so that they share whatever else the machine does."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from polymask import Run, RunConfig, Step, System
from polymask.protocols import Batch
from polymask.report import views
from polymask.supervision import labels_for
from polymask.training.optimiser import make_optimiser

WARM_UP = 3


def advance(system: System, batch: Batch, optimiser: torch.optim.Optimizer, step: Step) -> None:
    """One step of training: forward, backward, optimiser, teachers."""
    optimiser.zero_grad(set_to_none=True)
    torch.stack([*system(batch, step).values()]).sum().backward()
    system.after_backward(step)
    optimiser.step()
    system.after_step(step)


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
        """Seconds of this process that one step takes."""
        return timed(lambda: advance(self.system, self.batch, self.optimiser, step))


def timed(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds that a call takes, of this process or of another clock."""
    start = clock()
    call()
    return clock() - start


def in_turns(
    tasks: Mapping[str, Callable[[int], float]], rounds: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """What each task takes, ``rounds`` times, in another order each round.

    Args:
        tasks: by label; called with the number of the round, each returns its seconds.
        rounds: counted ones.
        warm_up: rounds before them.
    """
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for turn in range(warm_up + rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(tasks[name](turn))
    finally:
        gc.enable()
    return {name: taken[warm_up:] for name, taken in seconds.items()}


def seconds_per_step(contestants: Mapping[str, Contestant], rounds: int = 20) -> dict[str, list[float]]:
    """What a step of each costs, towards the end of a run, where curricula are at full strength."""

    def task(contestant: Contestant) -> Callable[[int], float]:
        return lambda turn: contestant.step(Step(10 * rounds + turn, 11 * rounds + WARM_UP, 0))

    return in_turns({name: task(contestant) for name, contestant in contestants.items()}, rounds)


def ratio(taken: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Seconds over those of another in the same round: median, smallest and largest ratio."""
    ratios = [own / other for own, other in zip(taken, reference, strict=True)]
    return {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
