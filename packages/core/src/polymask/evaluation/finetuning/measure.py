"""Fine-tuning as an evaluation of a run, beside its probes."""

from __future__ import annotations

from collections.abc import Iterator

from polymask.evaluation.finetuning.options import PRESET
from polymask.evaluation.finetuning.result import SCRATCH, share_text
from polymask.evaluation.finetuning.runs import finetune
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.run import Run
from polymask.types import Count, Share


class Finetune:
    """Accuracy after fine-tuning a run's encoder, beside the same encoder from scratch.

    The runs are kept in ``finetune-*`` within the run's folder, and used again.

    Args:
        labels: shares of the labels to train with, each in (0, 1].
        seeds: number of runs of each; they begin with the run's own seed, so that runs of several seeds are
            compared with several fine-tunings from scratch.
        scratch: whether to train from scratch too.
        preset: of the system ``supervised``.
        steps: optimiser steps of each run; the preset's if none.
        pool: what is classified: the mean over tokens, the class token (prefix) or by attention; the preset's
            if none.
    """

    def __init__(
        self,
        *,
        labels: tuple[Share, ...] = (1.0,),
        seeds: Count = 1,
        scratch: bool = True,
        preset: str = PRESET,
        steps: Count | None = None,
        pool: str | None = None,
    ) -> None:
        self.labels, self.seeds, self.scratch = labels, seeds, scratch
        given = {"preset": preset, "pool": pool, "steps": steps}
        self.options = {name: value for name, value in given.items() if value is not None}

    def __call__(self, run: Run) -> Iterator[Measurement]:
        first = run.training.seed
        training = ("accelerator", "devices", "precision", "workers")
        same = {name: getattr(run.training, name) for name in training}
        found = finetune(
            run,
            run.folder / f"finetune-{'-'.join(map(str, self.options.values()))}",
            labels=self.labels,
            seeds=range(first, first + self.seeds),
            scratch=self.scratch,
            data=run.data,
            options={**same, **self.options},
            progress=False,
        )
        for start, row in ((TRAINED, TRAINED), (SCRATCH, UNTRAINED)):
            for place, share in enumerate(found.shares if start in found.right else ()):
                one = found.accuracy(start, place)
                name = f"accuracy with {share_text(share)} of the labels"
                yield Measurement(row, name, one.mean, one.low, one.high)
