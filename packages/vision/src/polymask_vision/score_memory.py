"""What was found out about each sample, kept until it is met again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Step, distributed, sample_ids
from polymask.types import Count


class ScoreMemory(nn.Module):
    """A score of each token of each training sample, alike on all processes, and part of a checkpoint.

    Samples that are none of training (no ``id``, or one that is too large) have the first score, always. It
    is a buffer, so DDP sends it to all processes before each forward pass: 4 bytes a token.

    Args:
        samples: how many there are.
        length: tokens of each, at most.
        first: score of all tokens of a sample that was not met before.
    """

    scores: Tensor

    def __init__(self, samples: Count, length: Count, first: float) -> None:
        super().__init__()
        self.first = first
        # the last row is that of samples that are none of training
        self.register_buffer("scores", torch.full((samples + 1, length), first))
        self._fresh: list[tuple[Tensor, Tensor]] = []
        self._step = -1

    def recall(self, batch: Mapping[str, Tensor], tokens: int) -> Tensor:
        """Scores of the first so many tokens of each sample, ``[B, tokens]``."""
        return self.scores[self._rows(batch), :tokens]

    def note(self, batch: Mapping[str, Tensor], scores: Tensor, step: Step) -> None:
        """Keep scores ``[B, N]`` until the step is done; those of a step that was given up are dropped."""
        if self._step != step.index:
            self._fresh, self._step = [], step.index
        room = self.scores.shape[1] - scores.shape[1]
        self._fresh.append((self._rows(batch), F.pad(scores, (0, room), value=self.first)))

    def write(self) -> None:
        """Remember what was noted, of all processes; each must call it."""
        if not self._fresh:
            return
        rows, scores = (torch.cat(parts) for parts in zip(*self._fresh, strict=True))
        rows, scores = distributed.gather_rows(rows, scores)
        self.scores[rows] = scores.to(self.scores.dtype)
        self.scores[-1] = self.first
        self._fresh = []

    def _rows(self, batch: Mapping[str, Tensor]) -> Tensor:
        unknown = len(self.scores) - 1
        if "id" not in batch:
            return torch.full_like(sample_ids(batch), unknown)
        return batch["id"].clamp(max=unknown)
