"""How good plans are: whole, step by step, and as sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymask import Step, System, UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches, numbered
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.types import Count, Share
from polymask_language.systems.masked_pdpp import MaskedPDPP

if TYPE_CHECKING:
    from polymask.run import Run

TRUE, FILTERED, COMMONEST = "true task", "filtered at the end", "commonest plan of the task"


class Planning:
    """Success, accuracy and overlap of plans for held-out observations.

    As in the papers: **success rate**, how many plans are right in every step; **mean accuracy**, how many
    steps are; **mIoU**, of the sets of steps of each plan. **Foreign steps** are those that no training plan
    of the true task has.

    Beside plans for the task that the classifier tells stand those for the true task; those of which the
    choice at the end is among the steps of the task alone, which costs nothing and is what a mask in
    diffusion has to beat; the commonest training plan of the task, for which a classifier is enough; and the
    untrained system.

    Args:
        steps: denoising steps.
        eta: noise that is added again at each step.
        limit: plans at most, evenly spaced; None for all.
        batch_size: plans at a time.
        seed: of the plans.
    """

    def __init__(
        self,
        *,
        steps: Count = 10,
        eta: Share = 0.0,
        limit: Count | None = 2000,
        batch_size: Count = 200,
        seed: int = 0,
    ) -> None:
        self.steps, self.eta, self.limit, self.batch_size, self.seed = steps, eta, limit, batch_size, seed

    def __call__(self, run: Run) -> Iterator[Measurement]:
        system = run.system
        if not isinstance(system, MaskedPDPP):
            raise UserError(f"planning is about systems that plan, and {run.name} is {type(system).__name__}")
        with evaluating(run.untrained()) as untrained:
            first, _, _ = self._made(untrained, run, {})
        with evaluating(system):
            made = {
                row: self._made(system, run, options)
                for row, options in {
                    TRAINED: {},
                    TRUE: {"true_task": True},
                    FILTERED: {"filtered": True},
                }.items()
            }
            told = torch.cat(
                [
                    system.task_logits(b).argmax(-1).cpu()
                    for b in batches(system, run.data, self.limit, self.batch_size)
                ]
            )
        _, truth, task = made[TRAINED]
        plans = {row: x for row, (x, _, _) in made.items()}
        plans[COMMONEST] = commonest(run)[told]
        plans[UNTRAINED] = first
        for row, x in plans.items():
            for metric, values in scores(x, truth, system.table[task].cpu()).items():
                yield Measurement.share(row, metric, values.tolist())
        yield Measurement.share(TRAINED, "task accuracy", (told == task).float().tolist())

    def _made(self, system: System, run: Run, options: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Plans made, plans held out ``[n, T]``, and their tasks ``[n]``."""
        maker: Any = system
        made, truth, task = [], [], []
        for batch in numbered(batches(system, run.data, self.limit, self.batch_size)):
            found = maker.generate(batch, Step(0, 1, self.seed), steps=self.steps, eta=self.eta, **options)
            made.append(found.samples["plan"].cpu())
            truth.append(batch["plan"].cpu())
            task.append(batch["label"].cpu())
        return torch.cat(made), torch.cat(truth), torch.cat(task)


def commonest(run: Run) -> Tensor:
    """The most frequent training plan of each task, ``[C, T]``; the first of several."""
    data: Any = run.data
    train = data.splits["train"]
    rows, tasks = train.source.steps[train.index].tolist(), train.labels.tolist()
    counts = [Counter[tuple[int, ...]]() for _ in data.classes]
    for row, task in zip(rows, tasks, strict=True):
        counts[task][tuple(row)] += 1
    usual = Counter(map(tuple, rows)).most_common(1)[0][0]
    return torch.tensor([c.most_common(1)[0][0] if c else usual for c in counts])


def scores(made: Tensor, truth: Tensor, allowed: Tensor) -> dict[str, Tensor]:
    """Scores of each plan, ``[n]`` by name.

    Args:
        made: steps ``[n, T]``.
        truth: steps ``[n, T]``.
        allowed: bool ``[n, A]``, steps that the task has.
    """
    right = made == truth
    one, other = (torch.zeros_like(allowed).scatter(1, x, True) for x in (made, truth))
    overlap = (one & other).sum(1) / (one | other).sum(1)
    return {
        "success rate": right.all(1).float(),
        "mean accuracy": right.float().mean(1),
        "mIoU": overlap,
        "foreign steps": (~allowed.gather(1, made)).float().mean(1),
    }
