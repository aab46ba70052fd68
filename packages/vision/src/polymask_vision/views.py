"""The second picture of a sample."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from polymask import Batch, UserError
from polymask.protocols import Tokenizer
from polymask_vision.datasets.decode import Raw

OTHER = "other"
"""Entry of a sample: a second augmentation of its image, or the second picture of a pair."""


@runtime_checkable
class Paired(Protocol):
    """Images with a second picture each, of the same scene."""

    def other(self, index: int) -> Raw:
        """The second picture, encoded or decoded."""


def other_view(tokenizer: Tokenizer, batch: Batch, why: str) -> Batch:
    """A batch with the second picture in the place of the first.

    Args:
        tokenizer: whose entry of the batch it takes the place of.
        batch: what has both.
        why: what needs the second, and what to do where there is none.

    Raises:
        UserError: there is no second picture.
    """
    if OTHER not in batch:
        raise UserError(f"{why}; a data set of one's own gives the second as {OTHER!r}")
    return {**batch, tokenizer.key: batch[OTHER]}
