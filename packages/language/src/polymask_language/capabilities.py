"""What some language systems can do beyond training, for evaluations and hosts to ask for."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from polymask import Batch
from polymask_language.curricula import Known


@runtime_checkable
class ScoresTokens(Protocol):
    """Gives the likelihood of single tokens; ``perplexity`` is the name of the measure computed from it."""

    perplexity: str

    def surprise(self, batch: Batch, stride: int | None = None) -> Tensor:
        """Minus the log likelihood of each token, nats: float32 ``[B, N]``, NaN where there is none."""


@runtime_checkable
class PredictsNext(Protocol):
    """Gives the likelihood of the token after a text."""

    def following(self, batch: Batch) -> Tensor:
        """Log likelihood of each id after each text, nats: float32 ``[B, V]``."""


@runtime_checkable
class RanksDocuments(Protocol):
    """Scores how well a document answers a query."""

    def relevance(self, query: Tensor, document: Tensor) -> Tensor:
        """Scores ``[B]`` of queries int64 ``[B, Q]`` and documents int64 ``[B, N]``, both padded."""


@runtime_checkable
class LimitsWords(Protocol):
    """Maps words of its input and targets through ``known``, which a curriculum over words may replace."""

    known: Known
