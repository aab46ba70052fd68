"""Whether scores of words find those that were made false on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from polymask import Batch, UserError
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.nn.corruption import maskable
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_vision.datasets.texts import PLANTED
from polymask_vision.word_scores import Evidence

if TYPE_CHECKING:
    from polymask.run import Run

WITHIN, OVER_ALL = "AUC within captions", "AUC over all words"


@runtime_checkable
class ScoresWords(Protocol):
    """A system that says how much each word of a caption has to do with the image."""

    def word_scores(
        self, batch: Batch, image_BD: Tensor | None = None, evidence: Evidence | None = None
    ) -> Tensor:
        """``[B, N]`` in [0, 1], as the model is now."""


class PlantedWords:
    """How often a word that is false has a lower score than one that is true; 0.5 of an order at random.

    It goes over training captions that were made false (``--data.false 0.3`` of vision/persons), scored anew
    by the trained system and by the same untrained, in several ways. Within captions: the words of each
    caption with a false one, mean over captions. Over all words: every false word against every true one,
    those of captions without a false one too.

    Args:
        evidence: what words are scored by, each in turn.
        limit: captions at most, evenly spaced.
        batch_size: captions at a time.
    """

    def __init__(
        self,
        *,
        evidence: Sequence[Evidence] = ("gradient", "cosine", "attention"),
        limit: Count | None = 2000,
        batch_size: Count = 100,
    ) -> None:
        self.evidence, self.limit, self.batch_size = evidence, limit, batch_size

    def __call__(self, run: Run) -> Iterator[Measurement]:
        for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            asked: Any = implementing(system, ScoresWords)
            if asked is None:
                raise UserError(f"{run.name} scores no words: this is for vision/ga-dms")
            for evidence in self.evidence:
                shares, false, true = list[float](), list[Tensor](), list[Tensor]()
                with evaluating(system):
                    for batch in batches(system, run.data, self.limit, self.batch_size, "train", whole=True):
                        if PLANTED not in batch:
                            raise UserError(
                                "planted-words needs captions that were made false on purpose: "
                                "vision/persons has them, with --data.false 0.3"
                            )
                        tokens = asked.text_tokenizer(batch)
                        content = maskable(tokens, asked.text_tokenizer.provides["special_ids"])
                        scores, planted = asked.word_scores(batch, evidence=evidence), batch[PLANTED]
                        for one, wrong, real in zip(scores, planted, content, strict=True):
                            false.append(one[wrong & real])
                            true.append(one[~wrong & real])
                            if len(false[-1]) and len(true[-1]):
                                shares.append(below(false[-1], true[-1]))
                if not shares:
                    raise UserError("no caption was made false: give --data.false a share above 0")
                over_all = below(torch.cat(false), torch.cat(true))
                yield Measurement.share(row, f"{WITHIN}, {evidence}", shares)
                yield Measurement(row, f"{OVER_ALL}, {evidence}", over_all)


def below(false: Tensor, true: Tensor) -> float:
    """Share of pairs of one of each in which the first is smaller; equal ones count half."""
    ordered = true.sort().values
    larger = len(ordered) - torch.searchsorted(ordered, false, right=True)
    alike = torch.searchsorted(ordered, false, right=True) - torch.searchsorted(ordered, false)
    return float((larger + alike / 2).double().mean() / len(ordered))
