"""Images found by their captions, and captions by their images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, System, UserError, sample_ids
from polymask.evaluation.features import evaluating
from polymask.evaluation.heldout_loss import batches
from polymask.evaluation.intervals import accuracy_interval
from polymask.evaluation.measurements import Measurement
from polymask.evaluation.result import TRAINED, UNTRAINED
from polymask.systems.host import implementing
from polymask.types import Count
from polymask_vision.datasets.texts import IDENTITY

if TYPE_CHECKING:
    from polymask.run import Run

PLACES = (1, 5, 10)
"""How far down a list is looked."""

CHANCE = "chance"


@runtime_checkable
class EmbedsPairs(Protocol):
    """A system that puts images and captions into one space, where those that belong together are near."""

    def embed_image(self, batch: Batch) -> Tensor:
        """``[B, D]``."""

    def embed_text(self, batch: Batch) -> Tensor:
        """``[B, D]``."""


class TextRetrieval:
    """Recall at 1, 5 and 10, both ways: how many images have their caption among the first of all.

    Candidates are in order of cosine; of equal ones the wrong come first. A caption is right for all images
    whose caption says the same. Chance is that of an order at random. Nothing is trained.

    Args:
        limit: pairs at most, evenly spaced, which are each other's candidates.
        batch_size: pairs embedded at a time.
        split: pairs of ``test`` or ``train``.
    """

    def __init__(
        self,
        *,
        limit: Count | None = 1000,
        batch_size: Count = 100,
        split: Literal["train", "test"] = "test",
    ) -> None:
        self.limit, self.batch_size, self.split = limit, batch_size, split

    def __call__(self, run: Run) -> Iterator[Measurement]:
        same = None
        for row, system in ((TRAINED, run.system), (UNTRAINED, run.untrained())):
            with evaluating(system), torch.no_grad():
                image, text, names = self._embedded(system, run)
            same = names[:, None] == names[None, :]
            likeness = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
            for way, scores, right in (
                ("image to text", likeness, same),
                ("text to image", likeness.T, same.T),
            ):
                place = places(scores, right)
                for k in PLACES:
                    found = accuracy_interval((place < k)[None])
                    yield Measurement(row, f"{way} R@{k}", found.mean, found.low, found.high)
        assert same is not None
        for way in ("image to text", "text to image"):
            for k in PLACES:
                yield Measurement(CHANCE, f"{way} R@{k}", chance(same, k))

    def _embedded(self, system: System, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """Images and texts ``[n, D]``, and what each is a caption of, int64 ``[n]``."""
        asked: EmbedsPairs | None = implementing(system, EmbedsPairs)
        if asked is None:
            raise UserError(
                f"{run.name} embeds no images beside captions: this is for vision/ga-dms or vision/dual"
            )
        images, captions, names = [], [], []
        for batch in batches(system, run.data, self.limit, self.batch_size, self.split, whole=True):
            images.append(asked.embed_image(batch).float().cpu())
            captions.append(asked.embed_text(batch).float().cpu())
            names.append(batch.get(IDENTITY, sample_ids(batch)).cpu())
        return torch.cat(images), torch.cat(captions), torch.cat(names)


def places(scores: Tensor, right: Tensor) -> Tensor:
    """How many wrong candidates are before the first right one, int64 ``[Q]``.

    Args:
        scores: ``[Q, n]``, the higher the sooner.
        right: bool ``[Q, n]``, one at least in each row.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    # what is no number is behind nothing: where a right one is, all wrong ones are before it
    return (~(scores < best) & ~right).sum(1)


def chance(right: Tensor, k: int) -> float:
    """Chance that one of the first k of an order at random is right, mean over queries."""
    n = right.shape[1]
    missed = [math.comb(n - r, k) / math.comb(n, k) if n >= k else 0.0 for r in right.sum(1).tolist()]
    return 1 - math.fsum(missed) / len(missed)
