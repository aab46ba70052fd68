"""Whether a language model of images answers questions about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymask import Batch, System, UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.intervals import accuracy_interval
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_vision.datasets.texts import HAS_IMAGE, RESPONSE, TOPIC

if TYPE_CHECKING:
    from polymask.run import Run

BLIND = f"{TRAINED}, without the image"


@runtime_checkable
class AnswersQuestions(Protocol):
    """A system that tells the response of a text about an image."""

    def right(self, batch: Batch) -> Tensor:
        """Whether it would give the response of each sample word by word, bool ``[B]``."""


class Answers:
    """Share of questions about test images that are answered word by word, the likeliest token each time.

    Only the image encoder, the projector, task tokens and the language model take part; heads and teachers do
    not. Beside the trained system stand the same without the image, which tells what texts alone give away,
    and the same untrained. Each topic of questions has a figure of its own; captions are left out.

    Args:
        limit: test samples at most, evenly spaced.
        batch_size: samples at a time.
    """

    def __init__(self, *, limit: Count | None = 2000, batch_size: Count = 100) -> None:
        self.limit, self.batch_size = limit, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        split: Any = getattr(run.data, "splits", {}).get("test")
        topics: Sequence[str] = getattr(getattr(split, "source", None), "topics", ())
        rows = ((TRAINED, run.system, False), (BLIND, run.system, True), (UNTRAINED, run.untrained(), False))
        for row, system, blind in rows:
            with evaluating(system), torch.no_grad():
                right, topic = self._answered(system, run, blind)
            for name, chosen in (("accuracy", topic >= 0), *_of(topics, topic)):
                found = accuracy_interval(right[chosen][None])
                yield Measurement(row, name, found.mean, found.low, found.high)

    def _answered(self, system: System, run: Run, blind: bool) -> tuple[Tensor, Tensor]:
        """Whether each question is answered, bool ``[n]``, and its topic."""
        asked: AnswersQuestions | None = implementing(system, AnswersQuestions)
        if asked is None:
            raise UserError(f"{run.name} answers no questions: this is for vision/ola-vlm")
        right, topics = [], []
        for batch in batches(system, run.data, self.limit, self.batch_size, whole=True):
            if RESPONSE not in batch or not (batch[TOPIC] >= 0).any():
                raise UserError(
                    "answers needs questions, and samples of this data have none: vision/scenes has them, "
                    "with --data.texts questions or both"
                )
            if blind:
                batch = {**batch, HAS_IMAGE: torch.zeros_like(batch[HAS_IMAGE])}
            right.append(asked.right(batch).cpu())
            topics.append(batch[TOPIC].cpu())
        return torch.cat(right), torch.cat(topics)


def _of(topics: Sequence[str], topic: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names of figures, and the samples that they are of."""
    for number, name in enumerate(topics):
        if (topic == number).any():
            yield f"accuracy, {name}", topic == number
