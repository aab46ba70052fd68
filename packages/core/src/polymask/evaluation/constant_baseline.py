"""Whether a system has learned to answer better than one that looks at nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED
from polymask.mask import Mask
from polymask.slots import filled, substitute
from polymask.step import Step
from polymask.types import Count

if TYPE_CHECKING:
    from polymask.run import Run

CONSTANT = "best constant"
BY_POSITION = "best constant by position"
DIFFERENCE = f"{TRAINED} minus {CONSTANT}"


class ConstantBaseline:
    """What predictions cost on held-out samples, beside the best constant prediction.

    The rival answers every question with the same numbers: the mean target where squared errors count,
    the frequencies of the classes where their cross-entropy does. They are fitted to the very samples that
    they are judged by, so no rival of the kind does better; a system that does has learned to look. Every
    objective of the system is told apart, without the weight it has in the loss, under masks of the end of
    the run. Where a system asks an objective several times in a step (views, scales, codebooks), each
    question has a constant of its own, and the mean is told.

    A constant for each position is a stronger rival, where samples have something in common at each.

    Args:
        by_position: report the best constant of each position too, of systems that say where what they
            predict lies.
        limit: samples at most, evenly spaced.
        batch_size: samples per batch; intervals are over batches.
        seed: of the masks.
    """

    def __init__(
        self,
        *,
        by_position: bool = False,
        limit: Count | None = 500,
        batch_size: Count = 50,
        seed: int = 0,
    ) -> None:
        self.by_position, self.limit, self.batch_size, self.seed = by_position, limit, batch_size, seed

    def __call__(self, run: Run) -> Iterator[Measurement]:
        system, last = run.system, max(run.step, 1)
        with listening(system) as spies:
            if not spies:
                raise UserError(
                    f"{run.name} has no objective that could be asked about a constant prediction"
                )
            for batch in batches(system, run.data, self.limit, self.batch_size):
                for spy in spies.values():
                    spy.heard.append([])
                system(batch, Step(last - 1, last, self.seed))
        for name, spy in spies.items():
            pairs = spy.compare()
            if not pairs:
                continue
            metric = name.replace("_", " ")
            ours, theirs = zip(*pairs, strict=True)
            yield Measurement.mean(TRAINED, metric, ours)
            yield Measurement.mean(CONSTANT, metric, theirs)
            yield Measurement.mean(DIFFERENCE, metric, [a - b for a, b in pairs])
            if not self.by_position:
                continue
            if any(heard.position is None for batch in spy.heard for heard in batch):
                raise UserError(f"{run.name} does not say where what it predicts lies: leave by_position out")
            ours, theirs = zip(*spy.compare(by_position=True), strict=True)
            yield Measurement.mean(BY_POSITION, metric, theirs)
            yield Measurement.mean(
                f"{TRAINED} minus {BY_POSITION}", metric, [a - b for a, b in zip(ours, theirs, strict=True)]
            )


@contextmanager
def listening(system: nn.Module) -> Iterator[dict[str, Spy]]:
    """The objectives of a system and of systems that it hosts, by slot, heard while this lasts."""
    spies = {}
    slots = list(filled(system, "objectives"))
    held = [getattr(owner, slot) for owner, slot, _ in slots]
    try:
        for (owner, slot, name), objective in zip(slots, held, strict=True):
            spies[name] = Spy(objective)
            substitute(owner, slot, spies[name])
        yield spies
    finally:
        for (owner, slot, _), objective in zip(slots, held, strict=True):
            owner.__dict__.pop(slot)
            setattr(owner, slot, objective)


@dataclass
class Heard:
    """One question to an objective.

    Args:
        loss: what the prediction cost.
        start: ``[D]``, the mean prediction.
        shape: of the prediction, ``[B, N, D]``.
        target: what it was compared to.
        mask: what counted.
        how: which way it was asked.
        position: of what was predicted, ``[B, N, P]``; None where that is not known.
    """

    loss: float
    start: Tensor
    shape: torch.Size
    target: Tensor
    mask: Mask | None
    how: Literal["mean", "sites"]
    position: Tensor | None = None


class Spy:
    """An objective that remembers what it was asked, by batch; in all else the one it is made of."""

    def __init__(self, objective: Any) -> None:
        self.objective = objective
        self.heard: list[list[Heard]] = []
        self.place: Tensor | None = None

    def told_places(self, position: Tensor) -> None:
        """Hear where what is asked about next lies."""
        self.place = position.detach()

    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        loss: Tensor = self.objective(prediction, target, mask)
        counted = mask is None or bool(mask.hidden.any())
        if prediction.numel() and counted:
            self._remember(loss, prediction, target, mask, "mean")
        return loss

    def sites(self, prediction: Tensor, target: Tensor) -> Tensor:
        """What each site costs."""
        losses: Tensor = self.objective.sites(prediction, target)
        self._remember(losses.mean(), prediction, target, None, "sites")
        return losses

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def _remember(
        self,
        loss: Tensor,
        prediction: Tensor,
        target: Tensor,
        mask: Mask | None,
        how: Literal["mean", "sites"],
    ) -> None:
        start = prediction.detach().float().flatten(0, 1).nan_to_num().mean(0)
        place, self.place = self.place, None
        self.heard[-1].append(Heard(float(loss), start, prediction.shape, target.detach(), mask, how, place))

    def compare(self, by_position: bool = False) -> list[tuple[float, float]]:
        """By batch, what the predictions cost, and the best constants, of all or of each position."""
        constants: dict[tuple[int, torch.Size], list[Heard]] = {}
        for batch in self.heard:
            for number, heard in enumerate(batch):
                constants.setdefault((number, heard.shape[2:]), []).append(heard)
        places = self._number_positions() if by_position else 1
        fitted = {key: self.fit(questions, places) for key, questions in constants.items()}
        return [
            (
                statistics.fmean(heard.loss for heard in batch),
                statistics.fmean(
                    float(self.cost(heard, fitted[number, heard.shape[2:]]))
                    for number, heard in enumerate(batch)
                ),
            )
            for batch in self.heard
            if batch
        ]

    def _number_positions(self) -> int:
        """Replace positions by their numbers, ``[B, N]``; returns how many there are."""
        heard = [one for batch in self.heard for one in batch]
        places = [one.position.flatten(0, 1) for one in heard if one.position is not None]
        distinct, number = torch.unique(torch.cat(places), dim=0, return_inverse=True)
        for one, mine in zip(heard, number.split([len(x) for x in places]), strict=True):
            one.position = mine.view(one.shape[:2])
        return len(distinct)

    def fit(self, questions: list[Heard], places: int = 1) -> Tensor:
        """The constant of least cost over all questions, ``[D]``: by L-BFGS from the mean prediction.

        Of several places, one of each, ``[places, D]``.
        """
        start = torch.stack([heard.start for heard in questions]).mean(0)
        start = start if places == 1 else start.expand(places, *start.shape).clone()
        constant = start.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([constant], max_iter=100, line_search_fn="strong_wolfe")

        def total(at: Tensor) -> Tensor:
            return torch.stack([self.cost(heard, at) for heard in questions]).mean()

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = total(constant)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimiser.step(closure)  # type: ignore[no-untyped-call]
        found = constant.detach()
        # a search that has gone astray, to NaN perhaps, is not taken
        return found if total(found) <= total(start) else start

    def cost(self, heard: Heard, constant: Tensor) -> Tensor:
        """What a constant would have cost."""
        if constant.dim() == len(heard.shape) - 1:  # one of each place
            prediction = constant[heard.position]
        else:
            prediction = constant.expand(heard.shape)
        if heard.how == "sites":
            losses: Tensor = self.objective.sites(prediction, heard.target)
            return losses.mean()
        loss: Tensor = self.objective(prediction, heard.target, heard.mask)
        return loss
